"""The scale of the BatchNorm behind a channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rl_compress.errors import ConfigError
from rl_compress.importance.evidence import Evidence
from rl_compress.importance.importance import Importance, Scores
from rl_compress.model.groups import LayerGroup
from rl_compress.model.layers import is_batchnorm


class BatchNormScale(Importance):
    """The mean ``|gamma|`` behind each unit (Liu et al., "Network slimming", ICCV 2017)."""

    def units(self, evidence: Evidence, groups: Sequence[LayerGroup]) -> list[Scores]:
        """See :meth:`Importance.units`.

        Raises:
            ConfigError: A group has no BatchNorm.
        """
        return [_scales(evidence, group) for group in groups]


def _scales(evidence: Evidence, group: LayerGroup) -> Scores:
    scales = [
        evidence.tensors[axis.tensor].detach().double().abs().cpu().numpy()[axis.positions].mean(1)
        for axis in group.axes
        if axis.tensor.endswith(".weight")
        and is_batchnorm(evidence.model.get_submodule(axis.tensor[: -len(".weight")]))
    ]
    if not scales:
        raise ConfigError(
            f"space.pruning.importance: batchnorm ranks channels by the scale of the BatchNorm "
            f"behind them, but {group.name} has none; choose l2, or list it in space.skip"
        )
    return np.mean(scales, axis=0)
