from __future__ import annotations

import pickle

import numpy as np
import pytest
import zoo
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from rl_compress.costs.latency_layers import LayerTimes, grid_of
from rl_compress.costs.latency_predictor import LatencyPredictor, Surroundings, monotone
from rl_compress.model.axes import quantizable_weights
from rl_compress.space.space_config import SpaceConfig
from rl_compress.variants.compressor import Compressor

ALONE = Surroundings(1.0, 0.0, 0.0)
COMPRESSORS = {
    name: Compressor.prepare(zoo.make(name), zoo.EXAMPLE, SpaceConfig()) for name in zoo.ZOO
}


def _layers(model: nn.Module, times: np.random.Generator | None = None) -> list[LayerTimes]:
    """Return a table of times; by default each is the product of the lengths."""
    layers = []
    for name, axis in quantizable_weights(model).items():
        rows, columns = model.get_parameter(name).shape[:2]
        first, second = grid_of(rows, 1), grid_of(columns, 1)
        ms = np.outer(first, second).astype(np.float64)
        if times is not None:
            ms = times.uniform(0.01, 1.0, ms.shape)
        layers.append(LayerTimes(name, first, second, ms, axis, elements=7))
    return layers


def _random_widths(compressor: Compressor, rng: np.random.Generator, count: int) -> np.ndarray:
    space = compressor.space
    return space.amounts(rng.integers(space.full + 1, size=(count, len(space))))


@pytest.mark.parametrize("name", zoo.ZOO)
def test_layers_are_as_wide_as_those_of_the_variant(name: str) -> None:
    # Times that are products of lengths are interpolated exactly.
    compressor, model = COMPRESSORS[name], zoo.make(name)
    predictor = LatencyPredictor(_layers(model), ALONE, model, compressor.network.groups)
    widths = _random_widths(compressor, np.random.default_rng(0), 20)
    sums, elements = predictor.parts(widths)
    for vector, total, outputs in zip(widths, sums, elements, strict=True):
        variant = compressor.network.variant(vector)
        shapes = [variant.get_parameter(layer).shape for layer in quantizable_weights(variant)]
        axes = quantizable_weights(variant).values()
        assert total == pytest.approx(sum(shape[0] * shape[1] for shape in shapes))
        assert outputs == 7 * sum(shape[axis] for shape, axis in zip(shapes, axes, strict=True))


@pytest.mark.parametrize("name", zoo.ZOO)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_prediction_is_monotone_in_every_width(name: str, seed: int) -> None:
    compressor, model, rng = COMPRESSORS[name], zoo.make(name), np.random.default_rng(seed)
    around = Surroundings(*rng.uniform(0.0, 2.0, 3))
    predictor = LatencyPredictor(_layers(model, rng), around, model, compressor.network.groups)
    widths = _random_widths(compressor, rng, 1)
    wider = widths.repeat(len(compressor.space), axis=0)
    np.fill_diagonal(wider, np.minimum(wider.diagonal() + 1, compressor.space.full_amounts))
    assert (predictor.predict_ms(wider) >= predictor.predict_ms(widths) - 1e-9).all()


def test_measured_widths_are_predicted_as_measured() -> None:
    model = nn.Sequential(nn.Linear(3, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False))
    compressor = Compressor.prepare(model, (zoo.EXAMPLE[0][0, 0, :1, :3],), SpaceConfig())
    one = LayerTimes("0.weight", np.array([2, 8]), np.array([3]), np.array([[1.0], [4.0]]), 0, 1)
    two = LayerTimes("2.weight", np.array([2]), np.array([2, 8]), np.array([[10.0, 40.0]]), 0, 1)
    around = Surroundings(2.0, 0.5, 3.0)
    predictor = LatencyPredictor([one, two], around, model, compressor.network.groups)
    # Below the narrowest that was measured, the time is that of the narrowest.
    found = predictor.predict_ms([[8], [5], [2], [1]])
    sums = [44.0, 27.5, 11.0, 11.0]
    outputs = [10, 7, 4, 3]
    expected = [2 * total + 0.5 * out + 3 for total, out in zip(sums, outputs, strict=True)]
    assert found.dtype == np.float64
    assert found == pytest.approx(expected)


def test_dimensions_behind_the_groups_change_nothing() -> None:
    compressor, model = COMPRESSORS["residual"], zoo.make("residual")
    predictor = LatencyPredictor(_layers(model), ALONE, model, compressor.network.groups)
    widths = _random_widths(compressor, np.random.default_rng(1), 4)
    joint = np.concatenate([widths, np.array([[2, 8], [4, 4], [8, 8], [3, 5]])], axis=1)
    assert (predictor.predict_ms(joint) == predictor.predict_ms(widths)).all()


def test_workers_get_it_whole() -> None:
    compressor, model = COMPRESSORS["plain"], zoo.make("plain")
    predictor = LatencyPredictor(_layers(model), ALONE, model, compressor.network.groups)
    sent = pickle.loads(pickle.dumps(predictor))
    widths = _random_widths(compressor, np.random.default_rng(2), 3)
    assert (sent.predict_ms(widths) == predictor.predict_ms(widths)).all()


@given(hnp.arrays(np.float64, (4, 3), elements=st.floats(0.0, 10.0)))
def test_monotone_times_are_the_nearest(ms: np.ndarray) -> None:
    found = monotone(ms)
    assert (np.diff(found, axis=0) >= 0).all()
    assert (np.diff(found, axis=1) >= 0).all()
    assert monotone(found) == pytest.approx(found)
    # Two cells in the wrong order can both be met no better than in their middle.
    inversions = [
        ms[i, j] - ms[k, n] for i, j in np.ndindex(4, 3) for k in range(i, 4) for n in range(j, 3)
    ]
    assert np.abs(found - ms).max() <= max(inversions) / 2 + 1e-9
