"""Seconds per evaluation against an earlier release, and how bfloat16 orders variants.

    python tests/benchmarks/evaluation_speed.py --baseline PATH --write

A MobileNet-V1 (Howard et al., 2017) on 3 x 32 x 32 images, handwritten digits in colour, 3 000 of
them to score and 1 024 to estimate statistics, on one thread. Half of the MACs are kept. Each code
runs in processes of its own that take turns; the figure is the least CPU time of all evaluations,
as others may use the machine. Kendall's tau compares the scores of random variants.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

RESULTS = Path(__file__).parent / "results" / "evaluation_speed"
BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5]
BLOCKS += [(1024, 2), (1024, 1)]
SAMPLES = {"train": 1500, "calibration": 1024, "search": 3000, "test": 10}
ROUNDS, EVALUATIONS = 3, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--baseline", type=Path, help="folder with the earlier release's package")
    parser.add_argument("--variants", type=int, default=60, help="compared in both precisions")
    parser.add_argument("--write", action="store_true", help="write the result files")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        weights, precision = options.child
        found = measure(Path(weights), precision, options.variants)
        options.out.write_text(json.dumps(found), encoding="utf-8")
        return
    from rl_compress.evaluation.precision import computes_in_bfloat16
    from rl_compress.runs.environment import describe_environment

    native = computes_in_bfloat16()
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pt"
        torch.save(train().state_dict(), weights)
        codes = {"float32": None, "auto": None} | ({"bfloat16": None} if native else {})
        if options.baseline:
            codes = {"baseline": options.baseline, **codes}
        seconds: dict[str, list[float]] = {name: [] for name in codes}
        for _ in range(ROUNDS):
            for name, path in codes.items():
                seconds[name] += in_process(weights, name, 0, path)["seconds"]
        scores = {
            name: in_process(weights, name, options.variants, None)["scores"]
            for name in ("float32", "auto", "bfloat16")
        }
    least = {name: min(found) for name, found in seconds.items()}
    first = next(iter(least))
    result = {
        "environment": describe_environment(),
        "computes_in_bfloat16": native,
        "seconds": {name: round(value, 4) for name, value in least.items()},
        "ratio": {name: round(value / least[first], 3) for name, value in least.items()},
        "kendall_tau": {
            name: round(kendall(scores["float32"], scores[name]), 4)
            for name in ("auto", "bfloat16")
        },
        "scores": {name: [round(s, 6) for s in found] for name, found in scores.items()},
    }
    text = table(result)
    print(text)
    if options.write:
        RESULTS.with_suffix(".md").write_text(text, encoding="utf-8")
        RESULTS.with_suffix(".json").write_text(json.dumps(result) + "\n", encoding="utf-8")


def in_process(weights: Path, precision: str, variants: int, code: Path | None) -> dict[str, Any]:
    """Measure in a process that imports the package from a folder, or from where this one does."""
    here = importlib.import_module("rl_compress").__file__
    assert here is not None
    root = str(code or Path(here).parents[1])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        asked = ["--child", str(weights), precision, "--variants", str(variants)]
        subprocess.run(
            [sys.executable, __file__, *asked, "--out", str(out)],
            env={**os.environ, "PYTHONPATH": root},
            cwd=folder,
            check=True,
        )
        return json.loads(out.read_text(encoding="utf-8"))


def measure(weights: Path, precision: str, variants: int) -> dict[str, Any]:
    """Evaluate the variant of half of the MACs several times, or random variants once."""
    torch.set_num_threads(1)
    # The earlier release has its modules in other packages.
    old = precision == "baseline"
    space_of = "policy" if old else "space"
    compressor_of = "compression" if old else "variants"
    evaluator = importlib.import_module("rl_compress.evaluation.evaluator")
    config = importlib.import_module(f"rl_compress.{space_of}.space_config").SpaceConfig()
    compressors = importlib.import_module(f"rl_compress.{compressor_of}.compressor")
    targets = importlib.import_module("rl_compress.targets.target")
    model = mobilenet()
    model.load_state_dict(torch.load(weights))
    data = {name: samples(name, size) for name, size in SAMPLES.items()}
    target = targets.ClassificationTarget(lambda: model, data)
    compressor = compressors.Compressor.prepare(model.eval(), [data["test"].tensors[0][:1]], config)
    options = {} if old else {"precision": precision}
    evaluate = evaluator.Evaluator(
        target, compressor, "fidelity", evaluator.EvaluationConfig(**options)
    ).evaluate
    space, costs = compressor.space, compressor.costs
    whole = space.num_units if old else space.full_amounts
    if variants:
        random = np.random.default_rng(0)
        scores = []
        for _ in range(variants):
            shares = random.uniform(0.3, 1.0, len(space))
            scores.append(evaluate(space.nearest(shares * whole)).score)
            print(f"{precision}: {scores[-1]:.5f}", flush=True)
        return {"scores": scores}
    full = costs.original["macs"]
    shares = np.linspace(0.3, 1.0, 141)
    half = min(
        (space.nearest(share * whole) for share in shares),
        key=lambda variant: abs(costs.costs(variant)["macs"] / full - 0.5),
    )
    evaluate(half)
    seconds = []
    for _ in range(EVALUATIONS):
        start = time.process_time()
        evaluate(half)
        seconds.append(time.process_time() - start)
    print(f"{precision}: {min(seconds):.3f} s", flush=True)
    return {"seconds": seconds}


def mobilenet() -> nn.Module:
    """Return a MobileNet-V1 with ten classes, of random weights."""
    torch.manual_seed(0)
    layers = [*block(3, 32, 3, 2)]
    channels = 32
    for width, stride in BLOCKS:
        layers += [*block(channels, channels, 3, stride, channels), *block(channels, width, 1, 1)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def block(inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def samples(split: str, size: int) -> TensorDataset:
    """Return digits in random colours with noise, drawn from a part of the bundled ones."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    seed = list(SAMPLES).index(split)
    generator = torch.Generator().manual_seed(seed)
    own = np.arange(len(images))[np.arange(len(images)) % len(SAMPLES) == seed]
    chosen = torch.from_numpy(own)[torch.randint(len(own), (size,), generator=generator)]
    small = torch.tensor(images / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8)[chosen]
    large = nn.functional.interpolate(small, (32, 32), mode="bilinear")
    colours = torch.rand(size, 3, 1, 1, generator=generator) + 0.5
    noise = torch.randn(size, 3, 32, 32, generator=generator)
    return TensorDataset(large * colours + 0.3 * noise, torch.from_numpy(labels)[chosen])


