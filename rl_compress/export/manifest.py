"""The manifest: what is needed to rebuild a delivered model, and the evidence for it."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rl_compress import __version__
from rl_compress.errors import ConfigError, CorruptFileError, RunDirectoryError

if TYPE_CHECKING:
    from pathlib import Path

FORMAT_VERSION = 5
"""Raised whenever an older release could not read the manifest, or the file of tensors."""

_READABLE = (2, 3, 4, FORMAT_VERSION)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class CostChange(_Part):
    """One cost of the two models."""

    original: int = Field(description="Cost of the uncompressed model, in the cost's unit.")
    delivered: int = Field(description="Cost of the delivered model, in the cost's unit.")


class ScoreChange(_Part):
    """The score on one split; higher is better."""

    original: float = Field(description="Score of the uncompressed model.")
    delivered: float = Field(description="Score of the delivered model.")


class SearchScoreChange(ScoreChange):
    """The score on the search split, which also tells what fine-tuning was worth."""

    before_finetuning: float = Field(description="Score of the compressed model, not fine-tuned.")


class Scores(_Part):
    """The target's own score on the two splits that judge the model."""

    name: str = Field(description="What was scored, such as `accuracy` (in percent).")
    search: SearchScoreChange = Field(description="On the split that guided the search.")
    test: ScoreChange | None = Field(
        default=None, description="On the test split, touched once; None: not measured."
    )


class LatencyPrediction(_Part):
    """Latencies that the search held against its budget, in milliseconds per batch."""

    original: float = Field(description="Predicted for the uncompressed model, in ms.")
    delivered: float = Field(description="Predicted for the delivered model, in ms.")
    error_percent: float | None = Field(
        description="How far the prediction for the delivered model is from its measured latency, "
        "in percent of that; None: they are of different hardware."
    )
    device: str = Field(description="Name of the hardware that the latency table is of.")
    median_error_percent: float = Field(
        description="The table's own median error, of variants it was validated with, in percent."
    )


class LatencyChange(_Part):
    """Measured latency of the two models, in milliseconds per batch."""

    original: float = Field(description="Median of the uncompressed model, in ms.")
    delivered: float = Field(description="Median of the delivered model, in ms.")
    device: str = Field(description="Name of the hardware they were measured on.")
    batch_size: int = Field(description="Samples per batch.")
    runtime: str | None = Field(
        default=None, description="Name and version, such as `torch 2.13.0`; None: torch."
    )
    original_quartiles: tuple[float, float] | None = Field(
        default=None, description="Lower and upper quartile of the uncompressed model, in ms."
    )
    delivered_quartiles: tuple[float, float] | None = Field(
        default=None, description="Lower and upper quartile of the delivered model, in ms."
    )
    predicted: LatencyPrediction | None = Field(
        default=None, description="What was predicted; None: the budget did not bound latency."
    )


Times = tuple[float, float, float]


class Deployed(_Part):
    """A file in the runtime that runs it, beside the uncompressed model there."""

    runtime: str = Field(description="Name and version, such as `onnxruntime 1.32.0`.")
    device: str = Field(description="Name of the hardware, with the number of threads.")
    multiplies_bytes: bool = Field(
        description="Whether the processor has instructions for products of bytes, as VNNI; "
        "without them 8 bits may be slower."
    )
    batch_size: int = Field(description="Samples per batch.")
    original_ms: Times = Field(
        description="Milliseconds per batch of the uncompressed model as float32 ONNX, measured in "
        "turn with the file: lower quartile, median, upper quartile."
    )
    delivered_ms: Times = Field(description="The file's, likewise.")
    original_bytes: int = Field(description="Size of the uncompressed model as float32 ONNX.")
    delivered_bytes: int = Field(description="Size of the file.")
    test_score: float = Field(description="The file's score on the test split.")


class Int8Check(_Part):
    """How the file `model_int8.onnx` differs from the delivered model."""

    error: float = Field(
        description="Root mean square of the outputs' differences on samples of the search split, "
        "relative to that of the outputs."
    )
    tolerance: float = Field(description="The largest that was accepted.")
    float_layers: dict[str, str] = Field(
        description="Layers that compute with floats, by name: why."
    )


class InputSpec(_Part):
    """One input of the forward pass."""

    name: str | None = Field(
        default=None, description="Keyword that it is given by; None: it is given by place."
    )
    shape: list[int] = Field(description="Shape, batch first.")
    dtype: str = Field(
        pattern=r"^(bool|(u?int|b?float|complex)\d+)$",
        description="Torch's name of the type, such as `float32`.",
    )


