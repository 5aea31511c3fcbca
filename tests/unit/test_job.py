from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rl_compress.agent.config import SearchConfig
from rl_compress.errors import ConfigError
from rl_compress.job import Job, load_job, parse_job
from rl_compress.training.recovery import FinetuningConfig

JOB = """\
name: digits-30
target:
  factory: digits
  options: {model: cnn}
budget:
  macs: 0.3
"""
TUNE_CONFIGS = sorted((Path(__file__).parents[2] / "tune_configs").glob("*.yaml"))


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB, encoding="utf-8")
    return path


def _with(job_file: Path, text: str) -> Path:
    job_file.write_text(JOB + text, encoding="utf-8")
    return job_file


def test_a_job_is_read_and_its_defaults_are_filled_in(job_file: Path) -> None:
    job = load_job(job_file)
    assert job.name == "digits-30"
    assert job.target.options == {"model": "cnn"}
    assert job.budget == {"macs": 0.3}
    assert job.search.algorithm == "ppo"
    assert job.search.evaluations == 200
    assert job.space.pruning.max_ratio == 0.9
    assert job.objective.weights == {"score": 1.0}


def test_the_yaml_written_is_the_same_job(job_file: Path, tmp_path: Path) -> None:
    job = load_job(job_file, ["objective.weights={macs: 0.5}", "search.prior=none"])
    written = tmp_path / "written.yaml"
    written.write_text(job.to_yaml(), encoding="utf-8")
    assert load_job(written) == job
    assert load_job(written).to_yaml() == job.to_yaml()


def test_the_yaml_written_holds_every_section_with_its_defaults(job_file: Path) -> None:
    data = yaml.safe_load(load_job(job_file).to_yaml())
    assert set(data) == set(Job.model_fields)
    assert data["search"] == SearchConfig().model_dump(mode="json")
    assert data["finetuning"] == FinetuningConfig().model_dump(mode="json")


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        pytest.param("search.evaluations=50", "search", "evaluations", 50, id="number"),
        pytest.param("search.algorithm=sac", "search", "algorithm", "sac", id="text"),
        pytest.param("space.skip=[fc, conv1]", "space", "skip", ["fc", "conv1"], id="list"),
        pytest.param("target.options={}", "target", "options", {}, id="mapping"),
        pytest.param("search.residual_scale=1e-1", "search", "residual_scale", 0.1, id="exponent"),
    ],
)
def test_overrides_are_yaml(
    job_file: Path, override: str, section: str, key: str, value: Any
) -> None:
    assert getattr(getattr(load_job(job_file, [override]), section), key) == value


def test_the_last_override_wins(job_file: Path) -> None:
    job = load_job(job_file, ["search.seed=1", "search.seed=2"])
    assert job.search.seed == 2


