from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rl_compress.errors import ConfigError, RLCompressError
from rl_compress.export.format import Delivered
from rl_compress.export.manifest import Manifest
from rl_compress.export.onnx_int8 import OnnxInt8
from rl_compress.export.packed_state import Packing
from rl_compress.quantizers.activations import quantize_activations
from rl_compress.quantizers.bits import LayerBits
from rl_compress.quantizers.model import Quantization, quantize_weights
from rl_compress.runtimes.onnxruntime import OnnxRuntime
from rl_compress.space.compression_policy import CompressionPolicy
from rl_compress.space.space_config import QuantizationConfig, SpaceConfig

if TYPE_CHECKING:
    from pathlib import Path

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


class Branching(nn.Module):
    """What networks are made of: a shortcut, clipping, both kinds of pooling, concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, padding=1)
        self.last = nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        x = torch.relu(x + self.bn2(self.conv(x)))
        x = nn.functional.max_pool2d(nn.functional.relu6(self.depthwise(x)), 2)
        x = x + self.pointwise(x)
        x = torch.cat([torch.relu(self.left(x)), torch.relu(self.right(x))], 1)
        return self.fc(torch.relu(self.last(x)).mean((2, 3)))


class Encoder(nn.Module):
    """One block with attention."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(y)
        return x + self.down(nn.functional.gelu(self.up(x)))


def alive(model: nn.Module, example: Tensor) -> nn.Module:
    """Give batch normalization statistics, and some channels a negative factor."""
    for _ in range(20):
        model(example)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(-1.5, 1.5)
            module.bias.data.uniform_(-0.5, 0.5)
    return model.eval().requires_grad_(False)


ALONE = """
import json, sys
sys.modules["torch"] = sys.modules["rl_compress"] = None
import numpy, onnxruntime
session = onnxruntime.InferenceSession("model_int8.onnx")
(entry,) = session.get_inputs()
outputs = session.run(None, {entry.name: numpy.load("data.npz")["images"]})[0]
print(json.dumps(outputs.argmax(1).tolist()))
"""
"""What a machine needs that has no more than onnxruntime and numpy."""


@functools.cache
def example(kind: type[nn.Module]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn((16, 3, 8, 8) if kind is Branching else (16, 6, 16), generator=generator)


def written(
    folder: Path,
    kind: type[nn.Module],
    weights: int,
    activations: int,
    layers: tuple[str, ...] = (),
    **options: Any,
) -> tuple[nn.Module, Delivered]:
    """Quantize a network as a search does, and write it."""
    torch.manual_seed(0)
    inputs = example(kind)
    model = alive(kind(), inputs)
    config = QuantizationConfig(weight_bits=weights, activation_bits=activations)
    bits = LayerBits.same(model, config, lambda layer: bool(layers) and layer not in layers)
    found = quantize_weights(model, config, bits.weights)
    rounded = quantize_activations(model, lambda net: net(inputs), config, bits.activations)
    delivered = Delivered(
        model,
        Manifest(target={}, policy_id="none"),
        CompressionPolicy(()),
        (inputs[:1],),
        Packing(Quantization(found, rounded)),
        lambda _split: iter([(inputs,)]),
    )
    paths = OnnxInt8(OnnxInt8.Config(**options)).write(delivered, folder)
    assert paths == [folder / "model_int8.onnx"]
    return model, delivered


def optimized(path: Path) -> Counter[str]:
    """Count the kinds of nodes that onnxruntime runs."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path.with_suffix(".optimized"))
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path.with_suffix(".optimized")).graph.node)


@pytest.mark.parametrize(("weights", "activations"), [(3, 8), (8, 16)])
def test_every_layer_of_a_cnn_computes_with_bytes_as_the_variant_does(
    tmp_path: Path, weights: int, activations: int
) -> None:
    model, delivered = written(tmp_path, Branching, weights, activations)
    check = delivered.entries["onnx_int8"]
    assert check.float_layers == {}
    assert check.error < 0.04
    path = tmp_path / "model_int8.onnx"
    kinds = optimized(path)
    assert kinds["QLinearConv"] == 7
    assert kinds["QLinearAdd"] == 2
    assert not {"Conv", "FusedConv", "Gemm", "Add", "Relu", "Clip", "ReduceMean"} & kinds.keys()
    arrays = [onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer]
    codes = [array for array in arrays if array.dtype == np.int8 and array.ndim > 1]
    assert len(codes) == 8
    largest = min(2 ** (weights - 1) - 1, 64)
    dense = [array for array in codes if weights < 8 or array.shape[1] > 1]
    assert all(np.abs(array).max() == largest for array in dense)
    if weights == 3:
        np.savez(tmp_path / "data.npz", images=example(Branching).numpy())
        shutil.copytree(tmp_path, tmp_path / "elsewhere")
        printed = subprocess.run(
            [sys.executable, "-c", ALONE],
            cwd=tmp_path / "elsewhere",
            capture_output=True,
            check=True,
        ).stdout
        assert json.loads(printed) == model(example(Branching)).argmax(1).tolist()
    # At any batch size.
    found = OnnxRuntime.load(path).outputs((example(Branching)[:3],))[0]
    expected = model(example(Branching)[:3])
    assert float((found - expected).norm() / expected.norm()) < 0.05


def test_linear_layers_of_an_encoder_compute_with_bytes(tmp_path: Path) -> None:
    _, delivered = written(tmp_path, Encoder, 5, 8)
    assert delivered.entries["onnx_int8"].float_layers == {}
    assert delivered.entries["onnx_int8"].error < 0.03
    kinds = optimized(tmp_path / "model_int8.onnx")
    assert kinds["MatMulIntegerToFloat"] == 4


def test_a_layer_that_was_not_quantized_is_named(tmp_path: Path) -> None:
    _, delivered = written(tmp_path, Encoder, 6, 8, layers=("qkv", "up"))
    reason = "its weight was not quantized"
    assert delivered.entries["onnx_int8"].float_layers == {"out": reason, "down": reason}


def test_a_file_that_computes_otherwise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RLCompressError, match=r"within 1e-06 of the variant's.*tolerance"):
        written(tmp_path, Encoder, 8, 16, tolerance=1e-6)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"weight_bits": [2, 8], "quantizer": "kmeans"}, "quantizer: .*choose symmetric"),
        ({"weight_bits": 4, "granularity": "group"}, "granularity: .*choose channel"),
        ({"activation_bits": [4, 8]}, "activation_bits: .*choose 8"),
        ({"activation_bits": 8, "activation_quantizer": "kmeans"}, "activation_quantizer: "),
    ],
)
def test_what_it_cannot_hold_is_refused_before_the_search(
    section: dict[str, Any], key: str
) -> None:
    space = SpaceConfig.model_validate({"quantization": section})
    with pytest.raises(ConfigError, match=rf"space\.quantization\.{key}"):
        OnnxInt8().check_space(space)


def test_without_calibration_data_nothing_is_written(tmp_path: Path) -> None:
    model = Encoder().eval()
    manifest = Manifest(target={}, policy_id="none")
    inputs = (example(Encoder)[:1],)
    delivered = Delivered(model, manifest, CompressionPolicy(()), inputs, Packing())
    with pytest.raises(RLCompressError, match="calibration split"):
        OnnxInt8().write(delivered, tmp_path)
