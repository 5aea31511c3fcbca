"""Contribution pruning: units that the loss would not miss fade out, and may come back.

Every unit j (a weight, a block, a channel) has a keep-ratio rho_j, at first 1, that its weights are
multiplied by. In each iteration t

    c_j(t)  = L(rho with rho_j = 0) - L(rho)            what the loss would miss
    C_j     = mean of c_j(0) … c_j(t)                   the cumulative contribution
    rho_j  <- 1                 if C_j > threshold      kept, or restored
              rho_j alpha(t)    otherwise

and at the end units are cut whose largest ``|rho_j w|`` is below epsilon. This is the method of the
article that the project grew from.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rl_compress.errors import UnsupportedLayerError
from rl_compress.importance.contribution_config import ContributionConfig
from rl_compress.importance.units import Units
from rl_compress.model.axes import named_tensors
from rl_compress.model.nested import joined, mapped, num_samples
from rl_compress.targets.batches import Batch, moved
from rl_compress.targets.state import forward_with
from rl_compress.targets.target import Target, device_of

Array = npt.NDArray[np.float64]
Train = Callable[[nn.Module, dict[str, Tensor]], None]
"""``train(model, multipliers)``: some training steps with the keep-ratios in force, in place."""
Keep = Callable[[Array], npt.NDArray[np.bool_]]
"""Says by the cumulative contributions of all units which of them stay."""

_TAYLOR_SAMPLES = 128
"""Samples whose gradients are taken one by one."""
_MOST_OUTPUTS = 4096
"""Numbers that a network may put out per sample, for their second derivatives to be affordable."""
_MOST_DIRECTIONS = 32
"""Directions of largest curvature that are followed, per sample."""


@dataclass(frozen=True, slots=True)
class ContributionResult:
    """What the iteration found."""

    units: Units
    contributions: Array
    """C after every iteration, shape ``(iterations, num_units)``."""
    ratios: Array
    """rho after every iteration, same shape."""
    losses: Array
    """The loss under the keep-ratios before every iteration, shape ``(iterations,)``."""
    kept: npt.NDArray[np.bool_]
    """Shape ``(num_units,)``."""
    model: nn.Module = field(repr=False)
    """The network as trained between the iterations; the one given where it was not."""

    def by_group(self) -> list[Array]:
        """Return the final contributions, group by group."""
        return self._split(self.contributions[-1])

    def ranking(self) -> list[Array]:
        """Return scores that rank what was kept by its contribution, and before all that was not.

        By group, each of shape ``(units of the group,)``.
        """
        final = self.contributions[-1]
        behind = np.ptp(final) + 1.0
        return self._split(np.where(self.kept, final, final - behind))

    def kept_fractions(self) -> Array:
        """Return which fraction of each group was kept, shape ``(groups,)``."""
        return np.array([part.mean() for part in self._split(self.kept.astype(np.float64))])

    def _split(self, values: Array) -> list[Array]:
        return np.split(values, np.cumsum(self.units.sizes)[:-1])


class Contributions:
    """Measures what the units of a network contribute."""

    def __init__(self, model: nn.Module, units: Units, target: Target, samples: int) -> None:
        """Fetch the data.

        Args:
            model: In evaluation mode; left as it is.
            units: What may be removed.
            target: Supplies the calibration split and the loss. Without a loss on labels the
                distillation loss against the network's own outputs takes its place.
            samples: Samples to use.
        """
        self.model = model
        self.units = units
        self._target = target
        count = -(-samples // target.batch_size)
        batch = joined(list(islice(target.batches("calibration"), count)))
        self._batch = moved(_some(batch, slice(samples)), device_of(model))
        with torch.no_grad():
            self._outputs = target.forward(model, self._batch)
        self._owners = units.owners()

    def loss(self, ratios: Tensor) -> float:
        """Return the loss under keep-ratios of shape ``(num_units,)``."""
        with torch.no_grad():
            return float(self._loss(self._scaled(ratios), slice(None)))

    def exact(self, ratios: Tensor) -> Array:
        """Leave every unit out in turn; returns c, shape ``(num_units,)``."""
        found = np.zeros(self.units.num_units)
        with torch.no_grad():
            scaled = self._scaled(ratios)
            complete = self._loss(scaled, slice(None))
            for unit, names in enumerate(self._owners):
                without = dict(scaled)
                for name in names:
                    removed = self.units.maps[name] == unit
                    without[name] = scaled[name].masked_fill(removed.to(scaled[name].device), 0.0)
                found[unit] = float(self._loss(without, slice(None)) - complete)
        return found

    def taylor(self, ratios: Tensor) -> Array:
        """Estimate c from first derivatives of the network, shape ``(num_units,)``.

        ``c_j ~ -rho_j g_j + rho_j^2 h_j / 2``. The first-order term alone, with g_j the mean
        derivative of the loss by rho_j (Molchanov et al., "Importance estimation for neural network
        pruning", CVPR 2019, equation 8), says little of a trained network, where it all but
        vanishes. The curvature h_j is the diagonal of the Gauss-Newton matrix, ``mean over samples
        of J_j' H J_j``, with J the derivatives of the outputs and H the loss's second derivatives
        by the outputs; for classifiers it is the Fisher information (Theis et al., "Faster gaze
        prediction with dense networks and Fisher pruning", 2018, section 3).
        """
        estimate = torch.zeros_like(ratios)
        count = min(num_samples(self._batch), _TAYLOR_SAMPLES)
        for sample in range(count):
            variable = ratios.clone().requires_grad_(True)
            chosen = slice(sample, sample + 1)
            one = _some(self._batch, chosen)
            outputs = forward_with(self._target, self.model, self._scaled(variable), one)
            detached = outputs.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self._loss_of(detached, chosen), detached)
            directions = torch.stack(
                [slope, *self._curvature_directions(detached.detach(), chosen)]
            )
            (derivatives,) = torch.autograd.grad(
                outputs, variable, directions, is_grads_batched=True
            )
            estimate += ratios.square() * derivatives[1:].square().sum(dim=0) / 2
            estimate -= ratios * derivatives[0]
        return (estimate / count).double().cpu().numpy()

    def _curvature_directions(self, outputs: Tensor, chosen: slice) -> list[Tensor]:
        """Return vectors v_k, in the outputs' shape, with ``H = sum_k v_k v_k'``, or some of it."""
        flat = outputs.reshape(-1)
        if flat.numel() > _MOST_OUTPUTS:
            raise UnsupportedLayerError(
                f"contribution.exact_units: contributions cannot be estimated with "
                f"{flat.numel():,d} outputs per sample (at most {_MOST_OUTPUTS:,d}); raise it, so "
                f"that they are measured exactly"
            )

        def loss(values: Tensor) -> Tensor:
            return self._loss_of(values.reshape(outputs.shape), chosen)

        values, vectors = torch.linalg.eigh(torch.autograd.functional.hessian(loss, flat))
        largest = values.argsort(descending=True)[:_MOST_DIRECTIONS]
        scaled = vectors[:, largest] * values[largest].clamp_min(0.0).sqrt()
        return list(scaled.T.reshape(-1, *outputs.shape))

    def measure(self, ratios: Tensor, exact_units: int) -> Array:
        """Measure exactly up to a number of units, and estimate beyond it."""
        return self.exact(ratios) if self.units.num_units <= exact_units else self.taylor(ratios)

    def _scaled(self, ratios: Tensor) -> dict[str, Tensor]:
        tensors = named_tensors(self.model)
        multipliers = self.units.multipliers(ratios)
        return {name: tensors[name].detach() * multipliers[name] for name in multipliers}

    def _loss(self, tensors: dict[str, Tensor], samples: slice) -> Tensor:
        batch = _some(self._batch, samples)
        outputs = forward_with(self._target, self.model, tensors, batch)
        return self._loss_of(outputs, samples)

    def _loss_of(self, outputs: Tensor, samples: slice) -> Tensor:
        labels = self._target.labels(_some(self._batch, samples))
        loss = self._target.loss(outputs, labels)
        if loss is None:
            return self._target.distillation_loss(outputs, self._outputs[samples], 1.0)
        return loss


def _some(batch: Batch, samples: slice) -> Batch:
    return mapped(lambda tensor: tensor[samples] if tensor.ndim else tensor, batch)


def contribution_pruning(
    model: nn.Module,
    units: Units,
    target: Target,
    config: ContributionConfig,
    *,
    keep: Keep | None = None,
    train: Train | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> ContributionResult:
    """Iterate until it is clear which units stay; see the module's text for the formulas.

    Args:
        model: In evaluation mode, on any device; left as it is.
        units: What may be removed.
        target: Supplies the calibration split and the loss.
        config: Factor, threshold, and how long.
        keep: Says which units stay in the place of the threshold; then all iterations are made.
        train: Trains a copy of the network between iterations, if ``finetune_steps`` says so.
        progress: Hears of iterations done, and of how many there are at most.
    """
    if train is not None and config.finetune_steps:
        model = copy.deepcopy(model)
    device = device_of(model)
    ratios = torch.ones(units.num_units, device=device)
    total = np.zeros(units.num_units)
    history_c, history_rho, losses = [], [], []
    unchanged, kept = 0, np.ones(units.num_units, dtype=bool)
    for iteration in range(config.iterations):
        measured = Contributions(model, units, target, config.samples)
        losses.append(measured.loss(ratios))
        total += measured.measure(ratios, config.exact_units)
        mean = total / (iteration + 1)
        before, kept = kept, mean > config.threshold if keep is None else keep(mean)
        staying = torch.from_numpy(kept).to(device)
        ratios = torch.where(staying, 1.0, ratios * config.alpha_at(iteration))
        history_c.append(mean)
        history_rho.append(ratios.double().cpu().numpy())
        progress(iteration + 1, config.iterations)
        unchanged = unchanged + 1 if (kept == before).all() else 0
        faded = _survivors(model, units, ratios, config.epsilon)[~kept]
        if keep is None and unchanged >= config.patience and not faded.any():
            break
        if train is not None and config.finetune_steps:
            train(model, units.multipliers(ratios))
    return ContributionResult(
        units=units,
        contributions=np.array(history_c),
        ratios=np.array(history_rho),
        losses=np.array(losses),
        kept=_survivors(model, units, ratios, config.epsilon),
        model=model,
    )


def _survivors(
    model: nn.Module, units: Units, ratios: Tensor, epsilon: float
) -> npt.NDArray[np.bool_]:
    """Say of which units the largest weight, times its keep-ratio, reaches epsilon."""
    remaining = units.largest(named_tensors(model)) * ratios.cpu()
    return (remaining >= epsilon).numpy()
