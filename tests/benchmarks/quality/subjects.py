"""What the benchmark compresses, and the algorithms that it compares, by name."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import rl_compress
from rl_compress.job import Job, parse_job, with_values
from rl_compress.registry import SEARCHERS
from rl_compress.runs.run_directory import RunDirectory
from rl_compress.searchers.problem import Problem
from rl_compress.searchers.sensitivity import SensitivityCurves, measure_sensitivity
from rl_compress.searchers.shared_curves import shared_path
from rl_compress.session import Session
from rl_compress.targets.cache import cache_dir

from .measured import MeasuredOnce

FASHION = {"model": "resnet20", "width": 6, "epochs": 8}
"""The smallest ResNet-20 that is trained in minutes and scores well above 91 %."""

TARGETS: dict[str, dict[str, Any]] = {
    "cnn": {"factory": "digits", "options": {"model": "cnn"}},
    "resnet": {"factory": "digits", "options": {"model": "resnet"}},
    "mobilenet": {"factory": "digits", "options": {"model": "mobilenet"}},
    # Their evaluations take 80 to 170 ms, for the share of an env runner's time.
    **{
        f"resnet_{width}": {"factory": "digits", "options": {"model": "resnet", "width": width}}
        for width in (32, 35, 40)
    },
    # Few samples, so that one evaluation takes well under 300 ms on one thread.
    "fashion": {
        "factory": "fashion_mnist",
        "options": {**FASHION, "calibration_samples": 256, "search_samples": 512},
    },
}

JOINT_BUDGET = {"size_bytes": 0.1}
"""A tenth of the float32 file: pruning and bits are searched together."""


@dataclass(frozen=True, slots=True)
class Variant:
    """An algorithm with the changes of the job that make it what it is."""

    overrides: dict[str, Any]
    """Values of the job by dotted key."""
    evaluations: int | None = None
    """Its own number of evaluations; by default that of its kind."""


VARIANTS: dict[str, Variant] = {
    **{
        name: Variant({"search.algorithm": name})
        for name in SEARCHERS.built_in
        if name not in ("global", "contribution")
    },
    "ppo": Variant({"search.algorithm": "ppo"}),
    "sac": Variant({"search.algorithm": "sac"}),
    "ppo-layerwise": Variant({"search.algorithm": "ppo", "search.episode": "layerwise"}),
    "ppo-no-prior": Variant({"search.algorithm": "ppo", "search.prior": "none"}),
    "ppo-unscreened": Variant({"search.algorithm": "ppo", "search.screening": False}),
    # TQC stands in for the published DDPG, as in tune_configs/amc.yaml.
    "amc": Variant(
        {
            "search.algorithm": "tqc",
            "search.prior": "none",
            "search.episode": "layerwise",
            "search.tqc.warmup_episodes": 100,
        },
        400,
    ),
}
"""What can be compared; a new row of the table is a new line here."""

DETERMINISTIC = ("uniform",)
"""Variants that are the same search whatever the seed; they are run once."""


@dataclass(slots=True)
class Prepared:
    """A subject with an evaluator that never measures a variant twice."""

    job: Job
    session: Session
    evaluator: MeasuredOnce
    curves_by_count: dict[int, SensitivityCurves] = field(default_factory=dict)

    @property
    def problem(self) -> Problem:
        """What is searched."""
        return self.session.problem

    def curves(self, count: int) -> SensitivityCurves:
        """Return the sensitivity curves, measured the first time."""
        if count not in self.curves_by_count:
            self.curves_by_count[count] = measure_sensitivity(
                self.problem.space, self.evaluator.score_or_none, count
            )
        return self.curves_by_count[count]


class Subjects:
    """Prepared subjects: jobs that differ only in how they search share one."""

    def __init__(self, fashion_folder: str | None) -> None:
        """Keep where the Fashion-MNIST files are; by default where the package puts them."""
        self._fashion_folder = fashion_folder
        self._prepared: dict[str, Prepared] = {}

    def job(self, target: str, overrides: Mapping[str, Any]) -> Job:
        """Return a job on one of :data:`TARGETS`: the joint one, with some values changed."""
        data = {"name": f"search-quality-{target}", "target": TARGETS[target]}
        if "budget" not in overrides:
            data["budget"] = JOINT_BUDGET
        data = with_values(data, overrides)
        if target == "fashion" and self._fashion_folder is not None:
            data["target"]["options"]["folder"] = self._fashion_folder
        return parse_job(data)

    def prepared(self, job: Job) -> Prepared:
        """Return the job's subject with its evaluator."""
        data = described(job)
        key = json.dumps(
            {name: data[name] for name in SUBJECT_SECTIONS} | {"others": data["search"]["budgets"]},
            sort_keys=True,
        )
        if key not in self._prepared:
            start = time.perf_counter()
            with TemporaryDirectory() as folder:
                session = Session(job, RunDirectory(Path(folder) / "run"))
                session.prepare()
            measured = MeasuredOnce(session.evaluator(), _cache_file(session))
            self._prepared[key] = Prepared(job, session, measured)
            seconds = time.perf_counter() - start
            print(
                f"{job.name}: {len(session.problem.space)} dimensions, prepared in "
                f"{seconds:.1f} s, {len(measured)} variants measured before",
                flush=True,
            )
        return self._prepared[key]


_SCORING = (
    "model",
    "space",
    "importance",
    "quantizers",
    "variants",
    "repair",
    "costs",
    "evaluation",
)
"""Packages whose code decides what a variant scores."""

SUBJECT_SECTIONS = ("target", "space", "budget", "objective", "evaluation")
"""What decides a subject and its scores, whatever searches on it."""


def described(job: Job) -> dict[str, Any]:
    """Return a job as plain data, without the folder that is another on every machine."""
    data = job.model_dump(mode="json")
    data["target"]["options"].pop("folder", None)
    return data


def _cache_file(session: Session) -> Path:
    """Name the file of measured variants by all that decides their scores, our code included."""
    digest = hashlib.sha256()
    named = shared_path(session.problem, session.target, session.model, count=0)
    digest.update(named.stem.encode())
    package = Path(rl_compress.__file__).parent
    for part in _SCORING:
        for path in sorted((package / part).glob("*.py")):
            digest.update(path.read_bytes())
    return cache_dir() / "benchmark" / f"{session.job.name}-{digest.hexdigest()[:16]}.jsonl"
