"""Parts from a folder outside the package, called from a job by import path."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from running import read_records, run_here, write_job

from rl_compress import load_compressed
from rl_compress.export.manifest import Manifest

OWN = Path(__file__).parent.parent / "own_parts"

JOB: dict[str, Any] = {
    "space__pruning__importance": "own_importance:Power",
    "space__pruning__importance_options": {"power": 3.0},
    "space__quantization": {
        "quantizer": "own_quantizer:Even",
        "quantizer_options": {"reach": 0.9},
        "weight_bits": [2, 4],
    },
    "budget": {"size_bytes": 0.1},
    "objective": {"score": "own_score:Agreement", "score_options": {"scale": 10.0}},
    "search__algorithm": "own_searcher:Near",
    "search__algorithm_options": {"spread": 0.3},
    "search__evaluations": 4,
    "export": {
        "formats": ["own_format:Listing"],
        "format_options": {"own_format:Listing": {"name": "tensors.txt"}},
    },
}


ENERGY = "own_cost:WeightEnergy"

STRUCTURE: dict[str, Any] = {
    "space__pruning": {
        "structure": "own_structure:KernelRows",
        "structure_options": {"keep_middle": True},
    },
    "space__skip": ["conv1"],
    "budget": {ENERGY: 0.8, "macs": 0.9},
    "search__evaluations": 4,
    "finetuning__epochs": 0,
}


@pytest.fixture(autouse=True)
def _beside_own_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(OWN)


def test_own_parts_go_the_whole_way(tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = write_job(tmp_path, **JOB)
    outcome = run_here("search", job, "--baselines", "own_searcher:Near", "--output", run)
    assert outcome.code == 0, outcome.stderr
    records = read_records(run)
    assert {record.algorithm for record in records} == {"own_searcher:Near"}
    assert len(records) == 4
    # The score counts samples of 128, in units of the option.
    assert all(0 < r.score <= 10 and (12.8 * r.score).is_integer() for r in records)

    manifest = Manifest.load(run / "best" / "manifest.json")
    own = {"quantizer": "own_quantizer:Even", "options": {"reach": 0.9}}
    assert manifest.packed
    assert all(own.items() <= packed["quantized"].items() for packed in manifest.packed.values())
    assert "conv1.weight" in (run / "best" / "tensors.txt").read_text()
    assert {"tensors.txt", "model.safetensors"} <= manifest.files.keys()

    weights = [p for p in load_compressed(run / "best").parameters() if p.ndim > 1]
    assert any(len(torch.unique(weight[0])) <= 16 < weight[0].numel() for weight in weights)
    # It reads as it is written.
    again = run_here("search", run / "job.yaml", "--resume", "--output", run)
    assert again.code == 0, again.stderr
    assert len(read_records(run)) == 4
    assert "own_searcher:Near" in (run / "summary.json").read_text()


def test_an_own_structure_and_an_own_cost_go_the_whole_way(tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = run_here("check", job := write_job(tmp_path, **STRUCTURE))
    assert outcome.code == 0, outcome.stderr
    assert "it has no kernel" in outcome.stdout
    outcome = run_here("search", job, "--output", run)
    assert outcome.code == 0, outcome.stderr

    model = load_compressed(run / "best")
    for name, weight in model.named_parameters():
        rows = weight.detach().abs().sum(dim=-1) if weight.ndim == 4 else weight.abs()
        assert bool((rows == 0).any()) == (name in ("conv2.weight", "conv3.weight")), name
        if name == "conv2.weight":
            assert (rows[:, :, 1] > 0).all()
    # Half a picojoule for each bit that is not zero, counted from what was delivered.
    manifest = Manifest.load(run / "best" / "manifest.json")
    counted = sum(
        t.count_nonzero().item() if t.ndim == 4 else t.numel()
        for t in [*model.parameters(), *model.buffers()]
        if t.dtype == torch.float32
    )
    counters = sum(t.dtype == torch.int64 for t in model.buffers())
    energy = manifest.costs[ENERGY]
    assert energy.delivered == 0.5 * (32 * counted + 64 * counters)
    assert energy.original > energy.delivered / 0.8 - 1e-9
    assert manifest.budget[ENERGY] == pytest.approx(0.8 * energy.original)

    records = read_records(run)
    assert all(record.costs[ENERGY] <= manifest.budget[ENERGY] for record in records)
    assert len({record.costs[ENERGY] for record in records}) > 1
    assert "weight energy" in (run / "report.html").read_text()
    assert "pJ" in (run / "report.html").read_text()
    # What was delivered loads without the structure's module.
    code = (
        "import sys; from rl_compress import load_compressed; load_compressed('run/best')\n"
        "sys.exit(any(name.startswith('own_') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({ENERGY: "2e6pJ"}, None),
        ({ENERGY: "5mJ"}, 'an amount such as "5pJ"'),
        ({ENERGY: "1pJ"}, "cannot be met; the smallest feasible value is"),
        ({"own_cost:Energie": 0.5}, "budget: module own_cost has no 'Energie'"),
        ({"own_score:Agreement": 0.5}, "must be a class derived from rl_compress.costs.cost.Cost"),
    ],
)
def test_an_own_cost_is_bounded_in_its_unit(
    tmp_path: Path, budget: dict[str, Any], message: str | None
) -> None:
    outcome = run_here("check", write_job(tmp_path, budget=budget))
    assert outcome.code == (0 if message is None else 2), outcome.stderr
    assert message is None or message in outcome.error


KEYS = [
    ("space.pruning.structure", "chanels", "channels"),
    ("space.pruning.importance", "tailor", "taylor"),
    ("space.quantization.quantizer", "symetric", "symmetric"),
    ("objective.score", "fidelty", "fidelity"),
    ("search.algorithm", "evolutoin", "evolution"),
    ("export.formats", "onxx", "onnx"),
]


@pytest.mark.parametrize(("key", "name", "near"), KEYS, ids=lambda value: str(value))
def test_a_wrong_name_is_refused_with_the_nearest_and_all_there_are(
    tmp_path: Path, key: str, name: str, near: str
) -> None:
    value = [name] if key == "export.formats" else name
    job = write_job(tmp_path, export={}, **{key.replace(".", "__"): value})
    outcome = run_here("check", job)
    assert outcome.code == 2
    assert key in outcome.error
    assert f"did you mean {near}?" in outcome.error
    assert "package.module:Class" in outcome.error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantizer": "own_thords:Even"}, "quantizer: there is no module 'own_thords'"),
        ({"quantizer": "own_quantizer:Evn"}, "own_quantizer has no 'Evn'; did you mean Even?"),
        ({"quantizer": "own_score:Agreement"}, "must be a class derived from rl_compress.quant"),
        (
            {"quantizer_options": {"raech": 1}},
            "quantization.quantizer_options.raech; did you mean reach?",
        ),
        ({"quantizer_options": {"reach": 2}}, "quantizer_options.reach: Input should be less than"),
    ],
)
def test_what_is_no_part_or_option_is_refused_at_once(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    quantization = {**JOB["space__quantization"], **changes}
    outcome = run_here("check", write_job(tmp_path, **{**JOB, "space__quantization": quantization}))
    assert outcome.code == 2
    assert message in outcome.error


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"search": {"algorithm": "ppo", "algorithm_options": {"a": 1}}}, "are in search.ppo"),
        ({"objective": {"score": "accuracy", "score_options": {"a": 1}}}, "score_options.a"),
        ({"export": {"formats": ["native"], "onnx": True}}, "export.formats says what to write"),
        ({"export": {"format_options": {"text": {}}}}, "text is not in export.formats"),
    ],
)
def test_options_of_nothing_are_refused(
    tmp_path: Path, section: dict[str, Any], message: str
) -> None:
    outcome = run_here("check", write_job(tmp_path, **section))
    assert outcome.code == 2
    assert message in outcome.error


BROKEN = """
import numpy as np, torch
from rl_compress.costs.cost import Cost
from rl_compress.transforms.weights import Weights
from rl_compress.importance.importance import Importance
from rl_compress.searchers.searcher import Searcher

