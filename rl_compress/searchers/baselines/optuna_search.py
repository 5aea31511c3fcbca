"""Black-box optimisers of Optuna: TPE and CMA-ES."""

from __future__ import annotations

import math
import warnings
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

from rl_compress.errors import ConfigError
from rl_compress.searchers.baselines.baseline import Keep
from rl_compress.space.search_space import SearchSpace

Sampler = Literal["tpe", "cmaes"]

_PACKAGES = {"tpe": ("optuna",), "cmaes": ("optuna", "cmaes")}


class OptunaSearch:
    """A study with one real parameter for each dimension, the fraction kept."""

    fill = True

    def __init__(self, name: Sampler, space: SearchSpace, seed: int) -> None:
        """Create the study.

        Args:
            name: ``tpe``: the multivariate tree-structured Parzen estimator (Bergstra et al., 2011;
                Falkner et al., 2018); ``cmaes``: covariance matrix adaptation (Hansen, 2016).
            space: Allowed levels.
            seed: Of the sampler.

        Raises:
            ConfigError: Optuna is not installed.
        """
        if any(find_spec(package) is None for package in _PACKAGES[name]):
            raise ConfigError(
                f"search.algorithm: {name} needs Optuna; pip install 'rl-compress[optuna]'"
            )
        import optuna

        self._optuna = optuna
        lowest = space.smallest_widths / space.num_units
        self._parameters: dict[str, Any] = {
            group.label: optuna.distributions.FloatDistribution(float(low), 1.0)
            for group, low in zip(space.groups, lowest, strict=True)
        }
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(
                direction="maximize", sampler=_sampler(optuna, name, seed)
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


def _sampler(optuna: Any, name: Sampler, seed: int) -> Any:
    if name == "tpe":
        return optuna.samplers.TPESampler(multivariate=True, seed=seed)
    return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
