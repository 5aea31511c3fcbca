from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable

import pytest

from rl_compress.errors import EvaluationError
from rl_compress.evaluation.time_limit import within


def _busy() -> None:
    """Hang in Python, and catch what can be caught."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            sum(range(100))
        except Exception:
            continue


def _here(call: Callable[[], None]) -> None:
    call()


def _in_a_thread(call: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("where", [_here, _in_a_thread])
def test_work_that_hangs_is_given_up(where: Callable[[Callable[[], None]], None]) -> None:
    start = time.monotonic()
    with pytest.raises(EvaluationError, match=r"evaluation\.timeout_s allows \(0\.2 s\)"):
        where(lambda: within(0.2, _busy))
    assert time.monotonic() - start < 10


def test_waiting_is_interrupted_in_the_main_thread() -> None:
    start = time.monotonic()
    with pytest.raises(EvaluationError, match="took longer"):
        within(0.2, lambda: time.sleep(20))
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("where", [_here, _in_a_thread])
def test_work_in_time_returns_and_nothing_comes_later(
    where: Callable[[Callable[[], None]], None],
) -> None:
    def call() -> None:
        assert within(0.2, lambda: 7) == 7
        time.sleep(0.3)
        assert within(None, lambda: 8) == 8

    where(call)


@pytest.mark.parametrize("where", [_here, _in_a_thread])
def test_the_moment_of_the_limit_is_safe(where: Callable[[Callable[[], None]], None]) -> None:
    """The limit strikes while the work ends; it counts as in time or not, and that is all."""

    def call() -> None:
        for _ in range(200):
            with contextlib.suppress(EvaluationError):
                within(0.001, lambda: [i * i for i in range(8000)])
        time.sleep(0.05)

    where(call)


def test_errors_of_the_work_are_its_own() -> None:
    with pytest.raises(KeyError):
        within(5.0, lambda: {}[1])


def test_alarms_of_others_are_kept() -> None:
    handler = signal.getsignal(signal.SIGALRM)
    before = signal.getitimer(signal.ITIMER_REAL)
    fired: list[int] = []
    signal.signal(signal.SIGALRM, lambda number, _frame: fired.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        within(5.0, lambda: None)
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 0.3
        time.sleep(0.5)
        assert fired == [signal.SIGALRM]
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *before)
