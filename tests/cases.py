"""Small networks, one for each way in which channels, costs or files can go wrong.

What is right stands beside each: which layers become narrower, which must be left alone, the MACs
counted by hand, and where a removed channel would have been read. Nothing here looks at how
rl-compress finds groups, so that what is wrong in both is still seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.data import TensorDataset

from rl_compress.targets import ClassificationTarget

CLASSES = 4
TOKENS, FEATURES = 6, 12

Reads = Sequence[tuple[str, Callable[[int], Sequence[int]]]]
"""Layers that read a channel, and at which positions of their input."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network, and what is right."""

    network: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 8, 8)
    """Of a sample; tokens are whole numbers, marked by ``words``."""
    words: int = 0
    macs: Callable[[Any], int]
    """Counts a forward pass of one sample by hand, from the sizes of the layers."""
    narrowed: tuple[str, ...] = ()
    """Layers whose outputs must become narrower."""
    alone: tuple[str, ...] = ()
    """Layers whose outputs must stay as many as they are, with a reason."""
    reads: dict[str, Reads] = field(default_factory=dict)
    """By layer what reads its channels, where nothing in between normalises over them."""

    def example(self, seed: int = 0, size: int = 1) -> Tensor:
        """Return inputs, shape ``(size, *shape)``."""
        generator = torch.Generator().manual_seed(seed)
        if self.words:
            return torch.randint(0, self.words, (size, *self.shape), generator=generator)
        return torch.randn(size, *self.shape, generator=generator)


CASES: dict[str, Case] = {}


def case(**right: Any) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Register a network under its name in small letters, with what is right."""

    def register(network: type[nn.Module]) -> type[nn.Module]:
        name = "".join(f"_{c.lower()}" if c.isupper() else c for c in network.__name__)[1:]
        CASES[name] = Case(network=network, **right)
        return network

    return register


def make(name: str) -> nn.Module:
    """Build a case's network, in evaluation mode; no two channels have the same scale or shift."""
    torch.manual_seed(0)
    model = CASES[name].network()
    for layer in model.modules():
        if isinstance(layer, _NORMS) and layer.weight is not None:
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            if getattr(layer, "bias", None) is not None:
                nn.init.normal_(layer.bias, std=0.3)
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.3)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return model.eval()


_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.InstanceNorm2d,
    nn.LayerNorm,
    nn.RMSNorm,
)


def target(name: str) -> ClassificationTarget:
    """Make a target of a case: random inputs, labels in turn."""
    sizes = {"train": 64, "calibration": 16, "search": 16, "test": 16}
    splits = {
        split: TensorDataset(CASES[name].example(seed, size), torch.arange(size) % CLASSES)
        for seed, (split, size) in enumerate(sizes.items(), start=1)
    }
    return ClassificationTarget(lambda: make(name), splits)


def _weights(*layers: Any) -> int:
    """Return the number of weights: the MACs of layers at one position."""
    return sum(layer.weight.numel() for layer in layers)


def _same(channel: int) -> list[int]:
    return [channel]


# Axes in an unusual order, and widths that are written down somewhere.


@case(
    macs=lambda m: 64 * _weights(m.stem, m.planes) + _weights(m.out),
    narrowed=("stem",),
    reads={
        "stem": [("planes", _same)],
        "planes": [("out", lambda channel: range(channel, 3 * 64, 3))],
    },
)
class ChannelsLast(nn.Module):
    """Three planes, the middle one dead, flattened pixel by pixel instead of plane by plane."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.planes = nn.Conv2d(8, 3, 1)
        self.out = nn.Linear(3 * 8 * 8, CLASSES)
        with torch.no_grad():
            self.planes.weight[1].zero_()
            self.planes.bias[1].zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.planes(self.stem(x).relu()).relu()
        return self.out(x.movedim(1, -1).flatten(1))


@case(
    macs=lambda m: 64 * _weights(m.stem, m.planes, m.mlp) + _weights(m.out),
    narrowed=("stem", "mlp"),
    reads={
        "stem": [("planes", _same)],
        "planes": [("mlp", _same)],
        "mlp": [("out", _same)],
    },
)
class TwoPlanes(nn.Module):
    """Two channels only, before a layer that works channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.planes = nn.Conv2d(8, 2, 1)
        self.mlp = nn.Linear(2, 8)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.planes(self.stem(x).relu()).relu().permute(0, 2, 3, 1).contiguous()
        return self.out(self.mlp(x).relu().mean((1, 2)))


