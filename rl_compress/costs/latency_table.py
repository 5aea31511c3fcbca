"""The latency table: what a model's layers take on one device, measured once and kept.

The latency of a whole network is not the sum of its layers measured alone. What is missing is
fitted to whole variants of a few widths, and other whole variants say how good the prediction is.
"""

from __future__ import annotations

import copy
import hashlib
import io
import itertools
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from rl_compress.costs.latency import device_name, interleaved_latency_ms
from rl_compress.costs.latency_layers import LayerGrids, LayerTimes
from rl_compress.costs.latency_predictor import LatencyPredictor, Surroundings
from rl_compress.errors import ConfigError, CorruptFileError
from rl_compress.model.axes import named_tensors, quantizable_weights
from rl_compress.model.groups import LayerGroup
from rl_compress.model.nested import Inputs, repeated, tensors_in
from rl_compress.space.search_space import Levels, SearchSpace
from rl_compress.targets.cache import cache_dir, write_whole
from rl_compress.targets.threads import threads

SCHEMA_VERSION = 1
THREADS = 1
"""CPU threads that latencies of tables are measured with: several make small layers no faster, and
on a busy machine no two measurements alike."""

_UNIFORM, _MIXED, _TESTED = 6, 10, 12
"""Whole variants to fit to: those equally narrow everywhere, and others; and to test with."""
_SECONDS, _FEWEST, _MOST = 20.0, 15, 100
"""How long to measure, and bounds on how often each layer and variant is measured in that time."""
_METADATA = b"rl_compress_latency_table"
_MEASURE_IT = "measure one with `rl-compress latency-table JOB`"


