from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from rl_compress.runtimes.onnxruntime import OnnxRuntime, fed
from rl_compress.runtimes.torch import Torch


def linear_file(path: Path) -> Path:
    """Write ``y = 2 x`` without the exporter, which takes seconds."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make = onnx.helper
    ends = [make.make_tensor_value_info(name, 1, ["batch", 3]) for name in ("x", "y")]
    two = make.make_tensor("two", 1, [], [2.0])
    node = make.make_node("Mul", ["x", "two"], ["y"])
    graph = make.make_graph([node], "double", ends[:1], ends[1:], [two])
    opset = [make.make_opsetid("", 17)]
    path.write_bytes(make.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString())
    return path


def test_a_file_computes_as_a_module_does(tmp_path: Path) -> None:
    runtime = OnnxRuntime.load(linear_file(tmp_path / "double.onnx"), threads=1)
    inputs = torch.randn(4, 3)
    assert torch.equal(runtime.outputs((inputs,))[0], 2 * inputs)
    assert torch.equal(runtime.module()(inputs), 2 * inputs)
    assert torch.equal(runtime.module()(x=inputs), 2 * inputs)


def test_a_module_is_run_without_gradients() -> None:
    layer = nn.Linear(3, 2)
    (found,) = Torch.load(layer, threads=1).outputs((torch.ones(1, 3),))
    assert not found.requires_grad
    torch.testing.assert_close(found, layer(torch.ones(1, 3)).detach())


def test_inputs_are_fed_by_name_or_by_place() -> None:
    first, second = torch.zeros(1), torch.ones(1)
    assert fed(["a", "b"], (first, second))["b"] == 1
    assert fed(["a", "b"], {"b": second, "a": first, "unused": first})["b"] == 1
