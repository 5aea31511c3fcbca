"""What Python programs call: with a job, or with a model and data that they hold in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from rl_compress import execution
from rl_compress.comparison import Extras
from rl_compress.errors import ConfigError
from rl_compress.execution import RunResult
from rl_compress.export.manifest import Manifest
from rl_compress.job import Job, parse_job
from rl_compress.monitor import Monitor
from rl_compress.report.console import print_check
from rl_compress.report.live import ConsoleMonitor
from rl_compress.session import Session
from rl_compress.space.compression_policy import CompressionPolicy
from rl_compress.targets.factory import HELD
from rl_compress.targets.memory import held_target
from rl_compress.validation import did_you_mean


def search(
    job: Job | None = None,
    output: str | Path | None = None,
    *,
    model: nn.Module | None = None,
    data: Mapping[str, Any] | None = None,
    budget: Mapping[str, float | str] | None = None,
    evaluations: int | None = None,
    seed: int | None = None,
    resume: bool = False,
    address: str | None = None,
    verify: int = 0,
    baselines: Sequence[str] = (),
    seeds: int = 1,
    monitor: Monitor | None = None,
    **sections: Any,
) -> RunResult:
    """Compress a model: search for the best policy, carry it out, fine-tune, deliver, report.

    Args:
        job: What to compress, and how far; or else ``model``, ``data`` and ``budget``.
        output: The run directory, or a URI of one; by default ``runs/<name>/<time>``.
        model: A trained classifier; left as it is. It returns logits, or has them under ``logits``
            or as the first tensor of what it returns.
        data: By split (``train``, ``calibration``, ``search``, ``test``) a data set, map-style or
            iterable, a DataLoader, or tensors. A batch, or a sample, is ``(input, label)``,
            ``(input, …, label)`` for a model of several inputs, or a dictionary with ``labels`` and
            what the model takes by keyword. ``train`` and ``test`` are needed; the others are taken
            from ``train`` where they are not given, the same in each run.
        budget: Upper bounds, as ``{"macs": 0.3}``.
        evaluations: Variants to measure: ``search.evaluations``.
        seed: ``search.seed``.
        resume: Continue the earlier run in ``output``; without that, the latest of the same name.
        address: A Ray cluster; by default a local one is started.
        verify: Fine-tune that many of the best candidates too.
        baselines: Searches to compare with, at the same number of evaluations.
        seeds: Seeds that those searches, and this one, are repeated with.
        monitor: Hears of progress; by default it is shown on standard error.
        sections: With a model, all other keys of a job file: ``name``, ``search={…}``,
            ``space={…}``, ``finetuning={…}``.

    Returns:
        Where the run is, and what was delivered. ``load_compressed(result.directory / "best",
        model=model)`` loads that.

    Raises:
        RLCompressError: Bad input, or a run that failed; evaluations made are kept.
    """
    with (
        _shown(monitor) as telling,
        _job(job, model, data, budget, evaluations, seed, sections, telling) as asked,
    ):
        if isinstance(telling, ConsoleMonitor):
            telling.budget = asked.budget_in_words()
        return execution.search(
            asked,
            output,
            extras=Extras(verify, baselines, seeds),
            resume=resume,
            address=address,
            monitor=telling,
        )


def check(
    job: Job | None = None,
    *,
    model: nn.Module | None = None,
    data: Mapping[str, Any] | None = None,
    budget: Mapping[str, float | str] | None = None,
    evaluations: int | None = None,
    seed: int | None = None,
    monitor: Monitor | None = None,
    **sections: Any,
) -> Session:
    """Rehearse what :func:`search` with the same arguments would do; print what may be decided.

    Nothing is printed where a ``monitor`` is given.

    Returns:
        The session as prepared: ``problem`` has the space, the costs and the budget.

    Raises:
        ConfigError: Something cannot work; the message names the key and the remedy.
    """
    with (
        _shown(monitor) as telling,
        _job(job, model, data, budget, evaluations, seed, sections, telling) as asked,
    ):
        session = execution.check(asked, monitor=telling)
    if monitor is None:
        print_check(asked.name, session.problem.describe_space(), session.soundness)
    return session


def compress(
    job: Job | None = None,
    policy: CompressionPolicy | str | Path | None = None,
    output: str | Path | None = None,
    *,
    model: nn.Module | None = None,
    data: Mapping[str, Any] | None = None,
    budget: Mapping[str, float | str] | None = None,
    pretraining: Path | None = None,
    monitor: Monitor | None = None,
    **sections: Any,
) -> Manifest:
    """Carry out a given compression policy: cut, fine-tune, export.

    Args:
        job: The target, and how to fine-tune and export; or else ``model``, ``data``, ``budget``
            and ``sections``, see :func:`search`.
        policy: A decision for every group, or the file of one, as ``best/policy.json`` of a run.
        output: Folder of the artefact; must not exist, or be an older artefact.
        model: See :func:`search`.
        data: See :func:`search`.
        budget: See :func:`search`; the policy must be within it.
        pretraining: Folder with the checkpoints of the job's pre-training, to be taken up.
        monitor: Hears of progress; by default it is shown on standard error.
        sections: See :func:`search`.

    Raises:
        ConfigError: The policy does not fit the target or exceeds the budget.
    """
    if policy is None or output is None:
        raise ConfigError("compress: give a policy, and an output folder")
    if not isinstance(policy, CompressionPolicy):
        policy = CompressionPolicy.load(Path(policy))
    with (
        _shown(monitor) as telling,
        _job(job, model, data, budget, None, None, sections, telling) as asked,
    ):
        return execution.compress(asked, policy, output, pretraining=pretraining, monitor=telling)


@contextmanager
def _shown(monitor: Monitor | None) -> Iterator[Monitor]:
    """Draw progress where nobody else is to hear of it."""
    if monitor is not None:
        yield monitor
        return
    console = ConsoleMonitor()
    try:
        yield console
    except KeyboardInterrupt:
        console.close()
        console.say(console.interruption())
        raise
    finally:
        console.close()


@contextmanager
def _job(
    job: Job | None,
    model: nn.Module | None,
    data: Mapping[str, Any] | None,
    budget: Mapping[str, float | str] | None,
    evaluations: int | None,
    seed: int | None,
    sections: Mapping[str, Any],
    monitor: Monitor,
) -> Iterator[Job]:
    """Yield the job given, or one whose target is the model given, which lasts for the block."""
    shortcuts = {"evaluations": evaluations, "seed": seed}
    keywords = {"model": model, "data": data, "budget": budget, **shortcuts, **sections}
    named = [name for name, value in keywords.items() if value is not None]
    if job is not None:
        if not isinstance(job, Job):
            raise ConfigError(
                f"job: must be a Job, as load_job(file) returns it, but got {type(job).__name__}; "
                f"a model is given as model=…"
            )
        if named:
            raise ConfigError(f"{', '.join(named)}: the job says that; leave either out")
        yield job
        return
    if model is None or data is None:
        raise ConfigError("give a job, or else model=…, data=… and budget=…")
    if "target" in sections:
        raise ConfigError("target: it is the model given; leave either out")
    for name in sections:
        if name not in Job.model_fields:
            known = ("model", "data", *shortcuts, *Job.model_fields)
            hint = did_you_mean(name, known)
            raise ConfigError(f"keywords: unknown key {name}{hint}")
    values = {"name": _name(model), **sections, "target": {"factory": HELD}}
    if budget is not None:
        values["budget"] = dict(budget)
    for key, value in shortcuts.items():
        if value is not None:
            section = dict(values.get("search", {}))
            if section.get(key, value) != value:
                raise ConfigError(f"{key}: search[{key!r}] says something else; leave either out")
            values["search"] = {**section, key: value}
    made = parse_job(values, "keywords")
    with held_target(model, data, monitor.say) as target:
        yield made.model_copy(update={"target": target})


def _name(model: nn.Module) -> str:
    """Return the name of a model's class, as far as jobs may be called so."""
    return re.sub(r"[^A-Za-z0-9._-]|^[._-]+", "", type(model).__name__) or "model"
