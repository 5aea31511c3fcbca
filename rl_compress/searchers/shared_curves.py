"""Sensitivity curves that searches on the same target share: another budget measures nothing."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rl_compress import __version__
from rl_compress.errors import CorruptFileError
from rl_compress.evaluation.evaluator import EvaluationConfig
from rl_compress.model.nested import tensors_in
from rl_compress.registry import COSTS
from rl_compress.searchers.preparation import Subject
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.targets.cache import cache_dir, write_whole
from rl_compress.targets.factory import TargetConfig
from rl_compress.targets.fingerprint import add_tensor, source_files

logger = logging.getLogger(__name__)


def shared_path(
    subject: Subject,
    target: TargetConfig,
    evaluation: EvaluationConfig,
    score: str,
    score_options: Mapping[str, Any],
    count: int,
) -> Path:
    """Return where the cache keeps the curves of a search, named by all that decides them.

    Args:
        subject: The prepared target.
        target: Its section of the job.
        evaluation: How variants are repaired.
        score: Name of the score.
        score_options: Its options.
        count: Measurements per dimension.
    """
    key = measurement_key(subject, target, evaluation, score, score_options)
    name = hashlib.sha256(f"{key} {count}".encode()).hexdigest()[:32]
    return cache_dir() / "sensitivity" / f"{name}.parquet"


def measurement_key(
    subject: Subject,
    target: TargetConfig,
    evaluation: EvaluationConfig,
    score: str,
    score_options: Mapping[str, Any],
    *,
    latencies: bytes = b"",
) -> str:
    """Return a digest of all that decides what is found when a variant is measured.

    That is the weights as they are ordered, modules, the space, how variants are repaired and
    scored, the target's options, a batch of its calibration and search splits, and the source files
    that define target, model and the user's own parts (which are edited without changing a job).
    Budget, weights of the reward, algorithm and seed decide which variants are measured, not what
    is found.

    Args:
        subject: The prepared target.
        target: Its section of the job.
        evaluation: How variants are repaired.
        score: Name of the score.
        score_options: Its options.
        latencies: What they come from, where they are part of what is found.
    """
    compressor = subject.compressor
    digest = hashlib.sha256()
    # What was measured before there was a choice was measured in float32.
    without = {"timeout_s"} | ({"precision"} if evaluation.precision == "float32" else set())
    described = {
        "version": __version__,
        "target": target.model_dump(mode="json"),
        "space": compressor.config.model_dump(mode="json"),
        "dimensions": [
            (own.site, own.decides, own.full, own.amounts) for own in compressor.space.dimensions
        ],
        "modules": [
            (name, type(module).__qualname__) for name, module in subject.model.named_modules()
        ],
        "shrinkage": compressor.network.shrinkage,
        "evaluation": evaluation.model_dump(mode="json", exclude=without),
        "score": score,
        "score_options": dict(score_options),
    }
    # What is shared holds the costs too.
    own_costs = [cost for cost in compressor.costs.original if cost not in COSTS.built_in]
    if own_costs:
        described["costs"] = own_costs
    digest.update(json.dumps(described, sort_keys=True, default=str).encode() + latencies)
    for name, tensor in sorted(compressor.network.tensors.items()):
        digest.update(name.encode())
        add_tensor(digest, tensor)
    for split in ("calibration", "search"):
        for tensor in tensors_in(next(iter(subject.target.batches(split)))):
            add_tensor(digest, tensor)
    quantization = compressor.config.quantization
    parts = [score, quantization.quantizer, quantization.activation_quantizer, *own_costs]
    for path in source_files([target.factory, *parts], subject.target, subject.model):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def load_shared(path: Path) -> SensitivityCurves | None:
    """Return curves of the cache; None where there are none, or none that can be read."""
    if not path.exists():
        return None
    try:
        return SensitivityCurves.load(path)
    except CorruptFileError as error:
        logger.warning("%s", error)
        return None


def keep_shared(path: Path, measured: Path) -> None:
    """Copy the file of curves into the cache, if that can be written to."""
    try:
        write_whole(path, measured.read_bytes())
    except OSError as error:
        logger.warning(
            "cannot keep the sensitivities in %s (%s); set RL_COMPRESS_CACHE to a folder that can "
            "be written to, or the next search measures them again",
            path.parent,
            error,
        )
