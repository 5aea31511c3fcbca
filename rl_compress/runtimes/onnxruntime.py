"""onnxruntime on the CPU."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rl_compress.model.nested import Inputs, tensors_in
from rl_compress.runtimes.runtime import Runtime

if TYPE_CHECKING:
    import numpy.typing as npt

_SILENT = 3
"""Log level: errors alone."""

_BYTE_PRODUCTS = {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "asimddp", "i8mm"}
"""What Linux calls instructions that multiply bytes and add in 32 bits."""


class OnnxRuntime(Runtime):
    """Runs an ONNX file."""

    name = "onnxruntime"

    def __init__(self, model: Path | bytes, threads: int) -> None:
        """Load a file, or what would be in it."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = _SILENT
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.inputs = [entry.name for entry in self._session.get_inputs()]

    @classmethod
    def load(cls, model: Path | bytes, *, threads: int | None = None) -> OnnxRuntime:
        """See :meth:`Runtime.load`."""
        return cls(model, threads or torch.get_num_threads())

    def outputs(self, inputs: Inputs) -> list[Tensor]:
        """See :meth:`Runtime.outputs`."""
        return [torch.from_numpy(array) for array in self.run(fed(self.inputs, inputs))]

    def run(self, feed: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Return the outputs for arrays by name."""
        found: list[npt.NDArray[Any]] = self._session.run(None, feed)
        return found

    @property
    def version(self) -> str:
        """See :attr:`Runtime.version`."""
        return importlib.metadata.version("onnxruntime")


def fed(names: Sequence[str], inputs: Inputs) -> dict[str, npt.NDArray[Any]]:
    """Return a module's inputs as arrays, by the names that the graph gives them."""
    if isinstance(inputs, dict) and set(names) <= set(inputs):
        return {name: inputs[name].detach().cpu().numpy() for name in names}
    given = (tensor.detach().cpu().numpy() for tensor in tensors_in(inputs))
    return dict(zip(names, given, strict=True))


def multiplies_bytes() -> bool:
    """Say whether the processor has instructions for products of bytes (VNNI and its like).

    Without them onnxruntime computes with bytes more slowly, and inexactly where weights use all 8
    bits. Where that is not known it is taken to have them.
    """
    info = Path("/proc/cpuinfo")
    if not info.exists() or platform.machine() not in ("x86_64", "AMD64", "aarch64"):
        return True
    flags = info.read_text(encoding="utf-8").lower().split()
    return not _BYTE_PRODUCTS.isdisjoint(flags)
