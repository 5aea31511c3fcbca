"""The env as RLlib's env runners build it: a replica of the target with an evaluator of its own."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import ray

from rl_compress.evaluation.candidates import CandidateEvaluator
from rl_compress.evaluation.evaluator import Evaluator
from rl_compress.evaluation.shared import SharedEvaluator
from rl_compress.search.env import CompressionEnv, Problem
from rl_compress.search.mask_env import MaskEnv
from rl_compress.search.rllib.coordinator import NAMESPACE, RemoteLedger, WorkerKit
from rl_compress.search.rllib.weights import map_weights
from rl_compress.targets.factory import make_target

if TYPE_CHECKING:
    from ray.rllib.env.env_context import EnvContext


class WorkerEnv(CompressionEnv):
    """A compression env that finds its run's coordinator by name.

    ``env_config`` holds the coordinator's name only, so that a checkpoint can be restored in
    another cluster.
    """

    def __init__(self, config: EnvContext) -> None:
        """Build, or take from this process's cache, everything that the name stands for."""
        coordinator = ray.get_actor(config["coordinator"], namespace=NAMESPACE)
        super().__init__(*_equip(config), lambda: ray.get(coordinator.published.remote()))


class MaskWorkerEnv(MaskEnv):
    """The same for masks; ``env_config`` holds the number of steps besides."""

    def __init__(self, config: EnvContext) -> None:
        """Build, or take from this process's cache, everything that the name stands for."""
        super().__init__(*_equip(config), steps=config["steps"])


def _equip(config: EnvContext) -> tuple[Problem, CandidateEvaluator]:
    """Return the run's problem, and an evaluator that asks its coordinator."""
    coordinator = ray.get_actor(config["coordinator"], namespace=NAMESPACE)
    kit, problem, evaluator = _equipment(config["coordinator"])
    space, sharing = problem.compressor.space, kit.sharing
    evaluate = CandidateEvaluator(
        evaluator
        if sharing is None
        else SharedEvaluator(evaluator, space, sharing, config.worker_index),
        RemoteLedger(coordinator),
        space,
        kit.reward,
        kit.identity,
        worker=config.worker_index,
    )
    return problem, evaluate


@functools.lru_cache(maxsize=1)
def _equipment(coordinator_name: str) -> tuple[WorkerKit, Problem, Evaluator]:
    """Map the weights and build the evaluator, once per process."""
    coordinator: Any = ray.get_actor(coordinator_name, namespace=NAMESPACE)
    kit: WorkerKit = ray.get(coordinator.kit.remote())

    def fetch() -> bytes:
        (reference,) = ray.get(coordinator.weights.remote())
        return ray.get(reference)

    compressor = kit.problem.compressor.with_tensors(map_weights(kit.weights, fetch))
    problem = dataclasses.replace(kit.problem, compressor=compressor)
    evaluator = Evaluator(
        make_target(kit.target),
        compressor,
        kit.score,
        kit.evaluation,
        latency=kit.latency,
        robustness=kit.robustness,
    )
    return kit, problem, evaluator
