"""ResNet-18, MobileNetV2 and a small ViT for 100 classes: networks of the deployment benchmark."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """Two branches that are added, and clipped or not."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, clips: bool) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut
        self.activation: nn.Module = nn.ReLU() if clips else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + self.shortcut(x))


class Pooled(nn.Module):
    """Features, averaged over the image, and a linear layer."""

    def __init__(self, features: nn.Module, width: int) -> None:
        super().__init__()
        self.features, self.classifier = features, nn.Linear(width, 100)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).mean((2, 3)))


def _conv(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    clip: type | None = None,
) -> list[nn.Module]:
    padding = kernel // 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), *([clip()] if clip else [])]


def resnet18() -> nn.Module:
    layers = [*_conv(3, 64, 7, 2, clip=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width in (64, 128, 256, 512):
        for block in range(2):
            stride = 2 if block == 0 and width > 64 else 1
            body = [*_conv(inputs, width, 3, stride, clip=nn.ReLU), *_conv(width, width, 3)]
            same = stride == 1 and inputs == width
            shortcut = nn.Identity() if same else nn.Sequential(*_conv(inputs, width, 1, stride))
            layers.append(Residual(nn.Sequential(*body), shortcut, clips=True))
            inputs = width
    return Pooled(nn.Sequential(*layers), 512)


def mobilenet_v2() -> nn.Module:
    layers = _conv(3, 32, 3, 2, clip=nn.ReLU6)
    inputs = 32
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2))
    for expansion, width, blocks, first in (*stages, (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)):
        for block in range(blocks):
            stride, hidden = (first if block == 0 else 1), expansion * inputs
            body = _conv(inputs, hidden, 1, clip=nn.ReLU6) if expansion > 1 else []
            body += _conv(hidden, hidden, 3, stride, hidden, clip=nn.ReLU6)
            body += _conv(hidden, width, 1)
            whole = nn.Sequential(*body)
            adds = stride == 1 and inputs == width
            layers.append(Residual(whole, nn.Identity(), clips=False) if adds else whole)
            inputs = width
    return Pooled(nn.Sequential(*layers, *_conv(320, 1280, 1, clip=nn.ReLU6)), 1280)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(*parts)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class ViT(nn.Module):
    """Width 256, eight blocks, patches of 8 x 8 pixels."""

    def __init__(self, side: int = 112, width: int = 256, blocks: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.places = nn.Parameter(0.02 * torch.randn(1, (side // 8) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, 4) for _ in range(blocks)))
        self.norm, self.classifier = nn.LayerNorm(width), nn.Linear(width, 100)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2) + self.places
        return self.classifier(self.norm(self.blocks(x)).mean(1))


NETWORKS = {"ResNet-18": resnet18, "MobileNetV2": mobilenet_v2, "ViT": ViT}
