"""Evaluations that sleep, in every process of a search: imported there before anything else."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

SLEEP_S = 0.013
TIMES = "AGENT_TIMES"
"""Environment variable with the folder where each process notes the times of its proposals."""


def score_of(space: Any, levels: Any) -> float:
    """Return a made-up score: its losses do not add up over the dimensions."""
    cut = 1.0 - space.kept(levels)
    rng = np.random.default_rng(0)
    own, pairs = rng.exponential(1.0, len(cut)), rng.exponential(0.5, (len(cut), len(cut)))
    return -0.05 * float(own @ cut**2 + cut**2 @ pairs @ cut**2)


def install() -> None:
    """Let variants be scored by a formula; note what proposals take, where that is asked for."""
    from rl_compress.agent.env import CompressionEnv
    from rl_compress.agent.rllib.quiet import quiet
    from rl_compress.evaluation.evaluator import Evaluator
    from rl_compress.evaluation.measurement import Measurement

    quiet()

    def evaluate(self: Evaluator, levels: Any, _rival: Any = None) -> Measurement:
        time.sleep(SLEEP_S)
        compressor = self._compressor
        score = score_of(compressor.space, levels)
        return Measurement(score, compressor.costs.costs(levels), wall_s=SLEEP_S)

    Evaluator.evaluate = evaluate  # type: ignore[method-assign]
    Evaluator.build_ahead = lambda _self, _levels: None  # type: ignore[method-assign]
    if folder := os.environ.get(TIMES):
        _note_times(CompressionEnv, Path(folder) / str(os.getpid()))


def _note_times(env: Any, path: Path) -> None:
    propose = env._new_levels

    def timed(self: Any) -> Any:
        wall, processor = time.perf_counter(), time.process_time()
        levels = propose(self)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        predictor = self._screening._predictor
        with path.open("a") as file:
            noted = [len(self._known), wall, processor, len(predictor.levels)]
            file.write(json.dumps(noted) + "\n")
        return levels

    env._new_levels = timed
