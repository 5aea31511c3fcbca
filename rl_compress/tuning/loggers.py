"""Loggers of a sweep: Ray's own callbacks for TensorBoard, MLflow and Weights & Biases."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ray.tune import Callback

from rl_compress.errors import ConfigError
from rl_compress.job import Job


def check_loggers(job: Job) -> None:
    """Make sure that the loggers' packages are there.

    Raises:
        ConfigError: One is not.
    """
    for name in job.tune.loggers:
        if name != "tensorboard" and importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"tune.loggers: {name} is not installed; pip install 'rl-compress[{name}]'"
            )


def logger_callbacks(job: Job, directory: Path) -> list[Callback]:
    """Return the callbacks that a job asks for.

    Weights & Biases heeds its own environment variables, such as ``WANDB_MODE=offline`` and
    ``WANDB_API_KEY``.

    Args:
        job: The sweep's.
        directory: The sweep's; loggers write into it by default.
    """
    callbacks: list[Callback] = []
    if "tensorboard" in job.tune.loggers:
        from ray.tune.logger import TBXLoggerCallback

        callbacks.append(TBXLoggerCallback())
    if "mlflow" in job.tune.loggers:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        uri = job.tune.mlflow_tracking_uri or f"sqlite:///{directory.resolve() / 'mlflow.db'}"
        callbacks.append(MLflowLoggerCallback(tracking_uri=uri, experiment_name=job.name))
    if "wandb" in job.tune.loggers:
        from ray.air.integrations.wandb import WandbLoggerCallback

        callbacks.append(WandbLoggerCallback(project=job.name, dir=str(directory.resolve())))
    return callbacks
