"""The networks of the built-in targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class PlainCNN(nn.Module):
    """Convolutions with BatchNorm, halving the resolution after every second one."""

    def __init__(self, inputs: int, widths: Sequence[int], classes: int) -> None:
        """Build the layers.

        Args:
            inputs: Channels of the images.
            widths: Output channels of each convolution.
            classes: Number of logits.
        """
        super().__init__()
        layers: list[nn.Module] = []
        for number, width in enumerate(widths):
            layers.append(nn.Conv2d(inputs, width, 3, padding=1, bias=False))
            layers += [nn.BatchNorm2d(width), nn.ReLU()]
            if number % 2 == 1 and number + 1 < len(widths):
                layers.append(nn.MaxPool2d(2))
            inputs = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape ``(batch, classes)``, for images ``(batch, inputs, H, W)``."""
        return self.classifier(self.features(images).mean(dim=(2, 3)))


class _BasicBlock(nn.Module):
    """Two convolutions and a shortcut (He et al., CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def _stages(
    make: Callable[[int, int, int], nn.Module], widths: Sequence[int], blocks: int
) -> nn.Sequential:
    """Return stages of blocks; every stage but the first halves the resolution."""
    made: list[nn.Module] = []
    inputs = widths[0]
    for number, width in enumerate(widths):
        for block in range(blocks):
            made.append(make(inputs, width, 2 if number > 0 and block == 0 else 1))
            inputs = width
    return nn.Sequential(*made)


class ResNet(nn.Module):
    """A CIFAR-style residual network; three stages of three blocks are ResNet-20."""

    def __init__(self, inputs: int, widths: Sequence[int], blocks: int, classes: int) -> None:
        """Build the layers.

        Args:
            inputs: Channels of the images.
            widths: Channels of each stage; every stage but the first halves the resolution.
            blocks: Residual blocks per stage.
            classes: Number of logits.
        """
        super().__init__()
        self.stem = nn.Conv2d(inputs, widths[0], 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        self.stages = _stages(_BasicBlock, widths, blocks)
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape ``(batch, classes)``, for images ``(batch, inputs, H, W)``."""
        features = self.stages(torch.relu(self.bn(self.stem(images))))
        return self.classifier(features.mean(dim=(2, 3)))


class _InvertedResidual(nn.Module):
    """Expand by 1 x 1, filter each channel by 3 x 3, project by 1 x 1 without activation."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = 4 * inputs
        self.expand = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.project = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.activation = nn.ReLU6()
        self.adds_input = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.bn1(self.expand(x)))
        y = self.activation(self.bn2(self.depthwise(y)))
        y = self.bn3(self.project(y))
        return x + y if self.adds_input else y


class MobileNet(nn.Module):
    """Inverted residual blocks with depthwise convolutions (MobileNetV2, Sandler, CVPR 2018)."""

    def __init__(self, inputs: int, widths: Sequence[int], blocks: int, classes: int) -> None:
        """Build the layers.

        Args:
            inputs: Channels of the images.
            widths: Channels of each stage; every stage but the first halves the resolution.
            blocks: Inverted residual blocks per stage.
            classes: Number of logits.
        """
        super().__init__()
        self.stem = nn.Conv2d(inputs, widths[0], 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        self.activation = nn.ReLU6()
        self.stages = _stages(_InvertedResidual, widths, blocks)
        outputs = 4 * widths[-1]
        self.head = nn.Conv2d(widths[-1], outputs, 1, bias=False)
        self.head_bn = nn.BatchNorm2d(outputs)
        self.classifier = nn.Linear(outputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape ``(batch, classes)``, for images ``(batch, inputs, H, W)``."""
        features = self.stages(self.activation(self.bn(self.stem(images))))
        features = self.activation(self.head_bn(self.head(features)))
        return self.classifier(features.mean(dim=(2, 3)))


class _Attention(nn.Module):
    """Self-attention of every token to all, in heads (Vaswani et al., NeurIPS 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_size = width // heads
        self.query, self.key, self.value, self.project = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        # As many heads as there are outputs for: some may have been removed.
        query, key, value = (
            layer(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.project(mixed.transpose(1, 2).flatten(2))


class _TransformerBlock(nn.Module):
    """Attention and a two-layer perceptron, each on normalized tokens, beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = _Attention(width, heads)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """A vision transformer: patches, a class token, blocks (Dosovitskiy et al., ICLR 2021)."""

    def __init__(
        self, inputs: int, side: int, patch: int, width: int, heads: int, blocks: int, classes: int
    ) -> None:
        """Build the layers.

        Args:
            inputs: Channels of the images.
            side: Height and width of the images.
            patch: Height and width of a patch.
            width: Features of a token.
            heads: Heads of each attention.
            blocks: Number of blocks.
            classes: Number of logits.
        """
        super().__init__()
        self.patches = nn.Conv2d(inputs, width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + (side // patch) ** 2, width))
        self.blocks = nn.Sequential(*(_TransformerBlock(width, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape ``(batch, classes)``, for images ``(batch, inputs, side, side)``."""
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        return self.classifier(self.norm(self.blocks(tokens + self.positions))[:, 0])
