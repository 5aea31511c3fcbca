"""Built-in targets: trained on first use, then taken from the cache."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from rl_compress.targets.cache import cache_dir
from rl_compress.targets.target import Batch, ClassificationTarget

logger = logging.getLogger(__name__)

_RECIPE_VERSION = 1
"""Raised whenever networks or training change, so that older cached weights are not used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingConfig:
    """How a built-in target is trained: AdamW, one-cycle learning rate, shifted images."""

    epochs: int
    batch_size: int
    max_shift: int
    """Largest shift of a training image, in pixels, each way."""
    seed: int
    learning_rate: float = 1e-2
    weight_decay: float = 1e-3


class PretrainedTarget(ClassificationTarget):
    """A classifier whose weights are trained once per machine."""

    def __init__(
        self,
        *,
        key: Mapping[str, Any],
        architecture: Callable[[], nn.Module],
        load_splits: Callable[[], Mapping[str, Dataset[Batch]]],
        pretraining: PretrainingConfig,
        batch_size: int = 512,
    ) -> None:
        """Keep the recipe; data is read and weights are trained when they are first needed.

        Args:
            key: Options that decide the weights, for the cache's file name.
            architecture: Returns the untrained network.
            load_splits: Returns the four splits.
            pretraining: How to train.
            batch_size: Samples per forward pass when scoring.
        """
        self._key = {**key, **asdict(pretraining), "recipe": _RECIPE_VERSION}
        self._architecture = architecture
        self._load_splits = functools.cache(load_splits)
        self._pretraining = pretraining
        self.batch_size = batch_size

    def architecture(self) -> nn.Module:
        """Return the network with arbitrary weights."""
        return self._architecture()

    def split(self, name: str) -> Dataset[Batch]:
        return self._load_splits()[name]

    def build(self) -> nn.Module:
        """Return the trained network, from the cache where it was trained before."""
        digest = hashlib.sha256(json.dumps(self._key, sort_keys=True).encode()).hexdigest()[:16]
        path = cache_dir() / "pretrained" / f"{self._key['target']}-{digest}.safetensors"
        model = self._architecture()
        if path.exists():
            try:
                model.load_state_dict(load_file(path))
                return model.eval()
            except (SafetensorError, OSError, RuntimeError) as error:
                logger.warning("%s is damaged (%s); training anew", path, error)
        model = self._train()
        _write_whole(path, save(model.state_dict()))
        return model

    def _train(self) -> nn.Module:
        config = self._pretraining
        train = self.split("train")
        assert isinstance(train, TensorDataset)
        inputs, labels = train.tensors
        # The caller's random state is none of our business, and not to be disturbed.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = self._architecture().train()
            optimizer = torch.optim.AdamW(
                model.parameters(), config.learning_rate, weight_decay=config.weight_decay
            )
            batches = (len(inputs) + config.batch_size - 1) // config.batch_size
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, config.learning_rate, total_steps=config.epochs * batches
            )
            title = f"pre-training {self._key['target']}"
            for _ in track(range(config.epochs), title, transient=True):
                for chosen in torch.randperm(len(inputs)).split(config.batch_size):
                    images = _shifted(inputs[chosen], config.max_shift)
                    loss = nn.functional.cross_entropy(model(images), labels[chosen])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
        return model.eval()


def _shifted(images: Tensor, limit: int) -> Tensor:
    """Shift a batch by up to ``limit`` pixels each way, filling with zeros."""
    padded = nn.functional.pad(images, [limit] * 4)
    top, left = torch.randint(0, 2 * limit + 1, (2,)).tolist()
    return padded[..., top : top + images.shape[-2], left : left + images.shape[-1]]


def _write_whole(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    Path(unfinished).rename(path)
