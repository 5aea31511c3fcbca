"""What a run directory holds, read for the report; all but the job may still be missing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from rl_compress.errors import CorruptFileError, RunDirectoryError
from rl_compress.export.manifest import Manifest
from rl_compress.report.formatting import COST_ROWS
from rl_compress.runs.failure import Failure
from rl_compress.runs.pareto import SCORE
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.runs.store import EvaluationStore
from rl_compress.runs.verified import Verified, load_verified
from rl_compress.space.budget import LATENCY
from rl_compress.space.compression_policy import CompressionPolicy
from rl_compress.strict_yaml import load_yaml

_JOB_FILE = "job.yaml"
_SENSITIVITY = ("group", "pruning_ratio", "score")


Search = tuple[list["EvaluationRecord"], list[dict[str, Any]]]
"""What one search measured: its evaluations in the order of their ids, and rows of its curves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """The content of a run directory; None or empty is a file that does not exist (yet)."""

    directory: Path
    job: dict[str, Any]
    job_yaml: str
    environment: dict[str, Any] | None
    space: dict[str, Any] | None
    """Groups, notes, and where given ``costs`` of the uncompressed target and the ``budget``."""
    sensitivity: list[dict[str, Any]]
    """Rows of ``group``, ``pruning_ratio`` and ``score``; where bits are searched also ``decides``,
    and ``width``, which are the bits."""
    evaluations: list[EvaluationRecord]
    """In the order of their ids."""
    pareto: list[dict[str, Any]]
    contribution: list[dict[str, Any]]
    """Rows of ``iteration``, ``unit``, ``contribution``, ``ratio`` and ``kept``."""
    manifest: dict[str, Any] | None
    policy: CompressionPolicy | None
    """The delivered policy."""
    verification: list[Verified]
    """Variants that were fine-tuned to verify the search, best first."""
    cache_hits: int | None
    """Candidates that a finished search had measured before."""
    beside: list[Search]
    """The searches that this one is compared with; those without an evaluation are left out."""

    ranking: Mapping[str, float] = field(default_factory=dict)
    """Rewards in float32 by policy id, of the best variants of a search in another precision."""
    failures: list[Failure] = field(default_factory=list)
    """Variants that could not be evaluated, in the order of time."""
    lost: int = 0
    """Evaluations that ended with their process; of an unfinished run, those that it is at too."""
    retried: int = 0
    """Evaluations that were begun again for that."""

    @property
    def objective(self) -> dict[str, Any]:
        """The job's section of that name; empty where there is none."""
        section = self.job.get("objective")
        return section if isinstance(section, dict) else {}

    @property
    def score_name(self) -> str:
        """Name of the score that the search maximised."""
        return str(self.objective.get("score", SCORE))

    @property
    def maximised(self) -> str:
        """What was maximised: the score by its name, or a reward that trades it for costs."""
        plain = (self.objective.get("weights") or {SCORE: 1.0}) == {SCORE: 1.0}
        return self.score_name if plain else "reward"

    @property
    def objectives(self) -> list[str]:
        """What the Pareto front is over: what the job names, or score and budgeted costs."""
        budgeted = (cost for cost in self.bounds if cost in COST_ROWS)
        return self.objective.get("pareto") or [SCORE, *budgeted]

    @property
    def bounds(self) -> Mapping[str, float]:
        """The budget, absolute, by cost."""
        return (self.manifest or self.space or {}).get("budget") or {}

    @property
    def original_costs(self) -> Mapping[str, float]:
        """Costs of the uncompressed target by name, as far as they are known."""
        if self.manifest is not None and self.manifest["costs"]:
            latency = self.manifest["latency_ms"]
            changes = self.manifest["costs"] | ({LATENCY: latency} if latency else {})
            return {cost: change["original"] for cost, change in changes.items()}
        return (self.space or {}).get("costs") or {}

    @property
    def original_score(self) -> float | None:
        """The uncompressed model's score in the search, as far as it is known."""
        if self.score_name == "fidelity":
            return 0.0
        scores = (self.manifest or {}).get("scores")
        if scores and scores["name"] == self.score_name:
            return float(scores["search"]["original"])
        # The sensitivities begin with the unpruned model, which may be quantized.
        begun = (row["score"] for row in self.sensitivity if row["pruning_ratio"] == 0.0)
        return next((score for score in begun if math.isfinite(score)), None)

    @property
    def chosen_record(self) -> EvaluationRecord | None:
        """The evaluation of the delivered policy, or else the best so far."""
        scored = [
            record
            for record in self.evaluations
            if record.scored_in_full and math.isfinite(record.score) and self.may_win(record)
        ]
        delivered = (self.manifest or {}).get("policy_id")
        scored = [record for record in scored if record.policy_id == delivered] or scored
        return max(scored, key=lambda record: record.reward, default=None)

    @property
    def chosen_policy(self) -> CompressionPolicy | None:
        """The delivered policy, or else the best so far."""
        best = self.chosen_record
        return self.policy or (best.realised_policy() if best else None)

    def may_win(self, record: EvaluationRecord) -> bool:
        """Say whether a record is for the job's own budget, not for a looser one of several."""
        search = self.job.get("search")
        if not (isinstance(search, dict) and search.get("budgets")):
            return True
        bounds, costs = (self.space or {}).get("budget") or {}, record.costs
        # What was not measured was not bounded either, or it is predicted and not in the record.
        return all(costs[cost] <= bound for cost, bound in bounds.items() if cost in costs)


