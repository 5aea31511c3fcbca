"""Soundness: whether a model's outputs, its labels and its scores are what they must be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rl_compress.errors import TargetError
from rl_compress.model.kept_state import kept_state
from rl_compress.model.nested import Inputs, call, tensors_in
from rl_compress.targets.batches import batch_of
from rl_compress.targets.few import kept_random_state, with_few_samples
from rl_compress.targets.splits import rooted
from rl_compress.targets.state import scored
from rl_compress.targets.target import SPLITS, Target
from rl_compress.targets.user_code import user_code

_READ = 128
"""Samples of a split that are read where it is no tensor in memory, whose labels are all seen."""

_RUN = 2
"""Samples of each split whose outputs are compared with the labels."""

_MACS = 5e9
"""Work of scoring one split, which says how many samples are scored."""

_FEWEST, _ENOUGH, _MOST = 2, 16, 2000
"""Samples of a split that are scored: at least, to call the score a guess, and at most."""

_REPEATABLE = 1e-4
"""Difference between two calls with the same inputs that is accepted, relative to the outputs."""

_NEEDED = ("search", "test")
"""Splits that every run scores; that of others is for information."""


@dataclass(frozen=True, slots=True)
class SplitScore:
    """What a look at one split found."""

    split: str
    score: float | None
    """Of the uncompressed model; None for the test split, and where it cannot be scored."""
    samples: int
    """Number of samples that were scored."""
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Soundness:
    """What a look at all splits found."""

    score_name: str
    splits: tuple[SplitScore, ...] = ()

    @property
    def warnings(self) -> list[str]:
        """Return what should be looked at before hours are spent, in a line each."""
        return [f"{row.split} split: {row.warning}" for row in self.splits if row.warning]


def check_outputs(target: Target, model: nn.Module, example_inputs: Inputs) -> None:
    """Make sure that outputs are numbers and repeatable, and that the labels can be theirs.

    Labels in memory are looked at as a whole, and 128 of any others.

    Args:
        target: Supplies splits and labels.
        model: The uncompressed model, on the CPU; left as it is.
        example_inputs: Inputs of one forward pass.

    Raises:
        TargetError: They are not; the message names the split.
    """
    few = with_few_samples(target, dict.fromkeys(SPLITS, _READ))
    shapes = {}
    with kept_random_state(), kept_state(model), torch.no_grad():
        with user_code("the model's forward pass on the example inputs"):
            first, second = call(model.eval(), example_inputs), call(model, example_inputs)
        # Infinite ones may be meant: minus infinity is how classes are ruled out.
        if any(tensor.isnan().any() for tensor in tensors_in(first)):
            _refuse_nan("for the example inputs")
        _require_same(first, second)
        for name in SPLITS:
            try:
                shapes[name] = _check_split(target, few, model, name)
            except TargetError as error:
                raise _of_split(name, error) from error
    _require_alike(shapes)


def score_splits(target: Target, model: nn.Module, macs: float) -> Soundness:
    """Score the uncompressed model on some samples of every split.

    The score on the test split is thrown away: it only shows that the split can be scored.

    Args:
        target: Supplies splits and score.
        model: The uncompressed model, on any device; left as it is.
        macs: Of one sample; up to 2000 samples are scored, fewer of a model with many.

    Raises:
        TargetError: An output or a score is no number, or the search or test split cannot be
            scored.
    """
    with kept_random_state(), kept_state(model):
        model.eval()
        rows = tuple(_score_split(target, model, name, macs) for name in SPLITS)
    return Soundness(target.score_name, rows)


def _check_split(
    target: Target, few: Target, model: nn.Module, name: str
) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]] | None:
    """Check one split; return the shapes of a sample's inputs and its label, if a tensor."""
    batch = next(iter(few.batches(name, batch_size=_RUN)), None)
    if batch is None:
        raise TargetError("target: batches() yields nothing")
    with user_code("the model's forward pass"):
        outputs, labels = target.forward(model, batch), target.labels(batch)
    if not isinstance(outputs, Tensor):
        raise TargetError(
            f"target: forward() must return a tensor, but returned {type(outputs).__name__}"
        )
    known = isinstance(labels, Tensor)
    target.check_labels(outputs, _all_labels(target, few, name, labels) if known else labels)
    if not known:
        return None
    inputs = tuple(tuple(tensor.shape[1:]) for tensor in target.input_tensors(batch))
    return inputs, tuple(labels.shape[1:])