@case(
    macs=lambda m: 64 * _weights(m.a, m.b) + _weights(m.out),
    narrowed=("a",),
    reads={
        "a": [("b", _same)],
        "b": [("out", lambda channel: range(64 * channel, 64 * channel + 64))],
    },
)
class FlatNorm(nn.Module):
    """BatchNorm over what was flattened: 64 entries for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.b = nn.Conv2d(8, 6, 1)
        self.norm = nn.BatchNorm1d(6 * 64)
        self.out = nn.Linear(6 * 64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.b(self.a(x).relu()).flatten(1)).relu())


@case(
    macs=lambda m: 64 * _weights(m.a) + 256 * _weights(m.b) + _weights(m.out),
    reads={
        "a": [("b", lambda channel: [channel // 4])],
        "b": [("out", _same)],
    },
    narrowed=("b",),
)
class PixelShuffle(nn.Module):
    """Four channels become one of twice the height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.b = nn.Conv2d(4, 8, 1)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.pixel_shuffle(self.a(x), 2)
        return self.out(self.b(x.relu()).relu().mean((2, 3)))


@case(
    macs=lambda m: 64 * _weights(m.a, m.left, m.right) + _weights(m.out),
    alone=("a",),
    reads={"left": [("out", _same)]},
)
class SplitSizes(nn.Module):
    """A split into sizes that the code writes down."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 12, 1)
        self.left, self.right = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 1)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.a(x).relu().split([4, 8], 1)
        return self.out((self.left(left) * self.right(right)).mean((2, 3)))


@case(
    shape=(5,),
    words=20,
    macs=lambda m: 5 * _weights(m.conv) + _weights(m.out),
    narrowed=("embed", "conv"),
    reads={"embed": [("conv", _same)], "conv": [("out", _same)]},
)
class EmbeddedText(nn.Module):
    """An embedding whose channels come last, read by a convolution where they come first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 12)
        self.conv = nn.Conv1d(12, 8, 3, padding=1)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.conv(self.embed(tokens).mT).relu().mean(2))


# A unit that lies in several places.


@case(
    macs=lambda m: 64 * _weights(m.stem, m.primary, m.cheap, m.mix) + _weights(m.out),
    narrowed=("stem", "primary", "cheap", "mix"),
    reads={
        "primary": [
            ("mix", lambda channel: [channel, channel + 4]),
            ("primary", lambda channel: [channel, channel + 4]),
        ],
        "mix": [("out", _same)],
    },
)
class Ghost(nn.Module):
    """The same channels twice in one concatenation, to which others are added."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.primary = nn.Conv2d(8, 4, 1)
        self.cheap = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.mix = nn.Conv2d(8, 6, 1)
        self.out = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.primary(x).relu()
        x = torch.cat((y, self.cheap(y)), 1) + x
        return self.out(self.mix(x).relu().mean((2, 3)))


@case(
    macs=lambda m: 64 * _weights(m.a, m.b) + _weights(m.out),
    narrowed=("a", "b"),
    reads={
        "a": [("b", lambda channel: [channel, channel + 8])],
        "b": [("out", _same)],
    },
)
class Twice(nn.Module):
    """What is concatenated with itself, the copy with the other sign."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(16, 8, 1)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.out(self.b(torch.cat((x, -x), 1).relu()).relu().mean((2, 3)))


