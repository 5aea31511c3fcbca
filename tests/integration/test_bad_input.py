"""Bad input: exit code 2, one line that names key or file, and nothing written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from running import Outcome, count_parts, make_job, read_records, run_here, run_process, write_job
from safetensors.torch import save_file
from tiny_target import tiny


def _search(folder: Path, *arguments: object, **changes: Any) -> Outcome:
    return run_here("search", write_job(folder, **changes), "--output", folder / "run", *arguments)


def _assert_refused(outcome: Outcome, *words: str) -> None:
    """Check code and message; phases that were begun may stand in lines before the error's."""
    assert outcome.code == 2, outcome
    lines = outcome.stderr.strip().splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert "Traceback" not in outcome.stderr
    assert lines[:-1] in ([], ["preparation …"]), outcome.stderr
    for word in words:
        assert word in outcome.error, f"{word!r} not in {outcome.error!r}"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"serch": {}}, ["job.yaml", "serch", "did you mean search?"], id="key"),
        pytest.param(
            {"search__evalutions": 5},
            ["search.evalutions", "did you mean evaluations?"],
            id="nested key",
        ),
        pytest.param({"budgets__macs": 5}, ["budgets", "did you mean budget?"], id="section"),
        pytest.param(
            {"search__ppo__epochs": 5}, ["search.ppo.epochs", "num_epochs"], id="nested twice"
        ),
        pytest.param(
            {"search__evaluations": "many"}, ["search.evaluations", "integer", "'many'"], id="type"
        ),
        pytest.param({"search": 5}, ["search", "5"], id="section of the wrong type"),
        pytest.param({"search__evaluations": 0}, ["search.evaluations", "0"], id="range"),
        pytest.param(
            {"search__algorithm": "a3c"},
            ["search.algorithm", "ppo, appo", "'a3c'"],
            id="choice",
        ),
        pytest.param({"target": {}}, ["missing key target.factory"], id="missing key"),
        pytest.param({"name": "../up"}, ["name", "../up"], id="name that leaves the folder"),
        pytest.param({"budget": {}}, ["budget", "macs, params, size_bytes"], id="no budget"),
        pytest.param(
            {"device": "toaster"}, ["device", "'toaster'", "edge, mobile, server"], id="device"
        ),
        pytest.param({"device": "gone.yaml"}, ["device", "gone.yaml", "No such"], id="profile"),
        pytest.param(
            {"device": "edge", "space__quantization__weight_bits": 3},
            ["space.quantization.weight_bits", "edge", "3 bits", "choose from 8, 16"],
            id="bits that the device lacks",
        ),
        pytest.param({"budget": {"mac": 0.5}}, ["budget.mac", "macs, params"], id="unknown cost"),
        pytest.param({"budget": {"macs": "some"}}, ["budget.macs", "'some'"], id="amount"),
        pytest.param({"budget": {"macs": 0}}, ["budget.macs", "above 0"], id="zero budget"),
        pytest.param(
            {"objective__weights": {"latency": 1}}, ["objective.weights", "latency"], id="weights"
        ),
    ],
)
def test_wrong_key_or_value_is_named(
    tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    _assert_refused(_search(tmp_path, **changes), *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        pytest.param("digit", ["target.factory", "did you mean digits?"], id="built-in"),
        pytest.param("tiny_target:tinny", ["target.factory", "did you mean tiny?"], id="typo"),
        pytest.param("tiny_target:NOT_CALLABLE", ["target.factory", "callable", "int"], id="int"),
        pytest.param(
            "no_such_module:tiny", ["target.factory", "no module 'no_such_module'"], id="module"
        ),
        pytest.param("tiny_target:raises", ["target.factory", "no luck today"], id="raises"),
        pytest.param("tiny_target:no_target", ["must return", "returned str"], id="no target"),
        pytest.param("tiny_target:unprunable", ["no prunable group"], id="nothing to prune"),
        pytest.param("tiny_target:nan_weights", ["target.factory", "conv2.weight", "NaN"], id="w"),
        pytest.param("tiny_target:nan_data", ["'calibration'", "NaN"], id="NaN data"),
        pytest.param("tiny_target:overlapping", ["'search'", "'test'", "128"], id="overlap"),
    ],
)
def test_unusable_target_is_refused(tmp_path: Path, factory: str, words: list[str]) -> None:
    _assert_refused(_search(tmp_path, target={"factory": factory}), *words)
    assert not (tmp_path / "run").exists()


def test_unknown_factory_option_is_named(tmp_path: Path) -> None:
    _assert_refused(
        _search(tmp_path, target__options={"sleep": 1}),
        "target.options.sleep",
        "did you mean sleep_s?",
    )


def test_missing_job_file_is_named(tmp_path: Path) -> None:
    _assert_refused(run_here("search", tmp_path / "nothing.yaml"), "nothing.yaml", "No such file")


def test_job_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("name: [tiny", encoding="utf-8")
    _assert_refused(run_here("check", path), "job.yaml", "not valid YAML")


