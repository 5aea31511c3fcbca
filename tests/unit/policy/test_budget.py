from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rl_compress.errors import ConfigError, InfeasibleBudgetError
from rl_compress.policy.budget import Budget, parse_amount, project
from rl_compress.policy.search_space import GroupChoices, SearchSpace, Widths
from rl_compress.policy.space_config import PruningConfig


class Chain:
    """Costs of a chain of layers: MACs are products of neighbours, parameters add up."""

    def __init__(self, areas: list[int]) -> None:
        self.areas = np.array(areas)

    def costs(self, widths: Widths) -> dict[str, int]:
        inputs = np.concatenate([[1], widths[:-1]])
        macs = int((inputs * widths * self.areas).sum())
        params = int((inputs * widths).sum())
        return {"macs": macs, "params": params, "size_bytes": 4 * params}


class Sum:
    """Every unit costs the same."""

    def __init__(self, price: int = 1) -> None:
        self.price = price

    def costs(self, widths: Widths) -> dict[str, int]:
        total = self.price * int(widths.sum())
        return {"macs": total, "params": total, "size_bytes": 4 * total}


Case = tuple[SearchSpace, Chain, Budget, np.ndarray]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a space, its costs, a feasible budget and fractions kept."""
    groups = []
    for index in range(draw(st.integers(1, 5))):
        config = PruningConfig(
            max_ratio=draw(st.floats(0.3, 0.95)), round_to=draw(st.sampled_from([1, 1, 2, 4]))
        )
        groups.append(GroupChoices.from_config(f"g{index}", draw(st.integers(2, 24)), 1, config))
    space = SearchSpace(tuple(groups))
    costs = Chain([draw(st.integers(1, 9)) for _ in groups])
    smallest, full = costs.costs(space.smallest_widths), costs.costs(space.full_widths)
    bounds = []
    for cost in draw(st.sets(st.sampled_from(["macs", "params"]), min_size=1)):
        share = draw(st.floats(0.0, 1.1))
        bounds.append((cost, smallest[cost] + share * (full[cost] - smallest[cost])))
    keep = np.array([draw(st.floats(0.02, 1.0)) for _ in groups])
    return space, costs, Budget(tuple(bounds)), keep


def _next_widths(space: SearchSpace, widths: Widths) -> list[Widths]:
    """Return the widths in which one group is one step wider."""
    found = []
    for index, group in enumerate(space.groups):
        wider = [width for width in group.widths if width > widths[index]]
        if wider:
            candidate = widths.copy()
            candidate[index] = wider[0]
            found.append(candidate)
    return found


@given(cases(), st.booleans())
def test_projection_is_within_the_budget_on_allowed_widths(case: Case, fill: bool) -> None:
    space, costs, budget, keep = case
    widths = project(keep, budget, space, costs, fill=fill)
    assert budget.admits(costs.costs(widths))
    assert all(width in group.widths for width, group in zip(widths, space.groups, strict=True))


@given(cases())
def test_projection_leaves_feasible_widths_alone_without_fill(case: Case) -> None:
    space, costs, budget, keep = case
    widths = project(keep, budget, space, costs)
    again = project(widths / space.num_units, budget, space, costs, fill=False)
    assert again.tolist() == widths.tolist()


@given(cases())
def test_projection_leaves_tight_widths_alone(case: Case) -> None:
    space, costs, budget, keep = case
    widths = project(keep, budget, space, costs)
    while wider := [w for w in _next_widths(space, widths) if budget.admits(costs.costs(w))]:
        widths = wider[0]
    again = project(widths / space.num_units, budget, space, costs)
    assert again.tolist() == widths.tolist()


@given(cases(), st.floats(0.01, 60.0))
def test_no_common_factor_would_keep_more(case: Case, factor: float) -> None:
    space, costs, budget, keep = case
    widths = project(keep, budget, space, costs)
    units = space.num_units
    scaled = space.floor(np.clip(keep * units * factor, 0, units))
    assert not budget.admits(costs.costs(scaled)) or (scaled <= widths).all()


@given(cases())
def test_without_fill_a_candidate_that_fits_is_only_rounded_down(case: Case) -> None:
    space, costs, budget, keep = case
    rounded = space.floor(keep * space.num_units)
    if budget.admits(costs.costs(rounded)):
        assert project(keep, budget, space, costs, fill=False).tolist() == rounded.tolist()


@given(cases())
def test_an_ample_budget_keeps_everything(case: Case) -> None:
    space, costs, _, keep = case
    ample = Budget.parse({"macs": 1.0}, costs.costs(space.full_widths))
    assert project(keep, ample, space, costs).tolist() == space.full_widths.tolist()


@given(
    st.integers(2, 24),
    st.lists(st.floats(0.02, 1.0), min_size=2, max_size=5),
    st.floats(0.0, 1.0),
)
def test_equal_groups_keep_the_order_of_their_fractions(
    units: int, keep: list[float], share: float
) -> None:
    groups = [
        GroupChoices.from_config(f"g{i}", units, 1, PruningConfig()) for i in range(len(keep))
    ]
    space, costs = SearchSpace(tuple(groups)), Sum()
    low, high = space.smallest_widths.sum(), space.full_widths.sum()
    budget = Budget((("macs", float(low + share * (high - low))),))
    widths = project(np.array(keep), budget, space, costs)
    by_fraction = [width for _, width in sorted(zip(keep, widths.tolist(), strict=True))]
    assert by_fraction == sorted(by_fraction)


@given(st.lists(st.floats(0.02, 1.0), min_size=1, max_size=5), st.integers(0, 100))
def test_a_budget_in_units_is_used_up(keep: list[float], extra: int) -> None:
    groups = tuple(GroupChoices(f"g{i}", 20, tuple(range(1, 21))) for i in range(len(keep)))
    space = SearchSpace(groups)
    bound = min(len(keep) + extra, 20 * len(keep))
    widths = project(np.array(keep), Budget((("macs", bound),)), space, Sum())
    assert widths.sum() == bound


def test_the_group_that_rounding_robbed_most_is_given_back_first() -> None:
    groups = tuple(GroupChoices(name, 10, tuple(range(1, 11))) for name in "ab")
    widths = project(np.array([0.3, 0.39]), Budget((("macs", 7),)), SearchSpace(groups), Sum())
    assert widths.tolist() == [3, 4]


@pytest.mark.parametrize(
    ("cost", "value", "expected"),
    [
        pytest.param("macs", 0.3, 0.3, id="fraction"),
        pytest.param("macs", "0.3", 0.3, id="text-fraction"),
        pytest.param("macs", 1200000, 1.2e6, id="number"),
        pytest.param("macs", "1.2M", 1.2e6, id="M"),
        pytest.param("macs", " 3 g ", 3e9, id="spaces-and-case"),
        pytest.param("params", "5k", 5e3, id="k"),
        pytest.param("params", "1e6", 1e6, id="exponent"),
        pytest.param("params", "2T", 2e12, id="T"),
        pytest.param("size_bytes", "300kB", 3e5, id="kB"),
        pytest.param("size_bytes", "2MiB", 2 * 2**20, id="MiB"),
        pytest.param("size_bytes", "4KiB", 4096, id="KiB"),
        pytest.param("size_bytes", "512B", 512, id="B"),
        pytest.param("size_bytes", "2M", 2e6, id="bytes-without-unit"),
    ],
)
def test_amounts(cost: str, value: float | str, expected: float) -> None:
    assert parse_amount(cost, value) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "lots",
        "1.2.3M",
        "-5",
        "M",
        "1,000",
        "5 ms",
        "3kB",
        "30%",
        "1 2",
        "nan",
        "inf",
        ".",
        True,
    ],
)
def test_what_is_no_amount_is_refused_with_its_key(value: str | bool) -> None:
    with pytest.raises(ConfigError, match=r"^budget\.macs: expected"):
        parse_amount("macs", value)


@pytest.mark.parametrize("value", [0, 0.0, -1, float("nan"), float("inf"), "0", "1e999"])
def test_amounts_are_positive_and_finite(value: float | str) -> None:
    with pytest.raises(ConfigError, match=r"^budget\.macs: must be above 0"):
        parse_amount("macs", value)


ORIGINAL = {"macs": 1000, "params": 200, "size_bytes": 800}


@pytest.mark.parametrize(
    ("spec", "bounds"),
    [
        pytest.param({"macs": 0.3}, {"macs": 300.0}, id="fraction"),
        pytest.param({"macs": 1.0}, {"macs": 1000.0}, id="all"),
        pytest.param({"macs": 400}, {"macs": 400.0}, id="absolute"),
        pytest.param({"size_bytes": "0.5kB"}, {"size_bytes": 500.0}, id="text"),
        pytest.param(
            {"macs": 0.5, "params": 150}, {"macs": 500.0, "params": 150.0}, id="two-costs"
        ),
    ],
)
def test_budget_spec(spec: dict[str, float | str], bounds: dict[str, float]) -> None:
    assert Budget.parse(spec, ORIGINAL).as_dict() == pytest.approx(bounds)


def test_an_unknown_cost_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"budget\.flops: unknown cost; choose from macs, params"):
        Budget.parse({"flops": 0.5}, ORIGINAL)


def test_usage_is_the_tightest_bounds() -> None:
    budget = Budget.parse({"macs": 0.5, "params": 0.5}, ORIGINAL)
    assert budget.usage({"macs": 250, "params": 90}) == pytest.approx(0.9)
    assert budget.usage({"macs": 550, "params": 10}) == pytest.approx(1.1)


@pytest.mark.parametrize(("params", "admitted"), [(100, True), (101, False)])
def test_every_bound_must_hold(params: int, admitted: bool) -> None:
    budget = Budget.parse({"macs": 0.5, "params": 0.5}, ORIGINAL)
    assert budget.admits({"macs": 500, "params": params}) is admitted


def _stated(message: str) -> tuple[float, float]:
    match = re.search(r"smallest feasible value is ([\d,]+) \((0\.\d+) of the target's", message)
    assert match, message
    return float(match.group(1).replace(",", "")), float(match.group(2))


@given(st.integers(2, 100), st.integers(2, 99), st.integers(1, 10**6))
@example(units=100, smallest=29, price=1)  # 0.29 * 100 is below 29 in floating point
def test_the_smallest_values_stated_are_accepted(units: int, smallest: int, price: int) -> None:
    smallest = min(smallest, units)
    space = SearchSpace((GroupChoices("g", units, tuple(range(smallest, units + 1))),))
    costs = Sum(price)
    original = costs.costs(space.full_widths)
    tiny = Budget((("macs", 0.5),))
    with pytest.raises(InfeasibleBudgetError, match=r"budget\.macs: .* cannot be met") as caught:
        tiny.check_feasible(space, costs, costs.costs(space.full_widths))
    absolute, fraction = _stated(str(caught.value)) if smallest < units else (original["macs"], 1.0)
    assert absolute == costs.costs(space.smallest_widths)["macs"]
    Budget.parse({"macs": absolute}, original).check_feasible(
        space, costs, costs.costs(space.full_widths)
    )
    Budget.parse({"macs": fraction}, original).check_feasible(
        space, costs, costs.costs(space.full_widths)
    )


def test_a_feasible_budget_is_accepted() -> None:
    space = SearchSpace((GroupChoices("g", 10, (2, 5, 10)),))
    Budget((("macs", 2.0),)).check_feasible(space, Sum(), Sum().costs(space.full_widths))
