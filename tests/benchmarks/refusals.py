"""How long does a broken job take to be refused? Each kind of fault on the digits networks.

    python tests/benchmarks/refusals.py [cnn] [resnet] [mobilenet]

The command is `rl-compress search` in a process of its own, so the start of Python and the imports
count; the networks are trained, and cached, before. Printed are the seconds from the command to its
end, the seconds of CPU time among them, and the one line that it ends with.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rl_compress.targets import Target
from rl_compress.targets.digits import digits
from rl_compress.targets.pretrained import PretrainedTarget

FAULTS = (
    *("none", "out of range", "negative", "one-hot", "column", "floats", "NaN outputs"),
    *("NaN score", "random outputs", "score of a variant", "loss", "augment", "factory"),
    *("architecture", "state"),
)
_FACTORY = "refusals:broken"


def broken(fault: str, model: str) -> Target:
    """Make the digits target with a fault."""
    if fault == "factory" and Path(os.environ["REFUSALS_MADE"]).exists():
        raise RuntimeError("the link has expired")
    Path(os.environ["REFUSALS_MADE"]).touch()
    target = digits(model=model)
    target.__class__ = _Broken
    target.fault = fault
    return target


class _Broken(PretrainedTarget):
    fault: str

    def architecture(self) -> nn.Module:
        made = super().architecture()
        wrappers = {"architecture": nn.Sequential, "state": _Stateful}
        return wrappers.get(self.fault, lambda model: model)(made).eval()

    def build(self) -> nn.Module:
        model = super().build()
        if self.fault == "random outputs":
            model = nn.Sequential(model, _Noise())
        if self.fault == "NaN outputs":
            model = _Bright(model)
        if self.fault == "state":
            model = _Stateful(model)
        return model.eval()

    def split(self, name: str) -> TensorDataset:
        inputs, labels = super().split(name).tensors
        changes: dict[str, Callable[[Tensor], Tensor]] = {
            "out of range": lambda labels: labels + 1,
            "negative": lambda labels: labels - 1,
            "one-hot": lambda labels: torch.eye(10)[labels].long(),
            "column": lambda labels: labels[:, None],
            "floats": lambda labels: labels.float(),
        }
        if self.fault == "NaN outputs" and name == "calibration":
            inputs = inputs.index_fill(0, torch.tensor([100]), 2.0)
        return TensorDataset(inputs, changes.get(self.fault, lambda labels: labels)(labels))

    def score(self, model: nn.Module, split: str) -> float:
        widths = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
        if self.fault == "score of a variant" and max(widths) < 64:
            raise ValueError("unexpected width")
        return float("nan") if self.fault == "NaN score" else super().score(model, split)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if self.fault == "loss":
            raise RuntimeError("no loss today")
        return super().loss(outputs, labels)

    def augment(self, inputs: Tensor) -> Tensor:
        return inputs[:, 3] if self.fault == "augment" else inputs


class _Stateful(nn.Sequential):
    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


class _Bright(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).where(x.amax((1, 2, 3))[:, None] <= 1, torch.nan)


class _Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


def main() -> None:
    """Run every fault on every network, and print a line for each."""
    slowest = 0.0
    for model in sys.argv[1:] or ("cnn", "resnet", "mobilenet"):
        digits(model=model).build()
        for fault in FAULTS:
            with tempfile.TemporaryDirectory() as folder:
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                seconds, code, line = _run(Path(folder), fault, model)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            expected = 0 if fault == "none" else 2
            print(f"{model:10s} {fault:19s} {seconds:5.1f} s {cpu:5.1f} s CPU  exit {code}  {line}")
            assert code == expected, line
            slowest = max(slowest, seconds)
    print(f"slowest: {slowest:.1f} s")


def _run(folder: Path, fault: str, model: str) -> tuple[float, int, str]:
    job = {
        "name": "broken",
        "target": {"factory": _FACTORY, "options": {"fault": fault, "model": model}},
        "budget": {"macs": 0.3},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job), encoding="utf-8")
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "REFUSALS_MADE": str(folder / "made"),
    }
    verb = ["check", "job.yaml"] if fault == "none" else ["search", "job.yaml", "-o", "run"]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "rl_compress.cli", *verb],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    last = (done.stderr if done.returncode else done.stdout).strip().splitlines()[-1]
    return time.perf_counter() - start, done.returncode, last


if __name__ == "__main__":
    main()
