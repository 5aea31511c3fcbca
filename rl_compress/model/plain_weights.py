"""Weights that are computed from other tensors become plain ones."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

from rl_compress.model.copies import copied

_REMOVERS = {WeightNorm: remove_weight_norm, SpectralNorm: remove_spectral_norm}


def plain_weights(model: nn.Module) -> nn.Module:
    """Fold weight and spectral normalisation, and other parametrizations, into the weights.

    A narrower layer's weights are then those of the original, where a norm over fewer weights would
    scale them anew; and they can be quantized.

    Args:
        model: Any model in evaluation mode; left as it is.

    Returns:
        The model itself where all its weights are plain, else a changed copy.
    """
    if not any(map(_computes_weights, model.modules())):
        return model
    model = unshared(model)
    for module in model.modules():
        hooks: list[Any] = list(module._forward_pre_hooks.values())
        for hook in hooks:
            if (remove := _REMOVERS.get(type(hook))) is not None:
                remove(module, hook.name)
        loaders = module._load_state_dict_pre_hooks
        for key, loader in list(loaders.items()):
            # Torch leaves this one, which would look for the norm's tensors.
            if isinstance(getattr(loader, "hook", loader), SpectralNormLoadStateDictPreHook):
                del loaders[key]
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return model


def unshared(model: nn.Module, replaced: Container[str] = ()) -> nn.Module:
    """Return a copy of a model, also where it keeps tensors that were computed with gradients.

    Args:
        model: Left as it is.
        replaced: Parameters that may have any values in the copy.
    """
    memo: dict[int, object] = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    for name, parameter in model.named_parameters():
        if name in replaced:
            room = torch.empty_like(parameter)
            memo[id(parameter)] = nn.Parameter(room, requires_grad=parameter.requires_grad)
    return copied(model, memo)


def _computes_weights(module: nn.Module) -> bool:
    hooks = map(type, module._forward_pre_hooks.values())
    return parametrize.is_parametrized(module) or any(hook in _REMOVERS for hook in hooks)
