"""The problem: what is compressed, what may be decided about it, and what counts as good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rl_compress.costs.latency_table import LatencyTable
from rl_compress.evaluation.evaluator import EvaluationConfig, Evaluator
from rl_compress.evaluation.measurement import RunIdentity
from rl_compress.importance.contribution import ContributionResult
from rl_compress.quantizers.bits import Bits
from rl_compress.runs.record import EvaluationRecord
from rl_compress.searchers.objective import ObjectiveConfig
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.space.budget import Budget, CostFunction
from rl_compress.space.mask_projection import decides_masks, project_mask
from rl_compress.space.projection import project
from rl_compress.space.search_space import Levels, SearchSpace
from rl_compress.space.space_config import UNQUANTIZED
from rl_compress.targets.factory import TargetConfig
from rl_compress.targets.target import Target
from rl_compress.variants.compressor import Compressor


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What searchers look at, and what workers are sent, without weights."""

    target: TargetConfig
    """How the target is made."""
    compressor: Compressor
    """Makes variants; has the space and the costs."""
    budget: Budget
    """Upper bounds; feasible."""
    others: tuple[Budget, ...] = ()
    """Further budgets that the agent is trained for."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    identity: RunIdentity = field(default_factory=RunIdentity)
    curves: SensitivityCurves | None = None
    """What each dimension's compression costs alone, for searches that need it."""
    latency_table: LatencyTable | None = None
    """What latencies are predicted from, where the budget bounds them."""
    contribution_threshold: float = 0.0
    """Where contribution pruning draws the line."""

    @property
    def space(self) -> SearchSpace:
        """The dimensions."""
        return self.compressor.space

    @property
    def costs(self) -> CostFunction:
        """Exact costs of levels; monotone in every dimension."""
        return self.compressor.costs

    @property
    def original_costs(self) -> dict[str, float]:
        """Costs of the uncompressed, unquantized target."""
        return self.compressor.costs.original

    @property
    def seed(self) -> int:
        """Same seed, same proposals."""
        return self.identity.seed

    @property
    def importances(self) -> Sequence[npt.NDArray[np.float64]]:
        """For each dimension that prunes the importance of its units."""
        return self.compressor.importances

    @property
    def layers(self) -> Sequence[str]:
        """For each dimension that prunes the layer group it is in."""
        return [parent.name for parent in self.compressor.parents]

    @property
    def contribution(self) -> ContributionResult | None:
        """What contribution pruning found, where it ranks the units."""
        return self.compressor.contribution

    def may_win(self, record: EvaluationRecord) -> bool:
        """Say whether a record can be the best of a search: its variant is within the budget.

        The costs are computed anew: a record may hold a latency that was measured, while the budget
        bounds the predicted one.
        """
        levels = self.space.levels_of(record.realised_policy())
        return self.budget.admits(self.costs.costs(levels))

    def uniform(self) -> Levels:
        """Return the variant that keeps about as much of everything, as the budget allows."""
        if decides_masks(self.space):
            importances = np.concatenate(self.importances)
            return project_mask(self.space.full, importances, self.budget, self.space, self.costs)
        return project(np.full(len(self.space), 0.5), self.budget, self.space, self.costs)

    def evaluator(self, target: Target, *, latency: bool = True) -> Evaluator:
        """Return an evaluator of variants.

        Args:
            target: The target as it was made.
            latency: Whether latencies are measured where the objective needs them.
        """
        return Evaluator(
            target,
            self.compressor,
            self.objective.score,
            self.evaluation,
            latency=latency and self.objective.needs_latency,
            score_options=self.objective.options_of_score,
        )

    def describe_space(self) -> dict[str, Any]:
        """Return groups, costs and notes as plain data, for ``space.json``."""
        compressor, space = self.compressor, self.space
        pruned = {own.site: i for i, own in enumerate(space.dimensions) if own.prunes}
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
                described["widths"] = list(space.dimensions[index].amounts)
                described["macs"] = compressor.costs.macs_of(index, space.full)
                described["params"] = compressor.costs.params_of(index, space.full)
            groups.append(described)
        return {
            "groups": groups,
            "notes": compressor.notes,
            "costs": self.original_costs,
            "smallest_costs": self.costs.costs(space.smallest),
            "budget": self.budget.as_dict(),
        }


def _choices(plan: Mapping[str, Bits], layers: Sequence[str]) -> list[int]:
    """Return the bits that layers may take; none where they are not quantized."""
    choices = {bits for layer in layers if layer in plan for bits in plan[layer].choices}
    return [] if choices == {UNQUANTIZED} else sorted(choices)
