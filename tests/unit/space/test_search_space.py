from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_compress.errors import ConfigError
from rl_compress.space.compression_policy import CompressionPolicy, Decision
from rl_compress.space.search_space import Dimension, SearchSpace
from rl_compress.space.space_config import PruningConfig, QuantizationConfig, SpaceConfig


@st.composite
def choices(draw: st.DrawFn, name: str = "g") -> Dimension:
    config = PruningConfig(
        max_ratio=draw(st.floats(0.0, 0.99)), round_to=draw(st.sampled_from([1, 2, 3, 8]))
    )
    return Dimension.of_channels(name, draw(st.integers(2, 40)), draw(st.integers(1, 4)), config)


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    count = draw(st.integers(1, 4))
    return SearchSpace(tuple(draw(choices(name=f"g{index}")) for index in range(count)))


@st.composite
def spaces_with_widths(draw: st.DrawFn) -> tuple[SearchSpace, np.ndarray]:
    space = draw(spaces())
    return space, np.array([draw(st.floats(0, own.full)) for own in space.dimensions])


@given(
    st.integers(2, 64), st.integers(1, 4), st.floats(0.0, 0.99), st.sampled_from([1, 2, 4, 8, 16])
)
def test_widths_are_all_that_the_config_allows(
    units: int, per_unit: int, max_ratio: float, round_to: int
) -> None:
    config = PruningConfig(max_ratio=max_ratio, round_to=round_to)
    dimension = Dimension.of_channels("g", units, per_unit, config)
    expected = [
        width
        for width in range(1, units + 1)
        if width == units
        or (width * per_unit % round_to == 0 and units - width <= max_ratio * units + 1e-8)
    ]
    assert list(dimension.amounts) == expected


@pytest.mark.parametrize(
    ("units", "per_unit", "max_ratio", "round_to", "expected"),
    [
        pytest.param(10, 1, 0.9, 1, tuple(range(1, 11)), id="all"),
        pytest.param(10, 1, 0.5, 1, (5, 6, 7, 8, 9, 10), id="max-ratio"),
        pytest.param(20, 1, 0.9, 8, (8, 16, 20), id="round-to-keeps-the-full-width"),
        pytest.param(8, 2, 0.9, 4, (2, 4, 6, 8), id="round-to-counts-channels"),
        pytest.param(4, 1, 0.9, 16, (4,), id="too-narrow-to-round"),
        pytest.param(6, 1, 0.0, 1, (6,), id="nothing-may-go"),
    ],
)
def test_widths_of_known_groups(
    units: int, per_unit: int, max_ratio: float, round_to: int, expected: tuple[int, ...]
) -> None:
    config = PruningConfig(max_ratio=max_ratio, round_to=round_to)
    assert Dimension.of_channels("g", units, per_unit, config).amounts == expected


@given(spaces_with_widths())
def test_floor_is_the_widest_allowed_below(case: tuple[SearchSpace, np.ndarray]) -> None:
    space, wanted = case
    found = space.amounts(space.floor(wanted))
    for group, width, amount in zip(space.dimensions, wanted, found, strict=True):
        below = [allowed for allowed in group.amounts if allowed <= width + 1e-9]
        assert amount == (max(below) if below else group.amounts[0])


@given(spaces_with_widths())
def test_nearest_has_no_nearer(case: tuple[SearchSpace, np.ndarray]) -> None:
    space, wanted = case
    found = space.amounts(space.nearest(wanted))
    for group, width, amount in zip(space.dimensions, wanted, found, strict=True):
        assert amount in group.amounts
        assert abs(amount - width) == min(abs(allowed - width) for allowed in group.amounts)


