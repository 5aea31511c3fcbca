"""Patterns that name layers."""

from __future__ import annotations

import pytest

from rl_compress.errors import ConfigError
from rl_compress.space.patterns import check_patterns
from rl_compress.space.space_config import SpaceConfig

NAMED = ["stem", "layer1.conv", "layer1.norm", "head"]
WEIGHTED = ["stem", "layer1.conv", "head"]


@pytest.mark.parametrize("patterns", [[], ["stem"], ["*"], ["layer1.*", "h?ad"], ["[sh]*"]])
def test_patterns_that_fit_are_let_through(patterns: list[str]) -> None:
    check_patterns(SpaceConfig(skip=patterns, protect=patterns), NAMED, WEIGHTED)


@pytest.mark.parametrize(
    ("key", "pattern", "said"),
    [
        ("skip", "stemm", "fits no layer; did you mean 'stem'?"),
        ("skip", "layer2.*", "did you mean 'layer1.*'?"),
        ("skip", "layer1", "a block of them; its layers are 'layer1.*'"),
        ("skip", "Head", "did you mean 'head'?"),
        ("protect", "layer1.norm", "fits no convolution or linear layer"),
        ("protect", "haed", "did you mean 'head'?"),
    ],
)
def test_pattern_that_fits_nothing_is_refused(key: str, pattern: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_patterns(SpaceConfig(**{key: ["stem", pattern]}), NAMED, WEIGHTED)

    assert str(caught.value).startswith(f"space.{key}: {pattern!r}")
    assert said in str(caught.value)


def test_model_that_is_one_layer_has_no_name_to_give() -> None:
    with pytest.raises(ConfigError, match=r"fits no layer$"):
        check_patterns(SpaceConfig(skip=["stem"]), [""], [""])
