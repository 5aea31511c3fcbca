"""Variants that could not be evaluated, and why: ``evaluations.failures.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One variant that is not asked for again."""

    policy_id: str
    policy: str
    """The realised decisions, as JSON."""
    worker: int
    error: str
    time: str
    """ISO 8601, in UTC."""


def to_lines(failures: Sequence[Failure]) -> str:
    """Return failures as JSON lines."""
    return "".join(json.dumps(asdict(failure), ensure_ascii=False) + "\n" for failure in failures)


def from_lines(text: str) -> list[Failure]:
    """Return failures from JSON lines.

    Raises:
        ValueError: A line is no JSON.
        TypeError: A line is no failure.
    """
    return [Failure(**json.loads(line)) for line in text.splitlines()]
