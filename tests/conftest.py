"""Environment and fixtures of all tests; Ray is imported only when the environment is set."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from s3_server import S3Server

if "RL_COMPRESS_CACHE" not in os.environ:
    os.environ["RL_COMPRESS_CACHE"] = tempfile.mkdtemp(prefix="rl-compress-cache-")
    atexit.register(shutil.rmtree, os.environ["RL_COMPRESS_CACHE"], ignore_errors=True)

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Dead processes are noticed in a second instead of in fifteen.
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "300",
    "RAY_health_check_failure_threshold": "3",
}
os.environ.pop("RAY_ADDRESS", None)

# An example's time says nothing on a machine whose cores are shared.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# Targets of the tests: importable here, and in the workers that inherit the environment.
FOLDERS = [str(Path(__file__).parent / name) for name in ("integration", "fixtures")]
sys.path[:0] = FOLDERS
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*FOLDERS, os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Any]:
    """Start the one local cluster that all tests of this process share."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=256 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"worker_process_setup_hook": "rl_compress.agent.rllib.quiet.quiet"},
    )
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    """Start a server of a module's own, with credentials set."""
    from s3_server import CREDENTIALS, S3Server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        server = S3Server()
        yield server
        server.stop()
