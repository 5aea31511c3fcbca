"""What searches take of a cluster."""

from __future__ import annotations

from typing import Any

import pytest
import ray
import torch

from rl_compress.agent.config import SearchConfig
from rl_compress.agent.rllib.cluster import with_gpus

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.mark.parametrize(
    ("free", "runners", "share"),
    [(0, 2, 0.0), (1, 1, 1.0), (1, 4, 0.25), (1, 3, 0.3333), (2, 3, 0.5), (8, 2, 1.0)],
)
def test_env_runners_share_the_free_gpus(
    monkeypatch: pytest.MonkeyPatch, free: int, runners: int, share: float
) -> None:
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 4.0, "GPU": float(free)})
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)

    config = with_gpus(SearchConfig(num_env_runners=runners))

    assert config.num_gpus_per_env_runner == share
    # As many fit as there are, none of them on two GPUs.
    assert not free or free * int(1.0 / share) >= runners


def test_gpus_that_torch_cannot_use_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "available_resources", lambda: {"GPU": 4.0})
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)

    assert with_gpus(SearchConfig()).num_gpus_per_env_runner == 0.0


def test_number_of_gpus_in_the_job_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "available_resources", lambda: {"GPU": 4.0})

    assert with_gpus(SearchConfig(num_gpus_per_env_runner=0.0)).num_gpus_per_env_runner == 0.0


def test_trial_takes_no_gpus_but_those_reserved(ray_session: Any) -> None:
    def inside() -> float | None:
        return with_gpus(SearchConfig()).num_gpus_per_env_runner

    group = ray.util.placement_group([{"CPU": 1}])
    ray.get(group.ready())
    strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group)
    try:
        task = ray.remote(num_cpus=1)(inside).options(scheduling_strategy=strategy)
        assert ray.get(task.remote()) == 0.0
    finally:
        ray.util.remove_placement_group(group)
