from __future__ import annotations

import sys
from pathlib import Path

import pytest
from running import make_job

from rl_compress.errors import ConfigError
from rl_compress.job import Job, load_job, parse_job
from rl_compress.submission.payload import requirements, stage


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a module, a package, weights and a device profile."""
    folder = tmp_path / "here"
    files = {
        "staged_module.py": "",
        "staged_package/__init__.py": "",
        "staged_package/nets.py": "",
        "staged_package/__pycache__/nets.pyc": "",
        "staged_package/.gitignore": "*.safetensors",
        "staged_package/own.safetensors": "",
        "weights/net.safetensors": "",
        "data/images/1.txt": "",
        "devices/board.yaml": (
            "name: board\nbudget: {macs: 0.5}\nweight_bits: [8]\nactivation_bits: [8]\n"
            "latency_table: board.parquet\n"
        ),
        "devices/board.parquet": "",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    return folder


def job(factory: str = "staged_module:target", **changes: object) -> Job:
    return parse_job(make_job(target__factory=factory, **changes))


def staged(tmp_path: Path, of: Job, include: list[str] | None = None) -> list[str]:
    folder = tmp_path / "staged"
    folder.mkdir()
    stage(of, folder, [Path(path) for path in include or ()])
    assert load_job(folder / "job.yaml") == of
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return sorted(found - {"job.yaml"})


def test_a_built_in_target_needs_the_job_alone(tmp_path: Path) -> None:
    assert staged(tmp_path, job("digits")) == []


@pytest.mark.parametrize("factory", ["sklearn.datasets:load_digits", "json:loads"])
def test_an_installed_module_is_expected_on_the_cluster(tmp_path: Path, factory: str) -> None:
    assert staged(tmp_path, job(factory)) == []


def test_a_local_module_travels(tmp_path: Path) -> None:
    assert staged(tmp_path, job()) == ["staged_module.py"]


def test_a_whole_package_travels_with_what_git_ignores(tmp_path: Path) -> None:
    assert staged(tmp_path, job("staged_package.nets:make")) == [
        "staged_package/__init__.py",
        "staged_package/nets.py",
        "staged_package/own.safetensors",
    ]


def test_weights_and_included_files_keep_their_places(tmp_path: Path) -> None:
    of = job(target__weights="weights/net.safetensors")
    assert staged(tmp_path, of, ["data"]) == [
        "data/images/1.txt",
        "staged_module.py",
        "weights/net.safetensors",
    ]


def test_absolute_weights_are_the_clusters(tmp_path: Path) -> None:
    of = job(target__weights="/storage/net.safetensors")
    assert staged(tmp_path, of) == ["staged_module.py"]


def test_a_devices_profile_travels_with_its_table(tmp_path: Path) -> None:
    assert staged(tmp_path, job("digits", device="devices/board.yaml")) == [
        "devices/board.parquet",
        "devices/board.yaml",
    ]


@pytest.mark.parametrize(
    ("changes", "include", "message"),
    [
        ({"target__factory": "digitz"}, [], "did you mean digits"),
        ({"target__factory": "not_there:target"}, [], "there is no module 'not_there'"),
        ({"target__weights": "net.pt"}, [], "there is no net.pt"),
        ({}, ["../outside"], "lies outside of"),
        ({}, ["nothing"], "--include: there is no nothing"),
    ],
)
def test_what_cannot_travel_is_said(
    tmp_path: Path, changes: dict[str, object], include: list[str], message: str
) -> None:
    (tmp_path / "outside").touch()
    with pytest.raises(ConfigError, match=message):
        staged(tmp_path, parse_job(make_job(**changes)), include)


def test_wheels_travel_and_other_requirements_do_not(tmp_path: Path) -> None:
    wheel = tmp_path / "rl_compress-0.1.0-py3-none-any.whl"
    wheel.touch()
    folder = tmp_path / "staged"
    folder.mkdir()

    found = requirements([str(wheel), "timm==1.0"], folder)

    assert found == [f"${{RAY_RUNTIME_ENV_CREATE_WORKING_DIR}}/{wheel.name}", "timm==1.0"]
    assert (folder / wheel.name).exists()
    with pytest.raises(ConfigError, match="no such wheel"):
        requirements(["missing.whl"], folder)


def test_factory_of_the_program_itself_cannot_be_sent(tmp_path: Path) -> None:
    job = parse_job(make_job(target={"factory": "__main__:make"}))
    with pytest.raises(ConfigError, match=r"'__main__:make' is of the program"):
        stage(job, tmp_path)
