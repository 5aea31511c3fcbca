"""What `onnx-int8` delivers: accuracy, size and speed in onnxruntime, beside the float32 model.

    python tests/benchmarks/deployment.py [accuracy] [latency] [--epochs 4]

Accuracy: the trained networks of the digits, at 8, 4 and 3 bits, fine-tuned through the quantizer;
the file against that variant, and against onnxruntime's own static quantization of the same float
model with the same calibration data ("7 bits": with its reduce_range). Latency: three networks with
random weights at 112 pixels, one thread, all files in turn, in milliseconds of processor time, for
machines are shared; with quartiles of the runs. The error is that of the file's outputs.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from deployment_networks import NETWORKS
from figures import RESULTS, read_study, write_study
from torch import nn

from rl_compress.costs.timing import Timing
from rl_compress.export.format import Delivered
from rl_compress.export.manifest import Manifest
from rl_compress.export.onnx_export import export_onnx
from rl_compress.export.onnx_int8 import OnnxInt8
from rl_compress.export.packed_state import Packing
from rl_compress.quantizers.bits import LayerBits
from rl_compress.quantizers.model import Quantization
from rl_compress.repair.activations import calibration_pass
from rl_compress.runs.environment import describe_environment
from rl_compress.runtimes.onnxruntime import OnnxRuntime, fed, multiplies_bytes
from rl_compress.space.compression_policy import CompressionPolicy
from rl_compress.space.space_config import QuantizationConfig
from rl_compress.targets.digits import digits
from rl_compress.targets.target import Target
from rl_compress.training.quantization_aware import quantization_aware_finetune
from rl_compress.training.recovery import FinetuningConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["accuracy", "latency"])
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    study, environment = RESULTS / "deployment", describe_environment()
    found = read_study(study) | {
        "what": __doc__.partition("\n\n")[2].partition("\n\n")[2].strip(),
        "cpu": environment["cpu"],
        "VNNI or its like": multiplies_bytes(),
        "onnxruntime": environment["onnxruntime"],
    }
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if "accuracy" in options.parts:
            found["accuracy"] = []
            for kind in ("cnn", "resnet", "mobilenet"):
                found["accuracy"] += accuracy(kind, options.epochs, Path(folder))
                write_study(study, found)
        if "latency" in options.parts:
            found["latency"] = []
            for name in NETWORKS:
                found["latency"] += latency(name, Path(folder))
                write_study(study, found)


def accuracy(kind: str, epochs: int, folder: Path) -> list[dict[str, Any]]:
    """Return a row for each number of bits."""
    target = digits(kind)
    original = target.build().eval()
    example = target.example_inputs()
    float_file = folder / f"{kind}.onnx"
    export_onnx(original, example, float_file)
    feeds = [inputs for inputs, _ in target.batches("calibration")]
    rows = []
    for bits in (8, 4, 3):
        model = copy.deepcopy(original)
        config = QuantizationConfig(weight_bits=bits, activation_bits=8)
        quantization, _ = quantization_aware_finetune(
            model,
            original,
            target,
            config,
            FinetuningConfig(epochs=epochs),
            calibration_pass(target, model, 4),
            device=torch.device("cpu"),
            bits=LayerBits.same(model, config),
        )
        file, check = int8(model.eval(), example, quantization, target_inputs(target), folder)
        scores = {
            "float": score(target, original),
            "variant": score(target, model),
            "file": score(target, OnnxRuntime.load(file, threads=1).module()),
        }
        # It has no fewer bits for convolutions that a CPU computes with bytes.
        for name, reduced in (("ort", False), ("ort, 7 bits", True)) if bits == 8 else ():
            theirs = static(float_file, feeds, folder, reduced)
            scores[name] = score(target, OnnxRuntime.load(theirs, threads=1).module())
        rows.append(
            {
                "network": kind,
                "bits": bits,
                **{f"{name}, test and search, %": value for name, value in scores.items()},
                "error": check.error,
                "float layers": len(check.float_layers),
                "size": file.stat().st_size / float_file.stat().st_size,
            }
        )
        print(rows[-1], flush=True)
    return rows


def score(target: Target, model: nn.Module) -> str:
    """Return the accuracies on both splits that were not trained on."""
    return " / ".join(f"{target.score(model, split):.2f}" for split in ("test", "search"))


def latency(name: str, folder: Path) -> list[dict[str, Any]]:
    """Return a row for each batch size."""
    torch.manual_seed(0)
    model = NETWORKS[name]()
    images = torch.randn(8, 3, 112, 112)
    for _ in range(3):
        model(images)
    model.eval().requires_grad_(False)
    float_file = folder / "float.onnx"
    export_onnx(model, (images[:1],), float_file)
    file, check = int8(model, (images[:1],), Quantization(), lambda _: iter([(images,)]), folder)
    # As is advised for speed on x86 without VNNI.
    theirs = static(float_file, [images], folder, reduced=True, unsigned=True)
    files = (float_file, file, theirs)
    runtimes = [OnnxRuntime.load(path, threads=1) for path in files]
    rows = []
    for batch, repeats in ((1, 25), (32, 4)):
        inputs = (torch.randn(batch, 3, 112, 112),)
        original, ours, other = processor_times(runtimes, inputs, repeats)
        rows.append(
            {
                "network": name,
                "batch": batch,
                "float, ms": original.median,
                "float, quartiles": [original.low, original.high],
                "int8, ms": ours.median,
                "int8, quartiles": [ours.low, ours.high],
                "times as fast": original.median / ours.median,
                "ort static, times as fast": original.median / other.median,
                "size": file.stat().st_size / float_file.stat().st_size,
                "ort static, size": theirs.stat().st_size / float_file.stat().st_size,
                "error": check.error,
                "float layers": len(check.float_layers),
            }
        )
        print(rows[-1], flush=True)
    return rows


def processor_times(runtimes: list[OnnxRuntime], inputs: Any, repeats: int) -> list[Timing]:
    """Return what each takes of the one thread, in milliseconds, measured in turn."""
    feeds = [fed(runtime.inputs, inputs) for runtime in runtimes]
    times: list[list[float]] = [[] for _ in runtimes]
    for repeat in range(repeats + 1):
        for runtime, feed, measured in zip(runtimes, feeds, times, strict=True):
            start = time.process_time()
            runtime.run(feed)
            if repeat:
                measured.append(1e3 * (time.process_time() - start))
    return [Timing(*map(float, np.percentile(one, (50, 25, 75)))) for one in times]


def target_inputs(target: Target) -> Any:
    return lambda split: ((inputs,) for inputs, _ in target.batches(split))


def int8(
    model: nn.Module, example: Any, quantization: Quantization, inputs_of: Any, folder: Path
) -> tuple[Path, Any]:
    """Write a model with our format, whatever its difference, and return what it says."""
    delivered = Delivered(
        model,
        Manifest(target={}, policy_id="none"),
        CompressionPolicy(()),
        example,
        Packing(quantization),
        inputs_of,
    )
    (file,) = OnnxInt8(OnnxInt8.Config(tolerance=1.0)).write(delivered, folder)
    return file, delivered.entries["onnx_int8"]


def static(
    file: Path,
    batches: list[torch.Tensor],
    folder: Path,
    reduced: bool,
    unsigned: bool = False,
) -> Path:
    """Quantize a file with onnxruntime's own static quantization, each output by itself.

    Args:
        file: Float32.
        batches: What ranges are fitted to.
        folder: Where to put files.
        reduced: Weights of 7 bits.
        unsigned: Whether activations have no sign; theirs have one by default.
    """
    from onnxruntime import quantization as ort
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(ort.CalibrationDataReader):
        def __init__(self) -> None:
            name = OnnxRuntime.load(file).inputs[0]
            self.rest = iter([{name: batch.numpy()} for batch in batches])

        def get_next(self) -> Any:
            return next(self.rest, None)

    prepared, path = folder / "prepared.onnx", folder / "static.onnx"
    quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
    ort.quantize_static(
        str(prepared),
        str(path),
        Reader(),
        activation_type=ort.QuantType.QUInt8 if unsigned else ort.QuantType.QInt8,
        per_channel=True,
        reduce_range=reduced,
    )
    return path


if __name__ == "__main__":
    main()
