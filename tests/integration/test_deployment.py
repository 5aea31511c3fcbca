"""A file for onnxruntime, from the job to its figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import run_here, write_job

import rl_compress
from rl_compress.export.manifest import Manifest


@pytest.mark.slow
def test_a_file_of_bytes_is_delivered_with_its_figures(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    job = write_job(
        tmp_path,
        space={"quantization": {"weight_bits": [3, 7], "activation_bits": 8}},
        budget={"size_bytes": 0.3},
        export={"formats": ["onnx-int8"]},
    )
    outcome = run_here("search", job, "--output", tmp_path / "run")
    assert outcome.code == 0, outcome.stderr
    manifest = Manifest.load(tmp_path / "run" / "best" / "manifest.json")
    assert manifest.onnx_int8 is not None
    assert manifest.onnx_int8.error < manifest.onnx_int8.tolerance
    figures = manifest.deployed["onnx-int8"]
    assert figures.delivered_bytes == manifest.files["model_int8.onnx"].bytes
    assert manifest.scores is not None
    assert manifest.scores.test is not None
    assert figures.test_score == pytest.approx(manifest.scores.test.delivered, abs=3.0)
    assert "Size of the file, onnx-int8" in outcome.stdout
    assert rl_compress.load_compressed(tmp_path / "run" / "best")


def test_what_the_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    job = write_job(
        tmp_path,
        space={"quantization": {"weight_bits": 4, "quantizer": "kmeans"}},
        export={"formats": ["onnx-int8"]},
    )
    outcome = run_here("check", job)
    assert outcome.code == 2
    assert "space.quantization.quantizer: onnx-int8" in outcome.error
