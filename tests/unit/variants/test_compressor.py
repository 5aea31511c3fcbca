from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor, nn

from rl_compress.model.axes import Axis, named_tensors
from rl_compress.model.groups import find_groups
from rl_compress.repair.bias_correction import correct_bias
from rl_compress.repair.recalibration import recalibrate_batchnorm
from rl_compress.repair.reconstruction import reconstruct
from rl_compress.space.search_space import Levels
from rl_compress.space.space_config import PruningConfig, SpaceConfig
from rl_compress.targets.target import ClassificationTarget
from rl_compress.variants.compressor import Compressor
from rl_compress.variants.copied_out import copied_out, make_room

Prepared = tuple[nn.Module, Compressor]

_PREPARED: dict[str, Prepared] = {}


@pytest.fixture(scope="module", autouse=True)
def _forget() -> Iterator[None]:
    yield
    _PREPARED.clear()


def prepared(name: str) -> Prepared:
    """Prepare a network of the zoo once; tests leave both as they are."""
    if name not in _PREPARED:
        model = zoo.make(name)
        _PREPARED[name] = model, Compressor.prepare(model, zoo.EXAMPLE, SpaceConfig())
    return _PREPARED[name]


def random_levels(compressor: Compressor, count: int, seed: int = 0) -> Iterator[Levels]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield rng.integers(compressor.space.full + 1)


