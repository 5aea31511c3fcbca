"""Baselines by the names that jobs call them by."""

from __future__ import annotations

from rl_compress.policy.budget import Budget, CostFunction
from rl_compress.policy.search_space import SearchSpace
from rl_compress.search.baselines.baseline import Baseline
from rl_compress.search.baselines.evolution import Evolution
from rl_compress.search.baselines.greedy import Greedy
from rl_compress.search.baselines.optuna_search import OptunaSearch
from rl_compress.search.baselines.random_levels import Random
from rl_compress.search.baselines.uniform import Uniform
from rl_compress.search.prior import greedy_widths
from rl_compress.search.sensitivity import SensitivityCurves


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
        name: One of :data:`~rl_compress.search.config.BASELINES` that needs no ranking of units.
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
