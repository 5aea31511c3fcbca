"""The rehearsal: one small variant goes through all that a run will do, on a few samples.

What would fail late in a run, in fine-tuning, saving or loading, fails here, before anything is
measured. The functions are those of the run; only data, steps and places are smaller.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rl_compress.errors import ConfigError, RLCompressError, TargetError
from rl_compress.evaluation.evaluator import Evaluator
from rl_compress.export.artifact import load_compressed
from rl_compress.export.delivery import deliver
from rl_compress.export.fine_tuned import Original
from rl_compress.job import Job
from rl_compress.model.copies import copied
from rl_compress.model.kept_state import kept_state
from rl_compress.model.nested import call, tensors_in
from rl_compress.searchers.preparation import Subject
from rl_compress.space.mask_projection import decides_masks, project_mask
from rl_compress.space.projection import project
from rl_compress.space.search_space import Levels
from rl_compress.targets.few import kept_random_state, with_few_samples
from rl_compress.targets.target import SPLITS, Target
from rl_compress.targets.user_code import summary
from rl_compress.training.pretraining import pretrain

_FEW, _MORE = 2, 256
"""Samples of each split. What fails with a few of them, as some scores do, is tried with more."""

_MACS = 2e10
"""Work of scoring one split with more samples, of which there are fewer of a large model."""

_LOADED = 1e-5
"""Difference accepted of a loaded model's outputs, relative to the largest of the saved one's."""


def rehearse(job: Job, subject: Subject) -> None:
    """Score, fine-tune, save and load one small variant; nothing of it is kept.

    Training takes one step. ONNX is tried where the job insists on it; elsewhere a run does without
    what it cannot export. The subject and all generators of random numbers are left as they were.

    Args:
        job: What the run will do.
        subject: Its target, as prepared.

    Raises:
        ConfigError: Something failed; the message says what, and where.
    """
    more = max(16, min(_MORE, int(_MACS / max(subject.original_costs["macs"], 1.0))))
    with kept_random_state():
        try:
            _rehearse(job, subject, _FEW)
        except RLCompressError:
            _rehearse(job, subject, more)


def original_of(subject: Subject) -> Original:
    """Return what delivery needs to know of a job's subject."""
    return Original(
        target=subject.target,
        model=subject.model,
        example_inputs=subject.example_inputs,
        compressor=subject.compressor,
        budget=subject.budget,
        latency_table=subject.latency_table,
    )


def _rehearse(job: Job, subject: Subject, samples: int) -> None:
    finetuning = job.finetuning.model_copy(update={"epochs": min(1, job.finetuning.epochs)})
    steps = min(1, job.contribution.finetune_steps)
    contribution = job.contribution.model_copy(update={"iterations": 1, "finetune_steps": steps})
    target = with_few_samples(
        subject.target,
        {**dict.fromkeys(SPLITS, samples), "train": min(samples, finetuning.batch_size)},
    )
    model = copied(subject.model)
    export = job.export.model_copy(update={"onnx": bool(job.export.onnx)})
    smaller = job.model_copy(
        update={"finetuning": finetuning, "contribution": contribution, "export": export}
    )
    if job.pretraining.mode != "none":
        with _stage("pre-training"):
            _pretrain(job, copied(model), subject.target, samples)
    levels = _scored_variant(job, subject, target)
    outputs: list[Tensor] = []
    with tempfile.TemporaryDirectory() as folder:
        with _stage("fine-tuning and delivery"):
            deliver(
                Path(folder, "best"),
                dataclasses.replace(original_of(subject), target=target, model=model),
                levels,
                smaller,
                passes=(0, 1),
                finished=lambda saved: outputs.append(_outputs(saved, subject)),
            )
        with _stage("loading it again"):
            _compare(outputs[0], _outputs(_loaded(Path(folder, "best")), subject))


def _pretrain(job: Job, model: nn.Module, target: Target, samples: int) -> None:
    """Take a step of pre-training, with samples to hold out beside those to train with."""
    few = with_few_samples(target, dict.fromkeys(SPLITS, 2 * samples))
    config = job.pretraining.model_copy(update={"epochs": 1, "stage_epochs": 1})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        pretrain(model, few, config, Path(folder), device=device)


def _scored_variant(job: Job, subject: Subject, target: Target) -> Levels:
    """Return the smallest variant that can be scored: the smallest of all, or the uniform one.

    A search goes on where some variants cannot be scored.
    """
    with _stage("scoring"):
        evaluator = Evaluator(
            target,
            subject.compressor,
            job.objective.score,
            job.evaluation,
            score_options=job.objective.options_of_score,
        )
    failure: Exception | None = None
    for levels in _variants(subject):
        try:
            evaluator.evaluate(levels)
        except Exception as error:
            failure = error
        else:
            return levels
    with _stage("scoring a variant"):
        assert failure is not None, "there are variants"
        raise failure


def _variants(subject: Subject) -> Iterator[Levels]:
    compressor = subject.compressor
    space, costs = compressor.space, compressor.costs
    yield space.smallest
    if decides_masks(space):
        importances = np.concatenate(compressor.importances)
        yield project_mask(space.full, importances, subject.budget, space, costs)
    else:
        yield project(np.full(len(space), 0.5), subject.budget, space, costs)


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


def _outputs(model: nn.Module, subject: Subject) -> Tensor:
    """Return a model's outputs for the example inputs, all in one row."""
    with kept_state(model), torch.no_grad():
        found = tensors_in(call(model, subject.example_inputs))
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