def _all_labels(target: Target, few: Target, name: str, some: Tensor) -> Tensor:
    """Return all labels in memory, from the first on, or those of some samples."""
    dataset: Any = target.split(name)
    base, indices = rooted(dataset, np.arange(len(dataset)))
    if isinstance(base, TensorDataset) and len(base.tensors) > 1:
        chosen = torch.from_numpy(indices)
        labels = target.labels(batch_of(base, [tensor[chosen] for tensor in base.tensors]))
        # A target may change them in batches(), and then it is those that count.
        if isinstance(labels, Tensor) and torch.equal(labels[:1], some[:1]):
            return labels
    rest = [target.labels(batch) for batch in few.batches(name)]
    alike = all(labels.shape[1:] == some.shape[1:] for labels in rest)
    return torch.cat(rest) if alike else some


def _score_split(target: Target, model: nn.Module, name: str, macs: float) -> SplitScore:
    dataset: Any = target.split(name)
    in_memory = isinstance(rooted(dataset, np.arange(1))[0], TensorDataset)
    most = min(_MOST if in_memory else _READ, len(dataset))
    first = min(most, max(_FEWEST, int(_MACS / max(macs, 1.0))))
    score = math.nan
    # What a handful of samples cannot do, or does not show, a few more may.
    for samples in dict.fromkeys((first, min(most, max(first, _ENOUGH)))):
        few = with_few_samples(target, {name: samples})
        failure = None
        with _nan_outputs(model) as broken:
            try:
                with user_code("score()"):
                    score = float(scored(few, model, name))
            except TargetError as error:
                failure = error
        if broken:
            _refuse_nan(f"on the split {name!r}")
        if failure is not None:
            continue
        labels = [few.labels(batch) for batch in few.batches(name)]
        guess = None
        if name != "test" and all(isinstance(some, Tensor) for some in labels):
            guess = target.guess(torch.cat([some.flatten() for some in labels]), samples)
        # Of a large model a handful of samples is scored; only for the search split it takes more.
        unsure = name != "search" and samples < min(most, _ENOUGH)
        if math.isfinite(score) and (guess is None or score > guess or unsure):
            return SplitScore(name, None if name == "test" else score, samples)
    if failure is not None:
        if name in _NEEDED:
            raise _of_split(name, failure)
        return SplitScore(name, None, 0, f"cannot be scored ({failure})")
    if not math.isfinite(score):
        raise TargetError(
            f"target: split {name!r}: the uncompressed model's {target.score_name} is {score}; a "
            f"score must be a finite number"
        )
    return SplitScore(
        name,
        score,
        samples,
        f"the uncompressed model is no better than guessing ({target.score_name} {score:.4g}, "
        f"guesses reach {guess:.4g}); look at its weights, and whether inputs and labels are made "
        f"as in its training",
    )


@contextmanager
def _nan_outputs(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the outputs of a model that hold NaN."""
    found: list[Tensor] = []

    def look(_model: nn.Module, _inputs: Any, outputs: Any) -> None:
        found.extend(tensor for tensor in tensors_in(outputs) if tensor.isnan().any())

    handle = model.register_forward_hook(look)
    try:
        yield found
    finally:
        handle.remove()


def _of_split(name: str, error: TargetError) -> TargetError:
    return TargetError(f"target: split {name!r}: {str(error).removeprefix('target: ')}")


def _refuse_nan(where: str) -> NoReturn:
    raise TargetError(
        f"target: the model's outputs {where} hold NaN; look at its weights, and whether its "
        f"inputs are as in its training"
    )


def _require_same(first: Any, second: Any) -> None:
    for one, other in zip(tensors_in(first), tensors_in(second), strict=True):
        if not one.is_floating_point() or not one.numel():
            continue
        scale, difference = float(one.abs().max()), float((one - other).abs().max())
        if difference > _REPEATABLE * scale:
            raise TargetError(
                f"target: the model's outputs for the same inputs differ by {difference:.2g} from "
                f"one call to the next; in evaluation mode its forward pass must neither draw "
                f"random numbers nor depend on what it has seen before"
            )


def _require_alike(shapes: Mapping[str, tuple[Any, tuple[int, ...]] | None]) -> None:
    """Make sure that labels of different splits differ in shape only where the inputs do."""
    known = {name: found for name, found in shapes.items() if found is not None}
    for one, other in itertools.combinations(known, 2):
        (inputs, labels), (other_inputs, other_labels) = known[one], known[other]
        if labels != other_labels and (inputs == other_inputs or len(labels) != len(other_labels)):
            raise TargetError(
                f"target: split {other!r} has labels of shape {other_labels} for a sample, but "
                f"split {one!r} has {labels}; make them alike in all splits"
            )
