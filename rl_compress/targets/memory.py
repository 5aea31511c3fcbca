"""A target made of a model and data that a program holds in memory."""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rl_compress.errors import TargetError
from rl_compress.model.plain_weights import unshared
from rl_compress.targets.batches import filled, form_of, in_memory, paired
from rl_compress.targets.factory import HELD, TargetConfig, lend_factory, take_back_factory
from rl_compress.targets.fingerprint import digest_of_data, digest_of_model
from rl_compress.targets.given_data import fixed_randomness, splits_of
from rl_compress.targets.target import ClassificationTarget
from rl_compress.targets.user_code import summary


@contextmanager
def held_target(
    model: nn.Module, data: Mapping[str, Any], say: Callable[[str], None] = lambda _line: None
) -> Iterator[TargetConfig]:
    """Lend a model and its data to the searches within the block, under a name for the job.

    The name goes with digests of both, so that a run is resumed with nothing else.

    Args:
        model: A classifier with its trained weights, on any device; left as it is.
        data: See :func:`splits_of`.
        say: Hears which splits were taken from others.

    Raises:
        TargetError: The model cannot be copied, or the data cannot be used.
    """
    if not isinstance(model, nn.Module):
        raise TargetError(f"model: must be a torch.nn.Module, but got {type(model).__name__}")
    try:
        model = unshared(model).cpu().eval()
    except Exception as error:
        raise TargetError(
            f"model: cannot be copied, nor sent to workers ({summary(error)}); take out of its "
            f"attributes what is no module, tensor or plain value"
        ) from error
    splits, batch_size, note = splits_of(data)
    if note:
        say(note)
    target = ClassificationTarget(functools.partial(unshared, model), splits, batch_size=batch_size)
    with fixed_randomness():
        options = {"model": digest_of_model(model)[:16], "data": digest_of_data(target)[:16]}
    with tempfile.TemporaryDirectory(prefix="rl-compress-") as folder:
        lend_factory(HELD, _Held(model, target, options, Path(folder)))
        try:
            yield TargetConfig(factory=HELD, options=options)
        finally:
            take_back_factory(HELD)


class _Held:
    """The factory in the program itself; pickled, it becomes one that reads the data from a file.

    Workers have the weights from the compressor, and get no test split.
    """

    def __init__(
        self,
        model: nn.Module,
        target: ClassificationTarget,
        digests: Mapping[str, str],
        folder: Path,
    ) -> None:
        self._model = model
        self._target = target
        self._digests = digests
        self._file = folder / "data.safetensors"

    def __call__(self, model: str, data: str) -> ClassificationTarget:
        """Return the target, for the digests that the job names."""
        if {"model": model, "data": data} != self._digests:
            raise TargetError(
                "target: another model, or other data, is held in memory than the one compressed"
            )
        return self._target

    def __reduce__(self) -> tuple[Any, ...]:
        """Write the data that workers read, unless that has been done."""
        # A label alone tells which axis of the outputs counts classes.
        with fixed_randomness():
            batch = next(iter(self._target.batches("train", batch_size=1)))
        first = in_memory(paired(batch))
        none = in_memory(filled(form_of(first), [tensor[:0] for tensor in first.tensors]))
        splits: dict[str, Any] = {
            "calibration": self._target.split("calibration"),
            "search": self._target.split("search"),
            "train": first,
            "test": none,
        }
        if not self._file.exists():
            tensors: dict[str, Tensor] = {}
            for name, dataset in splits.items():
                _put(tensors, name, dataset)
            save_file(tensors, self._file)
        forms = {name: form_of(dataset) for name, dataset in splits.items()}
        architecture = _without_weights(self._model)
        return _FromFile, (self._file, architecture, self._target.batch_size, forms)


class _FromFile:
    """The factory in workers."""

    def __init__(
        self, file: Path, architecture: nn.Module, batch_size: int, forms: Mapping[str, Any]
    ) -> None:
        self._file = file
        self._architecture = architecture
        self._batch_size = batch_size
        self._forms = forms

    def __call__(self, model: str, data: str) -> ClassificationTarget:
        """Map the data, whose pages all workers of the machine share."""
        if not self._file.exists():
            raise TargetError(
                "target: a model and data held in memory reach workers of the same machine only; "
                "on a cluster of several, give a job whose target.factory all can import"
            )
        tensors = load_file(self._file)
        splits = {}
        for name, form in self._forms.items():
            count = sum(key.startswith(f"{name}.") for key in tensors)
            splits[name] = in_memory(filled(form, (tensors[f"{name}.{i}"] for i in range(count))))
        build = functools.partial(copy.deepcopy, self._architecture)
        return ClassificationTarget(build, splits, batch_size=self._batch_size)


def _put(tensors: dict[str, Tensor], name: str, dataset: TensorDataset) -> None:
    # Cloned, for safetensors takes no two views of one storage.
    for part, tensor in enumerate(dataset.tensors):
        tensors[f"{name}.{part}"] = tensor.clone(memory_format=torch.contiguous_format)


def _without_weights(model: nn.Module) -> nn.Module:
    """Return a copy whose parameters and buffers have shapes and no values."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)