@case(
    shape=(TOKENS, FEATURES),
    macs=lambda m: TOKENS * _weights(m.up, m.down) + _weights(m.out),
    narrowed=("up", "down"),
    reads={
        "up": [("down", lambda channel: [channel % 16])],
        "down": [("out", _same)],
    },
)
class Glu(nn.Module):
    """A gated linear unit: the second half of the channels gates the first."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(FEATURES, 32), nn.Linear(16, 8)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.down(functional.glu(self.up(x), -1)).relu().mean(1))


@case(
    shape=(TOKENS, FEATURES),
    macs=lambda m: TOKENS * _weights(m.up, m.down) + _weights(m.out),
    narrowed=("up", "down"),
    reads={
        "up": [("down", lambda channel: [channel % 16])],
        "down": [("out", _same)],
    },
)
class Chunked(nn.Module):
    """Gate and values from one layer, by chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(FEATURES, 32), nn.Linear(16, 8)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        gate, values = self.up(x).chunk(2, dim=-1)
        return self.out(self.down(functional.silu(gate) * values).relu().mean(1))


@case(
    macs=lambda m: 64 * _weights(m.a, m.b) + _weights(m.out),
    narrowed=("b",),
    reads={
        "a": [("b", lambda channel: [(channel + 8) % 16])],
        "b": [("out", _same)],
    },
)
class Swapped(nn.Module):
    """Two halves of the channels change places."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 8, 1)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.a(x).relu().chunk(2, 1)
        return self.out(self.b(torch.cat((second, first), 1)).relu().mean((2, 3)))


@case(
    macs=lambda m: 64 * _weights(m.a, m.b) + _weights(m.out),
    narrowed=("a", "b"),
    reads={
        "a": [("b", lambda channel: [channel % 4 * 3 + channel // 4])],
        "b": [("out", _same)],
    },
)
class ChannelShuffle(nn.Module):
    """Three groups of four channels, dealt out one of each in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 8, 1)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        batch, channels, height, width = x.shape
        x = x.view(batch, 3, channels // 3, height, width).transpose(1, 2)
        x = x.reshape(batch, channels, height, width)
        return self.out(self.b(x).relu().mean((2, 3)))


@case(
    macs=lambda m: 64 * _weights(m.stem, m.wide, m.mix) + _weights(m.out),
    narrowed=("stem", "mix"),
    reads={
        "stem": [("wide", _same), ("mix", _same)],
        "wide": [("mix", _same)],
        "mix": [("out", _same)],
    },
)
class PartialShortcut(nn.Module):
    """A shortcut that is added to the first channels only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, padding=1)
        self.mix, self.out = nn.Conv2d(12, 8, 1), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y, kept = self.wide(x), x.shape[1]
        y = torch.cat((y[:, :kept] + x, y[:, kept:]), 1)
        return self.out(self.mix(y.relu()).relu().mean((2, 3)))


@case(
    macs=lambda m: 64 * _weights(m.stem, m.multiplied, m.mix) + _weights(m.out),
    narrowed=("stem", "multiplied", "mix"),
    reads={
        "stem": [("mix", lambda channel: [2 * channel, 2 * channel + 1])],
        "mix": [("out", _same)],
    },
)
class ChannelMultiplier(nn.Module):
    """A depthwise convolution with two filters for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.multiplied = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.mix, self.out = nn.Conv2d(16, 8, 1), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.multiplied(self.stem(x).relu()).relu()
        return self.out(self.mix(x).relu().mean((2, 3)))


@case(
    shape=(TOKENS, FEATURES),
    macs=lambda m: TOKENS * _weights(m.mlp, m.q) + _weights(m.out),
    narrowed=("mlp",),
    reads={"mlp": [("q", _same)]},
)
class Rotary(nn.Module):
    """Halves that change places and are added, as rotary position embeddings do."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.mlp, self.q = nn.Linear(FEATURES, width), nn.Linear(width, width)
        self.out = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(self.mlp(x).relu())
        first, second = q[..., : q.shape[-1] // 2], q[..., q.shape[-1] // 2 :]
        return self.out((q * 0.7 + torch.cat((-second, first), -1) * 0.3).mean(1))


# Layers that mix channels, which cannot lose one.


@case(
    macs=lambda m: 64 * _weights(m.a, m.b) + 8 * _weights(m.across) + _weights(m.out),
    narrowed=("b",),
    alone=("a",),
    reads={"b": [("out", _same)]},
)
class ConvolutionOverChannels(nn.Module):
    """Channels are gated by a convolution that runs along them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        self.across = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        gate = self.across(x.mean((2, 3)).unsqueeze(1)).squeeze(1).sigmoid()
        return self.out(self.b(x * gate[:, :, None, None]).relu().mean((2, 3)))


@case(
    macs=lambda m: 64 * _weights(m.a, m.spot, m.b) + _weights(m.out),
    narrowed=("b",),
    alone=("a",),
    reads={"b": [("out", _same)]},
)
class MeanOverChannels(nn.Module):
    """Pixels are gated by the mean over all channels: a removed one is missed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        self.spot = nn.Conv2d(1, 1, 3, padding=1)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x * self.spot(x.mean(1, keepdim=True)).sigmoid()
        return self.out(self.b(x).relu().mean((2, 3)))


@case(
    macs=lambda m: 64 * _weights(m.a, m.gate, m.b) + _weights(m.out),
    narrowed=("a", "b"),
    reads={"a": [("b", _same), ("gate", _same)], "b": [("out", _same)]},
)
class OneGate(nn.Module):
    """A single channel that multiplies all others."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        self.gate = nn.Conv2d(8, 1, 1)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        return self.out(self.b(x * self.gate(x).sigmoid()).relu().mean((2, 3)))


@case(
    macs=lambda m: 64 * _weights(m.a, m.b) + _weights(m.out),
    narrowed=("a", "b"),
    reads={"a": [("b", _same)], "b": [("out", _same)]},
)
class CircularPadding(nn.Module):
    """Torch fills new memory border by border, copying corners that are not written yet."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.b = nn.Conv2d(8, 6, 3, padding=1, padding_mode="circular")
        self.out = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.b(self.a(x).relu()).relu().mean((2, 3)))


@case(
    macs=lambda m: 64 * _weights(m.a) + _weights(m.b) + CLASSES * m.b.out_features,
    narrowed=("a", "b"),
    reads={"a": [("b", _same)]},
)
class CosineHead(nn.Module):
    """Features and prototypes are divided by their norms, which are as wide as what they divide."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Linear(8, 12)
        self.prototypes = nn.Parameter(torch.randn(CLASSES, 12))

    def forward(self, x: Tensor) -> Tensor:
        features = nn.functional.normalize(self.b(self.a(x).relu().mean((2, 3))), dim=-1)
        return features @ nn.functional.normalize(self.prototypes, dim=-1).T


@case(
    macs=lambda m: 64 * _weights(m.a, m.b) + _weights(m.out),
    narrowed=("a",),
    alone=("b",),
    reads={"a": [("b", _same)]},
)
class Masked(nn.Module):
    """How many values a mask picks is not how many channels there are."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1)
        self.out = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x).relu())
        return self.out(x.mean((2, 3))) + x[x > 0].mean()


# Tensors beside the weights that have the channels' length.


@case(
    macs=lambda m: 64 * _weights(m.a, m.b) + _weights(m.out),
    narrowed=("a", "b"),
    reads={"a": [("b", _same)], "b": [("out", _same)]},
)
class FrozenNorm(nn.Module):
    """A normalisation whose scale and shift are buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1)
        self.out = nn.Linear(6, CLASSES)
        self.register_buffer("scale", torch.rand(8) + 0.5)
        self.register_buffer("shift", torch.randn(1, 8, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x) * self.scale.view(1, -1, 1, 1) + self.shift
        return self.out(self.b(x.relu()).relu().mean((2, 3)))


@case(
    macs=lambda m: 64 * _weights(m.a, m.b) + _weights(m.out),
    narrowed=("a", "b"),
    reads={"a": [("b", _same)], "b": [("out", _same)]},
)
class Gain(nn.Module):
    """A gain of its own for each channel, as networks without norms have it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        self.gain = nn.Parameter(torch.rand(8, 1, 1) + 0.5)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.b((self.a(x) * self.gain).relu()).relu().mean((2, 3)))


@case(
    shape=(TOKENS, FEATURES),
    macs=lambda m: TOKENS * _weights(m.embed, m.up, m.down) + _weights(m.out),
    narrowed=("embed", "up", "down"),
    reads={
        "embed": [("up", _same), ("out", _same)],
        "up": [("down", _same)],
    },
)
class LayerScale(nn.Module):
    """A residual branch with a small scale for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(FEATURES, 16)
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)
        self.gamma = nn.Parameter(torch.rand(16) + 0.5)
        self.out = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.gamma * self.down(self.up(x).relu())
        return self.out(x.mean(1))