def test_an_override_reaches_into_nested_sections(job_file: Path) -> None:
    job = load_job(job_file, ["search.ppo.num_epochs=3", "target.options.width=8"])
    assert job.search.ppo.num_epochs == 3
    assert job.target.options == {"model": "cnn", "width": 8}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        pytest.param("search.evaluations", "expected key.path=value", id="no-value"),
        pytest.param("=3", "expected key.path=value", id="no-key"),
        pytest.param("search..seed=3", "expected key.path=value", id="empty-part"),
        pytest.param("name.first=x", "name is a value, not a section", id="below-a-value"),
        pytest.param("space.skip=[fc", "not valid YAML", id="yaml"),
        pytest.param("search.evaluatoins=5", "did you mean evaluations", id="unknown-key"),
    ],
)
def test_a_bad_override_is_refused(job_file: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_job(job_file, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("serach: {}\n", "unknown key serach; did you mean search?", id="section"),
        pytest.param(
            "search: {evaluation: 5}\n",
            "unknown key search.evaluation; did you mean evaluations?",
            id="key",
        ),
        pytest.param(
            "space: {pruning: {max_ratoi: 0.5}}\n",
            "unknown key space.pruning.max_ratoi; did you mean max_ratio?",
            id="nested",
        ),
        pytest.param(
            "space: {zzz: 1}\n", "unknown key space.zzz; known keys: action, max_mask", id="far-off"
        ),
    ],
)
def test_an_unknown_key_is_named_with_a_suggestion(job_file: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_job(_with(job_file, text))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("search: {evaluations: many}\n", "search.evaluations: .*'many'", id="text"),
        pytest.param("search: {evaluations: 0}\n", "search.evaluations: .*got 0", id="range"),
        pytest.param(
            "search: {algorithm: dqn}\n",
            "search.algorithm: must be ppo, appo, sac, tqc, uniform, .*package.module:Class",
            id="choice",
        ),
        pytest.param("search: 3\n", "search: .*got 3", id="section"),
        pytest.param("space: {skip: fc}\n", "space.skip: .*'fc'", id="list"),
        pytest.param("objective: {weights: {flops: 1}}\n", "unknown term.*flops", id="weights"),
        pytest.param(
            "space: {quantization: {weight_bits: 8}}\nevaluation: {precision: bfloat16}\n",
            r"evaluation\.precision: .* choose auto or float32",
            id="rounded-twice",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_key(job_file: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_job(_with(job_file, text))


@pytest.mark.parametrize("key", ["name", "target", "budget"])
def test_a_missing_key_is_named(key: str) -> None:
    data = yaml.safe_load(JOB)
    del data[key]
    with pytest.raises(ConfigError, match=f"missing key {key}"):
        parse_job(data)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_job({"name": "x", "search": {"seed": "a"}, "spce": {}})
    for part in ("missing key target", "missing key budget", "search.seed", "unknown key spce"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "white space"])
def test_a_name_must_do_as_a_folder(name: str) -> None:
    with pytest.raises(ConfigError, match="name: "):
        parse_job(yaml.safe_load(JOB) | {"name": name})


def test_an_empty_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match="budget: give an upper bound on at least one of macs"):
        parse_job(yaml.safe_load(JOB) | {"budget": {}})


def test_a_device_brings_a_budget() -> None:
    data = yaml.safe_load(JOB) | {"device": "edge"}
    del data["budget"]
    job = parse_job(data)
    assert job.budget == {}
    assert job.effective_budget() == {"size_bytes": "1MB", "peak_memory_bytes": "320kB"}
    assert parse_job(yaml.safe_load(job.to_yaml())) == job


def test_the_jobs_own_bounds_come_first() -> None:
    job = parse_job(
        yaml.safe_load(JOB) | {"device": "mobile", "budget": {"macs": 0.2, "params": 0.5}}
    )
    assert job.effective_budget() == {"macs": 0.2, "size_bytes": "5MB", "params": 0.5}


def test_without_a_device_the_budget_is_the_jobs(job_file: Path) -> None:
    job = load_job(job_file, ["device=null"])
    assert job.device is None
    assert job.effective_budget() == job.budget == {"macs": 0.3}


def test_an_unknown_device_is_named() -> None:
    data = yaml.safe_load(JOB) | {"device": "toaster"}
    with pytest.raises(ConfigError, match="device: unknown device 'toaster'; choose from edge, "):
        parse_job(data)


def test_a_device_of_the_wrong_type_is_all_there_is_to_say() -> None:
    data = {"name": "x", "target": {"factory": "digits"}, "device": 3}
    with pytest.raises(ConfigError) as caught:
        parse_job(data)
    assert "device: " in str(caught.value)
    assert "budget" not in str(caught.value)


def test_bits_that_the_device_lacks_are_refused() -> None:
    data = yaml.safe_load(JOB) | {
        "device": "edge",
        "space": {"quantization": {"weight_bits": 4}},
    }
    with pytest.raises(ConfigError, match=r"weight_bits: the device edge .* 4 bits; choose from 8"):
        parse_job(data)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot read the job file \(No such"):
        load_job(tmp_path / "absent.yaml")


def test_a_directory_is_no_job_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the job file"):
        load_job(tmp_path)


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot read the job file"):
        load_job(path)


def test_invalid_yaml_is_refused_in_one_line(job_file: Path) -> None:
    with pytest.raises(ConfigError, match="not valid YAML") as caught:
        load_job(_with(job_file, "search: {evaluations: [\n"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n", "just text\n", "3\n"])
def test_what_is_no_mapping_is_refused(job_file: Path, text: str) -> None:
    job_file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="expected a mapping"):
        load_job(job_file)


@pytest.mark.parametrize("path", TUNE_CONFIGS, ids=lambda path: path.stem)
def test_every_example_loads(path: Path) -> None:
    assert load_job(path).budget


def test_there_are_examples() -> None:
    assert TUNE_CONFIGS


def _properties(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for title, model in {"Job": schema, **schema.get("$defs", {})}.items():
        for name, described in model.get("properties", {}).items():
            yield f"{title}.{name}", described


def test_every_field_is_described_in_the_schema() -> None:
    found = list(_properties(Job.model_json_schema()))
    assert len(found) > 30
    assert [name for name, described in found if not described.get("description")] == []


def test_the_schema_allows_no_other_keys() -> None:
    schema = Job.model_json_schema()
    for model in [schema, *schema["$defs"].values()]:
        if "properties" in model:
            assert model["additionalProperties"] is False
