"""How far the search's scores order variants as their scores after fine-tuning do."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.stats import spearmanr

from rl_compress.report.page import Content
from rl_compress.report.plots import verification_plot
from rl_compress.report.run_files import RunFiles
from rl_compress.runs.verified import Verified

_FEWEST = 3
"""Of fewer variants a rank correlation says nothing."""


def rank_correlation(rows: Sequence[Verified]) -> float | None:
    """Return Spearman's correlation of the score in the search with the one after fine-tuning.

    Equal scores share their mean rank. None where there are fewer than three variants, or all of
    them have one score, so that there is nothing to order.
    """
    finite = _finite(rows)
    searched, finetuned = [row.search_score for row in finite], [row.after for row in finite]
    if len(finite) < _FEWEST or len(set(searched)) < 2 or len(set(finetuned)) < 2:
        return None
    return float(spearmanr(searched, finetuned).statistic)


def better_than_delivered(rows: Sequence[Verified]) -> Verified | None:
    """Return the variant that does best after fine-tuning, if that is not the search's best."""
    winner = next((row for row in rows if row.rank == 1), None)
    others = [row for row in rows if math.isfinite(row.after)]
    if winner is None or not others:
        return None
    best = max(others, key=lambda row: (row.after, -row.rank))
    return best if not winner.after >= best.after else None


def verification(files: RunFiles) -> Content | None:
    """Show the verified variants, and what they say of the search."""
    rows = files.verification
    if not rows:
        return None
    searched = files.score_name
    scores = files.manifest["scores"] if files.manifest else None
    name = scores["name"] if scores else "score"
    finite = _finite(rows)
    svg = None
    if len(finite) >= _FEWEST and finite[0].rank == 1:
        svg = verification_plot(
            [row.search_score for row in finite],
            [row.after for row in finite],
            search_score=searched,
            score=name,
        )
    return {
        "name": name,
        "svg": svg,
        "correlation": rank_correlation(rows),
        "fewest": _FEWEST,
        "better": better_than_delivered(rows),
        "searched": searched,
    }


def _finite(rows: Sequence[Verified]) -> list[Verified]:
    return [row for row in rows if math.isfinite(row.search_score) and math.isfinite(row.after)]
