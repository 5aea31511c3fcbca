"""The artefact: a folder with the delivered model, written whole and loaded without a pickle."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from rl_compress.errors import (
    ConfigError,
    CorruptFileError,
    RLCompressError,
    UnsupportedLayerError,
)
from rl_compress.export.manifest import CostChange, FileEntry, InputSpec, Manifest
from rl_compress.export.onnx_export import export_onnx, onnx_available, require_onnx
from rl_compress.export.packed_state import Packing, pack_state, stored_bytes, unpack_state
from rl_compress.export.tensor_file import read_tensors, write_tensors
from rl_compress.model.nested import Inputs, tensors_in
from rl_compress.model.plain_weights import plain_weights, unshared
from rl_compress.quantizers.activations import ActivationQuantizer, attach_activations
from rl_compress.targets.checkpoint import with_versions
from rl_compress.targets.factory import TargetConfig, make_target
from rl_compress.variants.copied_out import make_room

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rl_compress.space.compression_policy import CompressionPolicy

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
POLICY_FILE = "policy.json"
MANIFEST_FILE = "manifest.json"
ONNX_FILE = "model.onnx"


class ExportConfig(BaseModel):
    """The `export` section of a job."""

    model_config = ConfigDict(extra="forbid")

    onnx: bool | None = Field(
        default=None,
        description="Write model.onnx too; None: when the onnx extra is installed, and a model "
        "that cannot be exported is only warned of.",
    )
    latency_batch_size: int = Field(
        default=1, ge=1, description="Samples per batch when latency is measured."
    )


def save_artifact(
    directory: Path,
    model: nn.Module,
    manifest: Manifest,
    policy: CompressionPolicy,
    example_inputs: Inputs,
    config: ExportConfig,
    packing: Packing | None = None,
) -> Manifest:
    """Write a compressed model into a folder, which appears whole or not at all.

    Args:
        directory: The folder, replaced where it exists.
        model: The compressed model in evaluation mode, on any device; left as it is.
        manifest: How it was made; the entries about files are filled in here.
        policy: The compression policy that was carried out.
        example_inputs: Inputs of one forward pass, batch size 1.
        config: What to write.
        packing: Which weights are quantized or sparse, and are stored packed.

    Returns:
        The manifest as written; the delivered size is that of the tensors stored.

    Raises:
        UnsupportedLayerError: The model's state is more than tensors.
        ConfigError: ONNX was asked for, but the onnx extra is not installed.
        RLCompressError: ONNX was asked for, but the model cannot be exported; all the rest has
            been written.
    """
    if config.onnx:
        require_onnx()
    unfinished = directory.with_name(f".{directory.name}.unfinished")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    try:
        (unfinished / POLICY_FILE).write_text(policy.to_json(indent=2) + "\n", encoding="utf-8")
        packing = packing or Packing()
        tensors, aliases = _store_once(model.state_dict())
        tensors, packed = pack_state(tensors, packing)
        write_tensors(tensors, unfinished / WEIGHTS_FILE, packed=bool(packed))
        # safetensors makes files that only their owner can read.
        shutil.copymode(unfinished / POLICY_FILE, unfinished / WEIGHTS_FILE)
        onnx_error, failure = _try_onnx(model, example_inputs, unfinished / ONNX_FILE, config)
        files = sorted(path for path in unfinished.iterdir() if path.is_file())
        manifest = manifest.model_copy(
            update={
                "inputs": _input_specs(example_inputs),
                "aliases": aliases,
                "packed": packed,
                "activations": {
                    layer: quantizer.describe()
                    for layer, quantizer in packing.quantization.activations.items()
                },
                "costs": _with_size(manifest.costs, stored_bytes(tensors)),
                "onnx_max_error": onnx_error,
                "files": {path.name: FileEntry.of(path) for path in files},
            }
        )
        manifest.save(unfinished / MANIFEST_FILE)
        _replace(unfinished, directory)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    if failure is not None:
        if config.onnx:
            raise RLCompressError(f"{failure} (the other files are in {directory})") from failure
        logger.warning("no %s: %s", ONNX_FILE, failure)
    return manifest


def load_compressed(directory: Path | str, *, model: nn.Module | None = None) -> nn.Module:
    """Rebuild a compressed model from its folder.

    The target's factory builds the architecture, its layers take the shapes of the tensors in the
    file, and these are read in. Nothing is unpickled and nothing is trained, but the factory that
    the manifest names is imported and called: load only folders that you would run code from.

    Args:
        directory: A folder that :func:`save_artifact` wrote, such as ``best/`` of a run.
        model: The uncompressed architecture, with any weights, instead of what the target's factory
            makes; needed where the model was held in memory. Left as it is.

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
        tensors = read_tensors(weights)
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptFileError(
            f"{weights}: not a readable safetensors file ({error}); copy the whole folder again"
        ) from None
    maker, target = "is given", None
    try:
        if model is None:
            target = make_target(TargetConfig(**manifest.target))
            maker = f"the target {manifest.target.get('factory')!r} builds"
    except (ValidationError, TypeError) as error:
        raise ConfigError(
            f"{directory / MANIFEST_FILE}: target must have the keys factory, options and "
            f"weights, but got {manifest.target!r} ({error}); copy the whole folder again"
        ) from None
    try:
        tensors = unpack_state(tensors, manifest.packed)
    except (KeyError, RuntimeError, TypeError) as error:
        raise CorruptFileError(
            f"{weights}: packed weights cannot be unpacked ({error!r}); copy the whole folder again"
        ) from None
    if target is not None:
        model = target.architecture()
    assert model is not None, "it is given, or the target's"
    # A factory may hand out the same module again and again, and its shapes change in place.
    model = plain_weights(unshared(model)).cpu().eval()
    make_room(model, tensors)
    tied = {name: tensors[kept] for name, kept in manifest.aliases.items() if kept in tensors}
    try:
        model.load_state_dict(with_versions(tensors | tied, model), strict=True, assign=False)
    except RuntimeError as error:
        raise ConfigError(
            f"{weights}: the tensors do not fit the model that {maker} "
            f"({' '.join(str(error).split())}); "
            f"use the target's code as it was when the model was compressed"
        ) from None
    attach_activations(
        model,
        {
            layer: ActivationQuantizer.from_description(description)
            for layer, description in manifest.activations.items()
        },
    )
    return model.eval()