def test_empty_job_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.touch()
    _assert_refused(run_here("check", path), "job.yaml", "name, target and budget")


def test_infeasible_budget_names_a_value_that_works(tmp_path: Path) -> None:
    job = write_job(tmp_path, budget={"params": 0.001})

    refused = run_here("check", job)

    _assert_refused(refused, "budget.params", "smallest feasible value")
    found = re.search(r"smallest feasible value is ([\d,]+) \((0\.\d+) of", refused.error)
    assert found is not None
    amount, fraction = found[1].replace(",", ""), found[2]
    assert run_here("check", job, "--set", f"budget.params={amount}").code == 0
    assert run_here("check", job, "--set", f"budget.params={fraction}").code == 0


def test_infeasible_budget_leaves_no_run(tmp_path: Path) -> None:
    _assert_refused(_search(tmp_path, budget={"macs": 0.001}), "budget.macs")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("search.evaluations", ["--set search.evaluations", "key.path=value"]),
        ("=5", ["--set =5", "key.path=value"]),
        ("name.first=x", ["--set name.first=x", "name is a value"]),
        ("search.evaluations=[1", ["--set search.evaluations=[1", "YAML"]),
        ("search.evaluatons=5", ["search.evaluatons", "did you mean evaluations?"]),
    ],
)
def test_bad_override_is_named(tmp_path: Path, override: str, words: list[str]) -> None:
    _assert_refused(_search(tmp_path, "--set", override), *words)
    assert not (tmp_path / "run").exists()


def test_override_of_a_section_that_is_empty_in_the_file_works(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(make_job(finetuning=None)), encoding="utf-8")

    outcome = run_here("check", path, "--set", "finetuning.epochs=1")

    assert outcome.code == 0, outcome.stderr


# Output directories


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a job with a finished run in ``run``; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    outcome = _search(folder, search__evaluations=4)
    assert outcome.code == 0, outcome.stderr
    return folder


def _contents(run: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in sorted(run.rglob("*")) if p.is_file()}


def test_run_of_another_job_is_not_touched(finished: Path) -> None:
    run = finished / "run"
    before = _contents(run)

    outcome = run_here(
        "search", finished / "job.yaml", "--output", run, "--set", "search.seed=1", "--resume"
    )

    _assert_refused(outcome, str(run), "another job", "--output")
    assert _contents(run) == before


def test_existing_run_needs_resume(finished: Path) -> None:
    run = finished / "run"
    before = _contents(run)

    outcome = run_here("search", finished / "job.yaml", "--output", run)

    _assert_refused(outcome, str(run), "--resume")
    assert _contents(run) == before


def test_directory_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work", encoding="utf-8")

    _assert_refused(_search(tmp_path), "run", "not empty", "--output")

    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_file_as_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file", encoding="utf-8")
    _assert_refused(_search(tmp_path), "run", "is a file", "--output")


def test_resume_without_a_run_in_output(tmp_path: Path) -> None:
    _assert_refused(_search(tmp_path, "--resume"), "no run to resume", "--resume")
    assert not (tmp_path / "run").exists()


def test_resume_without_any_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = write_job(tmp_path)
    _assert_refused(run_here("search", job, "--resume"), "--resume", "no run of tiny")
    assert not (tmp_path / "runs").exists()


def test_run_without_output_is_found_again_by_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = write_job(tmp_path, search__evaluations=3)
    assert run_here("search", job).code == 0

    outcome = run_here("search", job, "--resume")

    assert outcome.code == 0, outcome.stderr
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    assert len(read_records(run)) == 3


def test_truncated_part_is_named_and_kept(tmp_path: Path) -> None:
    assert _search(tmp_path, search__evaluations=4).code == 0
    (part,) = (tmp_path / "run" / "evaluations").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:200])

    outcome = run_here("search", tmp_path / "job.yaml", "--output", tmp_path / "run", "--resume")

    assert outcome.code == 2, outcome
    assert str(part) in outcome.error
    assert part.stat().st_size == 200


def test_truncated_sensitivities_are_named(tmp_path: Path) -> None:
    assert _search(tmp_path, search__algorithm="greedy", search__evaluations=4).code == 0
    curves = tmp_path / "run" / "sensitivity.parquet"
    curves.write_bytes(b"PAR1")

    outcome = run_here("search", tmp_path / "job.yaml", "--output", tmp_path / "run", "--resume")

    assert outcome.code == 2, outcome
    assert str(curves) in outcome.error


# Weights


def test_weights_file_is_used(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(tiny().build().state_dict(), path)
    assert _search(tmp_path, target__weights=str(path), search__evaluations=2).code == 0


def test_corrupted_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(tiny().build().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-100])
    _assert_refused(_search(tmp_path, target__weights=str(path)), "target.weights", str(path))
    assert not (tmp_path / "run").exists()


