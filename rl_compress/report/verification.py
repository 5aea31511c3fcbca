"""How far the search's scores order variants as their scores after fine-tuning do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from scipy.stats import spearmanr

from rl_compress.report.comparison_plots import verification_plot
from rl_compress.report.formatting import format_duration, format_score, format_score_change
from rl_compress.report.page import Markup, code, drawing, paragraph, section, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rl_compress.report.run_files import RunFiles
    from rl_compress.runs.verified import Verified

_FEWEST = 3
"""Of fewer variants a rank correlation says nothing."""


def rank_correlation(rows: Sequence[Verified]) -> float | None:
    """Return Spearman's correlation of the score in the search with the one after fine-tuning.

    Equal scores share their mean rank. None where there are fewer than three variants, or all of
    them have one score, so that there is nothing to order.
    """
    finite = [row for row in rows if math.isfinite(row.search_score) and math.isfinite(row.after)]
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


def verification(files: RunFiles) -> Markup:
    """Show the verified variants, and what they say of the search."""
    rows = files.verification
    if not rows:
        return Markup("")
    objective = files.job.get("objective")
    searched = str(objective.get("score", "score")) if isinstance(objective, dict) else "score"
    scores = files.manifest["scores"] if files.manifest else None
    name = scores["name"] if scores else "score"
    cells = [
        (
            f"{row.rank}{' (delivered)' if row.rank == 1 else ''}",
            code(row.policy_id),
            format_score(searched, row.search_score),
            format_score(name, row.before),
            format_score(name, row.after),
            format_score_change(name, row.before, row.after),
            format_duration(row.seconds),
        )
        for row in rows
    ]
    header = (
        "place in the search",
        "policy",
        f"{searched} in the search",
        f"{name} before",
        f"{name} after fine-tuning",
        "change",
        "took",
    )
    parts = [paragraph(_judgement(rows)), paragraph(_NOTE, "note")]
    if better := better_than_delivered(rows):
        parts.insert(1, paragraph(_remark(better, rows, name)))
    finite = [row for row in rows if math.isfinite(row.search_score) and math.isfinite(row.after)]
    if len(finite) >= _FEWEST and finite[0].rank == 1:
        svg = verification_plot(
            [row.search_score for row in finite],
            [row.after for row in finite],
            search_score=searched,
            score=name,
        )
        parts.append(drawing(svg))
    return section("Search and fine-tuning", *parts, table(header, cells, figures=True))


_NOTE = (
    "The best variants of the search, each fine-tuned as the delivered one is, and scored on the "
    "search split. They are the best of many and lie close together, where ranks are harder to "
    "tell than over all variants."
)


def _judgement(rows: Sequence[Verified]) -> str:
    count = len(rows)
    correlation = rank_correlation(rows)
    if correlation is not None:
        return (
            f"Rank correlation (Spearman) of the score in the search with the score after "
            f"fine-tuning: {correlation:+.2f}, over {count} variants."
        )
    if count < _FEWEST:
        return (
            f"{count} variant{'s' if count > 1 else ''} verified: too few for a rank correlation, "
            f"which takes at least {_FEWEST}."
        )
    return f"No rank correlation over {count} variants: their scores do not differ."


def _remark(better: Verified, rows: Sequence[Verified], name: str) -> str:
    delivered = next(row for row in rows if row.rank == 1)
    return (
        f"After fine-tuning, the variant at place {better.rank} does better than the delivered "
        f"one: {format_score(name, better.after)} against {format_score(name, delivered.after)}. "
        f"The search's best is delivered all the same, for the best of several on the split they "
        f"were chosen by is in part lucky. Its policy is in better_policy.json; "
        f"`rl-compress compress JOB --policy` delivers it."
    )
