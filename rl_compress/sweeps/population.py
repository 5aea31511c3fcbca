"""Population-based training: a trial that lags begins anew from what a better one knows.

What a search knows are its records: its reward predictor learns from them, and its agent moves from
the best of them. So a trial that Tune tells to exploit another (Jaderberg et al., "Population Based
Training of Neural Networks", 2017) gets a run of its own that begins with the other's records, at
the rewards that its own weights give them; the agent's network begins fresh, under the values that
Tune has changed.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune as ray_tune
from ray.tune.schedulers import PopulationBasedTraining

from rl_compress.errors import ConfigError
from rl_compress.job import Job
from rl_compress.report.run_files import read_run
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.runs.store import EvaluationStore
from rl_compress.searchers.objective import Objective
from rl_compress.searchers.tune_config import Domain
from rl_compress.sweeps.trial import trial_id, trial_job

_STATE = "state.json"
_DRIVER = 0

_MAY_VARY = ("search.", "objective.weights.", "finetuning.")
_MAY_NOT = ("search.algorithm", "search.budgets", "search.evaluations", "search.prior")


def check_population(job: Job) -> None:
    """Make sure that trials can go on from each other's records.

    Raises:
        ConfigError: They cannot; the message names the key.
    """
    if job.tune.scheduler != "pbt":
        return
    if not job.search.learns:
        raise ConfigError(
            f"tune.scheduler: pbt hands records to agents that learn from them, which "
            f"search.algorithm: {job.search.algorithm} is none of; choose ppo, or asha"
        )
    for key in job.tune.space:
        if not key.startswith(_MAY_VARY) or key.startswith(_MAY_NOT):
            raise ConfigError(
                f"tune.space.{key}: cannot be varied with pbt, whose trials go on from each "
                f"other's records; vary keys of {', '.join(_MAY_VARY)} without "
                f"{', '.join(_MAY_NOT)}, or choose asha"
            )


def population_scheduler(
    space: Mapping[str, Domain], tuned: Mapping[str, Any], time_attr: str, interval: int
) -> PopulationBasedTraining:
    """Return Tune's scheduler.

    Args:
        space: The values of the varied keys.
        tuned: The same as Tune writes them.
        time_attr: Name of the reported number of evaluations.
        interval: Evaluations between two moments at which a trial may exploit another.
    """
    mutations = {
        key: list(domain.choice) if domain.choice is not None else tuned[key]
        for key, domain in space.items()
    }

    def within_bounds(values: dict[str, Any]) -> dict[str, Any]:
        # Tune multiplies numbers by 0.8 or 1.2, whatever their bounds.
        for key, domain in space.items():
            if domain.choice is None:
                low, high = domain.examples()
                values[key] = min(max(values[key], low), high)
        return values

    return PopulationBasedTraining(
        time_attr=time_attr,
        perturbation_interval=interval,
        hyperparam_mutations=mutations,
        custom_explore_fn=within_bounds,
    )


@contextmanager
def state_of(directory: Path, evaluations: int) -> Iterator[ray_tune.Checkpoint]:
    """Make the checkpoint by which others find what a trial knew at a moment.

    Args:
        directory: Of the trial's run.
        evaluations: How many it had stored.
    """
    own = ray_tune.get_context().get_trial_id()
    state = {"tune_trial": own, "run": str(directory), "evaluations": evaluations}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / _STATE).write_text(json.dumps(state), encoding="utf-8")
        yield ray_tune.Checkpoint.from_directory(folder)


def place_of(job: Job, values: Mapping[str, Any], trials: Path) -> Path:
    """Return the directory of a trial's run; one that exploits another has a new one.

    Args:
        job: The sweep's.
        values: The trial's values of the varied keys.
        trials: Folder of the trials' runs.
    """
    checkpoint = ray_tune.get_checkpoint()
    if checkpoint is None:
        return trials / trial_id(values)
    with checkpoint.as_directory() as folder:
        state = json.loads((Path(folder) / _STATE).read_text(encoding="utf-8"))
    donor = Path(state["run"])
    if state["tune_trial"] == ray_tune.get_context().get_trial_id():
        return donor  # its own, whose process died
    directory = trials / trial_id({**values, "from": [donor.name, state["evaluations"]]})
    adopt(donor, state["evaluations"], directory, trial_job(job, values))
    return directory


def adopt(donor: Path, evaluations: int, directory: Path, job: Job) -> None:
    """Begin a run with another's first records, unless it is begun already.

    Args:
        donor: Directory of the other run.
        evaluations: Number of records.
        directory: Of the new run.
        job: The new run's.
    """
    if directory.exists():
        return
    known = read_run(donor)
    assert known.space is not None, "a run that has reported has a space"
    reward = Objective(job.objective, known.space["costs"])
    unfinished = RunDirectory(directory.with_name(f"{directory.name}.tmp"))
    shutil.rmtree(unfinished.path, ignore_errors=True)
    unfinished.create(job.to_yaml())
    if (curves := RunDirectory(donor).sensitivity).exists():
        shutil.copy(curves, unfinished.sensitivity)
    store = EvaluationStore(unfinished.evaluations)
    for record in known.evaluations[:evaluations]:
        store.append(
            dataclasses.replace(
                record,
                run=directory.name,
                trial=directory.name,
                # What the driver measured is known to all from the beginning.
                worker=_DRIVER,
                reward=reward(record.score, record.costs),
                cached=True,
            )
        )
    unfinished.path.rename(directory)
