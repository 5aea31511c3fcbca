"""What racing and the cache spared a search."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rl_compress.runs.record import EvaluationRecord


def dropped_early(records: Sequence[EvaluationRecord]) -> int:
    """Return how many variants were dropped before they were scored in full."""
    return sum(not record.scored_in_full for record in records)


def samples_saved(records: Sequence[EvaluationRecord]) -> float:
    """Return the share of the samples of all evaluations that was not scored, 0 to 1."""
    return sum(1.0 - record.scored_share for record in records) / max(len(records), 1)


def spared(records: Sequence[EvaluationRecord], cache_hits: int | None) -> str:
    """Say what was not measured, in sentences; empty where there is nothing to say.

    Args:
        records: Of the search.
        cache_hits: Candidates that had been measured before; None if it is not known.
    """
    sentences = []
    if dropped := dropped_early(records):
        sentences.append(
            f"Racing dropped {dropped} of them early as worse than the best, which saved "
            f"{samples_saved(records):.0%} of the samples to be scored; their scores are estimates."
        )
    if cache_hits:
        sentences.append(
            f"{cache_hits} candidate{'s' if cache_hits > 1 else ''} had been measured before, "
            f"and came from the cache."
        )
    return " ".join(sentences)
