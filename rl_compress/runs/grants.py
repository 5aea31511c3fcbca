"""Which measurements were begun: what is begun and has no record was lost with its process."""

from __future__ import annotations

import collections
import json
from collections.abc import Container
from pathlib import Path
from typing import Any

from rl_compress.runs.written import written

MOST_LOSSES = 3
"""A variant whose process died this often while it was measured is not measured again."""


class GrantLog:
    """A line of JSON for each measurement granted, on the disk of the process that grants."""

    def __init__(self, path: Path) -> None:
        """Read what earlier processes granted.

        Args:
            path: The log, made with its first line.
        """
        self._path = path
        self._granted: collections.Counter[str] = collections.Counter()
        self._given_up: set[str] = set()
        self.retried = 0
        """Measurements that were begun again."""
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the process was killed while it wrote this line
            self._count(entry)

    def note(self, policy_id: str, worker: int) -> None:
        """Note that a worker begins to measure a variant.

        Raises:
            StorageError: The log cannot be written.
        """
        self._append({"policy_id": policy_id, "worker": worker})

    def give_up(self, policy_id: str) -> None:
        """Note that a variant is not granted again.

        Raises:
            StorageError: The log cannot be written.
        """
        self._append({"policy_id": policy_id, "given_up": True})

    def is_deadly(self, policy_id: str) -> bool:
        """Say whether a variant without a record was lost too often."""
        return self._granted[policy_id] >= MOST_LOSSES

    def lost(self, answered: Container[str]) -> int:
        """Return how many measurements were begun and never ended, or have not ended yet.

        Args:
            answered: Ids of the variants that have a record, or failed.
        """
        return sum(
            count - (policy_id in answered and policy_id not in self._given_up)
            for policy_id, count in self._granted.items()
        )

    def _append(self, entry: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with written(self._path), self._path.open("a", encoding="utf-8") as file:
            # The line break comes first, so that half a line never spoils the next.
            file.write("\n" + json.dumps(entry))
        self._count(entry)

    def _count(self, entry: dict[str, Any]) -> None:
        if entry.get("given_up"):
            self._given_up.add(entry["policy_id"])
            return
        self.retried += entry["policy_id"] in self._granted
        self._granted[entry["policy_id"]] += 1
