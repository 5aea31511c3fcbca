"""Stages of a network, and the training of one of them with a temporary head."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rl_compress.errors import ConfigError
from rl_compress.model.layers import channel_axis, is_weighted
from rl_compress.model.nested import Inputs, call
from rl_compress.repair.activations import hooked
from rl_compress.targets.batches import moved, picked
from rl_compress.targets.target import Target
from rl_compress.training.loop import Plan, task_loss

_MOST_STAGES = 8


class _StageEndError(Exception):
    """Ends a forward pass at the input of a layer."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values


class Truncated(nn.Module):
    """A model up to the input of one of its layers, with a head of its own.

    The head averages over positions and is linear, as in Belilovsky et al. (ICML 2019).
    """

    def __init__(self, model: nn.Module, layer: str, example: Inputs, outputs: int) -> None:
        """Make the head for what arrives at the layer.

        Args:
            model: Its layers are shared, not copied.
            layer: Name of the first layer that is left out.
            example: Inputs of one forward pass.
            outputs: Numbers that the head puts out.
        """
        super().__init__()
        self.model = model
        self.layer = layer
        self.head: nn.Module = nn.Identity()
        with torch.no_grad():
            features = call(self, example)
        self.head = nn.Linear(features.shape[1], outputs, device=features.device)

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Return the head's outputs, shape ``(batch, outputs)``."""
        layer = self.model.get_submodule(self.layer)
        handle = layer.register_forward_pre_hook(_stop)
        try:
            self.model(*inputs, **named)
        except _StageEndError as reached:
            values = reached.values
        else:
            raise ConfigError(f"pretraining.stages: {self.layer} is not called in the forward pass")
        finally:
            handle.remove()
        # Channels come first, but in sequences, which linear layers read, last.
        if values.ndim > 2 and channel_axis(layer) == -1:
            values = values.flatten(1, -2).mean(dim=1)
        elif values.ndim > 2:
            values = values.flatten(2).mean(dim=2)
        return self.head(values)


def find_stages(
    model: nn.Module,
    example_inputs: Inputs,
    named: Sequence[str] | None,
    device: torch.device,
) -> list[str]:
    """Return the layers at whose inputs stages end, in forward order.

    Args:
        model: The whole network.
        example_inputs: Inputs of one forward pass.
        named: What the job names; by default every convolution and linear layer but the first ends
            a stage, evenly thinned out to eight.
        device: Where the model is.

    Raises:
        ConfigError: A named layer does not exist, or the model is no chain of two layers or more.
    """
    modules = dict(model.named_modules())
    if named is not None:
        for name in named:
            if not name or name not in modules:
                raise ConfigError(f"pretraining.stages: the model has no layer {name!r}")
        return list(named)
    called = [
        name for name in _call_order(model, example_inputs, device) if is_weighted(modules[name])
    ]
    ends = called[1:]
    if not ends:
        raise ConfigError(
            "pretraining.mode: layerwise needs two layers or more, one after the other; "
            "choose finetune"
        )
    count = min(len(ends), _MOST_STAGES)
    return [ends[round((index + 1) * len(ends) / count) - 1] for index in range(count)]


def stage_plan(
    model: nn.Module,
    target: Target,
    layer: str,
    below: str | None,
    slow_factor: float | None,
    epochs: int,
    device: torch.device,
    seed: int,
) -> Plan:
    """Return the plan that trains one stage with a temporary head.

    Args:
        model: The whole network, of which the stage's layers are trained in place.
        target: Supplies an example.
        layer: The stage ends at this layer's input.
        below: The stage before it ends at this one's; None for the first.
        slow_factor: Relative learning rate of the stages below; None freezes them.
        epochs: Epochs of this stage.
        device: Where the model is.
        seed: Of the head.
    """
    example = moved(target.inputs_for(model), device)
    with torch.no_grad():
        found = picked(call(model.eval(), example))
    outputs = found.shape[target.class_axis(found)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        truncated = Truncated(model, layer, example, outputs)
    order = _call_order(model, example, device)
    modules = dict(model.named_modules())
    start = order.index(below) if below is not None else 0
    lower = [modules[name] for name in order[:start]]
    own = [modules[name] for name in order[start : order.index(layer)]]
    rates = [([*_parameters(own), *truncated.head.parameters()], 1.0)]
    if slow_factor is not None and lower:
        rates.append((_parameters(lower), slow_factor))
    return Plan(
        section="pretraining",
        network=truncated,
        loss=partial(task_loss, target, truncated),
        rates=rates,
        frozen=lower if slow_factor is None else [],
        epochs=epochs,
    )


def _stop(_layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    raise _StageEndError(inputs[0])


def _call_order(model: nn.Module, example_inputs: Inputs, device: torch.device) -> list[str]:
    """Return the names of modules with parameters or statistics of their own, by first call."""
    order: dict[str, None] = {}
    names = {
        module: name
        for name, module in model.named_modules()
        if [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    }

    def note(module: nn.Module, _inputs: Any) -> None:
        order.setdefault(names[module])

    with hooked([module.register_forward_pre_hook(note) for module in names]):
        call(model.eval(), moved(example_inputs, device))
    return list(order)


def _parameters(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    return [p for module in modules for p in module.parameters(recurse=False)]
