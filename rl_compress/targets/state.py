"""Scoring a model without a trace."""

from __future__ import annotations

from torch import nn

from rl_compress.model.kept_state import kept_state
from rl_compress.targets.target import Target


def scored(target: Target, model: nn.Module, split: str) -> float:
    """Return a target's score of a model, which is left as it was."""
    with kept_state(model):
        return target.score(model, split)