@case(
    macs=lambda m: 64 * _weights(m.a, m.b) + _weights(m.out),
    narrowed=("a", "b"),
    reads={"a": [("b", _same)], "b": [("out", _same)]},
)
class AffineInstanceNorm(nn.Module):
    """Every channel of every image is normalised by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.norm = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.b(self.norm(self.a(x)).relu()).relu().mean((2, 3)))


@case(
    shape=(TOKENS, FEATURES),
    macs=lambda m: TOKENS * _weights(m.embed, m.mlp) + _weights(m.out),
    narrowed=("embed", "mlp"),
    reads={"mlp": [("out", _same)]},
)
class RootMeanSquareNorm(nn.Module):
    """``nn.RMSNorm``, whose shape is an attribute too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(FEATURES, 16), nn.RMSNorm(16)
        self.mlp, self.out = nn.Linear(16, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.mlp(self.norm(self.embed(x))).relu().mean(1))


@case(
    shape=(TOKENS, 8),
    macs=lambda m: (TOKENS + 1) * _weights(m.mlp) + _weights(m.out),
    narrowed=("mlp",),
    reads={"mlp": [("out", _same)]},
)
class ClassToken(nn.Module):
    """A parameter that is normalised and put before the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.norm = nn.LayerNorm(8)
        self.mlp, self.out = nn.Linear(8, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        first = self.norm(self.token.expand(x.shape[0], -1, -1))
        return self.out(self.mlp(torch.cat((first, x), 1)).relu()[:, 0])


@case(
    macs=lambda m: 36 * _weights(m.a) + 16 * _weights(m.b) + _weights(m.out),
    narrowed=("a", "b"),
    reads={"a": [("b", _same)], "b": [("out", _same)]},
)
class Counter(nn.Module):
    """A buffer that the forward pass assigns anew."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, CLASSES)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return self.out(self.b(self.a(x).relu()).relu().mean((2, 3)))


