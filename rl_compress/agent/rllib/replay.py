"""A seed for the replay buffer of SAC and TQC."""

from __future__ import annotations

from typing import Any

import numpy as np


def seed_replay(algorithm: Any, seed: int) -> None:
    """Let an algorithm with a replay buffer draw the same decisions for the same seed.

    RLlib makes the buffer's generator without a seed, takes none for it, and admits no buffer of
    another class.
    """
    buffer = getattr(algorithm, "local_replay_buffer", None)
    if buffer is not None:
        buffer.rng = np.random.default_rng(seed)
