"""Baselines beside a search: same subject, evaluator and budget, and as many evaluations."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence

from rl_compress.errors import ConfigError
from rl_compress.evaluation.ledger import Progress
from rl_compress.registry import SEARCHERS
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.searching import SearchTask


def compared() -> list[str]:
    """Return the baselines that any job can be compared with."""
    return [name for name in SEARCHERS.built_in if _suits_any_job(name)]


def check_baselines(names: Sequence[str]) -> None:
    """Make sure that there are such baselines, before anything is run.

    Raises:
        ConfigError: A name is unknown.
    """
    for name in names:
        try:
            known = _suits_any_job(name)
        except ValueError:
            known = False
        except ConfigError as error:
            raise ConfigError(f"--baselines: {error}") from error
        if not known:
            raise ConfigError(
                f"--baselines: must be among {', '.join(compared())}, or your own as "
                f"package.module:Class, separated by commas, but got {name!r}"
            )


def _suits_any_job(name: str) -> bool:
    return SEARCHERS.find(name).needs != "contributions"


def plan(task: SearchTask, baselines: Sequence[str], seeds: int) -> list[tuple[str, int]]:
    """Return the algorithms to run beside a search, each with its seed.

    The search itself is repeated with the further seeds; with the first it has been made.
    """
    own, first = task.search.algorithm, task.search.seed
    return [
        (name, seed)
        for name in dict.fromkeys([own, *baselines])
        for seed in range(first, first + (seeds if task.search.of(name).seeded else 1))
        if (name, seed) != (own, first)
    ]


def run_beside(
    task: SearchTask,
    chosen: Sequence[tuple[str, int]],
    evaluations: int,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> None:
    """Run other searches on the subject of one that is done, each in a directory of its own.

    What an earlier process evaluated in such a directory is not evaluated again. Sensitivity curves
    that the search measured are taken over.

    Args:
        task: The search.
        chosen: Algorithms and seeds.
        evaluations: How many each of them makes.
        advance: Hears of the evaluations done by all of them, and their number.
    """
    total = evaluations * len(chosen)
    for number, (algorithm, seed) in enumerate(chosen):
        folder = f"{algorithm.replace(':', '.')}-seed{seed}"
        run = RunDirectory(task.run.baselines / folder, task.run.mirror)
        run.evaluations.mkdir(parents=True, exist_ok=True)
        run.checkpoints.mkdir(exist_ok=True)
        settings = task.search.of(algorithm).model_copy(
            update={
                "seed": seed,
                "evaluations": evaluations,
                # At equal numbers of evaluations nobody ends early of its own accord.
                "convergence": None,
            }
        )
        if settings.needs == "curves" and task.run.sensitivity.exists():
            shutil.copyfile(task.run.sensitivity, run.sensitivity)

        def hear(progress: Progress, before: int = number * evaluations) -> None:
            advance(before + progress.done, total)

        dataclasses.replace(
            task,
            search=settings,
            run=run,
            identity=dataclasses.replace(
                task.identity, run=run.path.name, algorithm=algorithm, seed=seed
            ),
            on_sensitivity=lambda _done, _total: None,
            on_progress=hear,
        ).search_for_policy()
