"""The interface of all formats: kinds of files that a compressed model is delivered in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from rl_compress.export.manifest import Manifest
from rl_compress.export.packed_state import Packing
from rl_compress.model.nested import Inputs
from rl_compress.registry import Part
from rl_compress.space.compression_policy import CompressionPolicy
from rl_compress.space.space_config import SpaceConfig

InputsOf = Callable[[str], Iterator[Inputs]]
"""Yields what a model is called with for each batch of a split, on the CPU."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """What is delivered."""

    model: nn.Module
    """In evaluation mode, on any device; to be left as it is."""
    manifest: Manifest
    """How it was made."""
    policy: CompressionPolicy
    example_inputs: Inputs
    """Inputs of one forward pass, batch size 1."""
    packing: Packing = field(default_factory=Packing)
    """Which weights are quantized or sparse, and can be stored packed."""
    inputs_of: InputsOf = lambda _split: iter(())
    entries: dict[str, Any] = field(default_factory=dict)
    """What formats know that belongs into the manifest, by its keys."""


class Format(Part, ABC):
    """A kind of file."""

    runs: ClassVar[str | None] = None
    """Name of the file that onnxruntime runs; None: there is none."""

    def check(self) -> None:
        """Make sure, before anything is run, that such files can be written here.

        Raises:
            ConfigError: A package is not installed.
        """

    def check_space(self, space: SpaceConfig) -> None:
        """Make sure, before anything is run, that what may be searched can be written.

        Raises:
            ConfigError: It cannot; the message names the key.
        """

    @abstractmethod
    def write(self, delivered: Delivered, folder: Path) -> list[Path]:
        """Write the files into a folder that other formats write into too, and return them.

        Raises:
            RLCompressError: The model cannot be written so.
        """
