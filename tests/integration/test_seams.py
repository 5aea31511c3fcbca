"""Parts from a folder outside the package, called from a job by import path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from running import read_records, run_here, write_job
from safetensors.torch import load_file

from rl_compress import load_compressed

THIRDS = '''
import torch

from rl_compress.quantizers.quantizer import Quantizer


class Thirds(Quantizer):
    """Levels evenly between the extremes of a block."""

    def fit(self, blocks):
        return {"low": blocks.amin(1, keepdim=True), "high": blocks.amax(1, keepdim=True)}

    def levels(self, parameters):
        steps = torch.linspace(0, 1, self.num_levels)
        return parameters["low"] + steps * (parameters["high"] - parameters["low"])
'''


def test_a_quantizer_of_the_users_own_is_searched_with_and_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_thirds.py").write_text(THIRDS)
    monkeypatch.chdir(tmp_path)
    job = write_job(
        tmp_path,
        space__quantization={"quantizer": "own_thirds:Thirds", "weight_bits": [2, 4]},
        budget={"size_bytes": 0.1},
        search__evaluations=4,
    )
    outcome = run_here("search", job, "--output", tmp_path / "run")
    assert outcome.code == 0, outcome.stderr
    assert len(read_records(tmp_path / "run")) == 4

    best = tmp_path / "run" / "best"
    stored = json.dumps(json.loads((best / "manifest.json").read_text()))
    assert "own_thirds:Thirds" in stored
    assert load_file(best / "model.safetensors")
    loaded = load_compressed(best)
    weights = [p for name, p in loaded.named_parameters() if name.endswith("weight") and p.ndim > 1]
    assert any(len(torch.unique(weight[0])) <= 16 < weight[0].numel() for weight in weights)


def test_a_part_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    job = write_job(tmp_path, space__quantization__quantizer="own_thords:Thirds")
    outcome = run_here("check", job)
    assert outcome.code == 2
    assert outcome.error.startswith(
        "error: space.quantization.quantizer: there is no module 'own_thords'"
    )
