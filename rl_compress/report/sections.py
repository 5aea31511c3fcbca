"""The sections of the report; each says so where its part of the run does not exist yet."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from rl_compress.report.contribution_plots import contribution_plot
from rl_compress.report.formatting import (
    COST_LABELS,
    COST_ROWS,
    format_cost,
    format_duration,
    format_fraction,
    format_latency,
    format_named_score,
    format_score,
    format_speedup,
    format_time,
)
from rl_compress.report.group_plots import (
    PRUNING,
    GroupBar,
    policy_bars,
    sensitivity_map,
)
from rl_compress.report.page import (
    Markup,
    bullets,
    code,
    drawing,
    listing,
    paragraph,
    section,
    table,
    tiles,
)
from rl_compress.report.plots import Point, pareto_plot, search_curve
from rl_compress.report.racing import spared
from rl_compress.report.summary import HEADER, comparison_rows, headline, ratio
from rl_compress.runs.pareto import SCORE, front_hypervolume
from rl_compress.space.budget import LATENCY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rl_compress.report.run_files import RunFiles
    from rl_compress.runs.record import EvaluationRecord
    from rl_compress.space.compression_policy import CompressionPolicy, Decision


def headline_of(files: RunFiles) -> str:
    """Say in one sentence what the run achieved, or how far it is."""
    if files.manifest is not None and (sentence := headline(files.manifest)):
        return sentence
    count = len(files.evaluations)
    if best := chosen_record(files):
        return (
            f"Nothing delivered yet: {count} evaluation{'s' if count > 1 else ''}, "
            f"best {format_named_score(objective_of(files), best.score)}"
        )
    return "Nothing delivered yet, and nothing evaluated"


def key_figures(files: RunFiles) -> Markup:
    """Return the figures that matter most, large."""
    if files.manifest is None:
        return Markup("")
    figures = [
        (format_fraction(ratio(change)), f"of the {COST_LABELS.get(cost, cost)}")
        for cost, change in files.manifest["costs"].items()
    ]
    if scores := files.manifest["scores"]:
        split = "test" if scores["test"] else "search"
        score = format_score(scores["name"], scores[split]["delivered"])
        figures.append((score, f"{scores['name']}, {split} split"))
    if latency := files.manifest["latency_ms"]:
        speed = format_speedup(latency["original"], latency["delivered"])
        figures.append((speed, f"on {latency['device']}"))
    return tiles(figures) if figures else Markup("")


def comparison(files: RunFiles) -> Markup:
    """Compare the two models figure by figure."""
    title = "Uncompressed and delivered"
    manifest = files.manifest
    if manifest is None:
        return section(title, paragraph("No model has been delivered yet.", "absent"))
    facts = [f"Compression policy {manifest['policy_id']}, {format_time(manifest['created'])}."]
    epochs = manifest["finetuning_epochs"]
    facts.append(f"Fine-tuned for {epochs} epoch{'' if epochs == 1 else 's'}.")
    if latency := manifest["latency_ms"]:
        facts.append(f"Latency is the median on {latency['device']}.")
        if predicted := latency["predicted"]:
            facts.append(
                f"It was predicted from a table of {predicted['device']}, whose own median error "
                f"is {predicted['median_error_percent']:.1f} %."
            )
    if manifest["budget"]:
        bounds = (
            f"{COST_ROWS.get(cost, cost)} ≤ {format_cost(cost, bound)}"
            for cost, bound in manifest["budget"].items()
        )
        facts.append(f"Budget: {', '.join(bounds)}.")
    if manifest["files"]:
        sizes = (
            f"{name} ({format_cost('size_bytes', entry['bytes'])})"
            for name, entry in manifest["files"].items()
        )
        facts.append(f"Files in best/: {', '.join(sizes)}.")
    if manifest["onnx_max_error"] is not None:
        facts.append(f"The ONNX model's outputs agree to {manifest['onnx_max_error']:.1g}.")
    rows = table(HEADER, comparison_rows(manifest), figures=True)
    return section(title, rows, paragraph(" ".join(facts), "note"))


def pareto(files: RunFiles) -> Markup:
    """Show score over the first cost that it was traded for."""
    title, cost, score = "Score and cost", traded_cost(files), objective_of(files)
    if not _some_finite(files.evaluations):
        return section(title, paragraph("No variant has been evaluated yet.", "absent"))
    best, original = chosen_record(files), original_score(files)
    original_cost = _original_costs(files).get(cost)
    svg = pareto_plot(
        [Point(_cost(each, cost), each.score) for each in files.evaluations if each.scored_in_full],
        cost=cost,
        score=score,
        front=[Point(row[cost], row["score"]) for row in files.pareto if cost in row],
        best=Point(_cost(best, cost), best.score) if best else None,
        original=(
            None if original is None or original_cost is None else Point(original_cost, original)
        ),
        bound=_bounds(files).get(cost),
    )
    note = "Every variant scored in full, on the search split and before fine-tuning."
    if not files.pareto:
        note += " The Pareto front has not been written yet."
    elif volume := _hypervolume(files):
        note += f" {volume}"
    return section(title, paragraph(note, "note"), drawing(svg))


def search(files: RunFiles) -> Markup:
    """Show the score over the course of the search."""
    title, records = "Course of the search", files.evaluations
    if not _some_finite(records):
        return section(title, paragraph("No variant has been evaluated yet.", "absent"))
    name = objective_of(files)
    svg = search_curve(
        [record.score for record in records], score=name, original=original_score(files)
    )
    algorithms = ", ".join(dict.fromkeys(record.algorithm for record in records))
    cached = sum(record.cached for record in records)
    reused = f", {cached} of them cached" if cached else ""
    workers = len({record.worker for record in records})
    mean_ms = 1e3 * sum(record.wall_s for record in records) / len(records)
    elapsed = (records[-1].time - records[0].time).total_seconds() + records[0].wall_s
    facts = (
        f"{len(records)} evaluations by {algorithms}{reused}, "
        f"on {workers} process{'es' if workers > 1 else ''} in {format_duration(elapsed)}; "
        f"one took {format_latency(mean_ms)} on average."
    )
    if more := spared(records, files.cache_hits):
        facts += f" {more}"
    if files.lost:
        facts += (
            f" {files.lost} evaluation{'s' if files.lost > 1 else ''} ended with the process, "
            f"which was interrupted or killed; {files.retried} were begun again."
        )
    if failures := files.failures:
        facts += (
            f" {len(failures)} variant{'s' if len(failures) > 1 else ''} could not be evaluated "
            f"(evaluations.failures.jsonl); the last: {failures[-1].error}"
        )
    return section(title, paragraph(facts, "note"), drawing(svg))


def policy(files: RunFiles) -> Markup:
    """Show what was done to each group."""
    title = "What was pruned"
    chosen = chosen_policy(files)
    if chosen is None:
        return section(title, paragraph("No compression policy has been found yet.", "absent"))
    note = "The delivered policy, in forward order." if files.policy else "The best policy so far."
    if files.space is None:
        note += " The groups' MACs are unknown, since space.json is missing."
    else:
        note += (
            " MACs are in percent of the uncompressed model's; a layer counts for the group of its"
            " outputs and for that of its inputs."
        )
    bars = _group_bars(files, chosen)
    parts = [paragraph(note, "note"), drawing(policy_bars(bars))]
    if any(bar.weight_bits or bar.activation_bits for bar in bars):
        title = "What was pruned and quantized"
        rows = (
            (
                code(bar.name),
                "–" if bar.pruning_ratio is None else format_fraction(bar.pruning_ratio),
                _bits(bar.weight_bits),
                _bits(bar.activation_bits),
            )
            for bar in bars
        )
        header = ("group", "removed", "weight bits", "activation bits")
        parts.append(table(header, rows, figures=True))
    return section(title, *parts)


def sensitivity(files: RunFiles) -> Markup:
    """Show what pruning each group alone, or giving it fewer bits, does to the score."""
    title = "Sensitivity"
    if not any(math.isfinite(row["score"]) for row in files.sensitivity):
        return section(title, paragraph("Sensitivities have not been measured.", "absent"))
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in files.sensitivity:
        decides = row.get("decides") or PRUNING
        level = row[PRUNING] if decides == PRUNING else float(row["width"])
        kind = curves.setdefault(decides, {})
        kind.setdefault(row["group"], []).append((level, row["score"]))
    chosen = chosen_policy(files)
    maps = [
        drawing(
            sensitivity_map(
                points,
                score=objective_of(files),
                chosen=_decided(chosen, decides),
                decides=decides,
            )
        )
        for decides, points in curves.items()
        if any(math.isfinite(score) for curve in points.values() for _, score in curve)
    ]
    note = "Score when one group alone is pruned: the darker, the more it hurts."
    if len(curves) > 1:
        note = (
            "Score when one group alone is pruned, or has fewer bits: the darker, the more it "
            "hurts."
        )
    return section(title, paragraph(note, "note"), *maps)


def contribution(files: RunFiles) -> Markup:
    """Show how contributions and keep-ratios developed, where they ranked the units."""
    if not files.contribution:
        return Markup("")
    units = {row["unit"]: row["kept"] for row in files.contribution}
    note = (
        f"Cumulative contribution and keep-ratio of {len(units)} units over the iterations; "
        f"{sum(units.values())} of them were kept by contribution pruning itself."
    )
    svg = contribution_plot(files.contribution)
    return section("Contributions", paragraph(note, "note"), drawing(svg))


def groups(files: RunFiles) -> Markup:
    """List what cannot be pruned, and why, and what else was noticed of the model."""
    title = "Groups that are not pruned"
    if files.space is None:
        return section(title, paragraph("The model has not been looked at yet.", "absent"))
    left = [group for group in files.space["groups"] if not group.get("prunable", True)]
    parts = []
    if left:
        rows = ((code(group["name"]), group.get("reason") or "") for group in left)
        parts.append(table(("group", "reason"), rows, figures=False))
    else:
        parts.append(paragraph("Every group of the model can be pruned.", "note"))
    if notes := files.space.get("notes"):
        parts.append(bullets(notes))
    return section(title, *parts)


def environment(files: RunFiles) -> Markup:
    """List versions and hardware."""
    title = "Environment"
    if files.environment is None:
        return section(title, paragraph("Not recorded.", "absent"))
    rows = (
        (name, code(value if isinstance(value, str) else json.dumps(value)))
        for name, value in files.environment.items()
    )
    return section(title, table((), rows, figures=False))


def job(files: RunFiles) -> Markup:
    """Show the job file, with all defaults filled in."""
    return section("Job", listing(files.job_yaml))


def chosen_record(files: RunFiles) -> EvaluationRecord | None:
    """Return the evaluation of the delivered policy, or else the best so far."""
    scored = [
        record
        for record in files.evaluations
        if record.scored_in_full and math.isfinite(record.score) and files.may_win(record)
    ]
    if files.manifest is not None:
        delivered = files.manifest["policy_id"]
        scored = [record for record in scored if record.policy_id == delivered] or scored
    return max(scored, key=lambda record: record.reward, default=None)


def chosen_policy(files: RunFiles) -> CompressionPolicy | None:
    """Return the delivered policy, or else the best so far."""
    best = chosen_record(files)
    return files.policy or (best.realised_policy() if best else None)


def _decided(policy: CompressionPolicy | None, decides: str) -> dict[str, float]:
    """Return what a policy decides of one kind, by group."""
    decisions = policy.decisions if policy else ()
    found = ((name, getattr(decision, decides)) for name, decision in decisions)
    return {name: float(value) for name, value in found if value is not None}


def _bits(bits: int | None) -> str:
    return "–" if bits is None else str(bits)


def objective_of(files: RunFiles) -> str:
    """Return the name of the score that the search maximised."""
    objective = files.job.get("objective")
    return str(objective.get("score", "score")) if isinstance(objective, dict) else "score"


def objectives_of(files: RunFiles) -> list[str]:
    """Return what the Pareto front is over: what the job names, or score and budgeted costs."""
    objective = files.job.get("objective")
    chosen = objective.get("pareto") if isinstance(objective, dict) else None
    return chosen or [SCORE, *(cost for cost in _bounds(files) if cost in COST_ROWS)]


def traded_cost(files: RunFiles) -> str:
    """Return the first cost among the objectives, or MACs."""
    return next((name for name in objectives_of(files) if name != SCORE), "macs")


def _hypervolume(files: RunFiles) -> str:
    """Say how much of the space of outcomes the front dominates, where that can be told."""
    names, costs = objectives_of(files), _original_costs(files)
    if len(names) < 2 or not set(names) - {SCORE} <= set(costs):
        return ""
    scores = [record.score for record in files.evaluations if math.isfinite(record.score)]
    volume = front_hypervolume(
        files.evaluations, names, lowest_score=min(scores), original_costs=costs
    )
    return (
        f"Hypervolume over {', '.join(names)}: {volume:.4g}, against the lowest score evaluated "
        f"({min(scores):.4g}) and the uncompressed costs, which count as 1."
    )


def original_score(files: RunFiles) -> float | None:
    """Return the uncompressed model's score in the search, as far as it is known."""
    name = objective_of(files)
    if name == "fidelity":
        return 0.0
    if files.manifest and (scores := files.manifest["scores"]) and scores["name"] == name:
        return float(scores["search"]["original"])
    # The sensitivities begin with the unpruned model, which may be quantized.
    begun = (row["score"] for row in files.sensitivity if row["pruning_ratio"] == 0.0)
    return next((score for score in begun if math.isfinite(score)), None)


def _some_finite(records: Sequence[EvaluationRecord]) -> bool:
    return any(math.isfinite(record.score) for record in records)


def _cost(record: EvaluationRecord, cost: str) -> float:
    return float(record.costs().get(cost, math.nan))


def _bounds(files: RunFiles) -> Mapping[str, float]:
    return (files.manifest or files.space or {}).get("budget") or {}


def _original_costs(files: RunFiles) -> Mapping[str, float]:
    if files.manifest is not None and files.manifest["costs"]:
        changes = dict(files.manifest["costs"])
        if files.manifest["latency_ms"]:
            changes[LATENCY] = files.manifest["latency_ms"]
        return {cost: change["original"] for cost, change in changes.items()}
    return (files.space or {}).get("costs") or {}


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
    ratios = _decided(policy, PRUNING)
    decisions = dict(policy)
    if files.space is None:
        return [
            GroupBar(
                name=name,
                pruning_ratio=decision.pruning_ratio,
                weight_bits=decision.weight_bits,
                activation_bits=decision.activation_bits,
            )
            for name, decision in policy
        ]
    total = _original_costs(files).get("macs")
    delivered = files.manifest["group_macs"] if files.manifest and files.policy else {}

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
        for group in files.space["groups"]
    ]