@dataclass(frozen=True, slots=True)
class PredictionError:
    """How far predictions were from whole variants that nothing was fitted to."""

    variants: int
    median_percent: float
    worst_percent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTable:
    """Measured latencies of one model on one device."""

    device: str
    """Name of the hardware, as :func:`table_device` gives it."""
    digest: str
    """Of the architecture, see :func:`model_digest`."""
    batch_size: int
    threads: int
    torch_version: str
    layers: tuple[LayerTimes, ...]
    surroundings: Surroundings
    error: PredictionError
    target_ms: float
    """Measured latency of the uncompressed model."""

    @classmethod
    def build(
        cls,
        model: nn.Module,
        groups: Sequence[LayerGroup],
        variant: Callable[[Levels], nn.Module],
        space: SearchSpace,
        example_inputs: Inputs,
        *,
        batch_size: int = 1,
        device: torch.device | None = None,
        advance: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> LatencyTable:
        """Measure a model on the hardware at hand.

        Args:
            model: The uncompressed model on the CPU, in evaluation mode.
            groups: The groups that the first dimensions of the space decide.
            variant: Builds the network of some levels, on the CPU.
            space: The search space.
            example_inputs: Inputs of one forward pass, batch size 1.
            batch_size: Samples in a forward pass.
            device: What to measure on; by default the CPU.
            advance: Hears of the turns done, and of their total.

        Raises:
            ConfigError: The model has no layer that can be measured.
        """
        device = device or torch.device("cpu")
        inputs = repeated(example_inputs, batch_size, device)
        rng = np.random.default_rng(0)
        fitted = [*_uniform(space, len(groups)), *_mixed(space, len(groups), _MIXED, rng)]
        tested = _mixed(space, len(groups), _TESTED, rng)
        with threads(THREADS):
            grids = LayerGrids(copy.deepcopy(model).to(device), inputs)
            if not grids.runs:
                raise ConfigError("target: the model has no convolution or linear layer to measure")
            variants = [
                (_contiguous(variant(levels)).to(device), inputs) for levels in (*fitted, *tested)
            ]
            # All in one go: on a shared machine speed changes from one second to the next.
            ms = _measure([*grids.runs, *variants], advance)
        layers = grids.times(ms[: -len(variants)])
        fitted_ms, tested_ms = np.split(ms[-len(variants) :], [len(fitted)])
        alone = LatencyPredictor(layers, Surroundings(1.0, 0.0, 0.0), model, groups)
        surroundings = _fit(*alone.parts(space.amounts(np.array(fitted))), fitted_ms)
        predictor = LatencyPredictor(layers, surroundings, model, groups)
        predicted_ms = predictor.predict_ms(space.amounts(np.array(tested)))
        errors = 100.0 * np.abs(predicted_ms / tested_ms - 1.0)
        return cls(
            device=table_device(device),
            digest=model_digest(model, example_inputs),
            batch_size=batch_size,
            threads=THREADS,
            torch_version=torch.__version__,
            layers=tuple(layers),
            surroundings=surroundings,
            error=PredictionError(_TESTED, float(np.median(errors)), float(errors.max())),
            target_ms=float(fitted_ms[0]),
        )

    def predictor(self, model: nn.Module, groups: Sequence[LayerGroup]) -> LatencyPredictor:
        """Return the latency as a function of widths.

        Args:
            model: The uncompressed model, with or without weights; see :meth:`check`.
            groups: The groups that the first dimensions of the widths refer to.
        """
        return LatencyPredictor(self.layers, self.surroundings, model, groups)

    def check(self, device: str | None, digest: str, source: str = "latency table") -> None:
        """Make sure that the table is the one that is needed.

        Args:
            device: As :func:`table_device` gives it; None if any will do.
            digest: Of the model that latencies are to be predicted of.
            source: What to call the table in the message.

        Raises:
            ConfigError: It is of another model or device.
        """
        if digest != self.digest:
            raise ConfigError(
                f"{source}: it was measured of another model ({self.digest[:12]}, but the target "
                f"is {digest[:12]}); {_MEASURE_IT}"
            )
        if device is not None and device != self.device:
            raise ConfigError(
                f"{source}: it was measured on {self.device}, but this is {device}; {_MEASURE_IT}"
            )

    def save(self, path: Path) -> None:
        """Write the table as parquet, a row for each layer and shape, the rest as metadata."""
        rows = [
            {
                "layer": layer.weight,
                "axis_0": int(layer.first[i]),
                "axis_1": int(layer.second[j]),
                "ms": float(layer.ms[i, j]),
                "output_axis": layer.output_axis,
                "elements_per_output": layer.elements,
            }
            for layer in self.layers
            for i, j in np.ndindex(layer.ms.shape)
        ]
        facts = {
            "schema_version": SCHEMA_VERSION,
            "device": self.device,
            "digest": self.digest,
            "batch_size": self.batch_size,
            "threads": self.threads,
            "torch_version": self.torch_version,
            "target_ms": self.target_ms,
            "surroundings": asdict(self.surroundings),
            "error": asdict(self.error),
        }
        table = pa.Table.from_pylist(rows).replace_schema_metadata({_METADATA: json.dumps(facts)})
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        write_whole(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """Read what :meth:`save` wrote.

        Raises:
            CorruptFileError: The file cannot be read, or is of another release.
        """
        try:
            table = pq.read_table(path)
            facts = json.loads((table.schema.metadata or {})[_METADATA])
            if facts.pop("schema_version") != SCHEMA_VERSION:
                raise ValueError(f"this release reads schema version {SCHEMA_VERSION}")
            facts["surroundings"] = Surroundings(**facts["surroundings"])
            facts["error"] = PredictionError(**facts["error"])
            rows = itertools.groupby(table.to_pylist(), key=lambda row: row["layer"])
            layers = tuple(_from_rows(weight, list(found)) for weight, found in rows)
            return cls(layers=layers, **facts)
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise CorruptFileError(
                f"{path}: not a readable latency table ({error}); {_MEASURE_IT}"
            ) from None


def find_latency_table(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    device: torch.device,
    batch_size: int = 1,
    path: Path | None = None,
) -> LatencyTable:
    """Return the table of a model, from a file named or from the cache.

    Args:
        model: The uncompressed model.
        example_inputs: Inputs of one forward pass, batch size 1.
        device: The hardware whose table is wanted, where no file is named.
        batch_size: Samples in a forward pass, where no file is named.
        path: A table that may have been measured on other hardware.

    Raises:
        ConfigError: There is none, or it is of another model.
    """
    digest = model_digest(model, example_inputs)
    if path is not None:
        table = LatencyTable.load(path)
        table.check(None, digest, str(path))
        return table
    name = table_device(device)
    path = cached_path(name, digest, batch_size)
    if not path.exists():
        raise ConfigError(
            f"budget.latency_ms: there is no latency table of this model on {name}, batch of "
            f"{batch_size}; {_MEASURE_IT}"
        )
    table = LatencyTable.load(path)
    table.check(name, digest, str(path))
    return table


def table_device(device: torch.device) -> str:
    """Return the name of the hardware as tables have it, with the threads that they use."""
    with threads(THREADS):
        return device_name(device)


def cached_path(device: str, digest: str, batch_size: int) -> Path:
    """Return where the table of a model on a device is kept.

    Args:
        device: As :func:`table_device` gives it.
        digest: As :func:`model_digest` gives it.
        batch_size: Samples in a forward pass.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    name = f"{slug}-{digest[:16]}-batch{batch_size}.parquet"
    return cache_dir() / "latency" / name


def model_digest(model: nn.Module, example_inputs: Inputs) -> str:
    """Return a hash of an architecture: of its tensors' names and shapes, of how its layers go over
    their inputs, and of the shapes of its inputs; weights do not count.

    Args:
        model: Any module.
        example_inputs: Inputs of one forward pass, batch size 1.
    """  # noqa: D205
    described: dict[str, Any] = {
        "tensors": [(name, *tensor.shape) for name, tensor in named_tensors(model).items()],
        "layers": [
            (name, model.get_submodule(name.rpartition(".")[0]).extra_repr())
            for name in quantizable_weights(model)
        ],
        "inputs": [tuple(tensor.shape) for tensor in tensors_in(example_inputs)],
    }
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _measure(
    runs: Sequence[tuple[nn.Module, Inputs]], advance: Callable[[int, int], None]
) -> npt.NDArray[np.float64]:
    start = time.perf_counter()
    interleaved_latency_ms(runs, warmup=1, repeats=1)
    turn_s = time.perf_counter() - start
    repeats = int(np.clip(_SECONDS / turn_s, _FEWEST, _MOST))
    return np.array(
        interleaved_latency_ms(runs, warmup=0, repeats=repeats, lead_in=1, advance=advance)
    )


def _from_rows(weight: str, rows: list[dict[str, Any]]) -> LayerTimes:
    first = np.unique([row["axis_0"] for row in rows])
    second = np.unique([row["axis_1"] for row in rows])
    ms = np.array([row["ms"] for row in rows], dtype=np.float64).reshape(len(first), len(second))
    layout = rows[0]["output_axis"], rows[0]["elements_per_output"]
    return LayerTimes(weight, first, second, ms, *layout)


def _uniform(space: SearchSpace, num_groups: int) -> list[Levels]:
    """Choose variants that are equally narrow everywhere, the uncompressed one first."""
    return [
        _at(space, num_groups, np.full(num_groups, keep))
        for keep in np.linspace(1.0, 0.0, _UNIFORM)
    ]


def _mixed(
    space: SearchSpace, num_groups: int, count: int, rng: np.random.Generator
) -> list[Levels]:
    """Choose variants whose widths differ: from mostly narrow ones to mostly wide ones."""
    chosen = []
    for centre in rng.permutation(np.linspace(0.0, 1.0, count)):
        low, high = max(0.0, centre - 0.5), min(1.0, centre + 0.5)
        chosen.append(_at(space, num_groups, rng.uniform(low, high, num_groups)))
    return chosen


def _at(space: SearchSpace, num_groups: int, keep: npt.NDArray[np.float64]) -> Levels:
    """Return levels whose units are between the fewest (0) and all (1), and all bits."""
    smallest = space.amounts(space.smallest)
    wanted = space.full_amounts + 0.0
    span = wanted[:num_groups] - smallest[:num_groups]
    wanted[:num_groups] = smallest[:num_groups] + keep * span
    return space.nearest(wanted)


def _contiguous(network: nn.Module) -> nn.Module:
    """Lay out a variant's tensors as those of a delivered model, instead of as views of larger."""
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()
    return network


def _fit(
    sums: npt.NDArray[np.float64],
    elements: npt.NDArray[np.float64],
    whole_ms: npt.NDArray[np.float64],
) -> Surroundings:
    """Fit the whole to its parts by least squares of the relative error, nothing negative.

    With three unknowns the non-negative solution is found by trying which of them are zero.

    Args:
        sums: Of the layers' times of each variant, in ms, shape ``(variants,)``.
        elements: That the layers put out, same shape.
        whole_ms: Measured, same shape.
    """
    columns = np.stack([sums, elements, np.ones_like(sums)], axis=1) / whole_ms[:, None]
    best, least = np.zeros(3), np.inf
    for used in itertools.product((True, False), repeat=3):
        if not any(used):
            continue
        solution = np.zeros(3)
        solution[list(used)] = np.linalg.lstsq(columns[:, used], np.ones(len(sums)))[0]
        deviation = float(((columns @ solution - 1.0) ** 2).sum())
        if (solution >= 0).all() and deviation < least:
            best, least = solution, deviation
    return Surroundings(*map(float, best))
