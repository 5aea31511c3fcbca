"""Preparation: from a job's sections to a checked target that is ready to be compressed."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rl_compress.costs.latency_ms import LatencyMs
from rl_compress.costs.latency_table import LatencyTable, find_latency_table
from rl_compress.errors import ConfigError
from rl_compress.evaluation.scores import find_score
from rl_compress.importance.contribution import Train
from rl_compress.importance.contribution_config import ContributionConfig
from rl_compress.model.axes import layer_of, named_tensors, quantizable_weights
from rl_compress.model.layers import is_weighted
from rl_compress.model.nested import Inputs
from rl_compress.quantizers.bits import Bits
from rl_compress.searchers.goals import Within
from rl_compress.space.budget import LATENCY, Budget
from rl_compress.space.patterns import check_patterns
from rl_compress.space.space_config import UNQUANTIZED, SpaceConfig
from rl_compress.targets.factory import TargetConfig, build_model, make_target
from rl_compress.targets.soundness import Soundness, check_outputs, score_splits
from rl_compress.targets.splits import check_splits
from rl_compress.targets.target import Target
from rl_compress.targets.user_code import user_code
from rl_compress.training.iterative import train_scaled
from rl_compress.variants.compressor import Compressor

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Subject:
    """A target that was found to be sound, and what can be done to it."""

    target: Target
    model: nn.Module
    """The uncompressed model, on the CPU."""
    example_inputs: Inputs
    compressor: Compressor
    budget: Budget
    others: tuple[Budget, ...] = ()
    """Further budgets that the agent is trained for."""
    latency_table: LatencyTable | None = None
    """What latencies are predicted from, where the budget bounds them."""
    soundness: Soundness | None = None
    """How the uncompressed model scores on some samples of each split."""

    @property
    def original_costs(self) -> dict[str, float]:
        """Costs of the uncompressed, unquantized target."""
        return self.compressor.costs.original

    @property
    def may_win(self) -> Within:
        """Tell which records may be the best of a search on it."""
        return Within(self.budget, self.compressor.space, self.compressor.costs)

    def describe_space(self) -> dict[str, Any]:
        """Return groups, costs and notes as plain data, for ``space.json``."""
        compressor = self.compressor
        full = compressor.space.full
        pruned = {own.site: i for i, own in enumerate(compressor.space.dimensions) if own.prunes}
        groups = []
        for group in compressor.groups:
            described: dict[str, Any] = {
                "name": group.name,
                "kind": group.kind,
                "units": group.num_units,
                "layers": list(group.layers),
                "prunable": group.prunable,
                "reason": group.reason,
                "widths": [],
                "weight_bits": _choices(compressor.bits.weights, group.producers),
                "activation_bits": _choices(compressor.bits.activations, group.producers),
                "macs": None,
                "params": None,
            }
            # With masks the space has single units instead of the model's groups.
            if group.prunable and group.name in pruned:
                index = pruned[group.name]
                described["widths"] = list(compressor.space.dimensions[index].amounts)
                described["macs"] = compressor.costs.macs_of(index, full)
                described["params"] = compressor.costs.params_of(index, full)
            groups.append(described)
        return {
            "groups": groups,
            "notes": compressor.notes,
            "costs": self.original_costs,
            "smallest_costs": compressor.costs.costs(compressor.space.smallest),
            "budget": self.budget.as_dict(),
        }


def _choices(plan: Mapping[str, Bits], layers: Sequence[str]) -> list[int]:
    """Return the bits that layers may take; none where they are not quantized."""
    choices = {bits for layer in layers if layer in plan for bits in plan[layer].choices}
    return [] if choices == {UNQUANTIZED} else sorted(choices)


def prepare(
    target_config: TargetConfig,
    space: SpaceConfig,
    budget: Mapping[str, float | str],
    *,
    others: Sequence[Mapping[str, float | str]] = (),
    contribution: ContributionConfig | None = None,
    latency_table: Path | None = None,
    latency_batch_size: int = 1,
    score: str = "fidelity",
    score_options: Mapping[str, Any] | None = None,
    own_costs: Mapping[str, str] | None = None,
    train: Callable[[nn.Module, Target], None] = lambda _model, _target: None,
) -> Subject:
    """Build and check everything that can be wrong before a search starts.

    Args:
        target_config: What to compress.
        space: What may be decided.
        budget: Upper bounds, as in a job file.
        others: Likewise for the other budgets that an agent is to be trained for.
        contribution: How contributions are measured, where they rank units.
        latency_table: File to predict latencies from, where the budget bounds them; by default
            the table of this machine in the cache.
        latency_batch_size: Samples in a forward pass that the budget bounds the latency of.
        score: Name of the objective's score.
        score_options: Its options.
        own_costs: Costs of the user's own to count, by name, with the job's key that names each.
        train: Trains the target's model, in place, before anything else is done with it.

    Raises:
        ConfigError: The target, its data, the space or the budget cannot be used; the message
            names the key and the remedy.
    """
    target = make_target(target_config)
    check_splits(target)
    find_score(score, target, score_options)
    model = build_model(target, target_config)
    check_layer_names(space, model)
    with user_code(f"example_inputs() of {type(target).__name__}"):
        example_inputs = target.inputs_for(model)
    check_outputs(target, model, example_inputs)
    table = None
    if any(LATENCY in spec for spec in (budget, *others)):
        # Before anything is trained: it is of the architecture, whatever the weights.
        table = _latency_table(model, example_inputs, space, latency_table, latency_batch_size)
    train(model, target)
    between: Train | None = None
    if contribution is not None and contribution.finetune_steps:
        between = functools.partial(train_scaled, teacher=model, target=target, config=contribution)
    compressor = Compressor.prepare(
        model, example_inputs, space, target=target, contribution=contribution, train=between
    )
    costs = compressor.costs
    if table is not None:
        costs.add(LATENCY, LatencyMs(table.predictor(model, compressor.network.groups)))
    for name, key in (own_costs or {}).items():
        costs.add_own(name, key)
    parsed = Budget.parse(budget, costs.original)
    parsed.check_feasible(compressor.space, costs, costs.original)
    if loose := parsed.loose(costs.original):
        logger.warning("%s", loose)
    further = []
    for number, spec in enumerate(others):
        try:
            further.append(Budget.parse(spec, costs.original))
            further[-1].check_feasible(compressor.space, costs, costs.original)
            if loose := further[-1].loose(costs.original):
                logger.warning("search.budgets[%d]: %s", number, loose)
        except ConfigError as error:
            raise type(error)(f"search.budgets[{number}]: {error}") from None
    soundness = score_splits(target, model, costs.original["macs"])
    return Subject(
        target, model, example_inputs, compressor, parsed, tuple(further), table, soundness
    )


def check_layer_names(space: SpaceConfig, model: nn.Module) -> None:
    """Make sure that what a job says of layers is said of layers that the model has.

    Raises:
        ConfigError: A pattern fits no layer.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    weighted = [name for name, part in modules.items() if is_weighted(part)]
    weighted += [name for name in map(layer_of, quantizable_weights(model)) if name not in weighted]
    named = weighted
    if space.pruning.narrows:
        # Groups have norms in them, embeddings, and parameters that belong to no layer.
        own = [name for name, part in modules.items() if any(True for _ in part.parameters(False))]
        tensors = list(named_tensors(model))
        named = list(dict.fromkeys([*own, *map(layer_of, tensors), *tensors]))
    check_patterns(space, named, weighted)


def _latency_table(
    model: nn.Module,
    example_inputs: Inputs,
    space: SpaceConfig,
    path: Path | None,
    batch_size: int,
) -> LatencyTable:
    if not space.pruning.narrows:
        raise ConfigError(
            f"budget.{LATENCY}: space.pruning.structure: {space.pruning.structure} leaves layers "
            f"as wide as they are, and latency as it is; choose channels, or bound another cost"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    table = find_latency_table(
        model, example_inputs, device=device, batch_size=batch_size, path=path
    )
    if table.batch_size != batch_size:
        raise ConfigError(
            f"{path}: it was measured with batches of {table.batch_size}, but "
            f"export.latency_batch_size is {batch_size}; make them the same"
        )
    return table
