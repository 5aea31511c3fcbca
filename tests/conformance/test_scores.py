"""What every score must hold to, the user's own as well."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from rl_compress.evaluation.scores import make_score
from rl_compress.registry import SCORES
from rl_compress.targets.target import Target

ALL = [*SCORES.built_in, "accuracy", "own_score:Agreement"]


@pytest.mark.parametrize("name", ALL)
def test_a_ruined_model_scores_lower_and_nothing_is_changed(name: str, target: Target) -> None:
    reference = target.build().eval()
    ruined = copy.deepcopy(reference)
    torch.nn.init.zeros_(ruined.get_parameter("fc2.weight"))
    before = {key: value.clone() for key, value in reference.state_dict().items()}
    score = make_score(name, target, reference)
    assert math.isfinite(score(ruined))
    assert score(ruined) < score(reference) == score(reference)
    assert all(torch.equal(before[key], v) for key, v in reference.state_dict().items())


@pytest.mark.parametrize("name", ALL)
def test_samples_have_the_score_as_their_mean(name: str, target: Target) -> None:
    reference = target.build().eval()
    variant = copy.deepcopy(reference)
    torch.nn.init.zeros_(variant.get_parameter("conv3.weight"))
    score = make_score(name, target, reference, sampled=True)
    if score.num_samples is not None:
        samples = torch.cat(list(score.samples(variant)))
        assert len(samples) == score.num_samples
        assert float(samples.double().mean()) == pytest.approx(score(variant), rel=1e-5)
