"""The env as RLlib's env runners build it: a replica of the target with an evaluator of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import ray
import torch
from ray.rllib.callbacks.callbacks import RLlibCallback
from safetensors.torch import load_file

from rl_compress.agent.env import CompressionEnv
from rl_compress.agent.mask_env import MaskEnv
from rl_compress.agent.rllib.coordinator import NAMESPACE, RemoteLedger, answer
from rl_compress.agent.rllib.lease import Holder
from rl_compress.agent.rllib.publication import News
from rl_compress.agent.rllib.weights import local_weights
from rl_compress.agent.task import Task
from rl_compress.errors import RLCompressError, SearchStalledError
from rl_compress.evaluation.candidates import CandidateEvaluator
from rl_compress.evaluation.evaluator import Evaluator
from rl_compress.evaluation.shared import SharedEvaluator
from rl_compress.searchers.known import Known
from rl_compress.targets.factory import lend_factory, make_target

if TYPE_CHECKING:
    from ray.rllib.env.env_context import EnvContext

logger = logging.getLogger(__name__)


class _Worker(gym.Env[Any, Any]):
    """What is common to the envs of env runners."""

    proposed: set[bytes]

    _ledger: RemoteLedger
    _renewal: int | None = None

    def renew(self, seed: int) -> None:
        """Draw from another seed from the next episode on; so there is no generator to be saved."""
        self._renewal = seed

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        renewal, self._renewal = self._renewal, None
        if renewal is None:
            return super().reset(seed=seed, options=options)
        torch.manual_seed(renewal)  # actions are drawn in this process, too
        proposed = self.proposed
        begun = super().reset(seed=renewal, options=options)
        self.proposed |= proposed
        return begun

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step; if it fails, end the search with the reason.

        RLlib makes a new env after an error and tries again, without end and without a word.
        """
        try:
            return super().step(action)
        except Exception as error:
            if _is_the_clusters(error):
                raise
            error = _told(error)
            self._ledger.give_up(error)
            space = self.observation_space
            nothing = np.zeros(space.shape or (), dtype=space.dtype)
            return nothing, 0.0, True, False, {"error": str(error)}

    def end_sample(self) -> list[ray.ObjectRef]:
        """Return what is there once the sample's records are stored; nobody learns before."""
        return self._ledger.handed_in()


@contextlib.contextmanager
def _starting(config: EnvContext) -> Iterator[None]:
    """Tell the coordinator that a worker starts, and how that ends.

    RLlib starts one that fails anew, again and again, and tells nobody why.
    """
    coordinator = ray.get_actor(config["coordinator"], namespace=NAMESPACE)
    if reason := answer(coordinator.begin.remote(config.worker_index, Holder.this_actor())):
        raise reason
    try:
        yield
    except Exception as error:
        if not _is_the_clusters(error):
            answer(coordinator.give_up.remote(_told(error)))
        raise
    answer(coordinator.equipped.remote(config.worker_index))


def _told(error: Exception) -> RLCompressError:
    """Return an error of an env runner as the user is to read it."""
    if isinstance(error, RLCompressError):
        return error
    logger.error("an env runner failed", exc_info=error)
    told = f"search: an env runner failed ({type(error).__name__}: {error})"
    return SearchStalledError(f"{told}; what was evaluated is stored")


def _is_the_clusters(error: Exception) -> bool:
    """Say whether an error comes of a process or node that died, which will be replaced."""
    exceptions = ray.exceptions
    return isinstance(error, exceptions.RayError) and not isinstance(error, exceptions.RayTaskError)


