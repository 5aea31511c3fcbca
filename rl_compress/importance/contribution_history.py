"""The history of contributions and keep-ratios, as a parquet file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rl_compress.importance.contribution import ContributionResult
from rl_compress.runs.written import whole


def save_history(result: ContributionResult, path: Path) -> None:
    """Write a row for each iteration and unit, whole.

    Columns: ``iteration``, ``unit``, ``contribution`` (C, in units of the loss), ``ratio`` (rho),
    ``kept`` (at the end), ``loss`` (under the ratios before the iteration).
    """
    iterations, units = result.contributions.shape
    table = pa.table(
        {
            "iteration": np.repeat(np.arange(iterations), units),
            "unit": pa.array(result.units.unit_names() * iterations),
            "contribution": result.contributions.reshape(-1),
            "ratio": result.ratios.reshape(-1),
            "kept": np.tile(result.kept, iterations),
            "loss": np.repeat(result.losses, units),
        }
    )
    with whole(path) as file:
        pq.write_table(table, file)
