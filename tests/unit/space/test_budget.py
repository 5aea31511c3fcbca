from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from looped_batch import LoopedBatch

from rl_compress.errors import ConfigError, InfeasibleBudgetError
from rl_compress.space.budget import Amount, Budget, parse_amount
from rl_compress.space.search_space import Amounts, Dimension, SearchSpace


class Sum(LoopedBatch):
    """Every unit costs the same."""

    def __init__(self, space: SearchSpace, price: int = 1) -> None:
        super().__init__(space)
        self.price = price

    def of(self, amounts: Amounts) -> dict[str, int]:
        total = self.price * int(amounts.sum())
        return {"macs": total, "params": total, "size_bytes": 4 * total}


@pytest.mark.parametrize(
    ("cost", "value", "expected"),
    [
        pytest.param("macs", 0.3, 0.3, id="number"),
        pytest.param("macs", 1, 1.0, id="one"),
        pytest.param("size_bytes", 1.0, 1.0, id="one-of-bytes"),
        pytest.param("macs", "0.3", 0.3, id="text"),
        pytest.param("params", "1e-2", 0.01, id="exponent"),
        pytest.param("latency_ms", 0.5, 0.5, id="latency"),
    ],
)
def test_plain_numbers_up_to_one_are_fractions(
    cost: str, value: float | str, expected: float
) -> None:
    assert parse_amount(cost, value) == Amount(expected, is_fraction=True)


@pytest.mark.parametrize(
    ("cost", "value", "expected"),
    [
        pytest.param("macs", 1200000, 1.2e6, id="number"),
        pytest.param("macs", 1.001, 1.001, id="just-above-one"),
        pytest.param("macs", "1.2M", 1.2e6, id="M"),
        pytest.param("macs", "0.5M", 5e5, id="less-than-one-M"),
        pytest.param("macs", " 3 g ", 3e9, id="spaces-and-case"),
        pytest.param("macs", "0.0001k", 0.1, id="prefix-below-one-unit"),
        pytest.param("params", "5k", 5e3, id="k"),
        pytest.param("params", "1e6", 1e6, id="exponent"),
        pytest.param("bops", "2T", 2e12, id="T"),
        pytest.param("size_bytes", "300kB", 3e5, id="kB"),
        pytest.param("size_bytes", "0.5MB", 5e5, id="less-than-one-MB"),
        pytest.param("size_bytes", "0.5B", 0.5, id="less-than-one-byte"),
        pytest.param("size_bytes", "2MiB", 2 * 2**20, id="MiB"),
        pytest.param("peak_memory_bytes", "4KiB", 4096, id="KiB"),
        pytest.param("size_bytes", "512B", 512, id="B"),
        pytest.param("size_bytes", "2M", 2e6, id="bytes-without-unit"),
        pytest.param("latency_ms", 5, 5.0, id="latency-number"),
        pytest.param("latency_ms", "5", 5.0, id="latency-text"),
        pytest.param("latency_ms", "0.9ms", 0.9, id="less-than-one-ms"),
        pytest.param("latency_ms", "1 ms", 1.0, id="ms"),
        pytest.param("latency_ms", "800us", 0.8, id="us"),
        pytest.param("latency_ms", "0.25 S", 250.0, id="s"),
    ],
)
def test_larger_numbers_and_those_with_units_are_amounts(
    cost: str, value: float | str, expected: float
) -> None:
    amount = parse_amount(cost, value)
    assert amount.number == pytest.approx(expected, rel=1e-12)
    assert not amount.is_fraction


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


@pytest.mark.parametrize(
    ("cost", "value", "example"),
    [
        ("latency_ms", "5MB", '"5ms"'),
        ("latency_ms", "5k", '"5ms"'),
        ("latency_ms", "1.5 min", '"5ms"'),
        ("size_bytes", "5ms", '"300kB"'),
        ("peak_memory_bytes", "1 s", '"300kB"'),
        ("bops", "1GB", '"1.2M"'),
    ],
)
def test_units_of_other_costs_are_refused_with_an_example(
    cost: str, value: str, example: str
) -> None:
    message = f"^budget\\.{cost}: expected a fraction such as 0.3 or an amount such as {example}"
    with pytest.raises(ConfigError, match=message):
        parse_amount(cost, value)


@pytest.mark.parametrize("value", [0, 0.0, -1, float("nan"), float("inf"), "0", "1e999"])
def test_amounts_are_positive_and_finite(value: float | str) -> None:
    with pytest.raises(ConfigError, match=r"^budget\.macs: must be above 0"):
        parse_amount("macs", value)


