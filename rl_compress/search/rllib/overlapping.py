"""PPO whose env runners evaluate while its learner learns."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from ray.rllib.algorithms.ppo import PPO
from ray.rllib.core import ALL_MODULES
from ray.rllib.execution.rollout_ops import synchronous_parallel_sample
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    SYNCH_WORKER_WEIGHTS_TIMER,
    TIMERS,
)

_MOST_UPDATES = 4


class OverlappingPPO(PPO):
    """Learns from one batch of episodes while the next is played.

    RLlib's own PPO lets all env runners wait for each update, a tenth of a second in which none of
    them evaluates. Here an update is on the episodes of the step before, so they are played by a
    policy that is one update older. The clipped ratio is taken to the probabilities with which
    actions were drawn, as ever, and bounds how far an update goes (asynchronous learning with such
    a lag: Noukhovitch et al., "Asynchronous RLHF", ICLR 2025).

    Between two updates nothing is played, so that the same seed gives the same search.
    """

    goes_on: Callable[[], bool] = staticmethod(lambda: False)
    """Asked after an update whether one more belongs to the same training step.

    What RLlib does after each training step takes as long as several updates' overhead."""

    _episodes: Any = None
    """What the next update learns from; None before the first."""

    def training_step(self) -> None:
        """Play batches, a few at most."""
        with ThreadPoolExecutor(1, "beside") as beside:
            for _ in range(_MOST_UPDATES):
                modules = self._update(beside)
                going_on = beside.submit(self.goes_on)
                self._pass_on(modules)
                if not going_on.result() or not self._episodes:
                    break

    def _update(self, beside: Executor) -> set[str]:
        """Play a batch and learn from the one before at the same time.

        Returns:
            The names of the networks that changed.
        """
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            sampling = beside.submit(self._play)
            modules = self._learn() if self._episodes else set()
            self._episodes, played = sampling.result()
        if self._episodes:
            self.metrics.aggregate(played, key=ENV_RUNNER_RESULTS)
        return modules

    def _pass_on(self, modules: set[str]) -> None:
        if modules:
            with self.metrics.log_time((TIMERS, SYNCH_WORKER_WEIGHTS_TIMER)):
                self.env_runner_group.sync_weights(
                    from_worker_or_learner_group=self.learner_group,
                    policies=modules,
                    inference_only=True,
                )

    def _play(self) -> tuple[Any, Any]:
        return synchronous_parallel_sample(
            worker_set=self.env_runner_group,
            max_env_steps=self.config.total_train_batch_size,
            sample_timeout_s=self.config.sample_timeout_s,
            _uses_new_env_runners=True,
            _return_metrics=True,
        )

    def _learn(self) -> set[str]:
        """Update the networks; return the names of those that changed."""
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            steps = self.metrics.peek((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME))
            results = self.learner_group.update(
                episodes=self._episodes,
                timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: steps},
                num_epochs=self.config.num_epochs,
                minibatch_size=self.config.minibatch_size,
                shuffle_batch_per_epoch=self.config.shuffle_batch_per_epoch,
            )
            self.metrics.aggregate(results, key=LEARNER_RESULTS)
        return set(results[0]) - {ALL_MODULES}
