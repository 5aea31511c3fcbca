"""Built-in targets: trained on first use, then taken from the cache."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from rl_compress.targets.cache import cache_dir, write_whole
from rl_compress.targets.target import ClassificationTarget
from rl_compress.targets.threads import threads

logger = logging.getLogger(__name__)

_RECIPE_VERSION = 2
"""Raised whenever networks, splits or training change: older cached weights are then not used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingConfig:
    """How a built-in target is trained: AdamW, one-cycle learning rate, varied images."""

    epochs: int
    batch_size: int
    max_shift: int
    """Largest shift of a training image, in pixels, each way."""
    flip: bool = False
    """Whether batches are mirrored left to right, every second one on average."""
    seed: int
    learning_rate: float = 1e-2
    """Peak of the one-cycle schedule (L. Smith, N. Topin, 2018)."""
    weight_decay: float = 1e-3
    threads: int | None = None
    """CPU threads to train with; None for as many as torch has. Small networks want 1: threads that
    wait for each other at every tiny layer are slow wherever the machine has other work, and the
    same weights then result whatever the number of cores."""


class PretrainedTarget(ClassificationTarget):
    """A classifier of grey images whose weights are trained once per machine."""

    batch_size = 512

    def __init__(
        self,
        *,
        key: Mapping[str, Any],
        architecture: Callable[[], nn.Module],
        load_splits: Callable[[], Mapping[str, TensorDataset]],
        pixel_scale: float,
        pretraining: PretrainingConfig,
        augments: bool = True,
    ) -> None:
        """Keep the recipe; data is read and weights are trained when they are first needed.

        Args:
            key: Options that decide the weights, for the cache's file name; its ``target`` is the
                target's name.
            architecture: Returns the untrained network.
            load_splits: Returns the four splits, images as bytes ``(num_samples, 1, H, W)``.
            pixel_scale: Pixel value that becomes 1.0.
            pretraining: How to train.
            augments: Whether fine-tuning sees varied images too, as pre-training does.
        """
        self._augments = augments
        self._key = {**key, **asdict(pretraining), "recipe": _RECIPE_VERSION}
        self._architecture = architecture
        self._load_splits = functools.cache(load_splits)
        self._pixel_scale = pixel_scale
        self._pretraining = pretraining
        self._scaled: dict[str, TensorDataset] = {}

    def architecture(self) -> nn.Module:
        """Return the network with arbitrary weights."""
        return self._architecture().eval()

    def split(self, name: str) -> Dataset[Any]:
        """Return one of the four splits: images in [0, 1], shape ``(1, H, W)``, and classes."""
        # Only the splits that a process uses are ever turned into floats, four times the size.
        if name not in self._scaled:
            images, labels = self._load_splits()[name].tensors
            self._scaled[name] = TensorDataset(images.float() / self._pixel_scale, labels)
        return self._scaled[name]

    def augment(self, inputs: Tensor) -> Tensor:
        """Shift images and mirror them as in their pre-training."""
        return _varied(inputs, self._pretraining) if self._augments else inputs

    def build(self) -> nn.Module:
        """Return the trained network, from the cache where it was trained before."""
        path = self._cached_weights()
        if path.exists():
            model = self._architecture()
            try:
                model.load_state_dict(load_file(path))
                return model.eval()
            except (SafetensorError, OSError, RuntimeError) as error:
                summary = " ".join(str(error).split())
                logger.warning("%s is damaged (%s); training the model anew", path, summary)
        model = self._train()
        try:
            write_whole(path, save(model.state_dict()))
        except OSError as error:
            logger.warning(
                "cannot keep the trained model in %s (%s); set RL_COMPRESS_CACHE to a folder that "
                "can be written to, or it is trained again next time",
                path.parent,
                error,
            )
        return model

    def _cached_weights(self) -> Path:
        digest = hashlib.sha256(json.dumps(self._key, sort_keys=True).encode()).hexdigest()[:16]
        return cache_dir() / "pretrained" / f"{self._key['target']}-{digest}.safetensors"

    def _train(self) -> nn.Module:
        config = self._pretraining
        train = self.split("train")
        assert isinstance(train, TensorDataset)
        inputs, labels = train.tensors
        # The caller's random state is none of our business, and not to be disturbed.
        with torch.random.fork_rng(devices=[]), threads(config.threads), _progress() as progress:
            torch.manual_seed(config.seed)
            # Narrow convolutions train a quarter faster in this memory format.
            model = self._architecture().train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            optimizer = torch.optim.AdamW(
                model.parameters(), config.learning_rate, weight_decay=config.weight_decay
            )
            steps = config.epochs * -(-len(inputs) // config.batch_size)
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, config.learning_rate, total_steps=steps
            )
            title = f"pre-training {self._key['target']} (once, then cached)"
            logger.info("%s: %d epochs", title, config.epochs)
            task = progress.add_task(title, total=steps)
            for _ in range(config.epochs):
                for chosen in torch.randperm(len(inputs)).split(config.batch_size):
                    images = _varied(inputs[chosen], config)
                    loss = nn.functional.cross_entropy(model(images), labels[chosen])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    progress.advance(task)
        return model.to(memory_format=torch.contiguous_format).eval()


def _varied(images: Tensor, config: PretrainingConfig) -> Tensor:
    """Shift a batch by up to ``max_shift`` pixels each way, filling with zeros, and mirror it."""
    limit = config.max_shift
    padded = nn.functional.pad(images, [limit] * 4)
    top, left, mirror = torch.randint(0, 2 * limit + 1, (3,)).tolist()
    shifted = padded[..., top : top + images.shape[-2], left : left + images.shape[-1]]
    if config.flip and mirror % 2:
        shifted = shifted.flip(-1)
    return shifted.contiguous(memory_format=torch.channels_last)


def _progress() -> Progress:
    # On the error stream, so that what a command prints can be piped.
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)
