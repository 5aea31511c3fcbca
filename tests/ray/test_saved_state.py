"""A search that goes on from its saved state is the one that was never interrupted."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from running import make_job, read_records

from rl_compress.agent.rllib import driver
from rl_compress.job import parse_job
from rl_compress.monitor import SilentMonitor
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.session import Session

pytestmark = pytest.mark.usefixtures("ray_session")

EVALUATIONS, LEARNED_FROM = 32, 12
JOB = parse_job(
    make_job(
        search__algorithm="ppo",
        search__evaluations=EVALUATIONS,
        space={"quantization": {"weight_bits": [2, 3, 4, 8]}},
        budget={"size_bytes": 0.15},
    )
)


class Saved(NamedTuple):
    """A state as it was saved, and how many records there were."""

    state: bytes
    records: int


@pytest.fixture(scope="module")
def often() -> Iterator[None]:
    """Save the state often, and learn from few records."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "_ERA", 2)
        patch.setattr(driver, "_SAVED_EVERY_S", 0.0)
        patch.setattr(driver, "_SHARE", 0)
        run = driver.run_rllib

        def few(task: Any, *others: Any, **more: Any) -> Any:
            return run(dataclasses.replace(task, learned_from=LEARNED_FROM), *others, **more)

        patch.setattr(driver, "run_rllib", few)
        yield


class Said(SilentMonitor):
    """Keeps what the user is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        """Keep a line."""
        self.lines.append(line)


def _search(folder: Path, said: Said | None = None) -> list[EvaluationRecord]:
    session = Session(JOB, RunDirectory(folder), monitor=said)
    session.prepare()
    session.run.create(JOB.to_yaml())
    session.search()
    return read_records(folder)


@pytest.fixture(scope="module")
def whole(often: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Saved]]:
    """Return a search that was not interrupted, and the states that it saved."""
    folder, saved = tmp_path_factory.mktemp("whole"), []
    path = folder / "checkpoints" / driver.STATE

    def keep(*_: Any) -> None:
        saved.append(Saved(path.read_bytes(), len(read_records(folder))))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "push", keep)
        path.parent.mkdir()
        path.write_bytes(b"spoilt")  # which a search that begins does not mind
        records = _search(folder)
    assert len(records) == EVALUATIONS
    return folder, [one for one in saved if LEARNED_FROM < one.records < EVALUATIONS]


def _interrupted(whole: Path, folder: Path, records: int) -> None:
    """Make a run of the first records, as a search that was killed leaves it."""
    run = RunDirectory(folder)
    run.create(JOB.to_yaml())
    shutil.copy(whole / "sensitivity.parquet", run.sensitivity)
    for record in read_records(whole)[:records]:
        run.store().append(record)


def _found(records: list[EvaluationRecord]) -> set[tuple[str, float, float]]:
    return {(record.realised, record.score, record.reward) for record in records}


def test_search_that_was_killed_after_its_state_was_saved_goes_on_as_if_nothing_had_been(
    whole: tuple[Path, list[Saved]], tmp_path: Path
) -> None:
    finished, saved = whole
    assert len(saved) >= 2
    state, records = saved[0]
    _interrupted(finished, tmp_path, records + 6)
    (tmp_path / "checkpoints" / driver.STATE).write_bytes(state)
    said = Said()

    after = _search(tmp_path, said)

    assert _found(after) == _found(read_records(finished))
    assert not any("no state" in line for line in said.lines)


def test_search_without_a_saved_state_says_so_and_goes_on_from_its_records(
    whole: tuple[Path, list[Saved]], tmp_path: Path
) -> None:
    finished, _ = whole
    _interrupted(finished, tmp_path, 20)
    said = Said()

    after = _search(tmp_path, said)

    assert len(_found(after)) == EVALUATIONS
    assert _found(after) > _found(read_records(finished)[:20])
    (line,) = [line for line in said.lines if "no state" in line]
    assert "a new agent goes on from the 20 records" in line
