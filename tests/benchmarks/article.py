"""What the source article describes, measured part by part.

    python tests/benchmarks/article.py                      # all parts, about fifteen minutes
    python tests/benchmarks/article.py quantizers awareness # some of them

Prints a table for each part and writes results/article.json and .md.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: the runners share the machine

import numpy as np
import torch
from figures import RESULTS, read_study, write_study
from scipy.stats import spearmanr
from torch import nn

import rl_compress
from rl_compress.evaluation.quantized_variant import quantize_variant
from rl_compress.importance.contribution import Contributions
from rl_compress.importance.units import Units
from rl_compress.job import load_job, parse_job, with_values
from rl_compress.model.axes import quantizable_weights
from rl_compress.model.groups import find_groups
from rl_compress.quantizers.bits import LayerBits
from rl_compress.quantizers.model import quantize_weights
from rl_compress.quantizers.quantized_tensor import quantize_tensor
from rl_compress.quantizers.quantizer import nearest
from rl_compress.registry import QUANTIZERS
from rl_compress.repair.activations import calibration_pass
from rl_compress.repair.recalibration import recalibrate_batchnorm
from rl_compress.runs.environment import describe_environment
from rl_compress.space.space_config import QuantizationConfig, SpaceConfig
from rl_compress.targets.digits import digits
from rl_compress.targets.factory import make_target
from rl_compress.training.pretraining import PretrainingConfig, pretrain
from rl_compress.training.quantization_aware import quantization_aware_finetune
from rl_compress.training.recovery import FinetuningConfig

CPU = torch.device("cpu")
SEEDS = range(5)


def regression() -> dict[str, Any]:
    """Which of 64 weights are kept, of which 8 inform, and R^2 on test data before and after."""
    base = load_job("tune_configs/regression.yaml").model_dump(mode="json", exclude={"tune"})
    ways: dict[str, dict[str, Any]] = {
        "contribution": {"contribution.threshold": 1e-5, "contribution.alpha": 0.5},
        "rl": {
            "search.algorithm": "ppo",
            "space.action": "mask",
            "space.pruning.importance": "l2",
            "search.evaluations": 600,
        },
        "rl, no prior": {
            "search.algorithm": "ppo",
            "search.prior": "none",
            "space.action": "mask",
            "space.pruning.importance": "l2",
            "search.evaluations": 600,
        },
    }
    rows = []
    for way, changes in ways.items():
        for seed in SEEDS:
            seeds = {"search.seed": seed, "target.options.seed": seed}
            job = parse_job(with_values(base, {**changes, **seeds}))
            with tempfile.TemporaryDirectory() as folder:
                rl_compress.search(job, Path(folder) / "run")
                model: Any = rl_compress.load_compressed(Path(folder) / "run" / "best")
            target: Any = make_target(job.target)
            full = target.build()
            kept = np.flatnonzero(model[0].weight.detach().numpy()[0]).tolist()
            rows.append(
                {
                    "way": way,
                    "seed": seed,
                    "kept": kept,
                    "exactly_the_informative": kept == target.informative_features,
                    "r2_full": target.score(full, "test"),
                    "r2_compressed": target.score(model, "test"),
                    "mse_full": target.mse(full, "test"),
                    "mse_compressed": target.mse(model, "test"),
                }
            )
            print({k: v for k, v in rows[-1].items() if k != "kept"}, flush=True)
    return {"what": "64 features of which 8 inform, linear model", "rows": rows}


def contributions() -> dict[str, Any]:
    """How well estimated contributions rank the channels of the digits CNN."""
    rows = []
    for seed in SEEDS:
        target = digits(seed=seed)
        model = target.build()
        groups = find_groups(model, target.example_inputs(), SpaceConfig()).groups
        groups = [group for group in groups if group.prunable and group.name != "classifier"]
        units = Units.channels(model, groups)
        measured = Contributions(model, units, target, 128)
        ones = torch.ones(units.num_units)
        rank = float(spearmanr(measured.exact(ones), measured.taylor(ones)).statistic)
        rows.append({"seed": seed, "channels": units.num_units, "spearman": rank})
        print(rows[-1], flush=True)
    return {"what": "rank correlation of estimated with exact contributions", "rows": rows}


def quantizers() -> dict[str, Any]:
    """SQNR, stored size and accuracy of every quantizer on the digits CNN, per channel."""
    target = digits()
    model = target.build()
    rows = []
    print(f"uncompressed test accuracy {target.score(model, 'test'):.2f} %")
    for name in QUANTIZERS.built_in:
        for bits in (2, 3, 4, 6, 8):
            config = QuantizationConfig(quantizer=name, weight_bits=bits)  # type: ignore[arg-type]
            signal = noise = stored = count = 0.0
            for key, axis in quantizable_weights(model).items():
                weight = model.get_parameter(key).detach()
                found = quantize_tensor(weight, config, output_axis=axis)
                signal += float(weight.square().sum())
                noise += float((weight - found.dequantize()).square().sum())
                stored, count = stored + found.packed_bytes, count + weight.numel()
            variant = copy.deepcopy(model)
            quantize_weights(variant, config, LayerBits.same(variant, config).weights)
            recalibrate_batchnorm(variant, target, max_batches=4)
            row = {
                "quantizer": name,
                "bits": bits,
                "sqnr_db": 10 * math.log10(signal / noise),
                "stored_bits_per_weight": 8 * stored / count,
                "test_accuracy": target.score(variant, "test"),
            }
            rows.append(row)
            print(
                f"{name:18s} {bits} bits: SQNR {row['sqnr_db']:6.2f} dB, "
                f"{row['stored_bits_per_weight']:5.2f} bits stored, "
                f"test accuracy {row['test_accuracy']:.2f} %",
                flush=True,
            )
    order = sorted((r for r in rows if r["bits"] == 4), key=lambda r: -r["sqnr_db"])
    print("order at 4 bits:", " > ".join(r["quantizer"] for r in order))
    feedback = error_feedback(target, model)
    return {
        "what": "quantizers on the trained weights of the digits CNN, per channel, range by mse",
        "rows": rows,
        "order_at_4_bits": [row["quantizer"] for row in order],
        "error_feedback": feedback,
    }


def error_feedback(target: Any, model: nn.Module) -> list[dict[str, Any]]:
    """Error of each layer's output with error feedback, relative to plain rounding."""
    inputs: dict[str, torch.Tensor] = {}
    handles = [
        layer.register_forward_pre_hook(
            lambda _layer, args, name=name: inputs.__setitem__(name, args[0])
        )
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        calibration_pass(target, model, 4)(model)
    for handle in handles:
        handle.remove()
    rows = []
    for bits in (2, 3, 4):
        for name, values in inputs.items():
            layer: Any = model.get_submodule(name)
            config = QuantizationConfig(quantizer="cumulative_shift", weight_bits=bits)
            found = quantize_tensor(layer.weight, config)
            blocks = found.blocking.split(layer.weight.detach())
            levels = found.quantizer.levels(found.parameters)
            plain = levels.gather(1, nearest(blocks, levels).long()).reshape(layer.weight.shape)
            errors = []
            for weight in (found.dequantize(), plain):
                other = copy.deepcopy(layer)
                other.weight = nn.Parameter(weight, requires_grad=False)
                with torch.no_grad():
                    errors.append(float((other(values) - layer(values)).square().mean()))
            rows.append({"bits": bits, "layer": name, "relative_error": errors[0] / errors[1]})
        mean = statistics.mean(r["relative_error"] for r in rows if r["bits"] == bits)
        print(
            f"error feedback, {bits} bits: mean squared output error {mean:.2f} of plain rounding"
        )
    return rows


def awareness() -> dict[str, Any]:
    """Test accuracy after 3-bit quantization, and after quantization-aware fine-tuning."""
    rows = []
    for granularity, activation_bits in (("tensor", 16), ("channel", 16), ("tensor", 3)):
        for seed in range(3):
            target = digits(seed=seed)
            model = target.build()
            space = SpaceConfig.model_validate(
                {
                    "quantization": {
                        "weight_bits": 3,
                        "activation_bits": activation_bits,
                        "granularity": granularity,
                    }
                }
            )
            after = copy.deepcopy(model)
            bits = LayerBits.same(model, space.quantization)
            quantize_variant(after, target, space, {}, bits, calibration_batches=4)
            trained = copy.deepcopy(model)
            quantization_aware_finetune(
                trained,
                model,
                target,
                space.quantization,
                FinetuningConfig(epochs=10, seed=seed),
                bits,
            )
            scores = [target.score(each, "test") for each in (model, after, trained)]
            rows.append(
                {
                    "granularity": granularity,
                    "activation_bits": activation_bits,
                    "seed": seed,
                    "test_original": scores[0],
                    "test_post_training": scores[1],
                    "test_quantization_aware": scores[2],
                }
            )
            print(rows[-1], flush=True)
    return {"what": "digits CNN at 3 bits, symmetric; post-training and LSQ", "rows": rows}


def pretraining() -> dict[str, Any]:
    """Test accuracy of layer-wise joint training from scratch against fine-tuning."""
    ways: dict[str, dict[str, Any]] = {
        "fine-tuned": {"mode": "finetune"},
        "all layers from scratch": {"mode": "finetune", "fresh": True, "epochs": 66},
        "layer-wise, lower frozen": {"mode": "layerwise", "fresh": True, "stage_epochs": 6},
        "layer-wise, lower slow": {
            "mode": "layerwise",
            "fresh": True,
            "stage_epochs": 6,
            "lower_stages": "slow",
        },
    }
    rows = []
    for way, changes in ways.items():
        for seed in SEEDS:
            target = digits(seed=seed)
            model = target.build()
            given = target.score(model, "test")
            with tempfile.TemporaryDirectory() as folder:
                config = PretrainingConfig(seed=seed, **changes)
                pretrain(model, target, config, Path(folder), device=CPU)
            rows.append(
                {"way": way, "seed": seed, "given": given, "test": target.score(model, "test")}
            )
        scores = [row["test"] for row in rows if row["way"] == way]
        print(
            f"{way}: {statistics.mean(scores):.2f} ± {statistics.stdev(scores):.2f} %", flush=True
        )
    return {"what": "digits CNN, test accuracy by training", "rows": rows}


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "contributions": contributions,
    "quantizers": quantizers,
    "awareness": awareness,
    "pretraining": pretraining,
    "regression": regression,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for part in options.parts or PARTS:
        print(f"== {part}", flush=True)
        found = {"environment": describe_environment(), **PARTS[part]()}
        write_study(RESULTS / "article", {**read_study(RESULTS / "article"), part: found})


if __name__ == "__main__":
    main()
