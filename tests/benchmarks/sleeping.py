"""The digits network, with evaluations that take longer and keep no core busy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from rl_compress.targets.digits import digits
from rl_compress.targets.target import Target


def sleeping(*, sleep_s: float) -> Target:
    """Make the digits CNN, each pass over whose search split sleeps first."""
    target = digits(model="cnn")
    batches = target.batches

    def late(split: str, **options: Any) -> Iterator[tuple[Tensor, Tensor]]:
        if split == "search":
            time.sleep(sleep_s)
        yield from batches(split, **options)

    target.batches = late  # type: ignore[method-assign]
    return target