@given(spaces(), st.integers(2, 50))
def test_thinned_spaces_keep_their_ends_and_no_wide_gaps(space: SearchSpace, most: int) -> None:
    for group, thin in zip(space.dimensions, space.thinned(most).dimensions, strict=True):
        assert len(thin.amounts) == min(most, len(group.amounts))
        assert set(thin.amounts) <= set(group.amounts)
        assert (thin.amounts[0], thin.amounts[-1]) == (group.amounts[0], group.amounts[-1])
        places = np.diff([group.amounts.index(width) for width in thin.amounts])
        assert places.max(initial=0) - places.min(initial=len(group.amounts)) <= 1


def test_nearest_takes_the_wider_of_two_equally_near() -> None:
    space = SearchSpace((Dimension("g", "channels", (2, 4, 8)),))
    assert space.nearest(np.array([3.0])).tolist() == [1]
    assert space.nearest(np.array([6.0])).tolist() == [2]


def test_floor_forgives_rounding_errors() -> None:
    space = SearchSpace((Dimension("g", "channels", tuple(range(1, 11))),))
    assert space.floor(np.array([0.7 * 10 - 1e-12])).tolist() == [6]


@given(spaces(), st.data())
def test_rounding_a_policy_twice_changes_nothing(space: SearchSpace, data: st.DataObject) -> None:
    ratio = st.floats(0.0, 1.0, exclude_max=True)
    policy = CompressionPolicy(
        tuple((own.site, Decision(pruning_ratio=data.draw(ratio))) for own in space.dimensions)
    )
    realised = space.policy_of(space.levels_of(policy))
    again = space.policy_of(space.levels_of(realised))
    assert again == realised
    assert again.policy_id == realised.policy_id


@given(spaces(), st.data())
def test_levels_survive_their_policy(space: SearchSpace, data: st.DataObject) -> None:
    levels = [data.draw(st.integers(0, top)) for top in space.full.tolist()]
    assert space.levels_of(space.policy_of(np.array(levels))).tolist() == levels


def test_a_policy_in_another_order_is_understood() -> None:
    space = SearchSpace(
        (Dimension("a", "channels", (1, 2, 3, 4)), Dimension("b", "channels", (2, 4, 8)))
    )
    policy = CompressionPolicy.from_mapping(
        {"b": Decision(pruning_ratio=0.75), "a": Decision(pruning_ratio=0.25)}
    )
    assert space.amounts(space.levels_of(policy)).tolist() == [3, 2]


def test_unknown_and_missing_groups_are_named() -> None:
    space = SearchSpace((Dimension("a", "channels", (2, 4)), Dimension("b", "channels", (2, 4))))
    policy = CompressionPolicy.from_mapping({"a": Decision(), "c": Decision()})
    with pytest.raises(ConfigError, match=r"unknown groups \['c'\], missing groups \['b'\]"):
        space.levels_of(policy)


def test_levels_stand_for_amounts() -> None:
    space = SearchSpace((Dimension("a", "channels", (1, 4)), Dimension("b", "channels", (3, 6))))
    assert space.amounts(space.full).tolist() == space.full_amounts.tolist() == [4, 6]
    assert space.amounts(space.smallest).tolist() == [1, 3]
    several = np.array([[0, 1], [1, 0], [1, 1]])
    assert space.amounts(several).tolist() == [[1, 6], [4, 3], [4, 6]]
    assert space.kept(several).tolist() == [[0.25, 1.0], [1.0, 0.5], [1.0, 1.0]]


def test_ratios_are_told_as_asked_for_and_bits_as_they_came_out() -> None:
    levels = JOINT.nearest(np.array([4, 8, 2, 4]))
    policy = JOINT.policy_asked_for(np.array([0.43, 0.9, 0.3, 0.6]), levels)
    assert policy["conv1"].pruning_ratio == pytest.approx(0.57)
    assert policy["conv1"].weight_bits == 8
    assert policy["fc"] == Decision(weight_bits=2, activation_bits=4)


