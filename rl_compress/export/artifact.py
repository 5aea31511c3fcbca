"""The artefact: a folder with the delivered model, written whole and loaded without a pickle."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from torch import nn

from rl_compress.errors import ConfigError, CorruptFileError, RLCompressError, summary
from rl_compress.export.deployed import Deployment
from rl_compress.export.format import Delivered, Format
from rl_compress.export.manifest import FileEntry, InputSpec, Manifest
from rl_compress.export.native import ARCHITECTURE_FILE, WEIGHTS_FILE, Native
from rl_compress.export.packed_layers import pack_layers
from rl_compress.export.packed_state import unpack_state
from rl_compress.export.tensor_file import read_tensors
from rl_compress.model.described import remade
from rl_compress.model.nested import Inputs, tensors_in
from rl_compress.model.plain_weights import plain_weights, unshared
from rl_compress.model.undrawn import made_undrawn
from rl_compress.quantizers.activations import ActivationQuantizer, attach_activations
from rl_compress.registry import FORMATS, Options
from rl_compress.space.space_config import SpaceConfig
from rl_compress.targets.checkpoint import with_versions
from rl_compress.targets.factory import TargetConfig, make_target
from rl_compress.targets.target import Target
from rl_compress.variants.copied_out import make_room

logger = logging.getLogger(__name__)

POLICY_FILE = "policy.json"
MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A format to write."""

    name: str
    format: Format
    required: bool
    """Whether delivery fails without it."""


class ExportConfig(BaseModel):
    """The `export` section of a job."""

    model_config = ConfigDict(extra="forbid")

    formats: list[Annotated[str, FORMATS]] | None = Field(
        default=None,
        description=f"What to write: {', '.join(FORMATS.built_in)}, or classes of your own derived "
        "from rl_compress.export.format.Format, as `package.module:Class`; `native` is always "
        "written. By default that, and what `onnx` says.",
    )
    format_options: dict[str, Options] = Field(
        default_factory=dict, description="Options of formats, by their names."
    )
    onnx: bool | None = Field(
        default=None,
        description="Write model.onnx too; None: when the onnx extra is installed, and a model "
        "that cannot be exported is only warned of.",
    )
    latency_batch_size: int = Field(
        default=1, ge=1, description="Samples per batch when latency is measured."
    )

    @model_validator(mode="after")
    def _keys_agree(self) -> ExportConfig:
        if self.formats is not None and self.onnx is not None:
            raise ConfigError("export.onnx: export.formats says what to write; leave it out")
        if unknown := self.format_options.keys() - {*(self.formats or ()), "native", "onnx"}:
            raise ConfigError(f"export.format_options: {min(unknown)} is not in export.formats")
        return self

    def check_space(self, space: SpaceConfig) -> None:
        """Make sure that what may be searched can be written in all formats asked for.

        Raises:
            ConfigError: See :meth:`wanted`, and :meth:`Format.check_space`.
        """
        for wanted in self.wanted():
            if wanted.required:
                wanted.format.check_space(space)

    def wanted(self) -> list[Wanted]:
        """Return the formats to write, of those that are not required only what can be.

        Raises:
            ConfigError: There is no such format or option, or a required one lacks a package.
        """
        asked = {"native": True} | dict.fromkeys(self.formats or (), True)
        if self.formats is None and self.onnx is not False:
            asked["onnx"] = bool(self.onnx)
        found = []
        for name, required in asked.items():
            made, options = FORMATS.load(
                name,
                self.format_options.get(name),
                key="export.formats",
                options_key=f"export.format_options.{name}",
            )
            one = made(options)
            try:
                one.check()
            except ConfigError:
                if required:
                    raise
            else:
                found.append(Wanted(name, one, required))
        return found