def _with_size(costs: Mapping[str, CostChange], size_bytes: int) -> dict[str, CostChange]:
    """Put the size that was really written in the place of the predicted one."""
    if "size_bytes" not in costs:
        return dict(costs)
    change = costs["size_bytes"].model_copy(update={"delivered": size_bytes})
    return {**costs, "size_bytes": change}


def _store_once(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors to store, and for each name left out the name it is stored under."""
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    names: dict[tuple[object, ...], str] = {}
    storages: set[tuple[object, ...]] = set()
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise UnsupportedLayerError(
                f"{name}: a model's state must be tensors, but got {type(tensor).__name__}; "
                f"keep it out of the state dict, for it cannot be saved without a pickle"
            )
        storage = (tensor.device, tensor.untyped_storage().data_ptr())
        view = (*storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and view in names:
            aliases[name] = names[view]
            continue
        names[view] = name
        # Different views of one storage are tied again by the architecture; here each is whole.
        copied = tensor.clone() if storage in storages else tensor
        storages.add(storage)
        stored[name] = copied.detach().cpu().contiguous()
    return stored, aliases


def _try_onnx(
    model: nn.Module, example_inputs: Inputs, path: Path, config: ExportConfig
) -> tuple[float | None, RLCompressError | None]:
    """Return the error of the ONNX file, or why there is none."""
    if config.onnx is False or not onnx_available():
        return None, None
    try:
        error = export_onnx(model, example_inputs, path)
    except RLCompressError as failure:
        for rest in path.parent.glob(f"{path.name}*"):
            rest.unlink()
        return None, failure
    shutil.copymode(path.with_name(POLICY_FILE), path)
    return error, None


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
