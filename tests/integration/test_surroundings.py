"""What surrounds a model: job files, patterns, names, weights; each fault is one line, at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from running import Outcome, run_here, run_process, write_job
from tiny_target import TinyNet, tiny

import rl_compress


def _assert_refused(outcome: Outcome, *words: str) -> None:
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.stderr
    for word in words:
        assert word in outcome.error, f"{word!r} not in {outcome.error!r}"


# Patterns and keys


@pytest.mark.parametrize("structure", ["channels", "weights"])
@pytest.mark.parametrize("key", ["skip", "protect"])
def test_pattern_that_fits_no_layer_is_refused(tmp_path: Path, key: str, structure: str) -> None:
    changes = {f"space__{key}": ["fc1", "conv9"], "space__pruning__structure": structure}

    outcome = run_here("check", write_job(tmp_path, **changes))

    _assert_refused(outcome, f"space.{key}: 'conv9'", "did you mean 'conv")


def test_latency_table_refuses_such_a_pattern_too(tmp_path: Path) -> None:
    _assert_refused(run_here("latency-table", write_job(tmp_path, space__skip=["x"])), "space.skip")


def test_key_given_twice_is_refused_with_its_lines(tmp_path: Path) -> None:
    job = write_job(tmp_path)
    text = job.read_text(encoding="utf-8")
    job.write_text(f"{text}\nbudget: {{macs: 0.9}}\n", encoding="utf-8")
    first = 1 + text.splitlines().index("budget:")

    _assert_refused(run_here("check", job), "job.yaml", f"key 'budget' of line {first}", "again")


def test_key_given_twice_in_a_device_profile_is_refused(tmp_path: Path) -> None:
    profile = tmp_path / "board.yaml"
    profile.write_text(
        "name: b\nbudget: {macs: 0.5, macs: 0.9}\nweight_bits: [16]\nactivation_bits: [16]\n",
        encoding="utf-8",
    )
    _assert_refused(
        run_here("check", write_job(tmp_path, device=str(profile))), "board.yaml", "'macs'"
    )


def test_group_given_twice_in_a_policy_is_refused(tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    decision = json.dumps({"pruning_ratio": 0.5})
    policy.write_text(
        f'{{"decisions": {{"conv1": {decision}, "conv1": {decision}}}}}', encoding="utf-8"
    )
    outcome = run_here("evaluate", write_job(tmp_path), "--policy", policy)
    _assert_refused(outcome, "policy.json", "'conv1'", "twice")


@pytest.mark.parametrize(
    "budget", [{"size_bytes": "700MB"}, {"size_bytes": "700MB", "macs": 0.5}, {"macs": "5G"}]
)
def test_bound_above_the_targets_own_cost_is_warned_of(
    tmp_path: Path, budget: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    """And the search goes on: it finds what is best within the other bounds."""
    job = write_job(tmp_path, budget=budget, search__algorithm="greedy", search__evaluations=4)

    outcome = run_here("search", job, "--output", tmp_path / "run")

    assert outcome.code == 0, outcome.stderr
    (line,) = (text for record in caplog.records if "budget." in (text := record.getMessage()))
    assert "above the target's own" in line


# State and weights


def test_state_that_is_no_tensor_is_refused_by_check(tmp_path: Path) -> None:
    outcome = run_here("check", write_job(tmp_path, target={"factory": "tiny_target:counting"}))
    _assert_refused(outcome, "_extra_state", "of type dict", "get_extra_state")


def test_network_that_looks_at_versions_goes_all_the_way(tmp_path: Path) -> None:
    job = write_job(
        tmp_path,
        target={"factory": "tiny_target:versioned"},
        search__evaluations=2,
        pretraining={"mode": "finetune", "epochs": 1},
    )

    outcome = run_here("search", job, "--output", tmp_path / "run")

    assert outcome.code == 0, outcome.stderr
    assert isinstance(rl_compress.load_compressed(tmp_path / "run" / "best"), TinyNet)


def test_checkpoint_of_a_training_script_is_taken(tmp_path: Path) -> None:
    """Saved from within DataParallel, beside the optimizer."""
    trained = tiny().build()
    optimizer = torch.optim.AdamW(trained.parameters())
    path = tmp_path / "last.ckpt"
    state = torch.nn.DataParallel(trained).state_dict()
    torch.save({"model": state, "optimizer": optimizer.state_dict(), "epoch": 6}, path)

    outcome = run_here("check", write_job(tmp_path, target__weights=str(path)))

    assert outcome.code == 0, outcome.stderr


def test_checkpoint_with_two_models_asks_for_the_key(tmp_path: Path) -> None:
    path, state = tmp_path / "last.ckpt", tiny().build().state_dict()
    torch.save({"model": state, "ema": state}, path)
    job = write_job(tmp_path, target__weights=str(path))

    _assert_refused(run_here("check", job), "target.weights", "target.weights_key", "model or ema")
    assert run_here("check", job, "--set", "target.weights_key=ema").code == 0


# Names and characters


def test_terminal_without_the_characters_gets_marks(tmp_path: Path) -> None:
    outcome = run_process(
        *("check", write_job(tmp_path)),
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert outcome.code == 0, outcome.stderr
    assert "feasible" in outcome.stdout


def test_folders_may_be_called_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "Ä und #100% [b]"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("RL_COMPRESS_CACHE", str(here / "ö"))
    job = write_job(here, search__algorithm="greedy", search__evaluations=3)

    outcome = run_here("search", job, "--output", "ü")

    assert outcome.code == 0, outcome.stderr
    rl_compress.load_compressed("ü/best")
    assert run_here("report", "ü").code == 0
    assert run_here("search", job, "--output", "ü", "--resume").code == 0


# Ray


@pytest.mark.parametrize("command", ["search", "tune"])
def test_wrong_address_in_the_environment_is_refused_at_once(tmp_path: Path, command: str) -> None:
    job = write_job(
        tmp_path, search__algorithm="ppo", tune={"space": {"search.seed": {"grid": [0, 1]}}}
    )
    outcome = run_process(
        *(command, job, "--output", tmp_path / "run"),
        cwd=tmp_path,
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1"},
        timeout_s=60,
    )

    _assert_refused(outcome, "RAY_ADDRESS=127.0.0.1:1: cannot connect", "unset that variable")
    assert not list(tmp_path.rglob("*.parquet"))


def test_sweep_on_this_machine_refuses_more_env_runners_than_cores(tmp_path: Path) -> None:
    job = write_job(
        tmp_path,
        search__algorithm="ppo",
        search__num_env_runners=5000,
        tune={"space": {"search.seed": {"grid": [0, 1]}}},
    )
    outcome = run_process("tune", job, "--output", tmp_path / "sweep", cwd=tmp_path)
    _assert_refused(outcome, "search.num_env_runners", "5000", "--address")


def test_factory_of_a_program_that_is_another_is_explained(tmp_path: Path) -> None:
    job = write_job(tmp_path, target={"factory": "__main__:my_target"})
    _assert_refused(run_here("check", job), "script or notebook", "'my_target'", "module")


_SCRIPT = """
import sys, tiny_target, rl_compress

class Mine(tiny_target.TinyTarget):
    pass

def make():
    return Mine()

job = rl_compress.load_job(sys.argv[1])
result = rl_compress.search(job, sys.argv[2])
print(type(rl_compress.load_compressed(result.directory / "best")).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["script", "-c", "stdin"])
def test_target_of_a_program_is_compressed_whichever_way_it_runs(tmp_path: Path, way: str) -> None:
    job = write_job(
        tmp_path,
        target={"factory": "__main__:make"},
        search__algorithm="ppo",
        search__evaluations=6,
    )
    (tmp_path / "script.py").write_text(_SCRIPT, encoding="utf-8")
    command = {"script": ["script.py"], "-c": ["-c", _SCRIPT], "stdin": ["-"]}[way]

    done = subprocess.run(
        [sys.executable, *command, str(job), "ü und mehr"],
        cwd=tmp_path,
        input=_SCRIPT if way == "stdin" else None,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "TinyNet"
