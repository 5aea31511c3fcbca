from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rl_compress.agent.observation import Observer
from rl_compress.agent.task import Task
from rl_compress.searchers.sensitivity import SensitivityCurves
from rl_compress.space.budget import Budget
from rl_compress.variants.compressor import Compressor

MakeTask = Callable[..., Task]

POSITION, KIND, ASPECT, SHAPE = slice(0, 1), slice(1, 5), slice(5, 8), slice(8, 10)
SHARE, CURVE, PRIOR, WEIGHTS = slice(10, 12), slice(12, 20), slice(20, 21), slice(21, 26)
BUDGET, BOUNDS = slice(26, 28), slice(28, 34)
DECISIONS, DECIDED = slice(34, 37), slice(37, 40)

FULL = np.array([7, 10, 18])  # 8, 12 and 20 units
DECIDED_ON = np.array([3, 1, 3])  # 4, 3 and 5 units


def _observer(task: Task) -> Observer:
    problem = task.problem
    return Observer(
        problem.compressor, problem.budget, task.prior, problem.curves, task.reward_scale()
    )


@pytest.fixture
def observer(make_task: MakeTask) -> Observer:
    return _observer(make_task())


def test_size_is_34_and_two_for_each_group(observer: Observer) -> None:
    assert observer.size == 34 + 2 * 3
    assert observer.observe(0, FULL).shape == (observer.size,)


@pytest.mark.parametrize(("group", "position", "kind"), [(0, 0.0, 0), (1, 0.5, 0), (2, 1.0, 3)])
def test_position_and_kind(observer: Observer, group: int, position: float, kind: int) -> None:
    found = observer.observe(group, FULL)
    assert found[POSITION] == position
    assert found[KIND].tolist() == [float(index == kind) for index in range(4)]


def test_aspect_and_bounds(observer: Observer, compressor: Compressor, budget: Budget) -> None:
    found = observer.observe(0, FULL)
    assert found[ASPECT].tolist() == [1.0, 0.0, 0.0]
    share = budget.as_dict()["macs"] / compressor.costs.original["macs"]
    np.testing.assert_allclose(found[BOUNDS], [np.log10(share), 0, 0, 0, 0, 0], rtol=1e-5)
    observer.face(Budget((("params", compressor.costs.original["params"] / 10),)), None)
    found = observer.observe(0, FULL)
    np.testing.assert_allclose(found[BOUNDS], [0, -1, 0, 0, 0, 0], rtol=1e-5)
    assert found[PRIOR] == 1.0


def test_shape_and_shares_of_a_known_group(observer: Observer) -> None:
    found = observer.observe(0, FULL)
    params = (9 * 8 + 8) + 2 * 8 + 9 * 8 * 12
    conv1, conv2, fc1, fc2 = 64 * 9 * 8, 16 * 9 * 8 * 12, 192 * 20, 20 * 10
    total = params + (12 + 2 * 12) + 192 * 20 + 20 + 210
    np.testing.assert_allclose(found[SHAPE], np.log10([8, params]) / 8, rtol=1e-5)
    macs = (conv1 + conv2) / (conv1 + conv2 + fc1 + fc2)
    np.testing.assert_allclose(found[SHARE], [macs, params / total], rtol=1e-5)


def test_sensitivities_are_squashed_and_increase(observer: Observer, make_task: MakeTask) -> None:
    task = make_task()
    problem = task.problem
    curve = observer.observe(2, FULL)[CURVE]
    assert curve[0] == 0.0
    assert (np.diff(curve) > 0).all()
    assert problem.curves is not None
    drop = problem.curves.drop_at(2, 2) / task.reward_scale()
    assert curve[-1] == pytest.approx(drop / (1 + drop), rel=1e-5)


def test_without_a_prior_there_are_no_sensitivities(make_task: MakeTask) -> None:
    found = _observer(make_task(prior=False)).observe(1, FULL)
    assert (found[CURVE] == 0).all()
    assert found[PRIOR] == 1.0


def test_the_priors_fraction(
    observer: Observer, make_task: MakeTask, compressor: Compressor
) -> None:
    prior = make_task().prior
    assert prior is not None
    found = [float(observer.observe(group, FULL)[PRIOR][0]) for group in range(3)]
    np.testing.assert_allclose(found, compressor.space.kept(prior), rtol=1e-6)


def test_weight_statistics_are_those_of_the_narrowed_weights(
    observer: Observer, compressor: Compressor
) -> None:
    levels = compressor.space.nearest(np.array([3, 12, 20]))
    variant = compressor.variant(levels)
    full = compressor.variant(FULL)

    def weights(network: object) -> np.ndarray:
        layers = (network.conv2.weight, network.fc1.weight)  # type: ignore[attr-defined]
        return np.concatenate([layer.detach().numpy().ravel() for layer in layers])

    scaled = weights(variant) / weights(full).std()
    expected = [
        scaled.mean(),
        scaled.std(),
        abs(scaled).mean(),
        abs(scaled).max() / 10,
        np.log10(scaled.size) / 8,
    ]
    np.testing.assert_allclose(observer.observe(1, levels)[WEIGHTS], expected, rtol=1e-3, atol=1e-5)


def test_decisions_are_shown_once_they_are_made(observer: Observer) -> None:
    levels = DECIDED_ON
    expected = [([0, 0, 0], [0, 0, 0]), ([0.5, 0, 0], [1, 0, 0]), ([0.5, 0.75, 0], [1, 1, 0])]
    for group, (decisions, decided) in enumerate(expected):
        found = observer.observe(group, levels)
        assert found[DECISIONS].tolist() == decisions
        assert found[DECIDED].tolist() == decided


def test_after_the_last_decision_everything_is_shown(observer: Observer) -> None:
    found = observer.observe(3, DECIDED_ON)
    assert found[DECISIONS].tolist() == [0.5, 0.75, 0.75]
    assert found[DECIDED].tolist() == [1, 1, 1]


def test_budget_usage_with_the_prior_and_with_the_smallest_rest(
    observer: Observer, make_task: MakeTask, compressor: Compressor, budget: Budget
) -> None:
    prior = make_task().prior
    assert prior is not None
    levels = FULL
    for group in range(4):
        expected = [
            budget.usage(compressor.costs.costs(np.concatenate([levels[:group], rest[group:]])))
            for rest in (prior, compressor.space.smallest)
        ]
        found = observer.observe(group, levels)[BUDGET]
        np.testing.assert_allclose(found, np.minimum(expected, 10), rtol=1e-5)


def test_observations_are_bounded(compressor: Compressor, curves: SensitivityCurves) -> None:
    tiny = Budget((("macs", 1.0),))
    observer = Observer(compressor, tiny, None, curves, 1e-6)
    found = observer.observe(0, FULL)
    assert np.isfinite(found).all()
    assert abs(found).max() == observer.bound
