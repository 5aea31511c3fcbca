"""Turns: whose variants are measured when only a few may still be."""

from __future__ import annotations

import math
from collections import Counter


class Turns:
    """Shares out the last evaluations of a run among its workers.

    If they went to the quickest, the same seed would not give the same search. So in a batch every
    worker's first request comes before anybody's second one, and only as many have a turn as there
    are evaluations left. A turn is lost on a request that was measured before: what is left
    then, the next batch shares out, and more freely if nobody could use a turn at all.
    """

    def __init__(self, workers: int, vain: int = 0) -> None:
        """Begin with a turn for every request.

        Args:
            workers: Their number; they are counted from 1.
            vain: Batches, of an interrupted search, in which nobody could use a turn.
        """
        self._workers = workers
        self._turns = math.inf
        self._used, self.vain = False, vain
        self._requests: Counter[int] = Counter()
        self._last: dict[int, str] = {}

    def begin(self, left: int) -> None:
        """Begin a batch; to do so twice is the same as once.

        Args:
            left: Evaluations that the run has left.
        """
        if self._requests:
            self.vain = 0 if self._used else self.vain + 1
        self._turns = left + self.vain * self._workers
        self._used = False
        self._requests.clear()
        self._last.clear()

    def has(self, worker: int, request: str) -> bool:
        """Say whether it is a worker's turn to have its request measured.

        Args:
            worker: Its index.
            request: The variant; asked for again while another measures it, it is the same request.
        """
        if self._last.get(worker) != request:
            self._last[worker] = request
            self._requests[worker] += 1
        return (self._requests[worker] - 1) * self._workers + worker - 1 < self._turns

    def use(self) -> None:
        """Note that a request is measured."""
        self._used = True
