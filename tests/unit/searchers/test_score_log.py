from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rl_compress.searchers.score_log import ScoreLog
from rl_compress.space.search_space import Widths


class Counter:
    def __init__(self) -> None:
        self.measured: list[list[int]] = []

    def __call__(self, widths: Widths) -> float | None:
        self.measured.append(widths.tolist())
        return None if widths[0] == 0 else -1.0 / float(widths.sum())


def test_scores_are_measured_once(tmp_path: Path) -> None:
    counter = Counter()
    log = ScoreLog(tmp_path / "log", counter)
    assert log(np.array([1, 2])) == log(np.array([1, 2])) == -1 / 3
    assert counter.measured == [[1, 2]]


@pytest.mark.parametrize("widths", [[3, 4], [0, 4]], ids=["score", "failure"])
def test_another_process_takes_over(tmp_path: Path, widths: list[int]) -> None:
    first = ScoreLog(tmp_path / "log", Counter())(np.array(widths))
    counter = Counter()
    assert ScoreLog(tmp_path / "log", counter)(np.array(widths)) == first
    assert counter.measured == []


def test_half_a_line_is_measured_again_and_spoils_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = ScoreLog(path, Counter())
    log(np.array([1, 2]))
    log(np.array([3, 4]))
    path.write_bytes(path.read_bytes()[:-5])
    counter = Counter()
    again = ScoreLog(path, counter)
    again(np.array([1, 2]))
    again(np.array([3, 4]))
    assert counter.measured == [[3, 4]]
    third = Counter()
    ScoreLog(path, third)(np.array([3, 4]))
    assert third.measured == []


def test_closing_removes_the_log(tmp_path: Path) -> None:
    log = ScoreLog(tmp_path / "log", Counter())
    log(np.array([1, 2]))
    log.close()
    assert not (tmp_path / "log").exists()


def test_widths_that_no_process_survives_are_given_up(tmp_path: Path) -> None:
    class Died(BaseException):
        pass

    def die(_widths: Widths) -> float:
        raise Died

    for _ in range(3):
        with pytest.raises(Died):
            ScoreLog(tmp_path / "log", die)(np.array([1, 2]))
    assert ScoreLog(tmp_path / "log", die)(np.array([1, 2])) is None