class Nan(Searcher):
    def ask(self): return np.full(len(self.problem.space), np.nan)

class Short(Searcher):
    def ask(self): return np.ones(99)

class Raises(Searcher):
    def ask(self): raise KeyError("oops")

class Shape(Importance):
    def weight(self, name, weight, evidence): return torch.ones(3)

class Long(Weights):
    def parts(self, name, weight): return torch.zeros(len(weight), dtype=torch.long)

class Gap(Weights):
    def parts(self, name, weight): return torch.arange(weight.numel()).reshape(weight.shape) - 2

class Down(Weights):
    def choices(self, site): return (site.num_units, 1)

class Oops(Weights):
    def parts(self, name, weight): raise KeyError("oops")

class Falls(Cost):
    def of(self, variants): return 10.0 - variants.units.mean(axis=1) / 100

class NoNumber(Cost):
    def of(self, variants): return variants.units.mean(axis=1) * np.nan

class NoArray(Cost):
    def of(self, variants): return 3.0

class Free(Cost):
    def of(self, variants): return np.zeros(len(variants.levels))

class Bug(Cost):
    def of(self, variants): return variants.oops

class Fails(Importance):
    def weight(self, name, weight, evidence): raise RuntimeError("oops")
"""


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("search.algorithm", "Nan", "ask() of Nan must return an array of"),
        ("search.algorithm", "Short", "ask() of Short must return an array of"),
        ("search.algorithm", "Raises", "Raises failed (KeyError: 'oops'"),
        ("space.pruning.structure", "Long", "must tell the unit of each element of conv1.weight"),
        ("space.pruning.structure", "Gap", "must number the units of conv1.weight from 0 to 105"),
        ("space.pruning.structure", "Down", "must have increasing choices up to all 108 units"),
        ("space.pruning.structure", "Oops", "Oops failed (KeyError: 'oops'"),
        ("budget", "Falls", "it falls from"),
        ("budget", "NoNumber", "must return an array of 1 finite numbers for 1 variants"),
        ("budget", "NoArray", "must return an array of 1 finite numbers"),
        ("budget", "Free", "must be above 0"),
        ("objective.weights", "Bug", "Bug failed (AttributeError"),
        ("space.pruning.importance", "Shape", "must return scores of the shape"),
        ("space.pruning.importance", "Fails", "Fails failed (RuntimeError: oops"),
    ],
)
def test_a_part_that_breaks_is_named_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, name: str, message: str
) -> None:
    (tmp_path / f"broken_{name}.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    value: Any = f"broken_{name}:{name}"
    if key in ("budget", "objective.weights"):
        value = {value: 0.5}
    job = write_job(tmp_path, **{key.replace(".", "__"): value})
    outcome = run_here("search", job, "--output", tmp_path / "run")
    assert outcome.code == 2
    assert f"{key}: " in outcome.error or f"{key}.broken_{name}:{name}: " in outcome.error
    assert message in outcome.error


def test_a_cache_that_cannot_be_written_to_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RL_COMPRESS_CACHE", str(tmp_path / "file"))
    job = write_job(tmp_path, search__algorithm="ppo")
    outcome = run_here("search", job, "--output", tmp_path / "run")
    assert outcome.code == 2
    assert "RL_COMPRESS_CACHE" in outcome.error
    assert not (tmp_path / "run" / "evaluations").exists()
