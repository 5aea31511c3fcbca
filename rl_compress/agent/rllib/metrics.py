"""A run's figures as Ray metrics, which Ray's agent on each node exports for Prometheus.

They are ``ray_rl_compress_evaluations_total``, ``…_failures_total``, ``…_cache_hits_total``,
``…_best_score`` and ``…_best_reward``, with the tags ``run`` and ``trial``.
"""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge

from rl_compress.evaluation.ledger import Progress
from rl_compress.evaluation.measurement import RunIdentity

_PREFIX = "rl_compress"
_TAGS = ("run", "trial")


class RunMetrics:
    """Keeps the exported figures at those of the run."""

    def __init__(self, identity: RunIdentity) -> None:
        """Register the metrics; counters begin with what an interrupted run had stored."""
        tags = {"run": _tag(identity.run), "trial": _tag(identity.trial)}
        described = {
            "evaluations": "Variants measured by the run.",
            "failures": "Variants that could not be measured.",
            "cache_hits": "Candidates that had been measured before.",
        }
        self._counters = {
            name: Counter(f"{_PREFIX}_{name}_total", description=text, tag_keys=_TAGS)
            for name, text in described.items()
        }
        self._score = Gauge(
            f"{_PREFIX}_best_score", description="Score of the best variant.", tag_keys=_TAGS
        )
        self._reward = Gauge(
            f"{_PREFIX}_best_reward", description="Reward of the best variant.", tag_keys=_TAGS
        )
        for metric in (*self._counters.values(), self._score, self._reward):
            metric.set_default_tags(tags)
        self._counted = dict.fromkeys(described, 0)

    def show(self, progress: Progress) -> None:
        """Bring the metrics to a run's figures."""
        figures = {
            "evaluations": progress.done,
            "failures": progress.failures,
            "cache_hits": progress.cache_hits,
        }
        for name, figure in figures.items():
            if figure > self._counted[name]:
                self._counters[name].inc(figure - self._counted[name])
                self._counted[name] = figure
        if progress.best is not None:
            self._score.set(progress.best.score)
            self._reward.set(progress.best.reward)


def _tag(name: str) -> str:
    """Write a name in ASCII: Ray's tags take nothing else."""
    return name.encode("ascii", "backslashreplace").decode()
