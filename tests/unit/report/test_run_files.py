from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rl_compress.errors import CorruptFileError, RLCompressError, RunDirectoryError
from rl_compress.report.run_files import read_run
from rl_compress.space.compression_policy import CompressionPolicy, Decision

if TYPE_CHECKING:
    from pathlib import Path


def test_a_finished_run_is_read_whole(finished: Path) -> None:
    files = read_run(finished)
    assert files.job["name"] == "tiny-30pct"
    assert [entry.evaluation_id for entry in files.evaluations] == [0, 1, 2, 3]
    expected = {"conv1": Decision(pruning_ratio=0.75)}
    assert files.policy == CompressionPolicy.from_mapping(expected)
    assert files.manifest is not None
    assert files.manifest["budget"] == {"macs": 300.0}
    assert len(files.sensitivity) == 3
    assert [row["macs"] for row in files.pareto] == [200, 250]


def test_a_run_that_has_just_started_lacks_all_but_its_job(started: Path) -> None:
    files = read_run(started)
    assert not any((files.evaluations, files.sensitivity, files.pareto))
    assert files.environment is files.space is files.manifest is files.policy is None


def test_reading_creates_nothing(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("name: a\n")
    read_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["job.yaml"]


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="no such directory"):
        read_run(tmp_path / "nowhere")


def test_a_directory_without_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"no job\.yaml"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "job.yaml",
        "environment.json",
        "space.json",
        "sensitivity.parquet",
        "pareto.parquet",
        "evaluations/part-000001-000001.parquet",
        "best/manifest.json",
    ],
)
@pytest.mark.parametrize("content", [b"\xff{ half", b"[]"], ids=["garbage", "another type"])
def test_a_corrupt_file_is_named(finished: Path, name: str, content: bytes) -> None:
    assert (finished / name).exists()
    (finished / name).write_bytes(content)
    with pytest.raises(CorruptFileError, match=name.rpartition("/")[2]):
        read_run(finished)


def test_a_corrupt_policy_is_named(finished: Path) -> None:
    (finished / "best" / "policy.json").write_text("{")
    with pytest.raises(RLCompressError, match=r"policy\.json"):
        read_run(finished)


def test_a_table_of_something_else_is_named(finished: Path) -> None:
    (finished / "pareto.parquet").replace(finished / "sensitivity.parquet")
    with pytest.raises(CorruptFileError, match=r"sensitivity\.parquet: lacks.*pruning_ratio"):
        read_run(finished)