def read_run(directory: Path) -> RunFiles:
    """Read a run directory.

    Raises:
        RunDirectoryError: There is no such directory, or it is no run's.
        CorruptFileError: A file cannot be read; the message names it.
        ConfigError: A newer release delivered the model, or the policy is none.
    """
    if not directory.is_dir():
        raise RunDirectoryError(f"{directory}: no such directory; give the directory of a run")
    run = RunDirectory(directory)
    job_yaml, job = read_job(directory / _JOB_FILE)
    store = EvaluationStore(run.evaluations)
    evaluations, failures, grants = store.read(), store.read_failures(), store.open_grants()
    answered = {e.policy_id for e in evaluations} | {f.policy_id for f in failures}
    manifest, policy = run.best / "manifest.json", run.best / "policy.json"
    return RunFiles(
        directory=directory,
        job=job,
        job_yaml=job_yaml,
        environment=_read_json(directory / "environment.json"),
        space=_read_json(directory / "space.json", "groups"),
        sensitivity=read_rows(run.sensitivity, _SENSITIVITY),
        evaluations=evaluations,
        pareto=read_rows(directory / "pareto.parquet", ("score",)),
        contribution=read_rows(run.contribution, ("unit", "contribution", "ratio", "kept")),
        manifest=Manifest.load(manifest).model_dump() if manifest.is_file() else None,
        policy=CompressionPolicy.load(policy) if policy.is_file() else None,
        verification=load_verified(run.verification),
        cache_hits=(_read_json(directory / "summary.json") or {}).get("cache_hits"),
        beside=_read_beside(run.baselines),
        ranking=run.ranking(),
        failures=failures,
        lost=grants.lost(answered),
        retried=grants.retried,
    )


def _read_beside(folder: Path) -> list[Search]:
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        run = RunDirectory(path)
        if evaluations := EvaluationStore(run.evaluations).read():
            found.append((evaluations, read_rows(run.sensitivity, _SENSITIVITY)))
    return found


def read_job(path: Path) -> tuple[str, dict[str, Any]]:
    """Read a job file as text and as plain data.

    Raises:
        RunDirectoryError: There is none.
        CorruptFileError: It cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        job = load_yaml(text)
    except FileNotFoundError:
        raise RunDirectoryError(
            f"{path.parent}: not the directory of a run (there is no {_JOB_FILE})"
        ) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CorruptFileError(f"{path}: not a readable job ({error})") from None
    if not isinstance(job, dict):
        raise CorruptFileError(f"{path}: not a job; expected a mapping of keys such as target")
    return text, job


def _read_json(path: Path, *required: str) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CorruptFileError(
            f"{path}: not readable JSON ({error}); resume the run to write it anew"
        ) from None
    missing = [key for key in required if not isinstance(data, dict) or key not in data]
    if missing or not isinstance(data, dict):
        raise CorruptFileError(
            f"{path}: lacks {', '.join(missing) or 'keys'}; resume the run to write it anew"
        )
    return data


def read_rows(path: Path, required: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Read a table; none is an empty one.

    Raises:
        CorruptFileError: It cannot be read, or lacks a column.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        return []
    except (pa.ArrowException, OSError) as error:
        raise CorruptFileError(
            f"{path}: not a readable parquet file ({error}); remove it and resume"
        ) from None
    missing = [column for column in required if column not in table.column_names]
    if missing:
        raise CorruptFileError(
            f"{path}: lacks the column(s) {', '.join(missing)}; remove it and resume"
        )
    return table.to_pylist()
