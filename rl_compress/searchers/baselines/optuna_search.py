"""Black-box optimisers of Optuna: TPE and CMA-ES."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np

from rl_compress.errors import ConfigError
from rl_compress.registry import SEARCHERS
from rl_compress.searchers.problem import Problem
from rl_compress.searchers.searcher import Keep, Searcher


class OptunaSearch(Searcher):
    """A study with one real parameter for each dimension, the fraction kept."""

    packages: ClassVar[tuple[str, ...]] = ("optuna",)

    def __init__(self, problem: Problem, config: Any = None) -> None:
        """Create the study.

        Raises:
            ConfigError: Optuna is not installed.
        """
        super().__init__(problem, config)
        if any(find_spec(package) is None for package in self.packages):
            raise ConfigError(
                f"search.algorithm: {SEARCHERS.name_of(type(self))} needs Optuna; "
                f"pip install 'rl-compress[optuna]'"
            )
        import optuna

        self._optuna = optuna
        space = problem.space
        lowest = space.kept(space.smallest)
        self._parameters: dict[str, Any] = {
            own.label: optuna.distributions.FloatDistribution(float(low), 1.0)
            for own, low in zip(space.dimensions, lowest, strict=True)
        }
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(
                direction="maximize", sampler=self._sampler(optuna, problem.seed)
            )
        optuna.logging.set_verbosity(verbosity)
        self._trial: Any = None

    def ask(self) -> Keep:
        """Return what the sampler proposes."""
        self._trial = self._study.ask(self._parameters)
        return np.array([self._trial.params[name] for name in self._parameters])

    def tell(self, keep: Keep, reward: float) -> None:
        """Tell the study; a variant that cannot be evaluated counts as failed.

        The reward is that of what was asked for, not of what the projection made of it: CMA-ES
        adapts to its own samples, and on synthetic losses TPE found better vectors so, too.
        """
        state = self._optuna.trial.TrialState
        if not math.isfinite(reward):
            self._study.tell(self._trial, state=state.FAIL)
        else:
            self._study.tell(self._trial, reward)

    @abstractmethod
    def _sampler(self, optuna: Any, seed: int) -> Any:
        """Return what proposes."""


class TPE(OptunaSearch):
    """The multivariate tree-structured Parzen estimator (Bergstra et al., 2011; Falkner, 2018)."""

    def _sampler(self, optuna: Any, seed: int) -> Any:
        return optuna.samplers.TPESampler(multivariate=True, seed=seed)


class CMAES(OptunaSearch):
    """Covariance matrix adaptation (Hansen, 2016)."""

    packages = ("optuna", "cmaes")

    def _sampler(self, optuna: Any, seed: int) -> Any:
        return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
