"""Baselines beside a search: same problem, evaluator and budget, and as many evaluations."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from rl_compress.agent.config import SearchConfig
from rl_compress.errors import ConfigError
from rl_compress.evaluation.ledger import Progress
from rl_compress.monitor import Monitor, SilentMonitor
from rl_compress.registry import SEARCHERS
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.session import Session


@dataclass(frozen=True, slots=True)
class Extras:
    """What a run does beside its search."""

    verify: int = 0
    """How many of the best candidates are fine-tuned too, to see whether the search ordered them
    right. The search's best is delivered all the same."""
    baselines: Sequence[str] = ()
    """Searches to compare with, at the same number of evaluations."""
    seeds: int = 1
    """Seeds that those searches, and this one, are repeated with."""


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


def plan(settings: SearchConfig, extras: Extras) -> list[tuple[str, int]]:
    """Return the algorithms to run beside a search, each with its seed.

    The search itself is repeated with the further seeds; with the first it has been made.
    """
    own, first = settings.algorithm, settings.seed
    return [
        (name, seed)
        for name in dict.fromkeys([own, *extras.baselines])
        for seed in range(first, first + (extras.seeds if settings.of(name).seeded else 1))
        if (name, seed) != (own, first)
    ]


def run_beside(session: Session, extras: Extras) -> None:
    """Run other searches on the problem of one that is done, each in a directory of its own.

    What an earlier process evaluated in such a directory is not evaluated again. Sensitivity curves
    that the search measured are taken over. Each makes as many evaluations as the search did.

    Args:
        session: The search's.
        extras: Says which.
    """
    chosen, evaluations = plan(session.settings, extras), session.progress.done
    if chosen:
        session.monitor.phase("baselines")
    for number, (algorithm, seed) in enumerate(chosen):
        folder = f"{algorithm.replace(':', '.')}-seed{seed}"
        run = RunDirectory(session.run.baselines / folder, session.run.mirror)
        run.evaluations.mkdir(parents=True, exist_ok=True)
        run.checkpoints.mkdir(exist_ok=True)
        # At equal numbers of evaluations nobody ends early of its own accord.
        changes = {"seed": seed, "evaluations": evaluations, "convergence": None}
        settings = session.settings.of(algorithm).model_copy(update=changes)
        if settings.needs == "curves" and session.run.sensitivity.exists():
            shutil.copyfile(session.run.sensitivity, run.sensitivity)
        beside = copy.copy(session)
        beside.run, beside.settings = run, settings
        identity = dataclasses.replace(
            session.problem.identity, run=run.path.name, algorithm=algorithm, seed=seed
        )
        beside.problem = dataclasses.replace(session.problem, identity=identity)
        beside.monitor = _Beside(session.monitor, number * evaluations, evaluations * len(chosen))
        beside.search()


class _Beside(SilentMonitor):
    """Tells of a search as a part of all that are run beside."""

    def __init__(self, monitor: Monitor, before: int, total: int) -> None:
        self._monitor, self._before, self._total = monitor, before, total

    def say(self, line: str) -> None:
        """Hand on."""
        self._monitor.say(line)

    def searched(self, progress: Progress) -> None:
        """Tell of the evaluations done by all of them."""
        self._monitor.step(self._before + progress.done, self._total)
