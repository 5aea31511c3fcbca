"""What the sections of a run's report show; None where that part of the run does not exist yet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rl_compress.report.formatting import format_count, format_named_score
from rl_compress.report.group_plots import PRUNING, GroupBar, policy_bars, sensitivity_map
from rl_compress.report.page import Content
from rl_compress.report.plots import Point, contribution_plot, pareto_plot, search_curve
from rl_compress.report.run_files import RunFiles
from rl_compress.report.run_summary import dropped_early, samples_saved
from rl_compress.report.summary import headline
from rl_compress.runs.pareto import SCORE, front_hypervolume
from rl_compress.runs.record import EvaluationRecord
from rl_compress.space.compression_policy import CompressionPolicy, Decision


def headline_of(files: RunFiles) -> str:
    """Say in one sentence what the run achieved, or how far it is."""
    if files.manifest is not None and (sentence := headline(files.manifest)):
        return sentence
    if best := files.chosen_record:
        return (
            f"Nothing delivered yet: {format_count(len(files.evaluations), 'evaluation')}, "
            f"best {format_named_score(files.score_name, best.score)}"
        )
    return "Nothing delivered yet, and nothing evaluated"


def pareto(files: RunFiles) -> Content | None:
    """Show score over the first cost that it was traded for."""
    if not _some_finite(files.evaluations):
        return None
    cost = next((name for name in files.objectives if name != SCORE), "macs")
    best, score, original = files.chosen_record, files.original_score, files.original_costs
    svg = pareto_plot(
        [_point(each, cost) for each in files.evaluations if each.scored_in_full],
        cost=cost,
        score=files.score_name,
        front=[(row[cost], row["score"]) for row in files.pareto if cost in row],
        best=_point(best, cost) if best else None,
        original=None if score is None or cost not in original else (original[cost], score),
        bound=files.bounds.get(cost),
    )
    volume = _hypervolume(files) if files.pareto else "The Pareto front has not been written yet."
    remark = "Every variant scored in full, on the search split and before fine-tuning."
    return {"remark": f"{remark} {volume}", "drawings": [svg]}


def search(files: RunFiles) -> Content | None:
    """Show the score over the course of the search."""
    records = files.evaluations
    if not _some_finite(records):
        return None
    scores = [record.score for record in records]
    return {
        "svg": search_curve(scores, score=files.score_name, original=files.original_score),
        "algorithms": dict.fromkeys(record.algorithm for record in records),
        "cached": sum(record.cached for record in records),
        "workers": len({record.worker for record in records}),
        "mean_ms": 1e3 * sum(record.wall_s for record in records) / len(records),
        "elapsed": (records[-1].time - records[0].time).total_seconds() + records[0].wall_s,
        "dropped": dropped_early(records),
        "saved": samples_saved(records),
    }


def policy(files: RunFiles) -> Content | None:
    """Show what was done to each group."""
    chosen = files.chosen_policy
    if chosen is None:
        return None
    bars = _group_bars(files, chosen)
    content: Content = {"svg": policy_bars(bars), "bars": bars, "quantized": False}
    if any(bar.weight_bits or bar.activation_bits for bar in bars):
        content |= {"title": "What was pruned and quantized", "quantized": True}
    return content


def sensitivity(files: RunFiles) -> Content | None:
    """Show what pruning each group alone, or giving it fewer bits, does to the score."""
    if not any(math.isfinite(row["score"]) for row in files.sensitivity):
        return None
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in files.sensitivity:
        decides = row.get("decides") or PRUNING
        level = row[PRUNING] if decides == PRUNING else float(row["width"])
        kind = curves.setdefault(decides, {})
        kind.setdefault(row["group"], []).append((level, row["score"]))
    maps = [
        sensitivity_map(
            points,
            score=files.score_name,
            chosen=_decided(files.chosen_policy, decides),
            decides=decides,
        )
        for decides, points in curves.items()
        if any(math.isfinite(score) for curve in points.values() for _, score in curve)
    ]
    how = "is pruned, or has fewer bits" if len(curves) > 1 else "is pruned"
    remark = f"Score when one group alone {how}: the darker, the more it hurts."
    return {"remark": remark, "drawings": maps}


def contribution(files: RunFiles) -> Content | None:
    """Show how contributions and keep-ratios developed, where they ranked the units."""
    if not files.contribution:
        return None
    units = {row["unit"]: row["kept"] for row in files.contribution}
    remark = (
        f"Cumulative contribution and keep-ratio of {len(units)} units over the iterations; "
        f"{sum(units.values())} of them were kept by contribution pruning itself."
    )
    return {"remark": remark, "drawings": [contribution_plot(files.contribution)]}


def _decided(policy: CompressionPolicy | None, decides: str) -> dict[str, float]:
    """Return what a policy decides of one kind, by group."""
    found = ((name, getattr(decision, decides)) for name, decision in policy or ())
    return {name: float(value) for name, value in found if value is not None}


def _hypervolume(files: RunFiles) -> str:
    """Say how much of the space of outcomes the front dominates, where that can be told."""
    names, costs = files.objectives, files.original_costs
    if len(names) < 2 or not set(names) - {SCORE} <= set(costs):
        return ""
    lowest = min(record.score for record in files.evaluations if math.isfinite(record.score))
    volume = front_hypervolume(files.evaluations, names, lowest_score=lowest, original_costs=costs)
    return (
        f"Hypervolume over {', '.join(names)}: {volume:.4g}, against the lowest score evaluated "
        f"({lowest:.4g}) and the uncompressed costs, which count as 1."
    )


def _some_finite(records: Sequence[EvaluationRecord]) -> bool:
    return any(math.isfinite(record.score) for record in records)


def _point(record: EvaluationRecord, cost: str) -> Point:
    return float(record.costs.get(cost, math.nan)), record.score


def _ratio_of(ratios: Mapping[str, float], group: Mapping[str, Any]) -> float | None:
    """Return a group's pruning ratio; with masks the share of its single units that are gone."""
    if group["name"] in ratios:
        return ratios[group["name"]]
    prefix = f"{group['name']}["
    single = [ratio for name, ratio in ratios.items() if name.startswith(prefix)]
    return sum(single) / max(group["units"], 1) if single else None


def _bits_of(decision: Decision | None, group: Mapping[str, Any], aspect: str) -> int | None:
    """Return a group's bits: those decided, or else those that it has anyway."""
    decided: int | None = getattr(decision, aspect, None)
    given: Sequence[int] = group.get(aspect) or []
    return given[0] if decided is None and len(given) == 1 else decided


def _group_bars(files: RunFiles, policy: CompressionPolicy) -> list[GroupBar]:
    ratios, decisions = _decided(policy, PRUNING), dict(policy)
    total = files.original_costs.get("macs")
    delivered = files.manifest["group_macs"] if files.manifest and files.policy else {}
    # Without space.json the groups are those that were decided.
    known = [{"name": name} for name in decisions]

    def share(macs: Any) -> float | None:
        return macs / total if macs is not None and total else None

    return [
        GroupBar(
            name=group["name"],
            pruning_ratio=_ratio_of(ratios, group) if group.get("prunable", True) else None,
            weight_bits=_bits_of(decisions.get(group["name"]), group, "weight_bits"),
            activation_bits=_bits_of(decisions.get(group["name"]), group, "activation_bits"),
            macs_before=share(group.get("macs")),
            macs_after=share(delivered.get(group["name"], {}).get("delivered")),
        )
        for group in (known if files.space is None else files.space["groups"])
    ]