class FileEntry(_Part):
    """What a file must be to be the one that was saved."""

    bytes: int = Field(description="Size of the file, in bytes.")
    sha256: str = Field(description="SHA-256 of the content, in hexadecimal.")

    @classmethod
    def of(cls, path: Path) -> FileEntry:
        """Read a file's size and hash."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(bytes=path.stat().st_size, sha256=digest)


class Manifest(_Part):
    """Everything about a delivered model but its tensors; plain data only."""

    format_version: int = Field(default=FORMAT_VERSION, description="Version of this format.")
    created: str = Field(default_factory=_now, description="When it was made, ISO 8601 in UTC.")
    rl_compress_version: str = Field(default=__version__, description="Release that made it.")
    target: dict[str, Any] = Field(
        description="How to build the uncompressed architecture: `factory`, `options`, `weights`."
    )
    history: list[tuple[str, bool, list[int]]] = Field(
        default_factory=list,
        description="Up to version 3 the cuts that were made; tensors tell all that is needed.",
    )
    inputs: list[InputSpec] = Field(default_factory=list, description="Inputs of one forward pass.")
    aliases: dict[str, str] = Field(
        default_factory=dict, description="Tied tensors: name left out, name it is stored under."
    )
    packed: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Weights stored as codes or without zeros, by name: how to unpack them.",
    )
    activations: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="Quantizer of each layer's input, by layer name."
    )
    policy_id: str = Field(description="Id of the compression policy that was carried out.")
    budget: dict[str, float] = Field(
        default_factory=dict, description="Upper bound of each budgeted cost, in its own unit."
    )
    costs: dict[str, CostChange] = Field(
        default_factory=dict,
        description="`macs` per sample, `params`, and `size_bytes` of the tensors in the file.",
    )
    group_macs: dict[str, CostChange] = Field(
        default_factory=dict,
        description="MACs of all layers whose width or input width a group decides, by group.",
    )
    scores: Scores | None = Field(default=None, description="Scores; None: not measured.")
    latency_ms: LatencyChange | None = Field(
        default=None, description="Latencies; None: not measured."
    )
    finetuning_epochs: int = Field(default=0, ge=0, description="Epochs of fine-tuning used.")
    onnx_max_error: float | None = Field(
        default=None,
        description="Largest difference of the ONNX model's outputs, relative to the largest "
        "output; None: no ONNX file.",
    )
    onnx_int8: Int8Check | None = Field(
        default=None, description="Of the format `onnx-int8`; None: no such file."
    )
    deployed: dict[str, Deployed] = Field(
        default_factory=dict,
        description="Of each file named in export.formats that was run, by format.",
    )
    files: dict[str, FileEntry] = Field(
        default_factory=dict, description="Every other file beside the manifest."
    )

    def save(self, path: Path) -> None:
        """Write the manifest as JSON."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read a manifest.

        Raises:
            RunDirectoryError: There is no such file.
            CorruptFileError: The file is no manifest.
            ConfigError: A newer release wrote it.
        """
        try:
            data = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise RunDirectoryError(
                f"{path}: no compressed model here; give the folder that holds the manifest, "
                f"which is best/ in the directory of a finished run"
            ) from None
        except (OSError, ValueError) as error:
            raise _corrupt(path, str(error)) from None
        if isinstance(data, dict) and data.get("format_version") not in _READABLE:
            raise ConfigError(
                f"{path}: format_version must be {' or '.join(map(str, _READABLE))}, "
                f"but got {data.get('format_version')!r}; "
                f"load it with the release of rl-compress that wrote it, or a newer one"
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise _corrupt(path, f"{key or 'content'}: {first['msg']}") from None

    def verify(self, path: Path) -> None:
        """Make sure that a file beside the manifest is the one that was saved.

        Raises:
            CorruptFileError: It is missing, or its content differs; the message names it.
        """
        expected = self.files.get(path.name)
        if expected is None or not path.is_file():
            raise CorruptFileError(
                f"{path}: a part of the compressed model is missing; copy the whole folder again"
            )
        found = FileEntry.of(path)
        if found != expected:
            raise CorruptFileError(
                f"{path}: damaged or replaced (SHA-256 {found.sha256[:12]}… of {found.bytes:,d} "
                f"bytes, but the manifest says {expected.sha256[:12]}… of {expected.bytes:,d}); "
                f"copy the whole folder again, or compress the policy again"
            )


def _corrupt(path: Path, problem: str) -> CorruptFileError:
    return CorruptFileError(
        f"{path}: not a readable manifest ({problem}); copy the whole folder again"
    )
