"""Problems for tests, around a compressor or a space that is a formula."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from rl_compress.evaluation.measurement import RunIdentity
from rl_compress.searchers.problem import Problem
from rl_compress.space.budget import Budget
from rl_compress.space.search_space import SearchSpace
from rl_compress.targets.factory import TargetConfig
from rl_compress.variants.compressor import Compressor

NOWHERE = TargetConfig(factory="nowhere:target")


def make_problem(compressor: Compressor, budget: Budget, **fields: Any) -> Problem:
    """Make the problem of a compressor."""
    return Problem(target=NOWHERE, compressor=compressor, budget=budget, **fields)


def toy_problem(
    space: SearchSpace,
    budget: Budget,
    costs: Any,
    *,
    seed: int = 0,
    importances: Sequence[npt.NDArray[np.float64]] = (),
    layers: Sequence[str] = (),
    contribution: Any = None,
    **fields: Any,
) -> Problem:
    """Make a problem without a network."""
    compressor = SimpleNamespace(
        space=space,
        costs=costs,
        importances=importances,
        parents=[SimpleNamespace(name=name) for name in layers],
        contribution=contribution,
    )
    identity = RunIdentity(seed=seed)
    return make_problem(cast("Compressor", compressor), budget, identity=identity, **fields)
