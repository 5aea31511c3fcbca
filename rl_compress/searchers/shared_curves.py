"""Sensitivity curves that searches on the same target share: another budget measures nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

from torch import nn

from rl_compress import __version__
from rl_compress.errors import CorruptFileError
from rl_compress.evaluation.evaluator import Evaluator
from rl_compress.evaluation.shared import SharedEvaluator
from rl_compress.model.nested import tensors_in
from rl_compress.searchers.problem import Problem
from rl_compress.searchers.score_log import ScoreLog
from rl_compress.searchers.sensitivity import SensitivityCurves, measure_sensitivity
from rl_compress.space.search_space import Levels, SearchSpace
from rl_compress.targets.cache import cache_dir, write_whole
from rl_compress.targets.fingerprint import add_tensor, source_files
from rl_compress.targets.target import Target

logger = logging.getLogger(__name__)


def shared_path(problem: Problem, target: Target, model: nn.Module, count: int) -> Path:
    """Return where the cache keeps the curves of a search, named by all that decides them.

    Args:
        problem: What is searched.
        target: The target as it was made.
        model: The uncompressed model.
        count: Measurements per dimension.
    """
    exact = dataclasses.replace(problem, evaluation=problem.evaluation.in_float32())
    key = measurement_key(exact, target, model)
    name = hashlib.sha256(f"{key} {count}".encode()).hexdigest()[:32]
    return cache_dir() / "sensitivity" / f"{name}.parquet"


def measurement_key(
    problem: Problem, target: Target, model: nn.Module, *, latencies: bytes = b""
) -> str:
    """Return a digest of all that decides what is found when a variant is measured.

    That is the weights as they are ordered, modules, the space, how variants are repaired and
    scored, the target's options, a batch of its calibration and search splits, and the source files
    that define target, model and the user's own parts (which are edited without changing a job).
    Budget, weights of the reward, algorithm and seed decide which variants are measured, not what
    is found.

    Args:
        problem: What is searched.
        target: The target as it was made.
        model: The uncompressed model.
        latencies: What they come from, where they are part of what is found.
    """
    compressor, evaluation, objective = problem.compressor, problem.evaluation, problem.objective
    digest = hashlib.sha256()
    # What was measured before there was a choice was measured in float32.
    without = {"timeout_s"} | ({"precision"} if evaluation.precision == "float32" else set())
    described = {
        "version": __version__,
        "target": problem.target.model_dump(mode="json"),
        "space": compressor.config.model_dump(mode="json"),
        "dimensions": [
            (own.site, own.decides, own.full, own.amounts) for own in compressor.space.dimensions
        ],
        "modules": [(name, type(module).__qualname__) for name, module in model.named_modules()],
        "shrinkage": getattr(compressor.network, "shrinkage", 0.0),
        "evaluation": evaluation.model_dump(mode="json", exclude=without),
        "score": objective.score,
        "score_options": dict(objective.options_of_score),
    }
    digest.update(json.dumps(described, sort_keys=True, default=str).encode() + latencies)
    for name, tensor in sorted(compressor.network.tensors.items()):
        digest.update(name.encode())
        add_tensor(digest, tensor)
    for split in ("calibration", "search"):
        for tensor in tensors_in(next(iter(target.batches(split)))):
            add_tensor(digest, tensor)
    quantization = compressor.config.quantization
    parts = [objective.score, quantization.quantizer, quantization.activation_quantizer]
    for path in source_files([problem.target.factory, *parts], target, model):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def find_curves(
    path: Path,
    shared: Path,
    space: SearchSpace,
    evaluator: Evaluator | SharedEvaluator,
    count: int,
    *,
    advance: Callable[[int, int], None] = lambda _done, _total: None,
    say: Callable[[str], None] = lambda _line: None,
) -> SensitivityCurves:
    """Return the sensitivity curves, measured only if no search on the same target has.

    Curves with failures, which may not fail again, are kept in the run alone.

    Args:
        path: Their file in the run.
        shared: Their file in the cache, see :func:`shared_path`.
        space: The dimensions.
        evaluator: Measures in float32: the loss of a single layer can be as small as the rounding
            of bfloat16.
        count: Measurements per dimension.
        advance: Hears of the measurements done, and their number.
        say: Hears of curves that are taken from the cache.
    """
    if path.exists():
        return SensitivityCurves.load(path)
    if (curves := load_shared(shared)) is not None:
        say(f"sensitivities reused from {shared} (remove it to measure them again)")
        curves.save(path)
        return curves
    failed = False

    def measure(levels: Levels) -> float | None:
        nonlocal failed
        score = log(levels)
        failed = failed or score is None
        return score

    log = ScoreLog(path.with_suffix(".jsonl"), space, lambda levels: score_of(evaluator, levels))
    curves = measure_sensitivity(space, measure, count, advance)
    curves.save(path)
    log.close()
    if not failed:
        keep_shared(shared, path)
    return curves


def score_of(evaluator: Evaluator | SharedEvaluator, levels: Levels) -> float | None:
    """Return a variant's score; None, with a warning, if it cannot be evaluated."""
    try:
        return evaluator.evaluate(levels).score
    except Exception as error:
        logger.warning("a variant could not be evaluated (%s: %s)", type(error).__name__, error)
        return None


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
