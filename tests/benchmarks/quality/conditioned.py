"""`conditioned`: one agent for several budgets against an agent for each of them.

The one is trained for three budgets, and also asked for two between them that no listed one is.
What it is worth at a budget is what `rl-compress compress --run --budget` would deliver: the best
of its records within the budget, of the prior, and of what is proposed; these evaluations count
too. An agent for the budget alone answers with its best record.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from figures import write_study

from rl_compress.agent.rllib.cluster import connected
from rl_compress.runs.environment import describe_environment
from rl_compress.searchers.known import Known
from rl_compress.searchers.proposing import proposals

from .searches import search
from .statistics import Spread
from .subjects import Prepared, Subjects, described

LISTED = (0.05, 0.1, 0.2)
BETWEEN = (0.07, 0.14)
"""Sizes, as fractions of the uncompressed one; the second listed is the job's own."""

_SEARCHED = {
    "fidelity": "The loss searched for is the KL divergence from the uncompressed target.",
    "accuracy": "The loss searched for is the accuracy itself, with another sign.",
}

GOAL_POINTS = 0.3
GOAL_EVALUATIONS = 1.5

Row = dict[str, Any]


def run(options: argparse.Namespace, subjects: Subjects, out: Path) -> None:
    """Search by both ways with every seed; print and write a table and the verdict."""
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    for target in options.targets:
        rows: dict[str, dict[str, list[Row]]] = {}
        with connected(None, options.env_runners, 1):
            for seed in seeds:
                found = {"one agent": _shared(options, subjects, target, seed)}
                found["an agent each"] = {
                    size: _alone(options, subjects, target, size, seed)
                    for size in (*LISTED, *BETWEEN)
                }
                for way, by_size in found.items():
                    for size, row in by_size.items():
                        rows.setdefault(str(size), {}).setdefault(way, []).append(row)
        text = _table(options, target, rows)
        print(text)
        name = f"conditioned-{target}" + ("-accuracy" if options.score == "accuracy" else "")
        data = {
            "environment": describe_environment(),
            "evaluations": options.evaluations,
            "shared_evaluations": options.shared_evaluations,
            "job": described(subjects.job(target, _overrides(options, LISTED[1], 0))),
            "rows": [
                {"size": float(size), "way": way, "seed": seed, **row}
                for size, ways in rows.items()
                for way, found in ways.items()
                for seed, row in zip(seeds, found, strict=True)
            ],
        }
        write_study(out / name, data, text)


def _overrides(options: argparse.Namespace, size: float, seed: int) -> dict[str, Any]:
    return {
        "budget": {"size_bytes": size},
        "objective.score": options.score,
        "search.algorithm": "ppo",
        "search.num_env_runners": options.env_runners,
        "search.evaluations": options.evaluations,
        "search.seed": seed,
    }


def _alone(
    options: argparse.Namespace, subjects: Subjects, target: str, size: float, seed: int
) -> Row:
    job = subjects.job(target, _overrides(options, size, seed))
    prepared = subjects.prepared(job)
    done = search(prepared, job)
    best = max(done.records, key=lambda record: (record.score, -record.evaluation_id))
    return _row(prepared, best.realised_policy(), best.score, "a record", len(done.records))


def _shared(
    options: argparse.Namespace, subjects: Subjects, target: str, seed: int
) -> dict[float, Row]:
    own = LISTED[1]
    job = subjects.job(
        target,
        {
            **_overrides(options, own, seed),
            "search.evaluations": options.shared_evaluations,
            "search.budgets": [{"size_bytes": size} for size in LISTED if size != own],
        },
    )
    prepared = subjects.prepared(job)
    done = search(prepared, job)
    curves = prepared.curves(job.search.sensitivity_levels)
    rows = {}
    for size in (*LISTED, *BETWEEN):
        there = subjects.prepared(subjects.job(target, _overrides(options, size, seed)))
        problem, evaluator = there.problem, there.evaluator
        space = problem.space
        within = [record for record in done.records if problem.may_win(record)]
        asked = list(
            proposals(
                space,
                problem.costs,
                problem.budget,
                curves,
                Known.of(done.records, space),
                curves.original_score,
                evaluator.score_or_none,
            )
        )
        compared = [(one.worth, one.name, space.policy_of(one.levels)) for one in asked]
        if within:
            best = max(within, key=lambda record: record.score)
            compared.insert(0, (best.score, "a record", best.realised_policy()))
        score, source, policy = max(compared, key=lambda found: found[0])
        rows[size] = _row(there, policy, score, source, len(done.records))
        rows[size]["asked_on_top"] = len(asked)
        rows[size]["record"] = best.score if within else None
    return rows


def _row(prepared: Prepared, policy: Any, score: float, source: str, evaluations: int) -> Row:
    session = prepared.session
    variant = prepared.evaluator.variant(session.problem.space.levels_of(policy))
    original = session.target.score(session.model, "search")
    accuracy = session.target.score(variant, "search")
    return {
        "score": score,
        "points_lost": original - accuracy,
        "source": source,
        "evaluations": evaluations,
    }


def _table(options: argparse.Namespace, target: str, rows: dict[str, dict[str, list[Row]]]) -> str:
    one = [row for size in LISTED for row in rows[str(size)]["one agent"]]
    on_top = len(LISTED) * sum(row["asked_on_top"] for row in one) / len(one)
    made = (options.shared_evaluations + on_top) / options.evaluations
    lines = [
        f"# One agent for several budgets, {target}",
        "",
        f"{options.seeds} seeds; one agent with {options.shared_evaluations} evaluations for "
        f"{', '.join(map(str, LISTED))} of the size and {on_top:.0f} when it is asked for these, "
        f"agents for one budget with "
        f"{options.evaluations} each. {_SEARCHED[options.score]} Points are of accuracy lost. Both "
        "are on the search split, mean and standard deviation; how far one agent is behind, "
        "the mean over seeds and its standard error.",
        "",
        "| size | trained for | loss, one agent | loss, an agent each | points, one | points, each "
        "| behind | answered by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    met = made <= GOAL_EVALUATIONS
    for size, ways in sorted(rows.items(), key=lambda item: float(item[0])):
        one, each = ways["one agent"], ways["an agent each"]
        points = [Spread.of([row["points_lost"] for row in way]) for way in (one, each)]
        losses = [Spread.of([-row["score"] for row in way]) for way in (one, each)]
        pairs = zip(one, each, strict=True)
        behind = Spread.of([a["points_lost"] - b["points_lost"] for a, b in pairs])
        listed = float(size) in LISTED
        met = met and (behind.mean <= GOAL_POINTS or not listed)
        answers = Counter(row["source"] for row in one)
        sources = ", ".join(f"{name} ({count})" for name, count in answers.items())
        lines.append(
            f"| {size} | {'yes' if listed else 'no'} | {losses[0]} | {losses[1]} | "
            f"{points[0].mean:.2f} ± {points[0].deviation:.2f} | "
            f"{points[1].mean:.2f} ± {points[1].deviation:.2f} | {behind.mean:+.2f} ± "
            f"{behind.standard_error:.2f} | {sources} |"
        )
    lines += [
        "",
        f"At most {GOAL_POINTS} points behind at every budget trained for, at {made:.1f} times the "
        f"evaluations of one agent: {'met' if met else 'not met'}.",
        "",
    ]
    return "\n".join(lines)
