from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import zoo
from torch import nn

from rl_compress.costs.latency_layers import LayerGrids, LayerTimes
from rl_compress.costs.latency_predictor import Surroundings
from rl_compress.costs.latency_table import (
    LatencyTable,
    PredictionError,
    _fit,
    cached_path,
    find_latency_table,
    model_digest,
    table_device,
)
from rl_compress.errors import ConfigError, CorruptFileError
from rl_compress.model.axes import quantizable_weights
from rl_compress.space.space_config import SpaceConfig
from rl_compress.variants.compressor import Compressor

CPU = torch.device("cpu")


def _layers(name: str) -> dict[str, LayerTimes]:
    """Return the layers of a network of the zoo, each run taking as many ms as its number."""
    grids = LayerGrids(zoo.make(name), zoo.EXAMPLE)
    return {layer.weight: layer for layer in grids.times(np.arange(float(len(grids.runs))))}


def _table(model: nn.Module, device: str = "a device") -> LatencyTable:
    """Return a table that nothing was measured for."""
    shape = np.array([1, 4]), np.array([1, 2, 3])
    ms = np.arange(6.0).reshape(2, 3)
    layers = [
        LayerTimes(name, *shape, ms + row, axis, 5 + row)
        for row, (name, axis) in enumerate(quantizable_weights(model).items())
    ]
    return LatencyTable(
        device=device,
        digest=model_digest(model, zoo.EXAMPLE),
        batch_size=1,
        threads=1,
        torch_version="2.0",
        layers=tuple(layers),
        surroundings=Surroundings(1.5, 1e-6, 0.25),
        error=PredictionError(12, 3.0, 9.5),
        target_ms=1.25,
    )


