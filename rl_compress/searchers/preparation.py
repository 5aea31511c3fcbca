"""Preparation: what can be wrong with a target, its data and its budgets is found here."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from rl_compress.costs.latency_table import LatencyTable, find_latency_table
from rl_compress.errors import ConfigError
from rl_compress.evaluation.scores import find_score
from rl_compress.model.axes import layer_of, named_tensors, quantizable_weights
from rl_compress.model.layers import is_weighted
from rl_compress.model.nested import Inputs
from rl_compress.searchers.objective import ObjectiveConfig
from rl_compress.space.budget import LATENCY, Budget
from rl_compress.space.patterns import check_patterns
from rl_compress.space.space_config import SpaceConfig
from rl_compress.targets.factory import TargetConfig, build_model, make_target
from rl_compress.targets.soundness import check_outputs
from rl_compress.targets.splits import check_splits
from rl_compress.targets.target import Target
from rl_compress.targets.user_code import user_code
from rl_compress.variants.compressor import Compressor

logger = logging.getLogger(__name__)


def sound_target(
    config: TargetConfig, space: SpaceConfig, objective: ObjectiveConfig
) -> tuple[Target, nn.Module, Inputs]:
    """Make a target, and check it before anything takes time.

    Args:
        config: What to compress.
        space: What may be decided; the layers that it names are looked for.
        objective: Names the score.

    Returns:
        The target, its uncompressed model on the CPU, and inputs of one forward pass.

    Raises:
        ConfigError: Target, data or score cannot be used; the message names the key and the remedy.
    """
    target = make_target(config)
    check_splits(target)
    find_score(objective.score, target, objective.options_of_score)
    model = build_model(target, config)
    check_layer_names(space, model)
    with user_code(f"example_inputs() of {type(target).__name__}"):
        example_inputs = target.inputs_for(model)
    check_outputs(target, model, example_inputs)
    return target, model, example_inputs


def parse_budgets(
    budget: Mapping[str, float | str],
    others: Sequence[Mapping[str, float | str]],
    compressor: Compressor,
) -> tuple[Budget, tuple[Budget, ...]]:
    """Read a job's budget, and the others that an agent is to be trained for.

    Raises:
        ConfigError: One cannot be read or met; the message names the key and the remedy.
    """
    found = []
    for number, spec in enumerate((budget, *others)):
        key = f"search.budgets[{number - 1}]: " if number else ""
        original = compressor.costs.original
        try:
            found.append(Budget.parse(spec, original))
            found[-1].check_feasible(compressor.space, compressor.costs, original)
        except ConfigError as error:
            raise type(error)(f"{key}{error}") from None
        if loose := found[-1].loose(original):
            logger.warning("%s%s", key, loose)
    return found[0], tuple(found[1:])


def check_layer_names(space: SpaceConfig, model: nn.Module) -> None:
    """Make sure that what a job says of layers is said of layers that the model has.

    Raises:
        ConfigError: A pattern fits no layer.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    weighted = [name for name, part in modules.items() if is_weighted(part)]
    weighted += [name for name in map(layer_of, quantizable_weights(model)) if name not in weighted]
    named = weighted
    if space.pruning.structure == "channels":
        # Groups have norms in them, embeddings, and parameters that belong to no layer.
        own = [name for name, part in modules.items() if any(True for _ in part.parameters(False))]
        tensors = list(named_tensors(model))
        named = list(dict.fromkeys([*own, *map(layer_of, tensors), *tensors]))
    check_patterns(space, named, weighted)


def table_for(
    model: nn.Module,
    example_inputs: Inputs,
    space: SpaceConfig,
    path: Path | None,
    batch_size: int,
) -> LatencyTable:
    """Return the table that latencies are predicted from; before anything is trained, for it is of
    the architecture, whatever the weights.

    Args:
        model: The uncompressed model.
        example_inputs: Inputs of one forward pass, batch size 1.
        space: What may be decided.
        path: Of the table; None for that of this machine in the cache.
        batch_size: Samples in a forward pass that the budget bounds the latency of.

    Raises:
        ConfigError: There is none, or what is pruned takes no less time for it.
    """  # noqa: D205
    if (structure := space.pruning.structure) != "channels":
        raise ConfigError(
            f"budget.{LATENCY}: space.pruning.structure: {structure} leaves layers as wide as they "
            f"are, and latency as it is; choose channels, or bound another cost"
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
