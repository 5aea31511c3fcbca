"""A model and data that a program holds in memory, through the functions of the package."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from running import read_records
from tiny_target import SIZES, TinyNet, TinyTarget, blobs
from torch import nn
from torch.utils.data import DataLoader

import rl_compress
from rl_compress.errors import ConfigError
from rl_compress.monitor import SilentMonitor

ASKED: dict[str, Any] = {
    "budget": {"macs": 0.5},
    "evaluations": 6,
    "search": {"algorithm": "random"},
    "finetuning": {"epochs": 1},
    "export": {"onnx": False},
}


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return TinyTarget().build()


@pytest.fixture(scope="module")
def run(net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six evaluations."""
    folder = tmp_path_factory.mktemp("memory") / "run"
    rl_compress.search(model=net, data=blobs(), output=folder, **ASKED)
    return folder


def test_it_is_searched_delivered_and_loaded(net: nn.Module, run: Path) -> None:
    assert [record.algorithm for record in read_records(run)] == ["random"] * 6
    described = rl_compress.load_compressed(run / "best")

    loaded = rl_compress.load_compressed(run / "best", model=net)

    sizes = [sum(part.numel() for part in of.parameters()) for of in (loaded, net)]
    assert sizes[0] < sizes[1]
    with torch.no_grad():
        assert loaded(torch.zeros(3, 1, 8, 8)).shape == (3, 4)
        assert torch.equal(described(torch.ones(3, 1, 8, 8)), loaded(torch.ones(3, 1, 8, 8)))
    with pytest.raises(ConfigError, match="do not fit the model that is given"):
        rl_compress.load_compressed(run / "best", model=TinyNet(batchnorm=False))


def test_records_are_those_of_a_factory_that_makes_the_same(run: Path, tmp_path: Path) -> None:
    values = {key: value for key, value in ASKED.items() if key != "evaluations"}
    values["search"] = {**values["search"], "evaluations": 6}
    job = rl_compress.Job(name="tiny", target={"factory": "tiny_target:tiny"}, **values)  # type: ignore[arg-type]
    result = rl_compress.search(job, tmp_path / "run", monitor=SilentMonitor())
    one, other = (
        [(record.policy, record.score) for record in read_records(folder)]
        for folder in (run, result.directory)
    )
    assert one == other


def test_it_is_resumed_with_the_same_model_and_data_only(
    net: nn.Module, run: Path, tmp_path: Path
) -> None:
    before = (run / "summary.json").stat().st_mtime_ns
    result = rl_compress.search(model=net, data=blobs(), output=run, resume=True, **ASKED)
    assert len(read_records(result.directory)) == 6
    assert (run / "summary.json").stat().st_mtime_ns > before

    data = {**blobs(), "calibration": DataLoader(blobs()["test"], batch_size=8)}
    for model, other, key in (
        (TinyNet(), blobs(), "target.options.model"),
        (net, data, "target.options.data"),
    ):
        with pytest.raises(ConfigError, match=f"a run of another job .* in {key}"):
            rl_compress.search(model=model, data=other, output=run, resume=True, **ASKED)


def test_progress_is_shown_unless_somebody_else_hears_of_it(
    net: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {name: split for name, split in blobs().items() if name in ("train", "test")}
    session = rl_compress.check(model=net, data=data, budget={"macs": 0.5})
    shown = capsys.readouterr()
    assert "taken from train: calibration (32 samples) and search (64 samples)" in shown.err
    assert "TinyNet: groups in forward order" in shown.out
    assert len(session.target.split("train")) == SIZES["train"] - 96  # type: ignore[arg-type]

    rl_compress.check(model=net, data=data, budget={"macs": 0.5}, monitor=SilentMonitor())
    assert capsys.readouterr() == ("", "")


def test_a_policy_is_carried_out(net: nn.Module, run: Path, tmp_path: Path) -> None:
    values = {key: value for key, value in ASKED.items() if key not in ("evaluations", "search")}
    manifest = rl_compress.compress(
        policy=run / "best/policy.json", output=tmp_path / "out", model=net, data=blobs(), **values
    )
    assert manifest.costs["macs"].delivered <= 0.5 * manifest.costs["macs"].original
    rl_compress.load_compressed(tmp_path / "out", model=net)
    with pytest.raises(ConfigError, match="compress: give a policy, and an output folder"):
        rl_compress.compress(model=net, data=blobs(), **values)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "give a job, or else model=…, data=… and budget=…"),
        ({"model": TinyNet()}, "give a job, or else model"),
        ({"job": TinyNet()}, "job: must be a Job, .* but got TinyNet; a model is given as model"),
        ({"data": {"train": 1}}, r"unknown|missing"),
        ({"budget": None}, "keywords: missing key budget"),
        ({"serach": {}}, "keywords: unknown key serach; did you mean search"),
        ({"evalutions": 3}, "keywords: unknown key evalutions; did you mean evaluations"),
        ({"target": {"factory": "digits"}}, "target: it is the model given"),
        ({"evaluations": 5, "search": {"evaluations": 6}}, "evaluations: search.* something else"),
        ({"data": {**blobs(), "test": blobs()["search"]}}, "'search' and 'test' share 128"),
    ],
)
def test_what_cannot_work_is_refused(net: nn.Module, asked: dict[str, Any], said: str) -> None:
    if not (asked == {} or asked.keys() & {"job", "model"}):
        asked = {"model": net, "data": blobs(), "budget": {"macs": 0.5}, **asked}
    with pytest.raises(ConfigError, match=said):
        rl_compress.check(**asked)


def test_a_job_says_all_itself() -> None:
    job = rl_compress.Job(name="tiny", target={"factory": "digits"}, budget={"macs": 0.5})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="evaluations, space: the job says that"):
        rl_compress.search(job, evaluations=3, space={})


def test_signatures_name_what_may_be_given() -> None:
    for function, first in ((rl_compress.search, "job"), (rl_compress.compress, "job")):
        names = list(inspect.signature(function).parameters)
        assert names[0] == first
        assert {"model", "data", "budget", "monitor", "sections"} <= set(names)
    assert {"evaluations", "seed", "resume"} <= set(
        inspect.signature(rl_compress.search).parameters
    )


_SCRIPT = """
import rl_compress, torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 12, 3)
        self.head = nn.Linear(12, 4)
        self.act = lambda x: x.relu()

    def forward(self, x):
        return self.head(self.act(self.conv2(self.act(self.conv1(x)))).mean((2, 3)))

torch.manual_seed(0)
net = Net()
images, labels = torch.randn(200, 1, 8, 8), torch.randint(4, (200,))
result = rl_compress.search(
    model=net,
    data={"train": (images[:150], labels[:150]), "test": (images[150:], labels[150:])},
    budget={"macs": 0.5},
    evaluations=6,
    search={"num_env_runners": 1},
    finetuning={"epochs": 1},
    export={"onnx": False},
)
compressed = rl_compress.load_compressed(result.directory / "best", model=net)
print(result.best.algorithm, sum(p.numel() for p in compressed.parameters()))
"""


def test_a_plain_script_searches_with_an_agent(tmp_path: Path) -> None:
    """Without ``if __name__ == "__main__"``; its workers know neither script nor class."""
    (tmp_path / "script.py").write_text(_SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    algorithm, parameters = done.stdout.split()
    assert algorithm == "ppo"
    assert int(parameters) < 80 + 876 + 52
    (run,) = (tmp_path / "runs/Net").iterdir()
    assert len(read_records(run)) == 6
