from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from rl_compress.errors import ConfigError, CorruptFileError, RunDirectoryError
from rl_compress.export.manifest import (
    CostChange,
    FileEntry,
    LatencyChange,
    Manifest,
    ScoreChange,
    Scores,
    SearchScoreChange,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        target={"factory": "digits", "options": {"width": 8}, "weights": None},
        history=[("conv1", True, [0, 3]), ("fc1", True, [5])],
        policy_id="0123456789abcdef",
        budget={"macs": 1000.0},
        costs={"macs": CostChange(original=3000, delivered=990)},
        scores=Scores(
            name="accuracy",
            search=SearchScoreChange(original=99.0, before_finetuning=float("-inf"), delivered=98),
            test=ScoreChange(original=98.5, delivered=97.5),
        ),
        latency_ms=LatencyChange(original=1.5, delivered=0.5, device="a CPU", batch_size=1),
        finetuning_epochs=3,
    )


def test_a_manifest_survives_its_file(manifest: Manifest, tmp_path: Path) -> None:
    manifest.save(tmp_path / "manifest.json")
    assert Manifest.load(tmp_path / "manifest.json") == manifest


def test_the_file_is_standard_json(manifest: Manifest, tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    manifest.save(tmp_path / "manifest.json")
    data = json.loads((tmp_path / "manifest.json").read_text(), parse_constant=refuse)
    assert data["format_version"] == 5
    assert data["history"][0] == ["conv1", True, [0, 3]]


@pytest.mark.parametrize("version", [2, 3, 4])
def test_earlier_formats_are_read_too(manifest: Manifest, tmp_path: Path, version: int) -> None:
    path = tmp_path / "manifest.json"
    data = json.loads(manifest.model_dump_json()) | {"format_version": version}
    path.write_text(json.dumps(data))
    assert Manifest.load(path).history == manifest.history


def test_a_missing_manifest_says_which_folder_to_give(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"manifest\.json.*best/"):
        Manifest.load(tmp_path / "manifest.json")


@pytest.mark.parametrize("version", [1, None, "1.0"])
def test_an_unknown_format_is_refused(manifest: Manifest, tmp_path: Path, version: object) -> None:
    path = tmp_path / "manifest.json"
    data = json.loads(manifest.model_dump_json()) | {"format_version": version}
    path.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="format_version must be 2 or 3 or 4 or 5, but got"):
        Manifest.load(path)


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"format_version": 2, "target": {}, "history": [], "policy_id": "a", "pickle": "x"}',
        b'{"format_version": 2, "target": {}, "history": [["conv1", true]], "policy_id": "a"}',
    ],
    ids=["cut short", "another type", "no text", "unknown key", "short step"],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"manifest\.json: not a readable manifest"):
        Manifest.load(path)


def test_files_are_verified_by_their_hash(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"tensors")
    manifest.files = {path.name: FileEntry.of(path)}
    manifest.verify(path)
    path.write_bytes(b"Tensors")
    with pytest.raises(CorruptFileError, match=r"model\.safetensors: damaged.*copy the whole"):
        manifest.verify(path)
    path.unlink()
    with pytest.raises(CorruptFileError, match=r"model\.safetensors: .*missing"):
        manifest.verify(path)
