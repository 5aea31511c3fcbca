"""Baselines by the names that jobs call them by."""

from __future__ import annotations

from rl_compress.searchers.baselines.baseline import Baseline
from rl_compress.searchers.baselines.evolution import Evolution
from rl_compress.searchers.baselines.greedy import Greedy
from rl_compress.searchers.baselines.optuna_search import OptunaSearch
from rl_compress.searchers.baselines.random_levels import Random
from rl_compress.searchers.baselines.uniform import Uniform
from rl_compress.searchers.prior import greedy_widths
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.space.budget import Budget, CostFunction
from rl_compress.space.search_space import SearchSpace


def make_baseline(
    name: str,
    space: SearchSpace,
    budget: Budget,
    cost_function: CostFunction,
    curves: SensitivityCurves | None,
    seed: int,
) -> Baseline:
    """Return a baseline by name.

    Args:
        name: One of :data:`~rl_compress.agent.config.BASELINES` that needs no ranking of units.
        space: Allowed levels.
        budget: Upper bounds; must be feasible.
        cost_function: Exact costs.
        curves: Sensitivity curves; ``greedy`` and ``greedy_evolution`` need them.
        seed: Same seed, same proposals.

    Raises:
        ConfigError: ``tpe`` or ``cmaes`` is asked for without Optuna.
    """
    match name:
        case "uniform":
            return Uniform(space)
        case "random":
            return Random(space, seed)
        case "evolution":
            return Evolution(space, budget, cost_function, seed)
        case "tpe" | "cmaes":
            return OptunaSearch(name, space, seed)
    assert curves is not None, f"{name} reads the sensitivity curves"
    if name == "greedy":
        return Greedy(space, curves, budget, cost_function, seed)
    assert name == "greedy_evolution", f"no baseline {name}"
    prior = greedy_widths(curves, budget, space, cost_function) / space.num_units
    return Evolution(space, budget, cost_function, seed, prior)
