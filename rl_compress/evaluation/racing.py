"""Racing: a candidate is scored on growing shares of the search split while it may still win.

Maron and Moore ("Hoeffding Races", 1994) drop candidates as soon as the data seen tells them from
the best one. Here the two are compared on the same samples, for their losses go up and down
together (a hard sample is hard for both), and what is estimated is a difference.

A variant is repaired before it is scored, and the repair is not raced, so what can be saved is
bounded by the share of scoring in an evaluation: 40 % on the digits, whose split is too small to be
raced at all. On Fashion-MNIST (5000 samples in 20 batches) 57 % of the samples and 29 % of the CPU
time of 20 evaluations were saved, one seed, with the same best variant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from rl_compress.space.search_space import Levels

SHARES = (1 / 8, 1 / 4, 1 / 2)
"""Shares of the search split after which a candidate is compared."""

ERROR_RATE = 0.005
"""Chance that a candidate as good as its rival is dropped, over all comparisons together."""

_LATEST = 0.6
"""Share of the samples after which a comparison saves too little."""

_FEWEST_SAMPLES = 30
"""Below that many, a mean of skewed losses is too far from a normal distribution."""

_FEWEST_DIFFERENCES = 10
"""As many samples have to tell the two apart: with fewer (accuracy) their spread is unknown."""

Samples = npt.NDArray[np.float64]
"""Scores of single samples in the order of the race, shape ``(num_samples,)``."""


@dataclass(frozen=True, slots=True)
class Rival:
    """The variant that a candidate has to beat: the best of those it is compared with."""

    levels: Levels
    score: float
    """Its score on the whole search split."""
    needed: Callable[[Mapping[str, float]], float]
    """From a candidate's costs, the score that would give it the rival's reward."""


@dataclass(frozen=True, slots=True)
class RaceResult:
    """How far a candidate came."""

    score: float
    """Of all samples; of a dropped candidate the rival's, plus their mean difference so far."""
    share: float
    """Share of the samples that was scored; 1.0 for a candidate that was not dropped."""
    samples: Samples
    """The scores of those samples."""


def looks(num_samples: int, batch_size: int) -> tuple[int, ...]:
    """Return after how many samples candidates are compared, increasing.

    They are whole batches, for smaller ones take longer a sample: on the 269 samples of the digits,
    batches cut for the sake of early looks made a race to the end 45 % dearer than scoring in one
    go, and ate up all that was saved. A split of a few batches is compared once or not at all.
    """
    batches = {math.ceil(share * num_samples / batch_size) for share in SHARES}
    counts = (number * batch_size for number in sorted(batches))
    return tuple(count for count in counts if _FEWEST_SAMPLES <= count <= _LATEST * num_samples)


def race(
    blocks: Iterable[Samples],
    rival: Samples | None = None,
    *,
    comparisons: tuple[int, ...] = (),
    score: float = 0.0,
    lead: float = 0.0,
) -> RaceResult:
    """Score a candidate block by block until it is known to be worse than its rival.

    A share's own mean would not do as the estimate of a dropped candidate: an easy share would make
    it look better than the rival that beat it. So the rival's known score is corrected by the mean
    difference (a control variate): unbiased on a random share, and always short of what was needed.

    Args:
        blocks: Scores of the candidate's samples.
        rival: The rival's scores of the same samples; None lets the candidate finish.
        comparisons: The :func:`looks`, each at the end of a block.
        score: The rival's score, the mean of ``rival``.
        lead: By how much the candidate's score has to exceed the rival's; negative if its costs
            make up for a lower score.
    """
    samples = np.empty(0)
    for block in blocks:
        samples = np.concatenate([samples, block])
        if rival is None or len(samples) not in comparisons:
            continue
        differences = samples - rival[: len(samples)]
        if is_worse(differences, rival, lead):
            share = len(samples) / len(rival)
            return RaceResult(score + float(differences.mean()), share, samples)
    return RaceResult(float(samples.mean()), 1.0, samples)


def is_worse(differences: Samples, rival: Samples, lead: float) -> bool:
    """Say whether the mean difference over all samples is below ``lead`` for (nearly) sure.

    The upper confidence bound is Student's, at :data:`ERROR_RATE` divided by the number of
    comparisons (Bonferroni); that is about three standard errors. Bounds without an assumption on
    the distribution (Hoeffding, empirical Bernstein) need the range of the losses, which a KL
    divergence has not, and at these numbers of samples drop nothing. The samples are drawn without
    replacement from the split that decides, which narrows the bound by ``sqrt(1 - n / N)``.

    Losses have heavy tails: a share without the samples that are hardest for the rival makes the
    candidate look worse than it is, and the spread too small. How much of the rival's spread the
    share lacks is known, and the bound is widened by as much. (On log-normal losses Student's bound
    alone dropped equal candidates in 0.5 to 5 % of trials, this one in under 0.2 %.)

    Args:
        differences: Candidate minus rival, of the first samples, shape ``(n,)``.
        rival: The rival's scores of all samples, shape ``(N,)``.
        lead: The mean difference that the candidate needs.
    """
    seen, total = len(differences), len(rival)
    seen_spread = rival[:seen].std(ddof=1)
    if np.count_nonzero(differences) < _FEWEST_DIFFERENCES or seen_spread == 0.0:
        return False
    lacking = max(1.0, rival.std(ddof=1) / seen_spread)
    error = lacking * differences.std(ddof=1) * math.sqrt((1.0 - seen / total) / seen)
    quantile = stdtrit(seen - 1, 1.0 - ERROR_RATE / len(SHARES))
    return bool(differences.mean() + quantile * error < lead)
