"""The fingerprint of a run's inputs: equal ones would be searched in vain once more."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from rl_compress import __version__
from rl_compress.targets.factory import TargetConfig
from rl_compress.targets.target import SPLITS, Target

Fingerprint = dict[str, str]
"""By input (``version``, ``job``, ``model``, ``data``) its digest."""

_SAMPLES = 1000
"""Samples of a split that are looked at where the data is not a tensor in memory."""


def fingerprint_of_job(job: str) -> Fingerprint:
    """Return what can be told without building anything.

    Args:
        job: All that was asked for, as text.
    """
    return {"version": __version__, "job": hashlib.sha256(job.encode()).hexdigest()}


def fingerprint_of_target(
    config: TargetConfig, target: Target, model: nn.Module, parts: Iterable[str] = ()
) -> Fingerprint:
    """Return the digests of a target's model and data.

    The model's is over its modules, its state and the source files that define it and the target.
    The data's is over every byte of tensors in memory; of any other dataset over its length and
    1000 samples, evenly spread, so that a change to others goes unnoticed. What a dataset draws
    from torch's generator is drawn from a fixed seed.

    Args:
        config: The target's section of the job.
        target: Supplies the splits.
        model: As it is built, before it is trained.
        parts: Names of the other parts of the job, whose sources count too where they are own.
    """
    digest = hashlib.sha256()
    _add_model(digest, model)
    for path in source_files([config.factory, *parts], target, model):
        digest.update(path.read_bytes())
    return {"model": digest.hexdigest(), "data": digest_of_data(target)}


def digest_of_model(model: nn.Module) -> str:
    """Return the digest of a model's modules, with what they say of themselves, and its state."""
    digest = hashlib.sha256(repr(model).encode())
    _add_model(digest, model)
    return digest.hexdigest()


def add_tensor(digest: hashlib._Hash, tensor: Tensor) -> None:
    """Hash a tensor's type, shape and bytes."""
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def source_files(named: Iterable[str], *parts: object) -> list[Path]:
    """Return the source files of what a job names and of objects' classes, as far as there are any.

    Args:
        named: As ``package.module:name``; names of what is built in do not matter.
        parts: The target, its model.
    """
    own = [name.partition(":")[0] for name in named if ":" in name]
    names = [*own, *(type(part).__module__ for part in parts)]
    found = set()
    for module in filter(None, map(sys.modules.get, names)):
        # What is typed in, or built in, has no file.
        try:
            path = inspect.getsourcefile(module)
        except TypeError:
            continue
        if path is not None and Path(path).is_file():
            found.add(Path(path))
    return sorted(found)


def digest_of_data(target: Target) -> str:
    """Return the digest of all splits; see :func:`fingerprint_of_target`."""
    digest = hashlib.sha256()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name in SPLITS:
            dataset = target.split(name)
            size = len(dataset)  # type: ignore[arg-type]
            digest.update(f"{name}:{size};".encode())
            if isinstance(dataset, TensorDataset):
                for tensor in dataset.tensors:
                    add_tensor(digest, tensor)
                continue
            for index in np.unique(np.linspace(0, size - 1, min(size, _SAMPLES), dtype=int)):
                _add(digest, dataset[int(index)])
    return digest.hexdigest()


def _add_model(digest: hashlib._Hash, model: nn.Module) -> None:
    for name, module in model.named_modules():
        digest.update(f"{name}:{type(module).__qualname__};".encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        _add(digest, value)


def _add(digest: hashlib._Hash, value: Any) -> None:
    if isinstance(value, Tensor):
        add_tensor(digest, value)
    elif isinstance(value, tuple | list):
        for part in value:
            _add(digest, part)
    elif isinstance(value, Mapping):
        for key, part in value.items():
            digest.update(f"{key}:".encode())
            _add(digest, part)
    else:
        # A number or a text; other objects may have their address in it, and then always differ.
        digest.update(repr(value).encode())
