"""`ray up`'s files against the schema that Ray ships, and Ray's own checks."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
from manifests import CHECKOUT, LAUNCHER, load
from ray.autoscaler._private.util import prepare_config, validate_config

SCHEMA = json.loads(
    Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text(encoding="utf-8")
)


@pytest.fixture(params=LAUNCHER, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_is_a_cloud_and_an_own_one() -> None:
    assert [load(path)[0]["provider"]["type"] for path in LAUNCHER] == ["aws", "local"]


def test_files_meet_rays_schema(path: Path) -> None:
    (config,) = load(path)
    jsonschema.validate(config, SCHEMA)


def test_ray_takes_them(path: Path) -> None:
    (config,) = load(path)
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["head_node_type"] in prepared["available_node_types"]


def test_a_typing_error_would_be_caught(path: Path) -> None:
    (config,) = load(path)
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        jsonschema.validate({**config, "max_worker": 1}, SCHEMA)


def test_the_dashboard_listens_on_loopback_and_all_nodes_ask_for_a_token(path: Path) -> None:
    (config,) = load(path)
    (head,) = [line for line in config["head_start_ray_commands"] if "ray start" in line]
    (worker,) = [line for line in config["worker_start_ray_commands"] if "ray start" in line]
    assert "--dashboard-host=127.0.0.1" in head
    for line in (head, worker):
        assert "RAY_AUTH_MODE=token" in line
        assert "--disable-usage-stats" in line
    assert "~/.ray/auth_token" in config["file_mounts"].values()


def test_what_is_mounted_exists_and_suffices_for_an_installation(path: Path) -> None:
    (config,) = load(path)
    local = {source for source in config["file_mounts"].values() if not source.startswith("~")}
    assert [source for source in local if not (CHECKOUT / source).exists()] == []
    assert {"rl_compress", "pyproject.toml", "README.md", "LICENSE", "tune_configs"} <= local


def test_gpu_workers_scale_from_nothing() -> None:
    (config,) = load(LAUNCHER[0])
    types = config["available_node_types"]
    gpu = types["gpu"]
    assert (gpu["min_workers"], gpu["resources"]["GPU"]) == (0, 1)
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
