"""Latency tables on the console."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from rl_compress.costs.latency_table import LatencyTable

_console = Console()


def print_latency_table(table: LatencyTable, path: Path) -> None:
    """Print what each layer takes at its widest and narrowest, and how good predictions are."""
    title = f"{table.device}, batch of {table.batch_size}: each layer alone"
    _console.print(title, highlight=False, soft_wrap=True)
    figures = Table()
    for column in ("layer", "shapes", "widest", "narrowest"):
        figures.add_column(
            column, overflow="fold", justify="left" if column == "layer" else "right"
        )
    for layer in table.layers:
        figures.add_row(
            layer.weight.removesuffix(".weight"),
            str(layer.ms.size),
            f"{layer.ms[-1, -1]:.3f} ms",
            f"{layer.ms[0, 0]:.3f} ms",
        )
    _console.print(figures)
    around, error = table.surroundings, table.error
    for line in (
        f"whole network: {table.target_ms:.3f} ms uncompressed; predicted as "
        f"{around.layer_factor:.2f} x layers + {1e6 * around.ms_per_element:.2f} ns per element "
        f"+ {around.fixed_ms:.3f} ms",
        f"error on {error.variants} other variants: median {error.median_percent:.1f} %, worst "
        f"{error.worst_percent:.1f} %",
        f"written to {path}",
    ):
        _console.print(line, highlight=False, soft_wrap=True)
