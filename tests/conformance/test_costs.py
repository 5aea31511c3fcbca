"""What every cost must hold to, the user's own as well."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_target import TinyTarget

from rl_compress.registry import COSTS
from rl_compress.space.budget import Budget, parse_amount
from rl_compress.space.projection import project
from rl_compress.space.space_config import SpaceConfig
from rl_compress.variants.compressor import Compressor

OWN = "own_cost:WeightEnergy"
ALL = [name for name in [*COSTS.built_in, OWN] if not COSTS.find(name).predicted]
SPACES = {
    "channels and bits": {"quantization": {"weight_bits": [2, 4, 8], "activation_bits": [4, 8]}},
    "weights": {"pruning": {"structure": "weights"}},
    "masks": {"action": "mask", "skip": ["conv3"]},
}


@pytest.fixture(scope="module", params=SPACES)
def counted(request: pytest.FixtureRequest) -> Compressor:
    target = TinyTarget()
    space = SpaceConfig.model_validate(SPACES[request.param])
    found = Compressor.prepare(target.architecture().eval(), target.example_inputs(), space)
    found.costs.add_own(OWN, "budget")
    return found


def test_all_are_counted_and_those_of_the_user_too(counted: Compressor) -> None:
    assert list(counted.costs.original) == ALL
    assert list(counted.costs.costs(counted.space.smallest)) == ALL


@pytest.mark.parametrize("name", ALL)
def test_no_cost_falls_where_more_is_kept(name: str, counted: Compressor) -> None:
    space, rng = counted.space, np.random.default_rng(0)
    lower = rng.integers(space.full + 1, size=(20, len(space)))
    upper = rng.integers(lower, space.full + 1)
    less, more = (counted.costs.batch(levels)[name] for levels in (lower, upper))
    assert (less <= more).all()
    assert (more <= counted.costs.original[name]).all()
    assert (counted.costs.batch(lower[:1])[name] == less[:1]).all()
    assert (less > 0).all()


@pytest.mark.parametrize("name", ALL)
def test_a_budget_holds_as_a_share_and_as_an_amount(name: str, counted: Compressor) -> None:
    space, costs = counted.space, counted.costs
    least, whole = costs.costs(space.smallest)[name], costs.original[name]
    share = least / whole + 0.4 * (1 - least / whole)
    by_share, by_amount = (Budget.parse({name: v}, costs.original) for v in (share, share * whole))
    keep = np.linspace(0.3, 0.9, len(space))
    levels, others = (project(keep, budget, space, costs) for budget in (by_share, by_amount))
    assert levels.tolist() == others.tolist()
    assert least <= costs.costs(levels)[name] <= by_share.as_dict()[name]


@pytest.mark.parametrize("name", [*COSTS.built_in, OWN])
def test_it_is_written_in_its_unit(name: str) -> None:
    cost = COSTS.find(name)
    assert cost.label
    assert cost.title
    assert parse_amount(name, f"5{cost.unit}").number == 5
    assert not parse_amount(name, f"5{cost.unit}").is_fraction or not cost.unit
