from __future__ import annotations

import dataclasses
import json
import threading
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import records

from rl_compress.errors import CorruptFileError
from rl_compress.space.compression_policy import CompressionPolicy, Decision
from rl_compress.runs.failure import Failure
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.schema import to_table
from rl_compress.runs import store as store_module
from rl_compress.runs.store import EvaluationStore


def make_record(evaluation_id: int, score: float = -0.5) -> EvaluationRecord:
    policy = CompressionPolicy.from_mapping(
        {"conv": Decision(pruning_ratio=evaluation_id % 1000 / 1000), "fc": Decision()}
    )
    return records.make_record(
        evaluation_id,
        policy=policy.to_json(),
        policy_id=policy.policy_id,
        macs=1000 + evaluation_id,
        score=score,
        reward=2 * score,
        wall_s=0.125,
        time=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    )


def test_records_come_back_equal(tmp_path: Path) -> None:
    store = EvaluationStore(tmp_path)
    records = [make_record(index) for index in range(3)]
    for record in records:
        store.append(record)
    assert store.read() == records


def test_another_store_reads_what_one_wrote(tmp_path: Path) -> None:
    EvaluationStore(tmp_path).append(make_record(0))
    assert EvaluationStore(tmp_path).read() == [make_record(0)]


def test_records_are_ordered_by_their_ids(tmp_path: Path) -> None:
    store = EvaluationStore(tmp_path)
    for index in (1_000_001, 2, 10, 0):
        store.append(make_record(index))
    assert [record.evaluation_id for record in store.read()] == [0, 2, 10, 1_000_001]


def test_an_empty_store_holds_nothing(tmp_path: Path) -> None:
    store = EvaluationStore(tmp_path / "new" / "evaluations")
    assert store.read() == []
    store.compact()
    assert store.read() == []


def test_compaction_keeps_the_records_in_one_part(tmp_path: Path) -> None:
    store = EvaluationStore(tmp_path)
    records = [make_record(index) for index in range(5)]
    for record in records:
        store.append(record)
    store.compact()
    assert len(list(tmp_path.iterdir())) == 1
    assert store.read() == records


def test_a_compacted_store_takes_more(tmp_path: Path) -> None:
    store = EvaluationStore(tmp_path)
    for index in range(3):
        store.append(make_record(index))
    store.compact()
    store.append(make_record(3))
    store.compact()
    assert [record.evaluation_id for record in store.read()] == [0, 1, 2, 3]
    assert len(list(tmp_path.glob("*.parquet"))) == 1


def test_parts_of_one_record_are_merged_when_there_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_MERGED", 4)
    written: list[str] = []
    store = EvaluationStore(tmp_path, lambda path: written.append(path.name))
    records = [make_record(index) for index in range(11)]
    for record in [*records[6:], *records[:6]]:
        store.append(record)
    assert len(list(tmp_path.glob("*.parquet"))) == 2 + 3
    assert "part-000006-000009.parquet" in written
    assert EvaluationStore(tmp_path).read() == records


def test_rows_left_twice_by_a_crash_in_compaction_count_once(tmp_path: Path) -> None:
    store = EvaluationStore(tmp_path)
    for index in range(3):
        store.append(make_record(index))
    left_over = (tmp_path / "part-000001-000001.parquet").read_bytes()
    store.compact()
    (tmp_path / "part-000001-000001.parquet").write_bytes(left_over)
    assert store.read() == [make_record(index) for index in range(3)]


def test_an_unfinished_part_is_ignored(tmp_path: Path) -> None:
    store = EvaluationStore(tmp_path)
    store.append(make_record(0))
    whole = (tmp_path / "part-000000-000000.parquet").read_bytes()
    (tmp_path / "part-000001-000001.parquet.tmp").write_bytes(whole[: len(whole) // 2])
    assert store.read() == [make_record(0)]


def test_a_reader_never_sees_half_a_part(tmp_path: Path) -> None:
    count = 60
    writer, reader = EvaluationStore(tmp_path), EvaluationStore(tmp_path)

    def write() -> None:
        for index in range(count):
            writer.append(make_record(index))

    thread = threading.Thread(target=write)
    thread.start()
    seen = [0]
    while thread.is_alive():
        records = reader.read()
        assert records == [make_record(index) for index in range(len(records))]
        seen.append(len(records))
    thread.join()
    assert seen == sorted(seen)
    assert len(reader.read()) == count


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.98], ids=["empty", "half", "no-footer"])
def test_a_truncated_part_is_named(tmp_path: Path, keep: float) -> None:
    store = EvaluationStore(tmp_path)
    store.append(make_record(0))
    store.append(make_record(1))
    part = tmp_path / "part-000001-000001.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(CorruptFileError, match=r"part-000001-000001\.parquet: not a readable part"):
        store.read()


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    store = EvaluationStore(tmp_path)
    table = to_table([make_record(0)])
    newer = table.replace_schema_metadata({"rl_compress_schema_version": "99"})
    pq.write_table(newer, tmp_path / "part-000000-000000.parquet")
    with pytest.raises(CorruptFileError, match="schema version 99, but this release reads 3"):
        store.read()