def save_artifact(
    directory: Path,
    delivered: Delivered,
    config: ExportConfig,
    deployment: Deployment | None = None,
) -> Manifest:
    """Write a compressed model into a folder, which appears whole or not at all.

    Args:
        directory: The folder, replaced where it exists.
        delivered: The model, and how it was made; what is about files is filled in here.
        config: What to write.
        deployment: Measures the files that were asked for and that a runtime runs.

    Returns:
        The manifest as written; the delivered size is that of the tensors stored.

    Raises:
        UnsupportedLayerError: The model's state is more than tensors.
        ConfigError: A format was asked for that lacks a package.
        RLCompressError: A format was asked for that the model cannot be written in; all the rest
            has been written.
    """
    formats = config.wanted()
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    failures = []
    running = {}
    try:
        policy = delivered.policy.to_json(indent=2)
        (unfinished / POLICY_FILE).write_text(f"{policy}\n", encoding="utf-8")
        for wanted in formats:
            failure = _try(wanted, delivered, unfinished)
            if failure is not None and wanted.required:
                failures.append(failure)
            elif failure is not None:
                logger.warning("no %s: %s", wanted.name, failure)
            elif wanted.name in (config.formats or ()) and wanted.format.runs is not None:
                running[wanted.name] = unfinished / wanted.format.runs
        if deployment is not None and running:
            delivered.entries["deployed"] = deployment.measure(running)
        files = sorted(path for path in unfinished.iterdir() if path.is_file())
        manifest = delivered.manifest.model_copy(
            update={
                "inputs": _input_specs(delivered.example_inputs),
                **delivered.entries,
                "files": {path.name: FileEntry.of(path) for path in files},
            }
        )
        manifest.save(unfinished / MANIFEST_FILE)
        _replace(unfinished, directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    if failures:
        first = failures[0]
        raise RLCompressError(f"{first} (the other files are in {directory})") from first
    return manifest


def load_compressed(
    directory: Path | str, *, model: nn.Module | None = None, packed: bool = False
) -> nn.Module:
    """Rebuild a compressed model from its folder.

    The folder describes the architecture: the model's own classes are imported, but nothing of them
    is called, and neither the target's factory nor its data is needed. Where the architecture is
    more than plain data, the target's factory builds it, and its layers take the shapes of the
    tensors in the file. Nothing is unpickled and nothing is trained, but code that the folder names
    is imported: load only folders that you would run code from.

    Args:
        directory: A folder that :func:`save_artifact` wrote, such as ``best/`` of a run.
        model: The uncompressed architecture, with any weights, instead; needed where its class is
            not at hand, or the model was held in memory and is more than plain data. Left as it is.
        packed: Keep quantized and sparse weights packed in memory; a layer expands its own for as
            long as it computes, which takes time.

    Returns:
        The model on the CPU, in evaluation mode.

    Raises:
        RunDirectoryError: The folder holds no manifest.
        CorruptFileError: A file is missing or damaged; the message names it.
        ConfigError: A newer release wrote it, or the target is no longer what was compressed.
    """
    directory = Path(directory)
    manifest = Manifest.load(directory / MANIFEST_FILE)
    weights = directory / WEIGHTS_FILE
    manifest.verify(weights)
    try:
        stored = read_tensors(weights)
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptFileError(
            f"{weights}: not a readable safetensors file ({error}); copy the whole folder again"
        ) from None
    try:
        tensors = unpack_state(stored, manifest.packed)
    except (KeyError, RuntimeError, TypeError) as error:
        raise CorruptFileError(
            f"{weights}: packed weights cannot be unpacked ({error!r}); copy the whole folder again"
        ) from None
    tied = {name: tensors[kept] for name, kept in manifest.aliases.items() if kept in tensors}
    if model is not None:
        maker = "is given"
    elif ARCHITECTURE_FILE in manifest.files:
        maker = f"{ARCHITECTURE_FILE} describes"
        model = _described(directory / ARCHITECTURE_FILE, manifest)
    else:
        maker = f"the target {manifest.target.get('factory')!r} builds"
        target = _target(directory, manifest)
        model = made_undrawn(target.architecture, tensors.keys() | tied.keys())
    # A factory may hand out the same module again and again, and its shapes change in place.
    model = plain_weights(unshared(model, tensors)).cpu().eval()
    make_room(model, tensors)
    try:
        model.load_state_dict(with_versions(tensors | tied, model), strict=True, assign=False)
    except RuntimeError as error:
        raise ConfigError(
            f"{weights}: the tensors do not fit the model that {maker} "
            f"({' '.join(str(error).split())}); "
            f"use the target's code as it was when the model was compressed"
        ) from None
    if packed:
        pack_layers(model, stored, manifest.packed, frozenset(manifest.aliases.values()))
    attach_activations(
        model,
        {
            layer: ActivationQuantizer.from_description(description)
            for layer, description in manifest.activations.items()
        },
    )
    return model.eval()


def _described(path: Path, manifest: Manifest) -> nn.Module:
    """Return the architecture that a folder describes."""
    manifest.verify(path)
    try:
        return remade(json.loads(path.read_text(encoding="utf-8")))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise CorruptFileError(
            f"{path}: not a readable architecture ({error!r}); copy the whole folder again"
        ) from None


def _target(directory: Path, manifest: Manifest) -> Target:
    """Return the target that the manifest names."""
    try:
        return make_target(TargetConfig(**manifest.target))
    except (ValidationError, TypeError) as error:
        raise ConfigError(
            f"{directory / MANIFEST_FILE}: target must have the keys factory, options and "
            f"weights, but got {manifest.target!r} ({error}); copy the whole folder again"
        ) from None


def _try(wanted: Wanted, delivered: Delivered, folder: Path) -> RLCompressError | None:
    """Write a format, or leave nothing of it and return why."""
    before = set(folder.iterdir())
    try:
        for path in wanted.format.write(delivered, folder):
            # Some writers make files that only their owner can read.
            shutil.copymode(folder / POLICY_FILE, path)
    except Exception as error:
        # What this package cannot read again is not delivered.
        if isinstance(wanted.format, Native):
            raise
        for rest in set(folder.iterdir()) - before:
            rest.unlink()
        if isinstance(error, RLCompressError):
            return error
        failure = RLCompressError(f"export.formats: {wanted.name} failed ({summary(error)})")
        failure.__cause__ = error
        return failure
    return None


def _replace(new: Path, directory: Path) -> None:
    """Put a finished folder in the place of an older one."""
    previous = directory.with_name(f".{directory.name}.previous")
    # Two renames, since a folder cannot be renamed onto one that holds files.
    if directory.exists():
        shutil.rmtree(previous, ignore_errors=True)
        directory.rename(previous)
    try:
        new.rename(directory)
    except OSError:
        if previous.exists():
            previous.rename(directory)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def _input_specs(inputs: Inputs) -> list[InputSpec]:
    named = inputs.items() if isinstance(inputs, dict) else ((None, value) for value in inputs)
    return [
        InputSpec(
            name=name, shape=list(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch.")
        )
        for name, value in named
        for tensor in tensors_in(value)
    ]