# Weights that are stored in another way.


class _Transposed(nn.Module):
    """A linear layer with its weight the other way round, as Hugging Face's GPT-2 has it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.nf = outputs
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.randn(outputs) / 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return y.view(*x.shape[:-1], self.nf)


@case(
    shape=(TOKENS, FEATURES),
    macs=lambda m: TOKENS * _weights(m.up, m.down) + _weights(m.out),
    narrowed=("up", "down"),
    reads={"up": [("down", _same)], "down": [("out", _same)]},
)
class TransposedLinear(nn.Module):
    """Two layers whose weights are of shape ``(inputs, outputs)``, and note their width."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = _Transposed(FEATURES, 16), _Transposed(16, 8)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.down(self.up(x).relu()).relu().mean(1))


class _Normed(nn.Module):
    """Two convolutions over time, the first with a normed weight."""

    def __init__(self, norm: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.a = norm(nn.Conv1d(2, 8, 3, padding=1))
        self.b, self.out = nn.Conv1d(8, 8, 3, padding=1), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.b(self.a(x).relu()).relu().mean(2))


_NORMED: dict[str, Any] = {
    "shape": (2, 16),
    "macs": lambda m: 16 * _weights(m.a, m.b) + _weights(m.out),
    "reads": {"a": [("b", _same)], "b": [("out", _same)]},
}


