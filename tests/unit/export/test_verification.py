from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from records import make_record
from torch import nn

from rl_compress.errors import CorruptFileError
from rl_compress.export.fine_tuned import FineTuned
from rl_compress.export.verification import best_distinct, verify
from rl_compress.quantizers.model import Quantization
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.verified import Verified, load_verified
from rl_compress.space.compression_policy import CompressionPolicy, Decision


def _record(number: int, ratio: float, score: float) -> EvaluationRecord:
    policy = CompressionPolicy.from_mapping({"conv": Decision(pruning_ratio=ratio)})
    return make_record(number, policy=policy.to_json(), policy_id=policy.policy_id, score=score)


RECORDS = [_record(number, 0.1 * number, -0.1 * number) for number in range(1, 5)]


class Tuner:
    """Stands in for fine-tuning: keeps what it was asked for, and stops after so many."""

    def __init__(self, most: int = 100) -> None:
        self.asked: list[float] = []
        self.most = most

    def __call__(self, policy: CompressionPolicy) -> FineTuned:
        if len(self.asked) == self.most:
            raise KeyboardInterrupt
        self.asked.append(policy["conv"].pruning_ratio)
        return FineTuned(nn.Identity(), {}, Quantization(), 50.0, 1)


def _verify(path: Path, tuner: Tuner, **more: tuple[float, float, float]) -> list[Verified]:
    return verify(path, RECORDS, delivered=more, fine_tune=tuner, score=lambda _: 90.0)


def test_best_distinct_takes_each_policy_once_and_the_earlier_of_equal_rewards() -> None:
    records = [
        make_record(0, policy_id="a", score=1.0),
        make_record(1, policy_id="b", score=2.0),
        make_record(2, policy_id="b", score=2.0),
        make_record(3, policy_id="c", score=1.0),
    ]
    assert [record.evaluation_id for record in best_distinct(records, 3)] == [1, 0, 3]
    assert [record.evaluation_id for record in best_distinct(records, 2)] == [1, 0]
    assert best_distinct([], 2) == []
    ranking = {records[0].policy_id: -9.0}
    assert best_distinct(records, 1, ranking)[0].policy_id == records[0].policy_id


def test_every_variant_is_fine_tuned_and_stored_with_its_rank(tmp_path: Path) -> None:
    path, heard = tmp_path / "verification.parquet", []
    rows = verify(
        path,
        RECORDS,
        delivered={},
        fine_tune=Tuner(),
        score=lambda _: 90.0,
        advance=lambda done, total: heard.append((done, total)),
    )
    assert [row.rank for row in rows] == [1, 2, 3, 4]
    assert {(row.before, row.after) for row in rows} == {(50.0, 90.0)}
    assert [row.search_score for row in rows] == [record.score for record in RECORDS]
    assert load_verified(path) == rows
    assert heard == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    metadata = pq.read_schema(path).metadata
    assert metadata[b"rl_compress_verification_version"] == b"1"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_delivered_variant_is_not_fine_tuned_again(tmp_path: Path) -> None:
    tuner = Tuner()
    known = {RECORDS[0].policy_id: (60.0, 95.0, 2.5)}
    rows = _verify(tmp_path / "verification.parquet", tuner, **known)
    assert len(tuner.asked) == 3
    assert (rows[0].before, rows[0].after, rows[0].seconds) == (60.0, 95.0, 2.5)


def test_an_interrupted_verification_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "verification.parquet"
    with pytest.raises(KeyboardInterrupt):
        _verify(path, Tuner(most=2))
    assert len(load_verified(path)) == 2
    tuner = Tuner()
    rows = _verify(path, tuner)
    assert len(rows) == 4
    assert tuner.asked == pytest.approx([0.3, 0.4])


def test_a_variant_that_training_ruined_is_stored_as_such(tmp_path: Path) -> None:
    path = tmp_path / "verification.parquet"
    verify(path, RECORDS[:1], delivered={}, fine_tune=Tuner(), score=lambda _: math.nan)
    assert math.isnan(load_verified(path)[0].after)


@pytest.mark.parametrize("damage", ["text", "version"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "verification.parquet"
    if damage == "text":
        path.write_text("no parquet")
    else:
        pq.write_table(pa.table({"policy_id": ["a"]}), path)
    with pytest.raises(CorruptFileError, match=r"verification\.parquet: .*remove it"):
        load_verified(path)


def test_a_variant_that_was_not_scored_in_full_is_not_verified() -> None:
    dropped = make_record(0, policy_id="a", score=1.0, scored_share=0.5)
    complete = make_record(1, policy_id="b", score=0.5)
    assert best_distinct([dropped, complete], 2) == [complete]
