"""What every importance must hold to, the user's own as well."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rl_compress.errors import ConfigError
from rl_compress.importance.evidence import Evidence
from rl_compress.importance.importance import make_importance
from rl_compress.model.axes import quantizable_weights
from rl_compress.registry import IMPORTANCES
from rl_compress.space.space_config import PruningConfig
from rl_compress.targets.target import Target
from rl_compress.variants.compressor import Compressor

ALL = [*IMPORTANCES.built_in, "own_importance:Power"]
CHANNELS_ONLY = ("batchnorm", "geometric_median", "contribution")


@pytest.mark.parametrize("name", ALL)
def test_units_are_scored_the_same_every_time_and_the_model_is_left_as_it_was(
    name: str, target: Target, compressor: Compressor
) -> None:
    model, groups = target.build().eval(), compressor.parents
    before = {key: value.clone() for key, value in model.state_dict().items()}
    evidence = Evidence(model, target, compressor.contribution)
    if name == "batchnorm":
        groups = [group for group in groups if group.name.startswith("conv")]
    found, again = (
        make_importance(PruningConfig(importance=name), target).units(evidence, groups)
        for _ in range(2)
    )
    assert [scores.shape for scores in found] == [(group.num_units,) for group in groups]
    for scores, others in zip(found, again, strict=True):
        assert np.isfinite(scores).all()
        assert len(set(scores.tolist())) > 1
        np.testing.assert_array_equal(scores, others)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ALL)
def test_weights_are_scored_one_by_one_or_refused(name: str, target: Target) -> None:
    model = target.build().eval()
    importance = make_importance(PruningConfig(importance=name), target)
    if name in CHANNELS_ONLY:
        with pytest.raises(ConfigError, match=f"importance: {name} ranks whole channels"):
            importance.weights(Evidence(model, target))
        return
    found = importance.weights(Evidence(model, target))
    assert list(found) == list(quantizable_weights(model))
    for key, scores in found.items():
        assert scores.shape == model.get_parameter(key).shape
        assert (scores >= 0).all()


@pytest.mark.parametrize("name", ALL)
def test_what_needs_data_says_so(name: str) -> None:
    needs = IMPORTANCES.find(name).needs
    assert needs in ("nothing", "data", "contributions")
    if needs != "nothing":
        with pytest.raises(ConfigError, match=f"{name} needs a target with data"):
            make_importance(PruningConfig(importance=name), None)
