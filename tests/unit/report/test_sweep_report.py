from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from records import make_record

from rl_compress.errors import CorruptFileError
from rl_compress.report.sweep_report import build_sweep_report
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.runs.store import EvaluationStore

HOSTILE = "<script>alert('error')</script>"


def _sweep(folder: Path, rows: list[dict[str, Any]], *keys: str) -> Path:
    space = {key: {"uniform": [0.0, 1.0]} for key in keys}
    job = {"name": "many", "objective": {"score": "fidelity"}, "tune": {"space": space}}
    folder.mkdir(exist_ok=True)
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    pq.write_table(pa.Table.from_pylist(rows), folder / "sweep.parquet")
    return folder


def _row(number: int, **figures: Any) -> dict[str, Any]:
    status = {"status": "done", "error": "", "evaluations": 3, "cache_hits": 1, "seconds": 2.0}
    return {"trial": f"t{number}", **status, **figures}


def _with_runs(folder: Path, rows: list[dict[str, Any]]) -> None:
    for number, row in enumerate(rows):
        run = RunDirectory(folder / "trials" / row["trial"])
        run.create("name: many\n")
        run.write_json(
            "space.json", {"groups": [], "costs": {"macs": 2000}, "budget": {"macs": 1500}}
        )
        for index in range(3):
            macs, score = 1000 + 100 * index - number, -0.1 * number + 0.01 * index
            EvaluationStore(run.evaluations).append(
                make_record(index, trial=row["trial"], macs=macs, score=score)
            )


def test_a_whole_sweep_has_every_section(tmp_path: Path) -> None:
    rows = [
        _row(i, **{"contribution.alpha": i / 12, "contribution.threshold": (5 * i % 12) / 12})
        | {"best_score": -0.1 * i, "delivered_score": 90.0 + i, "hypervolume": 0.5}
        for i in range(12)
    ]
    sweep = _sweep(tmp_path, rows, "contribution.alpha", "contribution.threshold")
    _with_runs(sweep, rows)

    text = build_sweep_report(sweep).read_text(encoding="utf-8")

    assert "Best of 12 trials: contribution.alpha 0, contribution.threshold 0" in text
    drawn = ("parallel", "importance", "heat-map", "volume", "pareto")
    assert all(f'id="{name}-' in text for name in drawn)
    assert "delivered_score over contribution.alpha and contribution.threshold" in text
    assert "<td>fidelity</td>" not in text
    assert "variants that no other of any trial beats" in text
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_trials_are_in_the_order_of_their_scores_and_failures_named(tmp_path: Path) -> None:
    rows = [
        _row(0, **{"search.seed": 0, "best_score": 0.5}),
        _row(1, **{"search.seed": 1, "best_score": None}) | {"status": "failed", "error": HOSTILE},
        _row(2, **{"search.seed": 2, "best_score": 0.75}),
    ]

    text = build_sweep_report(_sweep(tmp_path, rows, "search.seed")).read_text(encoding="utf-8")

    places = [text.index(f"<code>{name}</code>") for name in ("t2", "t0", "t1")]
    assert places == sorted(places)
    assert HOSTILE not in text
    assert "t1 failed: &lt;script&gt;" in text


def test_sections_that_cannot_be_drawn_say_why(tmp_path: Path) -> None:
    rows = [_row(0, **{"search.seed": 0, "best_score": 0.5})]

    text = build_sweep_report(_sweep(tmp_path, rows, "search.seed")).read_text(encoding="utf-8")

    assert "There are no two trials that differ." in text
    assert "It takes 8 trials" in text
    assert "Fewer than two numbers were varied." in text
    assert "No variant was evaluated." in text


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    sweep = _sweep(tmp_path, [_row(0, **{"search.seed": 0})], "search.seed")
    (sweep / "sweep.parquet").write_bytes(b"no table")
    with pytest.raises(CorruptFileError, match=r"sweep\.parquet"):
        build_sweep_report(sweep)
