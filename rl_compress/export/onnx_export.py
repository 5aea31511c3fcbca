"""Export to ONNX, checked against the module it came from."""

from __future__ import annotations

import copy
import importlib.util
import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rl_compress.errors import ConfigError, RLCompressError
from rl_compress.export.format import Delivered, Format

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MAX_ERROR = 1e-4
"""Largest difference accepted, relative to the largest output (float32)."""

_CHECKED_BATCHES = (1, 3)
_EXTERNAL_FROM_BYTES = 1_900_000_000
"""Protocol buffers end at 2 GiB; larger weights go into a file of their own."""
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class Onnx(Format):
    """One graph with a free batch size; weights beyond 1.9 GB go into a second file."""

    def check(self) -> None:
        """See :meth:`Format.check`."""
        if not all(importlib.util.find_spec(package) for package in _PACKAGES):
            raise ConfigError(
                "export.onnx: needs onnx, onnxscript and onnxruntime; "
                "install them with `pip install rl-compress[onnx]`, or set export.onnx to false"
            )

    def write(self, delivered: Delivered, folder: Path) -> list[Path]:
        """See :meth:`Format.write`."""
        path = folder / "model.onnx"
        error = export_onnx(delivered.model, delivered.example_inputs, path)
        delivered.entries["onnx_max_error"] = error
        return sorted(folder.glob(f"{path.name}*"))


def export_onnx(model: nn.Module, example_inputs: Sequence[Tensor], path: Path) -> float:
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
    inputs = [tensor.detach().cpu() for tensor in example_inputs]
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    # A batch of one would be taken for a constant.
    pair = tuple(torch.cat([tensor, tensor]) for tensor in inputs)
    try:
        with _quiet():
            torch.onnx.export(
                model,
                pair,
                path,
                dynamo=True,
                verbose=False,
                external_data=size > _EXTERNAL_FROM_BYTES,
                dynamic_shapes=tuple({0: torch.export.Dim("batch")} for _ in pair),
            )
            error = max(_error(model, batch, path) for batch in _batches(inputs))
    except Exception as failure:
        raise RLCompressError(
            f"export.onnx: the model cannot be exported ({_first_line(failure)}); its forward "
            f"pass must be traceable for any batch size, or set export.onnx to false"
        ) from failure
    if not error <= MAX_ERROR:
        raise RLCompressError(
            f"export.onnx: the outputs of {path.name} in onnxruntime must be within {MAX_ERROR:g} "
            f"of the model's, but differ by {error:.2g}; set export.onnx to false"
        )
    return error


def _batches(inputs: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield the example itself and random batches like it; integers stay as they are."""
    yield list(inputs)
    generator = torch.Generator().manual_seed(0)
    for size in _CHECKED_BATCHES:
        yield [
            torch.randn((size, *tensor.shape[1:]), generator=generator, dtype=tensor.dtype)
            if tensor.is_floating_point()
            else tensor.expand(size, *tensor.shape[1:]).contiguous()
            for tensor in inputs
        ]


def _error(model: nn.Module, inputs: Sequence[Tensor], path: Path) -> float:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    with torch.no_grad():
        outputs = model(*inputs)
    expected = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    errors = []
    for tensor, array in zip(expected, session.run(None, feed), strict=True):
        difference = (torch.from_numpy(array) - tensor).abs().max()
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
