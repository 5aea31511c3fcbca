"""ONNX whose layers compute with bytes, from the scales and codes that were searched or learned."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import Field
from torch import nn

from rl_compress.errors import ConfigError, RLCompressError
from rl_compress.export.format import Delivered
from rl_compress.export.manifest import Int8Check
from rl_compress.export.onnx_export import Onnx, exported
from rl_compress.export.onnx_graph import OnnxGraph
from rl_compress.export.onnx_layers import find_layers
from rl_compress.export.qdq import QDQ, Grid, means_to_pools
from rl_compress.model.nested import Inputs, call, mapped, num_samples, tensors_in
from rl_compress.quantizers.activations import ActivationQuantizer
from rl_compress.quantizers.factory import make_quantizer
from rl_compress.registry import Part
from rl_compress.runtimes.onnxruntime import OnnxRuntime, fed
from rl_compress.space.space_config import UNQUANTIZED, QuantizationConfig, SpaceConfig

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx

_CALIBRATION_BATCHES = 4
_CHECKED_SAMPLES = 512
_SAMPLE = 1 << 16
"""Values of a tensor that its grid is fitted to, of each batch; evenly spread over all."""
_MOST_BYTES = 1_900_000_000
"""Protocol buffers end at 2 GiB."""

Feed = dict[str, "npt.NDArray[Any]"]


class OnnxInt8(Onnx):
    """One graph with QuantizeLinear and DequantizeLinear, weights of 8 bits and fewer.

    Weights keep the codes of the variant, one scale for each output; biases are whole numbers of
    32 bits. Inputs of layers keep their quantizers; where they have none, and between layers, grids
    of 8 bits are fitted to the calibration split. Where no weight was quantized, all get 8 bits.
    """

    class Config(Part.Config):
        """Options of the format."""

        reduce_range: bool = Field(
            default=True,
            description="Round weights of 8 bits to 7, so that processors without VNNI, which add "
            "two products in 16 bits, compute right. Weights of fewer bits are exact on all.",
        )
        tolerance: float = Field(
            default=0.1,
            gt=0,
            description="Largest root mean square of the outputs' differences from the variant's, "
            "on the search split, relative to that of the outputs.",
        )

    runs = "model_int8.onnx"
    key = "export.formats: onnx-int8"
    without = "leave it out"

    def check_space(self, space: SpaceConfig) -> None:
        """See :meth:`Format.check_space`."""
        quantization, key = space.quantization, "space.quantization"
        if min(quantization.weight_levels) < UNQUANTIZED and quantization.quantizer != "symmetric":
            raise ConfigError(
                f"{key}.quantizer: onnx-int8 holds weights on an even grid around zero, which "
                f"{quantization.quantizer} does not give; choose symmetric, or another of "
                f"export.formats"
            )
        if quantization.granularity == "group":
            raise ConfigError(
                f"{key}.granularity: onnx-int8 has one scale for each output channel, none for a "
                f"group; choose channel or tensor"
            )
        if not {*quantization.activation_levels} <= {8, UNQUANTIZED}:
            raise ConfigError(
                f"{key}.activation_bits: onnx-int8 computes with activations of 8 bits, so that "
                f"fewer would be searched in vain; choose 8, or 16 to have their ranges fitted "
                f"when the file is written"
            )
        if 8 in quantization.activation_levels and quantization.activation_quantizer not in (
            "uniform",
            "symmetric",
        ):
            raise ConfigError(
                f"{key}.activation_quantizer: onnx-int8 holds activations on an even grid, which "
                f"{quantization.activation_quantizer} does not give; choose uniform or symmetric"
            )

    def write(self, delivered: Delivered, folder: Path) -> list[Path]:
        """See :meth:`Format.write`."""
        model = copy.deepcopy(delivered.model).cpu()
        size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
        if size > _MOST_BYTES:
            raise RLCompressError(
                f"export.formats: onnx-int8 holds models up to 1.9 GB, but this one has "
                f"{size / 1e9:.1f} GB; choose another format"
            )
        calibration = [*itertools.islice(delivered.inputs_of("calibration"), _CALIBRATION_BATCHES)]
        if not calibration:
            raise RLCompressError(
                "export.formats: onnx-int8 fits ranges to the calibration split, which is empty"
            )
        example = mapped(lambda tensor: tensor.detach().cpu(), delivered.example_inputs)
        proto = exported(without_rounding(model), example).model_proto
        names = [entry.name for entry in proto.graph.input]
        graph = OnnxGraph(proto)
        means_to_pools(graph)
        quantization = delivered.packing.quantization
        layers, floats = find_layers(graph, quantization, reduce_range=self.config.reduce_range)
        if not layers:
            why = "; ".join(f"{name}: {reason}" for name, reason in floats.items())
            raise RLCompressError(
                f"export.formats: onnx-int8 found no layer that computes with bytes ({why})"
            )
        feeds = [fed(names, inputs) for inputs in calibration]
        QDQ(graph, layers).rewrite(lambda tensors: _fitted(proto, tensors, feeds))
        path = folder / self.runs
        path.write_bytes(graph.to_bytes())
        error = self._error(model, path, delivered.inputs_of("search"))
        delivered.entries["onnx_int8"] = Int8Check(
            error=error, tolerance=self.config.tolerance, float_layers=floats
        )
        return [path]

    def _error(self, model: nn.Module, path: Path, batches: Iterable[Inputs]) -> float:
        """Return how far the file's outputs are from the model's, on real data."""
        runtime = OnnxRuntime.load(path)
        squares = differences = 0.0
        samples = 0
        for inputs in batches:
            with torch.no_grad():
                expected = [t.double() for t in tensors_in(call(model, inputs))]
            for tensor, found in zip(expected, runtime.outputs(inputs), strict=True):
                squares += float(tensor.square().sum())
                differences += float((found.double() - tensor).square().sum())
            if (samples := samples + num_samples(inputs)) >= _CHECKED_SAMPLES:
                break
        error = (differences / max(squares, 1e-300)) ** 0.5
        if not error <= self.config.tolerance:
            remedy = "search with weights of fewer bits or activations of 8 bits"
            if not self.config.reduce_range:
                remedy = "set reduce_range, for this processor may lack VNNI"
            raise RLCompressError(
                f"export.formats: the outputs of {self.runs} must be within "
                f"{self.config.tolerance:g} of the variant's, but differ by {error:.2g}; {remedy}, "
                f"or raise export.format_options.onnx-int8.tolerance"
            )
        return error


def without_rounding(model: nn.Module) -> nn.Module:
    """Return a copy of a model whose layers do not round their inputs."""
    model = copy.deepcopy(model)
    for module in model.modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, ActivationQuantizer):
                del module._forward_pre_hooks[key]
    return model


def _fitted(
    proto: onnx.ModelProto, tensors: Sequence[str], feeds: Sequence[Feed]
) -> Mapping[str, Grid]:
    """Return grids that are fitted to a graph's tensors on calibration data."""
    import onnx

    observed = onnx.ModelProto()
    observed.CopyFrom(proto)
    inputs = {entry.name for entry in proto.graph.input}
    made = [name for name in tensors if name not in inputs]
    del observed.graph.output[:]
    observed.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in made
    )
    samples: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in tensors}
    runtime = OnnxRuntime.load(observed.SerializeToString()) if made else None
    for feed in feeds:
        found = dict(feed)
        if runtime is not None:
            found |= zip(made, runtime.run(feed), strict=True)
        for name in tensors:
            flat = found[name].reshape(-1)
            samples[name].append(flat[:: max(1, len(flat) // _SAMPLE)].astype(np.float32))
    quantizer = make_quantizer("uniform", 8, QuantizationConfig())
    grids = {}
    for name, parts in samples.items():
        parameters = quantizer.fit(torch.from_numpy(np.concatenate(parts)).reshape(1, -1))
        low, scale = float(parameters["minimum"]), float(parameters["scale"])
        grids[name] = Grid.between(low, low + (quantizer.num_levels - 1) * scale)
    return grids