@case(**_NORMED, narrowed=("a", "b"))
class OldWeightNorm(_Normed):
    """Weight norm of the older kind, with hooks."""

    def __init__(self) -> None:
        super().__init__(torch.nn.utils.weight_norm)


@case(**_NORMED, narrowed=("a", "b"))
class NewWeightNorm(_Normed):
    """Weight norm as a parametrization."""

    def __init__(self) -> None:
        super().__init__(parametrizations.weight_norm)


@case(**_NORMED, narrowed=("b",))
class OldSpectralNorm(_Normed):
    """Spectral norm of the older kind: one number that all weights decide."""

    def __init__(self) -> None:
        super().__init__(torch.nn.utils.spectral_norm)


@case(**_NORMED, narrowed=("b",))
class NewSpectralNorm(_Normed):
    """Spectral norm as a parametrization."""

    def __init__(self) -> None:
        super().__init__(parametrizations.spectral_norm)


@case(**_NORMED, narrowed=("b",))
class NormedReader(_Normed):
    """Norms over the inputs of the layer that reads: with fewer inputs they would be others."""

    def __init__(self) -> None:
        super().__init__(lambda layer: layer)
        self.b = parametrizations.weight_norm(self.b)


# Operations without a layer, layers with many operations, tensors with several names.


@case(
    shape=(TOKENS, FEATURES),
    macs=lambda m: (
        TOKENS * (_weights(m.embed, m.hidden) + m.attention.in_proj_weight.numel())
        + TOKENS * _weights(m.attention.out_proj)
        + 2 * TOKENS * TOKENS * m.attention.embed_dim
        + _weights(m.out)
    ),
    narrowed=("hidden",),
    reads={"hidden": [("out", _same)]},
)
class Attention(nn.Module):
    """``nn.MultiheadAttention`` with a shortcut, 4 heads of 4 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(FEATURES, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.hidden, self.out = nn.Linear(16, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        mixed, _ = self.attention(x, x, x, need_weights=False)
        return self.out(self.hidden(x + mixed).relu().mean(1))


@case(
    shape=(5,),
    words=1000,
    macs=lambda m: 5 * _weights(m.up, m.down) + m.embed.weight.numel() + 1000 * CLASSES,
    narrowed=("up",),
    reads={"up": [("down", _same)]},
)
class TiedHead(nn.Module):
    """1000 words are embedded, and scored, by one matrix of 32 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, 1000, bias=False)
        self.head.weight = self.embed.weight
        self.out = nn.Linear(1000, CLASSES, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + self.down(self.up(x).relu())
        return self.out(self.head(x.mean(1)))


@case(
    shape=(8, 24),
    macs=lambda m: (
        8 * (_weights(m.embed) + m.cell.weight_ih.numel() + m.cell.weight_hh.numel())
        + _weights(m.hidden, m.out)
    ),
    narrowed=("hidden",),
    alone=("cell",),
    reads={"embed": [("cell", _same)], "hidden": [("out", _same)]},
)
class Loop(nn.Module):
    """A recurrent cell, called once for each position."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell = nn.Linear(24, 16), nn.GRUCell(16, 16)
        self.hidden, self.out = nn.Linear(16, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 16)
        for step in x.unbind(1):
            state = self.cell(self.embed(step).relu(), state)
        return self.out(self.hidden(state).relu())


def _recurrent(model: Any) -> int:
    layer = model.recurrent
    return TOKENS * (layer.weight_ih_l0.numel() + layer.weight_hh_l0.numel())


class _Recurrent(nn.Module):
    """A recurrent layer between linear ones."""

    def __init__(self, layer: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed, self.recurrent = nn.Linear(FEATURES, 16), layer(16, 10, batch_first=True)
        self.hidden, self.out = nn.Linear(10, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.recurrent(self.embed(x).relu())
        return self.out(self.hidden(outputs).relu().mean(1))


_RECURRENT: dict[str, Any] = {
    "shape": (TOKENS, FEATURES),
    "macs": lambda m: TOKENS * _weights(m.embed, m.hidden) + _recurrent(m) + _weights(m.out),
    "narrowed": ("hidden",),
    "alone": ("recurrent",),
    "reads": {"hidden": [("out", _same)]},
}


@case(**_RECURRENT)
class Lstm(_Recurrent):
    def __init__(self) -> None:
        super().__init__(nn.LSTM)


@case(**_RECURRENT)
class Gru(_Recurrent):
    def __init__(self) -> None:
        super().__init__(nn.GRU)


@case(
    shape=(TOKENS, FEATURES),
    macs=lambda m: TOKENS * (_weights(m.embed, m.hidden) + m.matrix.numel()) + _weights(m.out),
    narrowed=("hidden",),
    reads={"hidden": [("out", _same)]},
)
class Einsum(nn.Module):
    """A matrix without a layer, by ``einsum``."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.matrix = nn.Linear(FEATURES, 16), nn.Parameter(torch.randn(16, 10) / 4)
        self.hidden, self.out = nn.Linear(10, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("btd,df->btf", self.embed(x).relu(), self.matrix)
        return self.out(self.hidden(x).relu().mean(1))


@case(
    shape=(TOKENS, FEATURES),
    macs=lambda m: (
        TOKENS * (_weights(m.embed, m.hidden) + m.matrix.numel())
        + 2 * TOKENS * TOKENS * m.matrix.shape[1]
        + _weights(m.out)
    ),
    narrowed=("hidden",),
    reads={"hidden": [("out", _same)]},
)
class Matmul(nn.Module):
    """Matrix products without a layer, of a parameter and of activations with themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.matrix = nn.Linear(FEATURES, 16), nn.Parameter(torch.randn(16, 10) / 4)
        self.hidden, self.out = nn.Linear(10, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).relu() @ self.matrix
        x = torch.softmax(torch.matmul(x, x.mT), -1) @ x
        return self.out(self.hidden(x).relu().mean(1))


@case(
    shape=(TOKENS, FEATURES),
    macs=lambda m: (
        TOKENS * _weights(m.mlp, m.q, m.k, m.v, m.o)
        + TOKENS * TOKENS * (m.q.weight.shape[0] + m.v.weight.shape[0])
        + _weights(m.out)
    ),
    narrowed=("mlp", "o"),
    reads={
        "mlp": [("q", _same), ("k", _same), ("v", _same)],
        "v": [("o", _same)],
        "o": [("out", _same)],
    },
)
class ScaledDotProduct(nn.Module):
    """Attention from single layers and torch's fused function; heads of 8 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(FEATURES, 20)
        self.q, self.k, self.v = nn.Linear(20, 32), nn.Linear(20, 32), nn.Linear(20, 32)
        self.o, self.out = nn.Linear(32, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mlp(x).relu()
        q, k, v = (self.heads(layer(x)) for layer in (self.q, self.k, self.v))
        x = functional.scaled_dot_product_attention(q, k, v)
        return self.out(self.o(x.transpose(1, 2).flatten(2)).relu().mean(1))

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, 8)).transpose(1, 2)


@case(
    shape=(TOKENS, FEATURES),
    macs=lambda m: (
        TOKENS * _weights(m.mlp, m.q, m.o)
        + 2 * TOKENS * TOKENS * m.q.weight.shape[0]
        + _weights(m.out)
    ),
    narrowed=("mlp", "o"),
    reads={"mlp": [("q", _same)], "q": [("o", _same)], "o": [("out", _same)]},
)
class InferredHeads(nn.Module):
    """The number of heads follows from the width; weights are so small that all looks alike."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp, self.q = nn.Linear(FEATURES, 20), nn.Linear(20, 32)
        self.o, self.out = nn.Linear(32, 16), nn.Linear(16, CLASSES)
        nn.init.normal_(self.q.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(self.mlp(x).relu())
        q = q.view(*q.shape[:-1], -1, 8).transpose(1, 2)
        mixed = torch.softmax(q @ q.transpose(2, 3) / 8**0.5, -1) @ q
        mixed = mixed.transpose(1, 2).reshape(*x.shape[:-1], -1)
        return self.out(self.o(mixed).relu().mean(1))


@case(
    shape=(TOKENS, FEATURES),
    macs=lambda m: (
        TOKENS * _weights(m.embed, m.qkv, m.proj, m.up, m.down)
        + 2 * TOKENS * TOKENS * m.qkv.weight.shape[0] // 3
        + _weights(m.out)
    ),
    narrowed=("up",),
    reads={"up": [("down", _same)]},
)
class PackedAttention(nn.Module):
    """Queries, keys and values from one layer, as vision transformers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(FEATURES, 16)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)
        self.out = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, tokens, _ = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, 4, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*qkv.unbind(0))
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, tokens, -1))
        x = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return self.out(x.mean(1))


