"""Costs that are worked out when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


class LazyCosts(Mapping[str, npt.NDArray[Any]]):
    """Costs of a batch of variants by name.

    A budget bounds one or two costs, and a search asks for those of thousands of variants; the
    other costs are never worked out.
    """

    def __init__(self, names: Sequence[str], find: Callable[[str], npt.NDArray[Any]]) -> None:
        """Keep the costs' names, and what finds one of them, an array of shape ``(variants,)``."""
        self._names, self._find = names, find
        self._found: dict[str, npt.NDArray[Any]] = {}

    def __getitem__(self, cost: str) -> npt.NDArray[Any]:
        """Return a cost, worked out the first time."""
        if cost not in self._found:
            if cost not in self._names:
                raise KeyError(cost)
            self._found[cost] = np.asarray(self._find(cost))
        return self._found[cost]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the costs' names."""
        return iter(self._names)

    def __len__(self) -> int:
        """Return the number of costs."""
        return len(self._names)
