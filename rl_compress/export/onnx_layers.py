"""The layers of an ONNX graph that can compute with bytes, and those that cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rl_compress.export.onnx_graph import OnnxGraph, attribute, module_of
from rl_compress.export.qdq import Grid, Layer, Weight
from rl_compress.model.axes import layer_of
from rl_compress.quantizers.activations import ActivationQuantizer
from rl_compress.quantizers.model import Quantization
from rl_compress.quantizers.quantized_tensor import QuantizedTensor, quantize_tensor
from rl_compress.quantizers.symmetric import Symmetric, symmetric_grid
from rl_compress.space.space_config import QuantizationConfig

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx

_BITS = 8
_OFF_GRID = 1e-3
"""Distance from a level, in steps, that may come from rounding in the exporter."""
_MOST_REDUCED = 64
"""Codes up to this one, times 255 and added in pairs, stay within 16 bits with a sign."""


def find_layers(
    graph: OnnxGraph, quantization: Quantization, *, reduce_range: bool
) -> tuple[list[Layer], dict[str, str]]:
    """Return the layers that can compute with bytes, and why others cannot, by layer.

    Args:
        graph: As exported, batch normalization folded into the weights where it can be.
        quantization: What was quantized. If no weight was, all get 8 bits here.
        reduce_range: Whether weights of 8 bits are rounded to 7.
    """
    layers: list[Layer] = []
    floats: dict[str, str] = {}
    for node in graph.nodes:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        values = graph.constant(node.input[1])
        if values is None:
            continue
        name = _layer_name(node)
        known = quantization.weights.get(f"{name}.weight")
        if (reason := _obstacle(graph, node, values)) is not None:
            floats[name] = reason
        elif known is None and quantization.weights:
            floats[name] = "its weight was not quantized"
        elif (weight := _weight(values, known, _output_axis(node))) is None:
            floats[name] = "its weight lies on no even grid around zero"
        else:
            if reduce_range and not _is_depthwise(node, values):
                weight = weight.reduced(_MOST_REDUCED)
            quantizer = quantization.activations.get(_caller(node, name, quantization))
            layers.append(Layer(node.name, weight, _grid_of(quantizer)))
    return layers, floats


def _layer_name(node: onnx.NodeProto) -> str:
    """Return the name of the layer whose weight a node has."""
    # A weight that was transposed lost its name.
    weight = node.input[1]
    return layer_of(weight) if weight.endswith(".weight") else module_of(node)


def _caller(node: onnx.NodeProto, name: str, quantization: Quantization) -> str:
    """Return the name of the layer that a node is, where several share a weight."""
    module = module_of(node)
    return module if module in quantization.activations else name


def _obstacle(graph: OnnxGraph, node: onnx.NodeProto, values: npt.NDArray[Any]) -> str | None:
    if values.dtype != np.float32 or graph.rank(node.input[0]) is None:
        return f"its weight is of {values.dtype}"
    if node.op_type == "ConvTranspose":
        return "onnxruntime has no transposed convolution with bytes"
    if node.op_type == "MatMul" and values.ndim != 2:
        return f"its weight has {values.ndim} axes"
    scaled = attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0
    if node.op_type == "Gemm" and (scaled or attribute(node, "transA", 0)):
        return "its product is scaled or transposed"
    return None


def _output_axis(node: onnx.NodeProto) -> int:
    return int(
        node.op_type == "MatMul" or (node.op_type == "Gemm" and not attribute(node, "transB", 0))
    )


def _is_depthwise(node: onnx.NodeProto, weight: npt.NDArray[Any]) -> bool:
    """Say whether a node is a convolution whose kernel adds each product in 32 bits."""
    return node.op_type == "Conv" and weight.shape[1] == 1 and attribute(node, "group", 1) > 1


def _weight(
    values: npt.NDArray[np.float32], known: QuantizedTensor | None, axis: int
) -> Weight | None:
    """Return a node's weight in the codes that it was quantized to, or in 8 bits."""
    if known is None:
        config = QuantizationConfig(weight_bits=_BITS)
        known = quantize_tensor(torch.from_numpy(values.copy()), config, output_axis=axis)
        values = known.dequantize().numpy()
    if not isinstance(known.quantizer, Symmetric):
        return None
    codes = symmetric_grid(known.bits, torch.zeros(()))[known.codes.long()].numpy()
    found = _on_grid(values, codes, axis)
    if found is None and codes.ndim == 2:
        found = _on_grid(values, codes.T, axis)
    return found


def _on_grid(
    values: npt.NDArray[np.float32], codes: npt.NDArray[np.float32], axis: int
) -> Weight | None:
    """Return a weight of given codes, its scales fitted; None: the values are none of these.

    Batch normalization has given every output a factor of its own, of either sign.
    """
    if values.shape != codes.shape:
        return None
    # What a mask took out is zero, whatever its code.
    codes = np.where(values == 0, 0, codes)
    others = tuple(other for other in range(values.ndim) if other != axis)
    squares = (codes * codes).sum(others)
    scales = (values * codes).sum(others) / np.maximum(squares, 1)
    turned = np.where(scales < 0, -1, 1)
    scales = np.abs(scales).astype(np.float32)
    # Outputs without weights need a step too.
    scales[scales == 0] = scales.max() or 1.0
    weight = Weight(codes.astype(np.int8), scales, axis)
    weight = Weight(
        codes=(weight.codes * weight.along(turned)).astype(np.int8), scales=scales, axis=axis
    )
    off = np.abs(weight.dequantized() - values) / weight.along(scales)
    return weight if off.max(initial=0.0) <= _OFF_GRID else None


def _grid_of(quantizer: ActivationQuantizer | None) -> Grid | None:
    """Return the grid of a layer's input; None: it is not rounded."""
    if quantizer is None:
        return None
    scale = float(quantizer.parameters["scale"])
    steps = quantizer.quantizer.num_levels - 1
    if isinstance(quantizer.quantizer, Symmetric):
        reach = quantizer.quantizer.largest * scale
        return Grid(scale, 128) if steps == 255 else Grid.between(-reach, reach)
    low = float(quantizer.parameters["minimum"])
    if steps == 255 and 0.0 <= -low <= steps * scale:
        return Grid(scale, round(-low / scale))
    return Grid.between(low, low + steps * scale)