@pytest.mark.parametrize("name", zoo.ZOO)
def test_a_model_is_measured_over_its_whole_space(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rl_compress.costs.latency_table._SECONDS", 0.0)
    monkeypatch.setattr("rl_compress.costs.latency_table._TESTED", 4)
    model = zoo.make(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    compressor = Compressor.prepare(model, zoo.EXAMPLE, SpaceConfig())
    turns: list[tuple[int, int]] = []
    table = LatencyTable.build(
        model,
        compressor.network.groups,
        compressor.variant,
        compressor.space,
        zoo.EXAMPLE,
        batch_size=2,
        advance=lambda done, total: turns.append((done, total)),
    )
    space = compressor.space
    predictor = table.predictor(model, compressor.network.groups)
    smallest, full = predictor.predict_ms(space.amounts(np.stack([space.smallest, space.full])))
    assert 0 < smallest <= full
    assert table.target_ms > 0
    assert [layer.weight for layer in table.layers] == list(quantizable_weights(model))
    assert (table.batch_size, table.threads, table.device) == (2, 1, table_device(CPU))
    assert 0 <= table.error.median_percent <= table.error.worst_percent
    assert [done for done, _ in turns] == list(range(1, turns[-1][1] + 1))
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_the_layers_grid_goes_up_to_their_widths() -> None:
    first, second, last, _ = _layers("grouped").values()
    assert (first.first.tolist(), first.second.tolist()) == ([1, 3, 6, 9, 12], [1])
    # Four groups stay four: outputs come in fours, and inputs count within a group.
    assert (second.first.tolist(), second.second.tolist()) == ([4, 8, 12, 16], [1, 2, 3])
    assert last.ms.shape == (5, 5)
    assert first.ms.ravel().tolist() == [0, 1, 2, 3, 4]
    assert second.ms.ravel().tolist() == list(range(5, 17))
    assert [layer.elements for layer in (first, second, last)] == [64, 64, 64]


def test_equal_layers_are_measured_once() -> None:
    layers = _layers("residual")
    assert layers["block1.conv1.weight"].ms is layers["block1.conv2.weight"].ms
    assert layers["block1.conv1.weight"].ms is not layers["block2.conv2.weight"].ms


def test_a_layer_that_is_called_twice_counts_twice() -> None:
    layers = _layers("shared")
    grids = LayerGrids(zoo.make("shared"), zoo.EXAMPLE)
    once = {layer.weight: layer for layer in grids.times(np.ones(len(grids.runs)))}
    assert (once["twice.weight"].ms == 2).all()
    assert (once["down.weight"].ms == 1).all()
    assert layers["twice.weight"].elements == 2 * 16 * 16
    assert layers["up.weight"].output_axis == 1
    assert layers["up.weight"].elements == 16 * 16


def test_what_was_put_in_is_fitted() -> None:
    rng = np.random.default_rng(0)
    sums, elements = rng.uniform(1, 9, 20), rng.uniform(1e3, 9e3, 20)
    found = _fit(sums, elements, 1.2 * sums + 1e-4 * elements + 0.5)
    assert dataclasses.astuple(found) == pytest.approx((1.2, 1e-4, 0.5))


def test_nothing_fitted_is_negative() -> None:
    sums = np.array([1.0, 2.0, 3.0])
    found = _fit(sums, np.array([5.0, 1.0, 2.0]), 2.0 * sums - 0.5)
    assert min(dataclasses.astuple(found)) >= 0.0
    assert found.fixed_ms == 0.0


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = _table(zoo.make("shared"))
    path = tmp_path / "new" / "table.parquet"
    table.save(path)
    found = LatencyTable.load(path)
    assert dataclasses.replace(found, layers=()) == dataclasses.replace(table, layers=())
    for read, written in zip(found.layers, table.layers, strict=True):
        for mine, its in zip(dataclasses.astuple(read), dataclasses.astuple(written), strict=True):
            assert np.array_equal(mine, its)
    assert [file.name for file in path.parent.iterdir()] == ["table.parquet"]


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    for data in (b"", b"PAR1 and nothing else"):
        path.write_bytes(data)
        with pytest.raises(CorruptFileError, match=r"table\.parquet.*rl-compress latency-table"):
            LatencyTable.load(path)
    with pytest.raises(CorruptFileError, match=r"absent\.parquet"):
        LatencyTable.load(tmp_path / "absent.parquet")


def test_another_schema_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.parquet"
    _table(zoo.make("plain")).save(path)
    monkeypatch.setattr("rl_compress.costs.latency_table.SCHEMA_VERSION", 2)
    with pytest.raises(CorruptFileError, match="reads schema version 2"):
        LatencyTable.load(path)


def test_the_file_says_what_it_is_of(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    _table(zoo.make("plain")).save(path)
    metadata = pq.read_schema(path).metadata[b"rl_compress_latency_table"].decode()
    for key in ("device", "digest", "batch_size", "threads", "torch_version", "schema_version"):
        assert f'"{key}"' in metadata


def test_the_digest_is_of_the_architecture_alone() -> None:
    digest = model_digest(zoo.make("plain"), zoo.EXAMPLE)
    assert model_digest(zoo.make("plain", seed=1), zoo.EXAMPLE) == digest
    assert model_digest(zoo.make("residual"), zoo.EXAMPLE) != digest
    assert model_digest(zoo.make("plain"), (torch.zeros(1, 1, 9, 9),)) != digest
    strided = zoo.make("plain")
    strided.conv1.stride = (2, 2)
    assert model_digest(strided, zoo.EXAMPLE) != digest


def test_a_table_of_another_model_or_device_is_refused() -> None:
    table = _table(zoo.make("plain"))
    table.check("a device", table.digest)
    table.check(None, table.digest)
    with pytest.raises(ConfigError, match=r"another model.*rl-compress latency-table JOB"):
        table.check("a device", "0" * 64)
    with pytest.raises(ConfigError, match="measured on a device, but this is another") as caught:
        table.check("another", table.digest, "t.parquet")
    assert str(caught.value).startswith("t.parquet: ")
    assert "\n" not in str(caught.value)


def test_a_table_in_the_cache_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RL_COMPRESS_CACHE", str(tmp_path))
    model = zoo.make("plain")
    with pytest.raises(ConfigError, match=r"budget\.latency_ms: .*rl-compress latency-table JOB"):
        find_latency_table(model, zoo.EXAMPLE, device=CPU)
    table = _table(model, table_device(CPU))
    table.save(cached_path(table.device, table.digest, 1))
    assert find_latency_table(model, zoo.EXAMPLE, device=CPU).target_ms == table.target_ms
    with pytest.raises(ConfigError, match="batch of 8"):
        find_latency_table(model, zoo.EXAMPLE, device=CPU, batch_size=8)


def test_a_table_that_is_named_may_be_of_another_device(tmp_path: Path) -> None:
    path = tmp_path / "phone.parquet"
    _table(zoo.make("plain"), "a phone").save(path)
    found = find_latency_table(zoo.make("plain"), zoo.EXAMPLE, device=CPU, path=path)
    assert found.device == "a phone"
    with pytest.raises(ConfigError, match=r"phone\.parquet: it was measured of another model"):
        find_latency_table(zoo.make("residual"), zoo.EXAMPLE, device=CPU, path=path)
