from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from problems import NOWHERE
from torch import nn
from torch.utils.data import TensorDataset

from rl_compress.evaluation.evaluator import EvaluationConfig, Evaluator
from rl_compress.evaluation.precision import Precision
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.searchers.objective import ObjectiveConfig
from rl_compress.searchers.problem import Problem
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.searchers.shared_curves import (
    find_curves,
    keep_shared,
    load_shared,
    measurement_key,
    shared_path,
)
from rl_compress.space.budget import Budget
from rl_compress.space.space_config import SpaceConfig
from rl_compress.targets.factory import TargetConfig
from rl_compress.targets.target import ClassificationTarget

CURVES = SensitivityCurves(("a",), ((4, 1),), ((0.0, -1.0),))


Known = tuple[Problem, ClassificationTarget, nn.Module]


def _known(
    *, seed: int = 0, shift: float = 0.0, space: SpaceConfig | None = None, **fields: Any
) -> Known:
    from rl_compress.variants.compressor import Compressor

    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    torch.manual_seed(1)
    inputs = torch.randn(8, 3) + shift
    data = TensorDataset(inputs, torch.zeros(8, dtype=torch.long))
    target = ClassificationTarget(
        lambda: model, dict.fromkeys(("train", "calibration", "search", "test"), data)
    )
    compressor = Compressor.prepare(model, (inputs[:1],), space or SpaceConfig())
    fields = {"target": NOWHERE, "budget": Budget((("macs", 20),)), **fields}
    return Problem(compressor=compressor, **fields), target, model


def _path(count: int = 4, **changes: Any) -> Path:
    return shared_path(*_known(**changes), count)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("RL_COMPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_same_search_finds_the_same_curves() -> None:
    assert _path() == _path() == _path(budget=Budget((("params", 9),)))


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 5},
        {"shift": 1.0},
        {"space": SpaceConfig.model_validate({"pruning": {"round_to": 2}})},
        {"target": TargetConfig(factory="nowhere:target", options={"samples": 3})},
        {"evaluation": EvaluationConfig(recalibration="none")},
        {"objective": ObjectiveConfig(score="accuracy")},
        {"objective": ObjectiveConfig(score_options={"epsilon": 0.2})},
        {"count": 5},
    ],
    ids=["weights", "data", "space", "options", "evaluation", "score", "score options", "count"],
)
def test_what_decides_curves_is_in_their_key(changes: dict[str, Any]) -> None:
    assert _path(**changes) != _path()


def test_measurements_are_shared_whatever_curves_have_in_common() -> None:
    known = _known(evaluation=EvaluationConfig(timeout_s=5.0))
    key = measurement_key(*known)
    keys = [
        measurement_key(*_known(evaluation=EvaluationConfig(precision=precision)))
        for precision in get_args(Precision)
    ]
    assert len(set(keys)) == 3
    assert key in keys
    assert measurement_key(*_known()) == key
    assert measurement_key(*known, latencies=b"measured") != key


def test_an_edited_source_is_another_target(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import sys
    import types

    module = types.ModuleType("edited")
    module.__file__ = str(tmp_path / "edited.py")
    monkeypatch.setitem(sys.modules, "edited", module)
    found = []
    for text in ("SAMPLES = 1", "SAMPLES = 2"):
        (tmp_path / "edited.py").write_text(text)
        found.append(_path(target=TargetConfig(factory="edited:target")))
    assert found[0] != found[1]


def test_curves_are_kept_and_found(tmp_path: Path) -> None:
    CURVES.save(tmp_path / "measured")
    assert load_shared(_path()) is None
    keep_shared(_path(), tmp_path / "measured")
    assert load_shared(_path()) == CURVES


def test_a_damaged_file_is_measured_again(caplog: pytest.LogCaptureFixture) -> None:
    _path().parent.mkdir(parents=True)
    _path().write_bytes(b"half")
    assert load_shared(_path()) is None
    assert "remove it" in caplog.text


def test_a_cache_that_cannot_be_written_is_no_failure(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    CURVES.save(tmp_path / "measured")
    cache.write_text("a file where the folder should be")
    keep_shared(_path(), tmp_path / "measured")
    assert "RL_COMPRESS_CACHE" in caplog.text


class _Counting:
    """An evaluator that counts; variants with one unit fail if told to."""

    def __init__(self, evaluator: Evaluator, *, fails: bool = False) -> None:
        self._evaluator, self._fails, self.count = evaluator, fails, 0

    def evaluate(self, levels: Any) -> Any:
        self.count += 1
        if self._fails and levels.min() == 0:
            raise RuntimeError("no memory")
        return self._evaluator.evaluate(levels)


def _search(directory: Path, *, fails: bool = False) -> tuple[int, list[str]]:
    lines: list[str] = []
    directory.mkdir()
    problem, target, model = _known()
    counting = _Counting(problem.evaluator(target), fails=fails)
    path = RunDirectory(directory).sensitivity
    curves = find_curves(
        path,
        shared_path(problem, target, model, 4),
        problem.space,
        counting,  # type: ignore[arg-type]
        4,
        say=lines.append,
    )
    assert SensitivityCurves.load(path) == curves
    return counting.count, lines


def test_a_second_run_measures_nothing(tmp_path: Path, cache: Path) -> None:
    measured, lines = _search(tmp_path / "first")
    assert measured > 1
    assert lines == []
    count, lines = _search(tmp_path / "second")
    assert count == 0
    assert [line.startswith(f"sensitivities reused from {cache}") for line in lines] == [True]


def test_failures_are_not_shared(tmp_path: Path) -> None:
    _search(tmp_path / "first", fails=True)
    assert _search(tmp_path / "second")[0] > 0
