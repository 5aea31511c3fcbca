"""MACs of torchvision's networks at 224 x 224, as we count them and as they were published.

    python tests/benchmarks/published_macs.py

Needs torchvision. The published figures are those of torchvision's own table of weights, in
billions; it counts attention too.
"""

from __future__ import annotations

import sys

import torch
import torchvision

from rl_compress.model.graph import trace

PUBLISHED = {
    "resnet18": 1.81,
    "resnet50": 4.09,
    "mobilenet_v2": 0.30,
    "mobilenet_v3_large": 0.22,
    "efficientnet_b0": 0.39,
    "densenet121": 2.83,
    "vgg16": 15.47,
    "regnet_y_400mf": 0.40,
    "shufflenet_v2_x1_0": 0.14,
    "vit_b_16": 17.56,
    "vit_b_32": 4.41,
    "swin_t": 4.49,
    "convnext_tiny": 4.46,
}
TOLERANCE = 0.02


def main() -> None:
    wrong = 0
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}")
    print("| network | published | counted | difference |\n|---|---|---|---|")
    for name, published in PUBLISHED.items():
        model = torchvision.models.get_model(name, weights=None).eval()
        counted = trace(model, (torch.zeros(1, 3, 224, 224),)).macs / 1e9
        # The published figures have two digits behind the point.
        off = abs(counted - published) > max(TOLERANCE * published, 0.005)
        wrong += off
        print(
            f"| {name} | {published:.2f} | {counted:.3f} | {counted / published - 1:+.1%}"
            f"{' (!)' if off else ''} |",
            flush=True,
        )
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