@pytest.mark.parametrize(
    ("pattern", "layer", "skipped"),
    [
        ("conv1", "conv1", True),
        ("conv1", "conv10", False),
        ("layer1.*", "layer1.0.conv", True),
        ("layer1.*", "layer10.0.conv", False),
        ("*.conv", "a.conv", True),
        ("Conv1", "conv1", False),
    ],
)
def test_skip_patterns(pattern: str, layer: str, skipped: bool) -> None:
    assert SpaceConfig(skip=[pattern]).skips(layer) is skipped


JOINT = SearchSpace(
    (
        Dimension("conv1", "channels", tuple(range(1, 9))),
        Dimension("conv1", "weight_bits", (2, 4, 8)),
        Dimension("fc", "weight_bits", (2, 4, 8)),
        Dimension("fc", "activation_bits", (4, 8)),
    )
)


@given(st.tuples(*(st.sampled_from(own.amounts) for own in JOINT.dimensions)))
def test_a_joint_policy_says_all_of_a_group_and_survives_json(amounts: tuple[int, ...]) -> None:
    levels = JOINT.nearest(np.array(amounts))
    policy = JOINT.policy_of(levels)
    assert policy["conv1"] == Decision(pruning_ratio=1 - amounts[0] / 8, weight_bits=amounts[1])
    assert policy["fc"] == Decision(weight_bits=amounts[2], activation_bits=amounts[3])
    again = CompressionPolicy.from_json(policy.to_json())
    assert again == policy
    assert JOINT.levels_of(again).tolist() == levels.tolist()


def test_bits_between_levels_become_the_nearest() -> None:
    decisions = {
        "conv1": Decision(pruning_ratio=0.5, weight_bits=7),
        "fc": Decision(weight_bits=3, activation_bits=5),
    }
    found = JOINT.levels_of(CompressionPolicy.from_mapping(decisions))
    assert JOINT.amounts(found).tolist() == [4, 8, 4, 4]


@pytest.mark.parametrize(
    ("conv1", "fc", "message"),
    [
        ({"weight_bits": 4}, {"weight_bits": 4}, "fc: activation_bits is decided"),
        ({}, {"weight_bits": 4, "activation_bits": 4}, "conv1: weight_bits is decided"),
        (
            {"weight_bits": 4, "activation_bits": 4},
            {"weight_bits": 4, "activation_bits": 4},
            "conv1: activation_bits is not decided",
        ),
        (
            {"weight_bits": 4},
            {"weight_bits": 4, "activation_bits": 4, "pruning_ratio": 0.5},
            "fc: this group cannot be pruned",
        ),
    ],
)
def test_a_policy_that_decides_something_else_is_refused(
    conv1: dict[str, float], fc: dict[str, float], message: str
) -> None:
    policy = CompressionPolicy.from_mapping(
        {"conv1": Decision(**conv1), "fc": Decision(**fc)}  # type: ignore[arg-type]
    )
    with pytest.raises(ConfigError, match=message):
        JOINT.levels_of(policy)


@pytest.mark.parametrize("bits", [0, 9, 2.5, -1])
def test_impossible_bits_are_refused(bits: float) -> None:
    with pytest.raises(ConfigError, match="weight_bits"):
        Decision(weight_bits=bits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("budgeted", "searchable", "weights", "activations"),
    [
        (["macs"], True, 16, 16),
        (["size_bytes"], True, [2, 3, 4, 5, 6, 8], 16),
        (["bops"], True, [2, 3, 4, 5, 6, 8], [4, 5, 6, 8]),
        (["bops"], False, 16, 16),
    ],
)
def test_bits_are_searched_where_the_budget_depends_on_them(
    budgeted: list[str], searchable: bool, weights: object, activations: object
) -> None:
    found = QuantizationConfig().resolved(budgeted, searchable=searchable)
    assert (found.weight_bits, found.activation_bits) == (weights, activations)


def test_bits_that_the_job_names_stay() -> None:
    given_bits = QuantizationConfig(weight_bits=[8, 4, 4], activation_bits=[8])
    found = given_bits.resolved(["bops"], searchable=True)
    assert (found.weight_levels, found.activation_levels) == ((4, 8), (8,))
