"""A format of a user's own."""

from __future__ import annotations

from pathlib import Path

from rl_compress.export.format import Delivered, Format
from rl_compress.registry import Part


class Listing(Format):
    """A text file with the shapes of all tensors."""

    class Config(Part.Config):
        name: str = "shapes.txt"

    def write(self, delivered: Delivered, folder: Path) -> list[Path]:
        path = folder / self.config.name
        state = delivered.model.state_dict()
        path.write_text("".join(f"{name} {tuple(t.shape)}\n" for name, t in state.items()))
        return [path]