def test_parts_of_the_release_that_scored_everything_in_full_are_read(tmp_path: Path) -> None:
    older = to_table([make_record(0)]).drop_columns(["scored_share"])
    older = older.replace_schema_metadata({"rl_compress_schema_version": "2"})
    pq.write_table(older, tmp_path / "part-000000-000000.parquet")
    store = EvaluationStore(tmp_path)
    store.append(dataclasses.replace(make_record(1), scored_share=0.25))
    assert [record.scored_share for record in store.read()] == [1.0, 0.25]
    assert [record.scored_in_full for record in store.read()] == [True, False]


def test_parquet_without_a_version_is_refused(tmp_path: Path) -> None:
    table = to_table([make_record(0)]).replace_schema_metadata(None)
    pq.write_table(table, tmp_path / "part-000000-000000.parquet")
    with pytest.raises(CorruptFileError, match="schema version none"):
        EvaluationStore(tmp_path).read()


def test_missing_columns_are_named(tmp_path: Path) -> None:
    table = to_table([make_record(0)]).drop_columns(["reward"])
    pq.write_table(table, tmp_path / "part-000000-000000.parquet")
    with pytest.raises(CorruptFileError, match=r"columns \['reward'\] are missing"):
        EvaluationStore(tmp_path).read()


def test_the_schema_version_is_in_every_part(tmp_path: Path) -> None:
    EvaluationStore(tmp_path).append(make_record(0))
    metadata = pq.read_schema(tmp_path / "part-000000-000000.parquet").metadata
    assert metadata[b"rl_compress_schema_version"] == b"3"


def test_a_record_tells_its_costs_and_policy() -> None:
    record = make_record(250)
    assert record.costs == {
        "macs": 1250,
        "params": 100,
        "size_bytes": 400,
        "bops": 1_024_000,
        "peak_memory_bytes": 64,
    }
    assert record.realised_policy().policy_id == record.policy_id


def test_a_cost_of_ones_own_has_a_column_and_the_schema_says_which_are_costs(
    tmp_path: Path,
) -> None:
    store = EvaluationStore(tmp_path)
    plain, timed = make_record(0), make_record(1)
    timed = dataclasses.replace(timed, costs={**timed.costs, "latency_ms": 1.5, "joules": 0.25})
    for record in (plain, timed):
        store.append(record)
    store.compact()
    assert store.read() == [plain, timed]
    table = pq.read_table(next(tmp_path.glob("*.parquet")))
    assert table.column_names[-2:] == ["scored_share", "joules"]
    assert table["joules"].to_pylist() == [None, 0.25]
    assert table["macs"].type == "int64"
    costs = [*plain.costs, "latency_ms", "joules"]
    assert json.loads(table.schema.metadata[b"rl_compress_costs"]) == costs


def test_a_record_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_record(0).score = 1.0  # type: ignore[misc]


def test_failures_are_kept_in_order(tmp_path: Path) -> None:
    failures = [
        Failure(policy_id=name, policy="{}", worker=1, error="zu groß\nfür uns", time="2026-01-01")
        for name in "ba"
    ]
    folder = tmp_path / "evaluations"
    store = EvaluationStore(folder)
    assert store.read_failures() == []
    for failure in failures:
        store.append_failure(failure)
    assert EvaluationStore(folder).read_failures() == failures
    assert list(folder.glob("*")) == []


def test_failures_and_grants_of_a_run_of_0_1_0_are_within_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "evaluations"
    store = EvaluationStore(folder)
    folder.mkdir()
    (folder / "grants.jsonl").write_text('\n{"policy_id": "a", "worker": 1}')
    (folder / "failures.jsonl").write_text("")
    failure = Failure(policy_id="b", policy="{}", worker=1, error="no", time="2026-01-01")
    store.append_failure(failure)
    assert store.read_failures() == [failure]
    assert store.open_grants().lost({"b"}) == 1


@pytest.mark.parametrize("text", ["{half", '{"policy_id": "a"}\n', "3\n"])
def test_unreadable_failures_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "failures.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(CorruptFileError, match=r"failures\.jsonl: not a readable list"):
        EvaluationStore(tmp_path).read_failures()
