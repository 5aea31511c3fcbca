from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rl_compress.searchers.score_log import ScoreLog
from rl_compress.space.search_space import Dimension, Levels, SearchSpace


class Counter:
    def __init__(self) -> None:
        self.measured: list[list[int]] = []

    def __call__(self, levels: Levels) -> float | None:
        self.measured.append(levels.tolist())
        return None if levels[0] == 0 else -1.0 / float(levels.sum())


SPACE = SearchSpace(tuple(Dimension(name, "channels", tuple(range(3, 12))) for name in "ab"))


def test_scores_are_measured_once(tmp_path: Path) -> None:
    counter = Counter()
    log = ScoreLog(tmp_path / "log", SPACE, counter)
    assert log(np.array([1, 2])) == log(np.array([1, 2])) == -1 / 3
    assert counter.measured == [[1, 2]]


@pytest.mark.parametrize("levels", [[3, 4], [0, 4]], ids=["score", "failure"])
def test_another_process_takes_over(tmp_path: Path, levels: list[int]) -> None:
    first = ScoreLog(tmp_path / "log", SPACE, Counter())(np.array(levels))
    counter = Counter()
    assert ScoreLog(tmp_path / "log", SPACE, counter)(np.array(levels)) == first
    assert counter.measured == []


def test_half_a_line_is_measured_again_and_spoils_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = ScoreLog(path, SPACE, Counter())
    log(np.array([1, 2]))
    log(np.array([3, 4]))
    path.write_bytes(path.read_bytes()[:-5])
    counter = Counter()
    again = ScoreLog(path, SPACE, counter)
    again(np.array([1, 2]))
    again(np.array([3, 4]))
    assert counter.measured == [[3, 4]]
    third = Counter()
    ScoreLog(path, SPACE, third)(np.array([3, 4]))
    assert third.measured == []


def test_what_is_logged_are_units_and_bits(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text('{"widths": [4, 5], "score": 0.5}', encoding="utf-8")
    log = ScoreLog(path, SPACE, Counter())
    assert log(np.array([1, 2])) == 0.5
    log(np.array([3, 4]))
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[-1])["widths"] == [6, 7]


def test_closing_removes_the_log(tmp_path: Path) -> None:
    log = ScoreLog(tmp_path / "log", SPACE, Counter())
    log(np.array([1, 2]))
    log.close()
    assert not (tmp_path / "log").exists()


def test_levels_that_no_process_survives_are_given_up(tmp_path: Path) -> None:
    class Died(BaseException):
        pass

    def die(_levels: Levels) -> float:
        raise Died

    for _ in range(3):
        with pytest.raises(Died):
            ScoreLog(tmp_path / "log", SPACE, die)(np.array([1, 2]))
    assert ScoreLog(tmp_path / "log", SPACE, die)(np.array([1, 2])) is None
