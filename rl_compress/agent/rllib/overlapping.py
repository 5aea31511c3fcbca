"""PPO whose env runners evaluate while its learner learns, and while the driver takes stock."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.rllib.algorithms.ppo import PPO
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
    WEIGHTS_SEQ_NO,
)

from rl_compress.agent.rllib.coordinator import answer
from rl_compress.agent.rllib.worker_env import WorkerEnv

_MOST_UPDATES = 8
"""Updates in a training step. What RLlib does after each takes as long as several of them."""

_POLL_S = 1.0
"""How often it is asked who of those waited for still lives; answers are taken in at once."""


class OverlappingPPO(PPO):
    """Learns from one batch of episodes while the next is played.

    RLlib's own PPO lets all env runners wait for each update, a tenth of a second in which none of
    them evaluates. Here an update is on the episodes of the batch before, so they are played by a
    policy that is one update older. The clipped ratio is taken to the probabilities with which
    actions were drawn, as ever, and bounds how far an update goes (asynchronous learning with such
    a lag: Noukhovitch et al., "Asynchronous RLHF", ICLR 2025).

    A batch is asked for while the one before is played, and begins as soon as an env runner is
    done with that; only for what is known of others' variants it waits until all are. So the same
    seed gives the same search.
    """

    publish: Callable[[int], bool] = staticmethod(lambda _batches: False)
    """Lets env runners know what so many batches told; returns whether one more is to be played in
    the same training step, beside the one that is asked for already."""

    episodes: Any = None
    """What the next update learns from; None before the first."""
    collected = 0
    """Batches that were played."""
    pause = 0
    """Batches after which a training step ends, and so nothing is played; 0 for never."""
    _weights: ray.ObjectRef | None = None
    """The networks' after the last update; None before the first, when env runners have them."""
    _asked = 0
    """Batches."""

    def setup(self, config: Any) -> None:
        """See RLlib."""
        self._players: dict[int, set[int]] = {}
        super().setup(config)

    def resume(self, batches: int, episodes: Any) -> None:
        """Go on after so many batches, of which the last is to be learned from."""
        self._asked = self.collected = batches
        self.episodes = episodes
        self._hand_out()

    def training_step(self) -> None:
        """Play batches, a few at most."""
        self._ask()
        goes_on = True
        for left in reversed(range(_MOST_UPDATES)):
            if self.episodes:
                self._learn()
            pauses = self.pause and self._asked % self.pause == 0
            asks_ahead = goes_on and left > 0 and not pauses
            if asks_ahead:
                self._ask()
            goes_on = self._collect() and bool(self.episodes)
            if not asks_ahead:
                break

    def _ask(self) -> None:
        """Let every env runner play its share of a batch, once it is done with what it does."""
        group, batch = self.env_runner_group, self._asked
        self._players[batch] = set(group.healthy_env_runner_ids())
        group.foreach_env_runner_async(
            _play, tag=_tag(batch), kwargs={"batch": batch, "weights": self._weights}
        )
        self._asked += 1

    def _collect(self) -> bool:
        """Take in the oldest batch asked for, which is smaller if an env runner died.

        Returns:
            Whether one more is to be played.
        """
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            played = self._answers(self.collected)
            for share in played:
                # What nobody knows of, for its env runner died since, is stored or asked for again.
                with contextlib.suppress(ray.exceptions.ObjectLostError):
                    answer(share.stored)
        self.collected += 1
        # Env runners wait for this, and for nothing of what comes then.
        goes_on = self.publish(self.collected)
        self.episodes = [episode for share in played for episode in share.episodes]
        if self.episodes:
            self.metrics.aggregate([share.metrics for share in played], key=ENV_RUNNER_RESULTS)
        return goes_on

    def _answers(self, batch: int) -> list[_Played]:
        """Wait for the env runners that play a batch, as long as they live."""
        group, players = self.env_runner_group, self._players.pop(batch)
        answers: dict[int, _Played] = {}
        # A call to one that died may never be answered, as when no node is left for its successor.
        while players.intersection(group.healthy_env_runner_ids()) - answers.keys():
            found = group.fetch_ready_async_reqs(tags=_tag(batch), timeout_seconds=_POLL_S)
            answers.update(found)
        return [answers[runner] for runner in sorted(answers)]

    def _learn(self) -> None:
        """Update the networks."""
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            steps = self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME))
            results = self.learner_group.update(
                episodes=self.episodes,
                timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: steps},
                num_epochs=self.config.num_epochs,
                minibatch_size=self.config.minibatch_size,
                shuffle_batch_per_epoch=self.config.shuffle_batch_per_epoch,
            )
            self.metrics.aggregate(results, key=LEARNER_RESULTS)
        with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
            self._hand_out()

    def _hand_out(self) -> None:
        """Let env runners have the networks' weights, from the next batch asked for on."""
        networks = f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}"
        state = self.learner_group.get_state(components=networks, inference_only=True)
        of_learner = state[COMPONENT_LEARNER]
        self._weights = ray.put(
            {name: of_learner[name] for name in (COMPONENT_RL_MODULE, WEIGHTS_SEQ_NO)}
        )


@dataclass(frozen=True, slots=True)
class _Played:
    """An env runner's share of a batch."""

    episodes: list[Any]
    metrics: Any
    stored: list[ray.ObjectRef]
    """There once the batch's records are stored."""


def _tag(batch: int) -> str:
    return f"batch {batch}"


def _play(runner: Any, batch: int, weights: Any) -> _Played:
    """Play an env runner's share of a batch, in the knowledge of all batches before."""
    if weights is not None:
        runner.set_state(weights)
    envs: list[WorkerEnv] = [env.unwrapped for env in runner.env.unwrapped.envs]
    for env in envs:
        env.begin_sample(batch)
    episodes = runner.sample()
    stored = [reference for env in envs for reference in env.end_sample()]
    return _Played(episodes, runner.get_metrics(), stored)
