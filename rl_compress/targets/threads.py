"""CPU threads: small networks run best on one, and on a busy machine many times faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_WORTH_THREADS_MACS = 1_000_000_000
"""MACs of a batch below which several threads wait for each other longer than they compute."""


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Compute with a number of CPU threads within the block; None for as many as torch has."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_for(macs_per_batch: int) -> int | None:
    """Return how many threads batches of a size deserve: one, or None for all."""
    return 1 if macs_per_batch < _WORTH_THREADS_MACS else None