def train() -> nn.Module:
    """Return the network, trained for some passes over its training samples."""
    torch.set_num_threads(1)
    model, (images, labels) = mobilenet(), samples("train", SAMPLES["train"]).tensors
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    batch, passes = 50, 6
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 4e-3, total_steps=passes * (len(images) // batch)
    )
    for number in range(passes):
        order: Tensor = torch.randperm(len(images), generator=torch.Generator().manual_seed(number))
        for rows in order.split(batch):
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"training: loss {loss.item():.3f}", flush=True)
    return model.eval()


def kendall(left: list[float], right: list[float]) -> float:
    """Return Kendall's tau of two lists of scores, without ties."""
    pairs = list(combinations(range(len(left)), 2))
    return sum(np.sign((left[i] - left[j]) * (right[i] - right[j])) for i, j in pairs) / len(pairs)


def table(result: dict[str, Any]) -> str:
    about = result["environment"]
    native = "in bfloat16 too" if result["computes_in_bfloat16"] else "in float32 alone"
    lines = [
        "# Seconds per evaluation",
        "",
        "MobileNet-V1, 3 x 32 x 32, half of the MACs, 3 000 images; least CPU time of "
        f"{ROUNDS * EVALUATIONS}, one thread; torch {about['torch']}, {about['cpu']}, which "
        f"computes {native}.",
        "",
        "| code | seconds | ratio |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {result['seconds'][name]:.3f} | {result['ratio'][name]:.2f} |"
        for name in result["seconds"]
    ]
    tau = ", ".join(f"{name} {value:.3f}" for name, value in result["kendall_tau"].items())
    count = len(result["scores"]["float32"])
    return "\n".join([*lines, "", f"Kendall's tau with float32, {count} variants: {tau}.", ""])


if __name__ == "__main__":
    main()
