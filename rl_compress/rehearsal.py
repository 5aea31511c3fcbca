"""The rehearsal: one small variant goes through all that a run will do, on a few samples.

What would fail late in a run, in fine-tuning, saving or loading, fails here, before anything is
measured. It is a copy of the session that does it, with less data, fewer steps and other places.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from rl_compress.errors import ConfigError, RLCompressError, TargetError
from rl_compress.export.artifact import load_compressed
from rl_compress.model.copies import copied
from rl_compress.model.kept_state import kept_state
from rl_compress.model.nested import Inputs, call, tensors_in
from rl_compress.monitor import SilentMonitor
from rl_compress.session import Session
from rl_compress.space.search_space import Levels
from rl_compress.targets.few import kept_random_state, with_few_samples
from rl_compress.targets.target import SPLITS
from rl_compress.targets.user_code import summary

_FEW, _MORE = 2, 256
"""Samples of each split. What fails with a few of them, as some scores do, is tried with more."""

_MACS = 2e10
"""Work of scoring one split with more samples, of which there are fewer of a large model."""

_LOADED = 1e-5
"""Difference accepted of a loaded model's outputs, relative to the largest of the saved one's."""


def rehearse(session: Session) -> None:
    """Score, fine-tune, save and load one small variant; nothing of it is kept.

    Training takes one step. ONNX is tried where the job insists on it; elsewhere a run does without
    what it cannot export. The session and all generators of random numbers are left as they were.

    Args:
        session: As prepared.

    Raises:
        ConfigError: Something failed; the message says what, and where.
    """
    macs = session.problem.original_costs["macs"]
    more = max(16, min(_MORE, int(_MACS / max(macs, 1.0))))
    with kept_random_state():
        try:
            _rehearse(session, _FEW)
        except RLCompressError:
            _rehearse(session, more)


def _rehearse(session: Session, samples: int) -> None:
    batch = min(samples, session.job.finetuning.batch_size)
    small = _in_small(session, {**dict.fromkeys(SPLITS, samples), "train": batch})
    if session.job.pretraining.mode != "none":
        # Some samples are held out beside those to train with.
        trained = _in_small(session, dict.fromkeys(SPLITS, 2 * samples))
        with _stage("pre-training"), tempfile.TemporaryDirectory() as folder:
            trained.pretrain(Path(folder))
    policy = session.problem.space.policy_of(_scored_variant(small))
    inputs, outputs = session.example_inputs, list[Tensor]()
    with tempfile.TemporaryDirectory() as folder:
        with _stage("fine-tuning and delivery"):
            small.deliver(
                policy,
                Path(folder, "best"),
                passes=(0, 1),
                finished=lambda saved: outputs.append(_outputs(saved, inputs)),
            )
        with _stage("loading it again"):
            _compare(outputs[0], _outputs(_loaded(Path(folder, "best")), inputs))


def _in_small(session: Session, samples: dict[str, int]) -> Session:
    """Return a copy of the session that takes one step with so many samples of each split."""
    job = session.job
    one_epoch = {"epochs": min(1, job.finetuning.epochs)}
    steps = min(1, job.contribution.finetune_steps)
    one_step = {"iterations": 1, "finetune_steps": steps}
    changes = {
        "pretraining": job.pretraining.model_copy(update={"epochs": 1, "stage_epochs": 1}),
        "contribution": job.contribution.model_copy(update=one_step),
        "finetuning": job.finetuning.model_copy(update=one_epoch),
        "export": job.export.model_copy(update={"onnx": bool(job.export.onnx)}),
    }
    small = copy.copy(session)
    small.job, small.monitor = job.model_copy(update=changes), SilentMonitor()
    small.model = copied(session.model)
    small.target = with_few_samples(session.target, samples)
    return small


def _scored_variant(small: Session) -> Levels:
    """Return the smallest variant that can be scored: the smallest of all, or the uniform one.

    A search goes on where some variants cannot be scored.
    """
    problem = small.problem
    with _stage("scoring"):
        evaluator = problem.evaluator(small.target, latency=False)
    failure: Exception | None = None
    for variant in (lambda: problem.space.smallest, problem.uniform):
        try:
            levels = variant()
            evaluator.evaluate(levels)
        except Exception as error:
            failure = error
        else:
            return levels
    with _stage("scoring a variant"):
        assert failure is not None, "there are variants"
        raise failure


def _loaded(folder: Path) -> nn.Module:
    """Load what was delivered, from a folder that is gone when the message is read."""
    try:
        return load_compressed(folder)
    except RLCompressError as error:
        reason = str(error).replace(f"{folder}/", "")
        raise TargetError(
            f"target.factory: it must work again whenever the delivered model is loaded, and "
            f"architecture() make the modules that build() does ({_short(reason)})"
        ) from None


def _outputs(model: nn.Module, inputs: Inputs) -> Tensor:
    """Return a model's outputs for the example inputs, all in one row."""
    with kept_state(model), torch.no_grad():
        found = tensors_in(call(model, inputs))
        return torch.cat([tensor.flatten().double() for tensor in found])


def _compare(saved: Tensor, loaded: Tensor) -> None:
    if saved.shape != loaded.shape:
        raise TargetError(
            f"target: the loaded model has {len(loaded)} outputs, and had {len(saved)} before"
        )
    difference = float((loaded - saved).abs().max() / saved.abs().max().clamp_min(1e-12))
    if not difference <= _LOADED:
        raise TargetError(
            f"target: the loaded model's outputs differ by {difference:.2g} (relative to the "
            f"largest) from those of the model that was saved; what its forward pass depends on "
            f"must be in the state dict, or made alike by architecture()"
        )


def _short(text: str, most: int = 400) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


@contextmanager
def _stage(what: str) -> Iterator[None]:
    """Say in one line that the run would fail, and at what."""
    try:
        yield
    except Exception as error:
        # Around a failed export it is told where the other files are, and they are gone.
        cause = error.__cause__ if isinstance(error.__cause__, RLCompressError) else error
        said = str(cause) if isinstance(cause, RLCompressError) else summary(cause)
        raise ConfigError(f"{said} (found by trying {what} on one small variant)") from error