class WorkerEnv(_Worker, CompressionEnv):
    """A compression env that finds its run's coordinator by name.

    ``env_config`` holds the coordinator's name only, so that a checkpoint can be restored in
    another cluster.
    """

    def __init__(self, config: EnvContext) -> None:
        """Build, or take from this process's cache, everything that the name stands for."""
        with _starting(config):
            task, evaluate, self._ledger = _equip(config)
            self._published = _Published(config["coordinator"])
            super().__init__(task, evaluate, self._published)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin a candidate, and ask what is known; the answer is needed when it is decided."""
        self._published.ask()
        return super().reset(seed=seed, options=options)

    def begin_sample(self, batches: int) -> None:
        """Let the next sample decide in the knowledge of so many batches, once it is published."""
        self._published.batches = batches

    def end_sample(self) -> list[ray.ObjectRef]:
        """Let go of what was known, too."""
        self._published.forget()
        return super().end_sample()


class MaskWorkerEnv(_Worker, MaskEnv):
    """The same for masks; ``env_config`` holds the number of steps besides."""

    def __init__(self, config: EnvContext) -> None:
        """Build, or take from this process's cache, everything that the name stands for."""
        with _starting(config):
            task, evaluate, self._ledger = _equip(config)
            super().__init__(task, evaluate, steps=config["steps"])


class SampleEnd(RLlibCallback):
    """Waits until a sample's records are stored, before the env runner hands it on."""

    def on_sample_end(self, *, env_runner: Any, **_others: Any) -> None:
        """See RLlib."""
        for env in env_runner.env.unwrapped.envs:
            if isinstance(env.unwrapped, _Worker):
                answer(env.unwrapped.end_sample())


class _Published:
    """The records that the coordinator let out, whose news are fetched once for each sample."""

    def __init__(self, coordinator_name: str) -> None:
        self._coordinator: Any = ray.get_actor(coordinator_name, namespace=NAMESPACE)
        self._asked: ray.ObjectRef | None = None
        self._heard = False
        self._known, self._size, self._order = Known(), 0, ""
        self.batches = 0

    def ask(self) -> None:
        if self._asked is None:
            basis = self._known.basis
            learned = 0 if basis is None else basis.size
            self._asked = self._coordinator.published.remote(
                self.batches, self._size, self._order, learned
            )
            self._heard = False

    def __call__(self) -> Known:
        """Return what is known; what is added to it is forgotten when this is called again."""
        self.ask()
        self._known.cut(self._size)
        if not self._heard:
            news: News = ray.get(self._asked)
            self._heard, self._order = True, news.order
            if not news.after:
                self._known = Known()
            if len(news.levels):
                self._known.add(news.levels, news.rewards)
            self._known.basis = news.basis or self._known.basis
            self._size = len(self._known)
        return self._known

    def forget(self) -> None:
        self._asked = None


def _equip(config: EnvContext) -> tuple[Task, CandidateEvaluator, RemoteLedger]:
    """Return the agent's task, an evaluator that asks its coordinator, and how it does that."""
    coordinator = ray.get_actor(config["coordinator"], namespace=NAMESPACE)
    task, evaluator = _equipment(config["coordinator"])
    space, sharing, ledger = task.problem.space, task.sharing, RemoteLedger(coordinator)
    evaluate = CandidateEvaluator(
        evaluator
        if sharing is None
        else SharedEvaluator(evaluator, space, sharing, config.worker_index),
        ledger,
        space,
        task.reward,
        task.problem.identity,
        worker=config.worker_index,
        build_ahead=evaluator.build_ahead,
    )
    return task, evaluate, ledger


@functools.lru_cache(maxsize=1)
def _equipment(coordinator_name: str) -> tuple[Task, Evaluator]:
    """Map the weights and build the evaluator, once per process."""
    coordinator: Any = ray.get_actor(coordinator_name, namespace=NAMESPACE)
    task: Task = answer(coordinator.task.remote())
    lend_factory(task.problem.target.factory, task.factory)

    def fetch() -> bytes:
        (reference,) = answer(coordinator.weights.remote())
        return ray.get(reference)

    weights = local_weights(task.weights, fetch)
    compressor = task.problem.compressor.with_tensors(load_file(weights), weights.with_suffix(""))
    problem = dataclasses.replace(task.problem, compressor=compressor)
    evaluator = problem.evaluator(make_target(problem.target))
    return dataclasses.replace(task, problem=problem), evaluator
