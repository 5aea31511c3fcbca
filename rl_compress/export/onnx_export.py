"""Export to ONNX, checked against the module it came from."""

from __future__ import annotations

import copy
import functools
import importlib.util
import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from rl_compress.errors import ConfigError, RLCompressError
from rl_compress.export.format import Delivered, Format
from rl_compress.model.nested import Inputs, call, joined, mapped, tensors_in
from rl_compress.runtimes.onnxruntime import OnnxRuntime

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_ERROR = 1e-4
"""Largest difference accepted, relative to the largest output (float32)."""

_CHECKED_BATCHES = (1, 3)
_EXTERNAL_FROM_BYTES = 1_900_000_000
"""Protocol buffers end at 2 GiB; larger weights go into a file of their own."""
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class Onnx(Format):
    """One graph with a free batch size; weights beyond 1.9 GB go into a second file."""

    runs = "model.onnx"
    key: ClassVar[str] = "export.onnx:"
    without: ClassVar[str] = "set export.onnx to false"

    def check(self) -> None:
        """See :meth:`Format.check`."""
        if not all(importlib.util.find_spec(package) for package in _PACKAGES):
            raise ConfigError(
                f"{self.key} needs onnx, onnxscript and onnxruntime; install them with "
                f"`pip install rl-compress[onnx]`, or {self.without}"
            )

    def write(self, delivered: Delivered, folder: Path) -> list[Path]:
        """See :meth:`Format.write`."""
        path = folder / self.runs
        error = export_onnx(delivered.model, delivered.example_inputs, path)
        delivered.entries["onnx_max_error"] = error
        return sorted(folder.glob(f"{path.name}*"))


def export_onnx(model: nn.Module, example_inputs: Inputs, path: Path) -> float:
    """Write a model as ONNX with a free batch size, and compare the two.

    Args:
        model: Model in evaluation mode, on any device; left as it is.
        example_inputs: Inputs of one forward pass, batch first, batch size 1.
        path: File to write; weights beyond 1.9 GB go into a second one, ``<path>.data``.

    Returns:
        Largest difference of any output in onnxruntime, relative to the largest output.

    Raises:
        RLCompressError: The model cannot be exported, or the exported one computes otherwise.
    """
    model = copy.deepcopy(model).cpu()
    inputs = mapped(lambda tensor: tensor.detach().cpu(), example_inputs)
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    program = exported(model, inputs)
    with _traceable():
        program.save(path, external_data=size > _EXTERNAL_FROM_BYTES)
        error = max(_error(model, some, path) for some in _batches(inputs))
    if not error <= MAX_ERROR:
        raise RLCompressError(
            f"export.onnx: the outputs of {path.name} in onnxruntime must be within {MAX_ERROR:g} "
            f"of the model's, but differ by {error:.2g}; set export.onnx to false"
        )
    return error


def exported(model: nn.Module, example_inputs: Inputs) -> torch.onnx.ONNXProgram:
    """Return a model as ONNX with a free batch size, in memory.

    Args:
        model: Model in evaluation mode, on the CPU; its forward pass returns plain tensors
            from now on.
        example_inputs: Inputs of one forward pass, batch size 1, on the CPU.

    Raises:
        RLCompressError: It cannot be exported.
    """
    # A batch of one would be taken for a constant.
    pair = joined([example_inputs, example_inputs])
    by_name = isinstance(pair, dict)
    with _traceable():
        program = torch.onnx.export(
            _returning_tensors(model),
            () if by_name else pair,
            kwargs=pair if by_name else None,
            dynamo=True,
            verbose=False,
            dynamic_shapes=_dynamic(pair, torch.export.Dim("batch")),
        )
    assert program is not None, "the exporter of today returns it"
    return program


@contextmanager
def _traceable() -> Iterator[None]:
    try:
        with _quiet():
            yield
    except Exception as failure:
        raise RLCompressError(
            f"export.onnx: the model cannot be exported ({_first_line(failure)}); its forward "
            f"pass must be traceable for any batch size, or set export.onnx to false"
        ) from failure


def _dynamic(inputs: Any, batch: Any) -> Any:
    """Say of each tensor that its first axis is free, in the form of the inputs."""
    if isinstance(inputs, Tensor):
        return {0: batch}
    if isinstance(inputs, dict):
        return {name: _dynamic(value, batch) for name, value in inputs.items()}
    if isinstance(inputs, list | tuple):
        return type(inputs)(_dynamic(value, batch) for value in inputs)
    return None


def _returning_tensors(model: nn.Module) -> nn.Module:
    """Let a model return its tensors in a tuple, where they lie in what the exporter knows not."""
    forward = model.forward

    # With the signature of the original, which names the inputs.
    @functools.wraps(forward)
    def plain(*inputs: Any, **named: Any) -> Any:
        found = forward(*inputs, **named)
        return found if isinstance(found, Tensor) else tuple(tensors_in(found))

    model.forward = plain
    return model


def _batches(inputs: Inputs) -> Iterator[Inputs]:
    """Yield the example itself and random batches like it; integers stay as they are."""
    yield inputs
    generator = torch.Generator().manual_seed(0)
    for size in _CHECKED_BATCHES:

        def like(tensor: Tensor, size: int = size) -> Tensor:
            shape = (size, *tensor.shape[1:])
            if tensor.is_floating_point():
                return torch.randn(shape, generator=generator, dtype=tensor.dtype)
            return tensor.expand(shape).contiguous()

        yield mapped(like, inputs)


def _error(model: nn.Module, inputs: Inputs, path: Path) -> float:
    found = OnnxRuntime.load(path).outputs(inputs)
    with torch.no_grad():
        expected = list(tensors_in(call(model, inputs)))
    errors = []
    for tensor, output in zip(expected, found, strict=True):
        difference = (output - tensor).abs().max()
        errors.append(float(difference / tensor.abs().max().clamp_min(1e-12)))
    return max(errors)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which warns of its own internals and of packages it can do without."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