def batch(size: int = 4) -> Tensor:
    return torch.randn(size, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def assert_same_function(found: nn.Module, expected: nn.Module) -> None:
    with torch.no_grad():
        a, b = found(batch()), expected(batch())
    assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.mark.parametrize("name", zoo.ZOO)
def test_fast_and_physical_path_are_the_same_function(name: str) -> None:
    model, compressor = prepared(name)
    for levels in random_levels(compressor, 50):
        physical = compressor.cut(model, levels)
        assert_same_function(compressor.variant(levels), physical.eval())


@pytest.mark.parametrize("name", zoo.ZOO)
def test_fast_and_physical_path_have_equal_shapes(name: str) -> None:
    model, compressor = prepared(name)
    for levels in [compressor.space.smallest, *random_levels(compressor, 3)]:
        physical = compressor.cut(model, levels)
        variant = compressor.variant(levels)
        assert {name: t.shape for name, t in variant.state_dict().items()} == {
            name: t.shape for name, t in physical.state_dict().items()
        }
        assert repr(variant) == repr(physical)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_full_levels_are_the_original(name: str) -> None:
    model, compressor = prepared(name)
    assert_same_function(compressor.variant(compressor.space.full), model)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_full_levels_cut_nothing(name: str) -> None:
    model, compressor = prepared(name)
    physical = compressor.cut(model, compressor.space.full)
    for tensor, expected in zip(
        physical.state_dict().values(), model.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, expected)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_preparing_leaves_the_model_as_it_was(name: str) -> None:
    model, fresh = prepared(name)[0], zoo.make(name)
    assert not model.training
    for tensor, expected in zip(
        named_tensors(model).values(), named_tensors(fresh).values(), strict=True
    ):
        assert torch.equal(tensor, expected)
        assert tensor.requires_grad == expected.requires_grad
        assert tensor.grad is None


@pytest.mark.parametrize("name", zoo.ZOO)
def test_a_fresh_model_takes_the_shapes_of_a_variant(name: str) -> None:
    model, compressor = prepared(name)
    for levels in random_levels(compressor, 3, seed=2):
        physical = compressor.cut(model, levels)
        again = zoo.make(name, seed=1)
        make_room(again, physical.state_dict())
        assert repr(again) == repr(physical)
        again.load_state_dict(physical.state_dict())
        with torch.no_grad():
            assert torch.equal(again.eval()(batch()), physical.eval()(batch()))


def test_shapes_that_no_cut_can_have_made_are_left_to_the_loader() -> None:
    model = zoo.make("plain")
    make_room(model, {"conv1.weight": torch.zeros(9, 1, 3, 3), "conv1.bias": torch.zeros(1, 8)})
    assert model.get_parameter("conv1.weight").shape == (8, 1, 3, 3)
    assert model.get_parameter("conv1.bias").shape == (8,)


def test_cutting_removes_the_channels_named() -> None:
    model = zoo.make("plain")
    group = find_groups(model, zoo.EXAMPLE, SpaceConfig()).groups[0]
    gone = [Axis(axis.tensor, axis.axis, axis.positions[[0, 3, 7]]) for axis in group.axes]
    smaller = copied_out(model, gone)
    kept = [1, 2, 4, 5, 6]
    assert torch.equal(smaller.get_parameter("conv1.weight"), model.conv1.weight[kept])
    assert torch.equal(smaller.get_parameter("conv2.weight"), model.conv2.weight[:, kept])
    assert torch.equal(smaller.get_buffer("bn1.running_var"), model.bn1.running_var[kept])
    assert model.get_parameter("conv1.weight").shape[0] == 8


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def test_a_prefix_shares_the_memory_of_the_shared_tensors() -> None:
    _, compressor = prepared("plain")
    variant = named_tensors(compressor.network.variant(np.array([4, 5, 6])))
    shared = compressor.network.tensors
    # Only the flattened input of fc1 is no prefix: each channel has 16 columns, yet in one block.
    assert {name for name in shared if _storage(variant[name]) != _storage(shared[name])} == set()


def test_units_that_are_no_prefix_are_copied() -> None:
    _, compressor = prepared("concat")
    shared = compressor.network.tensors
    variant = named_tensors(compressor.network.variant(np.array([3, 2, 3, 4])))
    copied = {name for name in shared if _storage(variant[name]) != _storage(shared[name])}
    bn = {f"bn.{name}" for name in ("weight", "bias", "running_mean", "running_var")}
    assert copied == {"conv.weight"} | bn


@pytest.mark.parametrize("name", zoo.ZOO)
def test_the_shared_tensors_are_not_the_models_own(name: str) -> None:
    model, compressor = prepared(name)
    own = {_storage(tensor) for tensor in named_tensors(model).values()}
    assert own.isdisjoint(_storage(tensor) for tensor in compressor.network.tensors.values())


@pytest.mark.parametrize("name", zoo.ZOO)
def test_the_full_variant_copies_nothing(name: str) -> None:
    _, compressor = prepared(name)
    variant = named_tensors(compressor.variant(compressor.space.full))
    for tensor, shared in compressor.network.tensors.items():
        assert variant[tensor].data_ptr() == shared.data_ptr()


def _random_target() -> ClassificationTarget:
    data = torch.utils.data.TensorDataset(batch(16), torch.zeros(16, dtype=torch.long))
    splits = dict.fromkeys(("train", "calibration", "search", "test"), data)
    return ClassificationTarget(lambda: nn.Identity(), splits, batch_size=8)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_repairs_of_a_variant_do_not_touch_the_shared_tensors(name: str) -> None:
    _, compressor = prepared(name)
    before = {name: tensor.clone() for name, tensor in compressor.network.tensors.items()}
    reference = compressor.variant(compressor.space.full)
    for levels in [compressor.space.full, *random_levels(compressor, 2)]:
        kept = compressor.kept_outputs(levels, ordered=True)
        for repair in (reconstruct, correct_bias):
            variant = compressor.variant(levels)
            repair(variant, reference, _random_target(), kept, max_batches=2)
        recalibrate_batchnorm(variant, _random_target(), max_batches=2)
    for tensor, expected in before.items():
        assert torch.equal(compressor.network.tensors[tensor], expected)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_a_variant_does_not_depend_on_those_before(name: str) -> None:
    _, compressor = prepared(name)
    levels = next(random_levels(compressor, 1))
    with torch.no_grad():
        first = compressor.variant(levels)(batch())
        compressor.variant(compressor.space.smallest)(batch())
        assert torch.equal(compressor.variant(levels)(batch()), first)


def test_variants_are_in_evaluation_mode_without_gradients() -> None:
    _, compressor = prepared("plain")
    variant = compressor.variant(compressor.space.smallest)
    assert not any(module.training for module in variant.modules())
    assert not any(parameter.requires_grad for parameter in variant.parameters())


def test_narrowing_keeps_the_most_important_channels() -> None:
    model, compressor = prepared("plain")
    kept = sorted(compressor.orders[0][:3].tolist())
    variant = compressor.cut(model, compressor.space.nearest(np.array([3, 12, 20])))
    assert torch.equal(variant.get_parameter("conv1.weight"), model.conv1.weight[kept])


@pytest.mark.parametrize("name", zoo.ZOO)
def test_kept_outputs_are_those_of_the_variant(name: str) -> None:
    model, compressor = prepared(name)
    shared = compressor.network.tensors
    for levels in random_levels(compressor, 5):
        fast = compressor.variant(levels)
        physical = compressor.cut(model, levels)
        for ordered, variant, original in (
            (True, fast, shared),
            (False, physical, named_tensors(model)),
        ):
            kept = compressor.kept_outputs(levels, ordered=ordered)
            for layer, indices in kept.items():
                bias = dict(variant.get_submodule(layer).named_parameters()).get("bias")
                if bias is not None:
                    assert torch.equal(bias, original[f"{layer}.bias"][indices])
                assert len(indices) == _outputs(variant.get_submodule(layer))


def _outputs(layer: nn.Module) -> int:
    weight = layer.get_parameter("weight")
    return weight.shape[1 if getattr(layer, "transposed", False) else 0]


@pytest.mark.parametrize("name", zoo.ZOO)
def test_kept_outputs_name_every_narrowed_layer(name: str) -> None:
    model, compressor = prepared(name)
    levels = compressor.space.smallest
    variant = compressor.variant(levels)
    layers = {
        layer
        for layer, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
        and _outputs(variant.get_submodule(layer)) < _outputs(module)
    }
    kept = compressor.kept_outputs(levels, ordered=True)
    assert layers <= set(kept)


def test_a_layer_called_twice_is_narrowed_on_both_sides() -> None:
    _, compressor = prepared("shared")
    variant = compressor.network.variant(np.array([5, 6, 16]))
    assert variant.get_parameter("twice.weight").shape == (5, 5, 3, 3)
    assert variant.get_parameter("up.weight").shape[1] == 5
    assert variant.get_parameter("act.weight").shape == (5,)


class Twice(nn.Module):
    """The same module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.middle = nn.Linear(8, 8)
        self.again = self.middle
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.middle(torch.relu(self.first(x))))
        return self.last(torch.relu(self.again(x)))


def test_a_module_registered_twice_stays_one() -> None:
    torch.manual_seed(0)
    model, inputs = Twice().eval(), (torch.zeros(1, 6),)
    compressor = Compressor.prepare(model, inputs, SpaceConfig())
    assert compressor.space.full_amounts.tolist() == [8]
    variant = compressor.network.variant(np.array([3]))
    physical = compressor.cut(model, compressor.space.nearest(np.array([3])))
    assert variant.middle is variant.again
    x = torch.randn(4, 6)
    torch.testing.assert_close(variant(x), physical(x))


class Tied(nn.Module):
    """Two layers with one weight, beside a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.third = nn.Linear(6, 8)
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.last(torch.relu(self.third(x)))


def test_tied_weights_stay_tied_in_a_variant() -> None:
    model, inputs = Tied().eval(), (torch.zeros(1, 6),)
    compressor = Compressor.prepare(model, inputs, SpaceConfig())
    variant = compressor.network.variant(np.array([3]))
    assert variant.second.weight is variant.first.weight
    assert compressor.costs.costs(compressor.space.nearest(np.array([8])))["params"] == sum(
        parameter.numel() for parameter in model.parameters()
    )


def test_without_weights_keeps_structure_and_costs() -> None:
    _, compressor = prepared("residual")
    light = compressor.without_weights()
    assert light.network.tensors == {}
    assert compressor.network.tensors
    levels = compressor.space.smallest
    assert light.costs.costs(levels) == compressor.costs.costs(levels)
    light.network.tensors.update(compressor.network.tensors)
    assert_same_function(light.variant(levels), compressor.variant(levels))


def test_the_skeleton_holds_no_weights() -> None:
    _, compressor = prepared("plain")
    tensors = named_tensors(compressor.network.skeleton)
    assert {tensor.device.type for tensor in tensors.values()} == {"meta"}


def test_the_space_follows_the_config() -> None:
    config = SpaceConfig(pruning=PruningConfig(max_ratio=0.5, round_to=4), skip=["fc2"])
    compressor = Compressor.prepare(zoo.make("plain"), zoo.EXAMPLE, config)
    assert {own.site: own.amounts for own in compressor.space.dimensions} == {
        "conv1": (4, 8),
        "conv2": (8, 12),
    }


def test_importance_decides_the_order() -> None:
    orders = [
        Compressor.prepare(
            zoo.make("plain"), zoo.EXAMPLE, SpaceConfig(pruning=PruningConfig(importance=norm))
        ).orders
        for norm in ("l1", "l2")
    ]
    assert any((a != b).any() for a, b in zip(*orders, strict=True))


def test_narrowed_weights_are_those_of_the_variant() -> None:
    _, compressor = prepared("plain")
    levels = compressor.space.nearest(np.array([3, 5, 7]))
    weights = compressor.weights_of(1, levels)
    variant = compressor.variant(levels)
    expected = [variant.conv2.weight, variant.fc1.weight]
    assert [tuple(weight.shape) for weight in weights] == [tuple(w.shape) for w in expected]
    for weight, wanted in zip(weights, expected, strict=True):
        assert torch.equal(weight, wanted)
