"""What contribution pruning kept, and what it would have kept next."""

from __future__ import annotations

from collections.abc import Sequence

from rl_compress.importance.evidence import Evidence
from rl_compress.importance.importance import Importance, Scores
from rl_compress.model.groups import LayerGroup


class ByContribution(Importance):
    """See :mod:`rl_compress.importance.contribution`."""

    needs = "contributions"

    def units(self, evidence: Evidence, groups: Sequence[LayerGroup]) -> list[Scores]:
        """See :meth:`Importance.units`."""
        assert evidence.contribution is not None, "they are measured where they are needed"
        return evidence.contribution.ranking()