def _encoder(model: Any) -> int:
    return sum(
        TOKENS * (layer.self_attn.in_proj_weight.numel() + _weights(layer.self_attn.out_proj))
        + TOKENS * _weights(layer.linear1, layer.linear2)
        + 2 * TOKENS * TOKENS * layer.self_attn.embed_dim
        for layer in model.encoder.layers
    )


@case(
    shape=(TOKENS, FEATURES),
    macs=lambda m: TOKENS * _weights(m.embed, m.hidden) + _encoder(m) + _weights(m.out),
    narrowed=("hidden",),
    reads={"hidden": [("out", _same)]},
)
class TransformerEncoder(nn.Module):
    """``nn.TransformerEncoder``, which has a fast path of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(FEATURES, 16)
        layer = nn.TransformerEncoderLayer(16, 4, dim_feedforward=24, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.hidden, self.out = nn.Linear(16, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(self.encoder(self.embed(x))).relu().mean(1))


class _Owner(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).relu()


@case(
    macs=lambda m: 64 * (_weights(m.stem, m.last) + 2 * _weights(m.first.layer)) + _weights(m.out),
    narrowed=("stem", "first.layer", "last"),
    reads={
        "stem": [("first.layer", _same), ("last", _same)],
        "last": [("out", _same)],
    },
)
class TwoParents(nn.Module):
    """One convolution that two modules own and call."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        shared = nn.Conv2d(8, 8, 3, padding=1)
        self.first, self.second = _Owner(shared), _Owner(shared)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(self.stem(x).relu()))
        return self.out(self.last(x).relu().mean((2, 3)))


@case(
    shape=(TOKENS, FEATURES),
    macs=lambda m: TOKENS * _weights(m.embed, m.a, m.b, m.hidden) + _weights(m.out),
    narrowed=("hidden",),
    reads={"hidden": [("out", _same)]},
)
class TiedWeight(nn.Module):
    """Two layers with one weight, and a shift each."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(FEATURES, 16)
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
        self.b.weight = self.a.weight
        self.hidden, self.out = nn.Linear(16, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(self.embed(x).relu()).relu()).relu()
        return self.out(self.hidden(x).relu().mean(1))
