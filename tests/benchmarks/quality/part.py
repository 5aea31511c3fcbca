"""Some dimensions of a space, the others held: what one stage of a pipeline decides."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from rl_compress.evaluation.candidates import CandidateEvaluator
from rl_compress.evaluation.ledger import EvaluationLedger
from rl_compress.evaluation.measurement import Measurement, RunIdentity
from rl_compress.evaluation.racing import Rival
from rl_compress.runs.store import EvaluationStore
from rl_compress.searchers.baseline_search import run_baseline
from rl_compress.searchers.searcher import make_searcher
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.space.budget import Budget
from rl_compress.space.search_space import Levels, SearchSpace
from rl_compress.variants.compressor import Compressor

from .subjects import Prepared


@dataclass(frozen=True, slots=True)
class Part:
    """A stage's space, costs and evaluator in one; its levels are put into a vector that is held.

    The reference of the scores stays the uncompressed target.
    """

    prepared: Prepared
    decided: npt.NDArray[np.bool_]
    """Which dimensions the stage decides, shape ``(D,)``."""
    held: Levels
    """Levels of all dimensions, of which those decided are not read, shape ``(D,)``."""

    @property
    def space(self) -> SearchSpace:
        """The dimensions decided."""
        every = self.prepared.problem.space.dimensions
        return SearchSpace(tuple(d for d, mine in zip(every, self.decided, strict=True) if mine))

    def whole(self, levels: Levels) -> Levels:
        """Put levels, shape ``(…, k)``, into the held vector, giving shape ``(…, D)``."""
        whole = np.broadcast_to(self.held, (*levels.shape[:-1], len(self.held))).copy()
        whole[..., self.decided] = levels
        return whole

    def costs(self, levels: Levels) -> dict[str, float]:
        """See :class:`CostFunction`."""
        return self.prepared.problem.costs.costs(self.whole(levels))

    def batch(self, levels: Levels) -> dict[str, npt.NDArray[Any]]:
        """See :class:`CostFunction`."""
        return self.prepared.problem.costs.batch(self.whole(levels))

    def evaluate(self, levels: Levels, _rival: Rival | None = None) -> Measurement:
        """See :class:`Evaluator`."""
        return self.prepared.evaluator.evaluate(self.whole(levels))

    def curves(self, count: int) -> SensitivityCurves:
        """Return the curves of the dimensions decided, measured with all others uncompressed."""
        curves, mine = self.prepared.curves(count), np.flatnonzero(self.decided)
        return SensitivityCurves(
            tuple(curves.groups[i] for i in mine),
            tuple(curves.amounts[i] for i in mine),
            tuple(curves.scores[i] for i in mine),
            tuple(curves.decides[i] for i in mine),
        )

    def search(
        self, algorithm: str, budget: Budget, seed: int, evaluations: int
    ) -> tuple[Levels, float, int]:
        """Search the part with a baseline.

        Args:
            algorithm: A baseline's name.
            budget: Bounds on the costs of the whole.
            seed: Of the search.
            evaluations: Distinct variants that it measures.

        Returns:
            The best vector, shape ``(D,)``, its score, and how many evaluations were made.

        Raises:
            InfeasibleBudgetError: The held levels leave no room for the budget.
        """
        space = self.space
        original = self.prepared.problem.original_costs
        budget.check_feasible(space, self, original)
        curves = self.curves(self.prepared.job.search.sensitivity_levels)
        with tempfile.TemporaryDirectory() as folder:
            ledger = EvaluationLedger(EvaluationStore(folder), evaluations)
            identity = RunIdentity(run="stage", algorithm=algorithm, seed=seed)
            candidates = CandidateEvaluator(
                self, ledger, space, lambda score, _costs: score, identity
            )
            problem = dataclasses.replace(
                self.prepared.problem,
                compressor=cast("Compressor", SimpleNamespace(space=space, costs=self)),
                budget=budget,
                identity=identity,
                curves=curves,
            )
            baseline = make_searcher(algorithm, problem)
            run_baseline(baseline, candidates, ledger)
            progress = ledger.progress()
        assert progress.best is not None, "the budget is feasible"
        best = self.whole(space.levels_of(progress.best.realised_policy()))
        return best, progress.best.score, progress.done
