"""Random numbers of a training: the same every time, and the caller's left alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, and put them back afterwards.

    Dropout and augmentations draw from them, but they are the caller's.

    Args:
        seed: What they start from.
        device: Where the training is; its generator is seeded too.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