def test_missing_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    _assert_refused(_search(tmp_path, target__weights=str(path)), "target.weights", str(path))


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(tiny().architecture().state_dict() | {"conv1.weight": torch.zeros(3, 1, 3, 3)}, path)
    _assert_refused(_search(tmp_path, target__weights=str(path)), "target.weights", "conv1.weight")


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"conv1.weight": _Bomb(tmp_path / "exploded")}, path)

    outcome = _search(tmp_path, target__weights=str(path))

    _assert_refused(outcome, "target.weights", str(path), "safetensors")
    assert not (tmp_path / "exploded").exists()


# Policies


def test_missing_policy_file_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "nothing.json"
    outcome = run_here("evaluate", write_job(tmp_path), "--policy", missing)
    _assert_refused(outcome, str(missing))


def test_policy_of_another_model_is_refused(tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    decisions = {"conv1": {"pruning_ratio": 0.5}, "conv9": {"pruning_ratio": 0.5}}
    policy.write_text(json.dumps({"decisions": decisions}), encoding="utf-8")

    outcome = run_here("evaluate", write_job(tmp_path), "--policy", policy)

    _assert_refused(outcome, "policy", "conv9", "conv2")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no policy", ["not a compression policy"]),
        ('{"decisions": {"conv1": {"pruning_ratio": 1.5}}}', ["pruning_ratio", "1.5"]),
        ('{"decisions": {"conv1": {"pruning_ratio": "half"}}}', ["conv1.pruning_ratio", "half"]),
        ('{"decisions": {"conv1": {"ratio": 0.5}}}', ["conv1", "pruning_ratio"]),
    ],
)
def test_malformed_policy_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    policy = tmp_path / "policy.json"
    policy.write_text(text, encoding="utf-8")

    outcome = run_here("evaluate", write_job(tmp_path), "--policy", policy)

    _assert_refused(outcome, str(policy), *words)


def test_policy_above_the_budget_is_not_delivered(tmp_path: Path) -> None:
    names = ["conv1", "conv2", "conv3", "fc1"]
    policy = tmp_path / "policy.json"
    decisions = {name: {"pruning_ratio": 0.0} for name in names}
    policy.write_text(json.dumps({"decisions": decisions}), encoding="utf-8")

    outcome = run_here(
        "compress", write_job(tmp_path), "--policy", policy, "--output", tmp_path / "out"
    )

    assert outcome.code == 2
    assert "budget" in outcome.error
    assert not (tmp_path / "out").exists()


def test_unknown_split_is_named(tmp_path: Path, finished: Path) -> None:
    policy = finished / "run" / "best" / "policy.json"
    outcome = run_here("evaluate", write_job(tmp_path), "--policy", policy, "--split", "trian")
    _assert_refused(outcome, "--split", "'trian'")


def test_compress_needs_exactly_one_source_of_the_policy(tmp_path: Path) -> None:
    _assert_refused(run_here("compress", write_job(tmp_path)), "--policy", "--run")


def test_compress_from_a_run_without_result(tmp_path: Path) -> None:
    outcome = run_here("compress", write_job(tmp_path), "--run", tmp_path)
    _assert_refused(outcome, str(tmp_path), "space.json")


def test_compress_does_not_replace_a_folder_that_is_no_artefact(
    tmp_path: Path, finished: Path
) -> None:
    (tmp_path / "out").mkdir()
    outcome = run_here(
        *("compress", write_job(tmp_path), "--run", finished / "run"),
        *("--output", tmp_path / "out"),
    )
    _assert_refused(outcome, str(tmp_path / "out"), "--output")


def test_report_of_a_folder_that_is_no_run(tmp_path: Path) -> None:
    _assert_refused(run_here("report", tmp_path), str(tmp_path))
    _assert_refused(run_here("report", tmp_path / "nothing"), str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("arguments", "changes", "words"),
    [
        pytest.param(["--device", "tpu"], {}, ["--device", "'tpu'"], id="device"),
        pytest.param(["--output", "."], {}, ["--output .", "directory"], id="output"),
        pytest.param(
            [],
            {"space__pruning__structure": "weights"},
            ["space.pruning.structure", "weights", "channels"],
            id="structure",
        ),
    ],
)
def test_latency_table_that_cannot_be_measured(
    tmp_path: Path, arguments: list[str], changes: dict[str, Any], words: list[str]
) -> None:
    outcome = run_here("latency-table", write_job(tmp_path, **changes), *arguments)
    _assert_refused(outcome, *words)


def test_unreachable_cluster_is_named(tmp_path: Path) -> None:
    job = write_job(tmp_path, search__algorithm="ppo")

    outcome = run_process(
        *("search", job, "--output", tmp_path / "run", "--address", "127.0.0.1:1"),
        cwd=tmp_path,
        timeout_s=45,
    )

    assert outcome.code == 2, outcome
    assert outcome.error.startswith("error: --address 127.0.0.1:1")
    assert count_parts(tmp_path / "run") <= 1


def test_process_prints_one_line_and_ends_with_two(tmp_path: Path) -> None:
    outcome = run_process("search", write_job(tmp_path, serch=1), cwd=tmp_path)
    assert outcome.code == 2
    assert outcome.stderr.count("\n") == 1
    assert outcome.stderr.startswith("error: ")
    assert outcome.stdout == ""
