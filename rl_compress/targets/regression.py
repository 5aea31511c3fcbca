"""The `regression` target: the source article's own example, a linear relation to be found.

Samples are drawn by scikit-learn's ``make_regression``: normal features, of which some have a
coefficient and the others have none, and normal noise on the values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.datasets import make_regression
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from rl_compress.errors import TargetError
from rl_compress.targets.options import choose, require_whole_numbers
from rl_compress.targets.splits import disjoint_splits
from rl_compress.targets.target import Target, device_of

_SIZES = {"train": 0.5, "calibration": 0.15, "search": 0.15, "test": 0.2}
_HIDDEN = 32
_EPOCHS = 200
_LEARNING_RATE = 1e-2


class RegressionTarget(Target):
    """One value from many features, scored by the coefficient of determination R^2."""

    score_name = "r2"

    def __init__(
        self, *, features: int, informative: int, samples: int, noise: float, model: str, seed: int
    ) -> None:
        """Draw the data; see :func:`regression`."""
        inputs, values, coefficients = make_regression(
            n_samples=samples,
            n_features=features,
            n_informative=informative,
            noise=noise,
            coef=True,
            random_state=seed,
        )
        # Targets of unit variance, so that losses and thresholds mean the same for every seed.
        values = values / values.std()
        self.informative_features = np.flatnonzero(np.atleast_1d(coefficients)).tolist()
        """Indices of the features that have a coefficient."""
        self._splits = disjoint_splits(
            torch.tensor(inputs, dtype=torch.float32),
            torch.tensor(values, dtype=torch.float32),
            _SIZES,
            seed=seed,
        )
        self._features, self._model, self._seed = features, model, seed

    def architecture(self) -> nn.Module:
        """Return the untrained model: a linear layer, or three with ReLUs in between."""
        if self._model == "linear":
            return nn.Sequential(nn.Linear(self._features, 1))
        return nn.Sequential(
            nn.Linear(self._features, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, 1),
        )

    def build(self) -> nn.Module:
        """Return the trained model: the least squares solution, or a network trained by Adam."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            model = self.architecture()
            inputs, values = self._tensors("train")
            if self._model == "linear":
                _solve(model[0], inputs, values)  # type: ignore[index]
            else:
                _train(model, inputs, values)
        return model.eval()

    def split(self, name: str) -> Dataset[Any]:
        """Return one of the four splits."""
        return self._splits[name]

    def score(self, model: nn.Module, split: str) -> float:
        """Return R^2: one minus the squared error relative to the variance; at most 1."""
        _, values = self._tensors(split)
        return 1.0 - self.mse(model, split) / float(values.double().var(correction=0))

    def mse(self, model: nn.Module, split: str) -> float:
        """Return the mean squared error, in units of the values' variance."""
        inputs, values = self._tensors(split)
        device = device_of(model)
        with torch.no_grad():
            found = model(inputs.to(device)).squeeze(-1).cpu()
        return float((found.double() - values.double()).square().mean())

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean squared error."""
        return nn.functional.mse_loss(outputs.squeeze(-1), labels)

    def _tensors(self, split: str) -> tuple[Tensor, Tensor]:
        dataset = self.split(split)
        assert isinstance(dataset, TensorDataset)
        inputs, values = dataset.tensors
        return inputs, values


def regression(
    features: int = 64,
    informative: int | None = None,
    samples: int = 1000,
    noise: float = 1.0,
    model: str = "linear",
    seed: int = 0,
) -> RegressionTarget:
    """Make the regression target.

    Args:
        features: Number of features.
        informative: How many of them have a coefficient; by default 8, or all if there are fewer.
        samples: Number of samples.
        noise: Standard deviation of the noise; coefficients are drawn from 0 to 100.
        model: ``linear`` (fitted by least squares) or ``mlp`` (two hidden layers).
        seed: Of the data, the splits and the initial weights.

    Raises:
        TargetError: An option has a wrong value.
    """
    informative = min(8, features) if informative is None else informative
    require_whole_numbers(at_least=1, features=features, informative=informative)
    require_whole_numbers(at_least=20, samples=samples)
    require_whole_numbers(at_least=0, seed=seed)
    choose("model", model, {"linear": None, "mlp": None})
    if informative > features:
        raise TargetError(
            f"target.options.informative: must be at most features ({features}), "
            f"but got {informative}"
        )
    if isinstance(noise, bool) or not isinstance(noise, int | float) or not 0 <= noise < np.inf:
        raise TargetError(f"target.options.noise: must be a number from 0 on, but got {noise!r}")
    return RegressionTarget(
        features=features,
        informative=informative,
        samples=samples,
        noise=float(noise),
        model=model,
        seed=seed,
    )


def _solve(layer: nn.Linear, inputs: Tensor, values: Tensor) -> None:
    ones = torch.ones(len(inputs), 1, dtype=torch.float64)
    design = torch.cat([inputs.double(), ones], dim=1)
    solution = torch.linalg.lstsq(design, values.double()[:, None]).solution[:, 0].float()
    with torch.no_grad():
        layer.weight.copy_(solution[None, :-1])
        layer.bias.copy_(solution[-1:])


def _train(model: nn.Module, inputs: Tensor, values: Tensor) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), _LEARNING_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _EPOCHS)
    for _ in range(_EPOCHS):
        loss = nn.functional.mse_loss(model(inputs).squeeze(-1), values)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
