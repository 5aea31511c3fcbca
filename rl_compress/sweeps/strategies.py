"""Where a sweep's trials come from, and which of them are stopped early: Tune's own parts."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from ray import tune as ray_tune
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.searcher import Searcher

from rl_compress.errors import ConfigError
from rl_compress.job import Job
from rl_compress.runs.pareto import SCORE
from rl_compress.searchers.tune_config import Domain
from rl_compress.sweeps.population import population_scheduler

EVALUATIONS = "evaluations"
BEST_SCORE = "best_score"

_REDUCTION = 3
_GENERATIONS = 5


def check_installed(job: Job) -> None:
    """Make sure that the sampler's package is there.

    Raises:
        ConfigError: It is not.
    """
    if job.tune.sampler != "random" and importlib.util.find_spec("optuna") is None:
        raise ConfigError(
            f"tune.sampler: {job.tune.sampler} needs Optuna; pip install 'rl-compress[optuna]'"
        )


def objectives(job: Job) -> list[str]:
    """Return the columns of a trial's row that the sampler compares trials by."""
    if job.tune.sampler != "nsga2":
        return [BEST_SCORE]
    named = job.objective.objectives(job.effective_budget())
    return [BEST_SCORE if name == SCORE else name for name in named]


def sampler(job: Job, begun: Sequence[Mapping[str, Any]]) -> Searcher | BasicVariantGenerator:
    """Return what draws the values of the next trial.

    Args:
        job: The sweep's.
        begun: Values of the trials that an interrupted sweep began, in that order. They are drawn
            first, so that the sampler learns of them again.
    """
    seed, trials = job.search.seed, job.tune.trials
    if job.tune.sampler == "random":
        return BasicVariantGenerator(random_state=seed)
    # Optuna takes a second to import, and is an extra.
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Those begun take nothing of the random numbers, which would give the same trials again.
    seed += len(begun)
    names = objectives(job)
    if job.tune.sampler == "tpe":
        # Optuna begins with ten random trials, which is all of a small sweep.
        startup = min(10, max(2, trials // 4))
        tpe = optuna.samplers.TPESampler(n_startup_trials=startup, seed=seed)
        return OptunaSearch(points_to_evaluate=[*map(dict, begun)], sampler=tpe)
    population = min(50, max(2, trials // 4))
    return OptunaSearch(
        metric=names,
        mode=["max" if name == BEST_SCORE else "min" for name in names],
        points_to_evaluate=[*map(dict, begun)],
        sampler=optuna.samplers.NSGAIISampler(population_size=population, seed=seed),
    )


def scheduler(job: Job) -> TrialScheduler | None:
    """Return what stops trials early, or lets them go on from others: none, or Tune's own."""
    if job.tune.scheduler == "none":
        return None
    if job.tune.scheduler == "pbt":
        interval = job.tune.grace_evaluations or max(1, job.search.evaluations // _GENERATIONS)
        tuned = {key: tune_domain(domain) for key, domain in job.tune.space.items()}
        return population_scheduler(job.tune.space, tuned, EVALUATIONS, interval)
    domain = job.tune.space.get("search.evaluations")
    most = max(domain.examples()) if domain else job.search.evaluations
    grace = job.tune.grace_evaluations or max(1, most // _REDUCTION**2)
    return AsyncHyperBandScheduler(
        time_attr=EVALUATIONS,
        max_t=most,
        grace_period=min(grace, most),
        reduction_factor=_REDUCTION,
    )


def tune_domain(domain: Domain) -> Any:
    """Return a key's values as Tune writes them."""
    if domain.grid is not None:
        return ray_tune.grid_search(domain.grid)
    if domain.choice is not None:
        return ray_tune.choice(domain.choice)
    if domain.uniform is not None:
        return ray_tune.uniform(*domain.uniform)
    if domain.loguniform is not None:
        return ray_tune.loguniform(*domain.loguniform)
    assert domain.randint is not None
    return ray_tune.randint(*domain.randint)