ORIGINAL = {"macs": 1000, "params": 200, "size_bytes": 800, "latency_ms": 4.0}


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
        pytest.param({"latency_ms": 0.5}, {"latency_ms": 2.0}, id="fraction-of-latency"),
        pytest.param({"latency_ms": "0.9ms"}, {"latency_ms": 0.9}, id="latency"),
        pytest.param({"size_bytes": "0.5B"}, {"size_bytes": 0.5}, id="never-a-fraction"),
    ],
)
def test_budget_spec(spec: dict[str, float | str], bounds: dict[str, float]) -> None:
    assert Budget.parse(spec, ORIGINAL).as_dict() == pytest.approx(bounds)


def test_an_unknown_cost_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"budget\.flops: unknown cost; choose from macs, params"):
        Budget.parse({"flops": 0.5}, ORIGINAL)


@pytest.mark.parametrize("value", [0.5, "3ms"])
def test_latency_needs_something_that_predicts_it(value: float | str) -> None:
    with pytest.raises(ConfigError, match=r"^budget\.latency_ms: needs a latency table; "):
        Budget.parse({"latency_ms": value}, {"macs": 1000})


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
    space = SearchSpace((Dimension("g", "channels", tuple(range(smallest, units + 1))),))
    costs = Sum(space, price)
    original = costs.costs(space.full)
    tiny = Budget((("macs", 0.5),))
    with pytest.raises(InfeasibleBudgetError, match=r"budget\.macs: .* cannot be met") as caught:
        tiny.check_feasible(space, costs, costs.costs(space.full))
    absolute, fraction = _stated(str(caught.value)) if smallest < units else (original["macs"], 1.0)
    assert absolute == costs.costs(space.smallest)["macs"]
    Budget.parse({"macs": absolute}, original).check_feasible(space, costs, costs.costs(space.full))
    Budget.parse({"macs": fraction}, original).check_feasible(space, costs, costs.costs(space.full))


class Timed(LoopedBatch):
    """Every unit costs a parameter, ten MACs, and a time."""

    def __init__(self, space: SearchSpace, milliseconds: float) -> None:
        super().__init__(space)
        self.milliseconds = milliseconds

    def of(self, amounts: Amounts) -> dict[str, float]:
        total = int(amounts.sum())
        return {"macs": 10 * total, "params": total, "latency_ms": self.milliseconds * total}


def test_every_bound_that_is_not_met_is_named_in_one_line() -> None:
    space = SearchSpace(
        (Dimension("a", "channels", (2, 5, 10)), Dimension("b", "channels", (3, 10)))
    )
    costs = Timed(space, 0.0123)
    original = costs.costs(space.full)
    budget = Budget.parse({"macs": 0.2, "params": 6, "latency_ms": "60us"}, original)
    with pytest.raises(InfeasibleBudgetError) as caught:
        budget.check_feasible(space, costs, original)
    assert str(caught.value) == (
        "budget.macs: 40 cannot be met; the smallest feasible value is 50 (0.2500 of the target's "
        "200); "
        "budget.latency_ms: 0.0600 ms cannot be met; the smallest feasible value is 0.0615 ms "
        "(0.2500 of the target's 0.2460 ms); "
        "raise the budget, or widen the space: raise space.pruning.max_ratio, allow fewer bits in "
        "space.quantization, or shorten space.skip"
    )


@given(st.floats(1e-3, 1e3), st.integers(1, 9))
def test_the_smallest_latency_stated_is_accepted(milliseconds: float, smallest: int) -> None:
    space = SearchSpace((Dimension("g", "channels", (smallest, 10)),))
    costs = Timed(space, milliseconds)
    original = costs.costs(space.full)
    with pytest.raises(InfeasibleBudgetError) as caught:
        Budget((("latency_ms", 1e-4),)).check_feasible(space, costs, original)
    stated = re.search(r"value is ([\d,.]+ ms) \((0\.\d+) of", str(caught.value))
    assert stated, caught.value
    for value in (stated[1].replace(",", ""), float(stated[2])):
        Budget.parse({"latency_ms": value}, original).check_feasible(space, costs, original)


def test_a_feasible_budget_is_accepted() -> None:
    space = SearchSpace((Dimension("g", "channels", (2, 5, 10)),))
    Budget((("macs", 2.0),)).check_feasible(space, Sum(space), Sum(space).costs(space.full))


def test_bound_above_the_targets_own_cost_is_told_of() -> None:
    original = {"macs": 100.0, "size_bytes": 400.0}
    budget = Budget.parse({"macs": 0.5, "size_bytes": "700kB"}, original)

    told = budget.loose(original)

    assert told is not None
    assert told.startswith(
        "budget.size_bytes: 700,000 is above the target's own 400 and bounds nothing; give less"
    )
    assert "macs" not in told
    every = Budget.parse({"size_bytes": "700kB"}, original).loose(original)
    assert every is not None
    assert "the whole target is within the budget" in every


def test_bound_at_the_targets_own_cost_is_meant() -> None:
    original = {"macs": 100.0}
    assert Budget.parse({"macs": 1.0}, original).loose(original) is None
