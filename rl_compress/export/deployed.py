"""How a delivered file does in the runtime that runs it, beside the uncompressed model there."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from rl_compress.costs.latency import device_name
from rl_compress.costs.timing import Timing
from rl_compress.export.manifest import Deployed
from rl_compress.export.onnx_export import export_onnx
from rl_compress.model.nested import Inputs, repeated
from rl_compress.runtimes.onnxruntime import OnnxRuntime, multiplies_bytes
from rl_compress.runtimes.runtime import compared
from rl_compress.targets.state import scored
from rl_compress.targets.target import Target


@dataclass(frozen=True, slots=True)
class Deployment:
    """What files of a compressed model are compared with."""

    original: nn.Module
    """The uncompressed model, on the CPU."""
    target: Target
    example_inputs: Inputs
    """Batch size 1."""
    batch_size: int
    passes: tuple[int, int]
    """Those before the first that is timed, and those timed."""

    def measure(self, files: dict[str, Path]) -> dict[str, Deployed]:
        """Score files on the test split, and time them in turn with the uncompressed model.

        Args:
            files: ONNX files by format.
        """
        inputs = repeated(self.example_inputs, self.batch_size, torch.device("cpu"))
        with tempfile.TemporaryDirectory() as folder:
            original = Path(folder, "original.onnx")
            export_onnx(self.original, self.example_inputs, original)
            runtimes = [OnnxRuntime.load(path) for path in (original, *files.values())]
            times = compared(runtimes, inputs, warmup=self.passes[0], repeats=self.passes[1])
            size = _bytes(original)
        return {
            name: Deployed(
                runtime=f"{one.name} {one.version}",
                device=device_name(torch.device("cpu")),
                multiplies_bytes=multiplies_bytes(),
                batch_size=self.batch_size,
                original_ms=_as_list(times[0]),
                delivered_ms=_as_list(time),
                original_bytes=size,
                delivered_bytes=_bytes(path),
                test_score=scored(self.target, one.module(), "test"),
            )
            for (name, path), one, time in zip(files.items(), runtimes[1:], times[1:], strict=True)
        }


def _as_list(timing: Timing) -> tuple[float, float, float]:
    return timing.low, timing.median, timing.high


def _bytes(path: Path) -> int:
    """Return the size of a file, with what lies beside it."""
    return sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))
