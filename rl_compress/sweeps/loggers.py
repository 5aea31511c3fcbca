"""Loggers of a sweep: Ray's own callbacks for TensorBoard, MLflow and Weights & Biases."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from ray.tune import Callback

from rl_compress.errors import ConfigError
from rl_compress.job import Job

_WANDB_MODE = "WANDB_MODE"


def check_loggers(job: Job) -> None:
    """Make sure that the loggers' packages are there, and that Weights & Biases knows its user.

    Raises:
        ConfigError: One is not, or it does not.
    """
    for name in job.tune.loggers:
        if name != "tensorboard" and importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"tune.loggers: {name} is not installed; pip install 'rl-compress[{name}]'"
            )
    if "wandb" in job.tune.loggers and os.environ.get(_WANDB_MODE) not in ("offline", "disabled"):
        import wandb

        if not wandb.api.api_key:
            raise ConfigError(
                "tune.loggers: wandb is not logged in; set WANDB_API_KEY, run wandb login, or set "
                "WANDB_MODE=offline"
            )


def logger_callbacks(job: Job, directory: Path) -> list[Callback]:
    """Return the callbacks that a job asks for.

    Weights & Biases heeds the environment: ``WANDB_MODE=offline`` keeps all in the directory.

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

        options = {"dir": str(directory.resolve())}
        # Its processes may be of a cluster that was started with another environment.
        if mode := os.environ.get(_WANDB_MODE):
            options["mode"] = mode
        callbacks.append(WandbLoggerCallback(project=job.name, **options))
    return callbacks
