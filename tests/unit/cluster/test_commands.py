"""What the files in `cluster/` run is what the command line has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from manifests import CHECKOUT, CLUSTER, KUBERAY, LAUNCHER, commands, comments, document

from rl_compress.cli import app
from rl_compress.submission.entrypoint import entrypoint

GROUP: Any = typer.main.get_command(app)
FILES = [*LAUNCHER, *KUBERAY, CLUSTER / "Dockerfile"]


def parse(arguments: list[str]) -> dict[str, object]:
    """Parse a command as the command line would; nothing is run."""
    name, *rest = arguments
    command = GROUP.commands[name]
    return {"": name, **command.make_context(name, rest).params}


def entrypoints() -> dict[str, str]:
    (cron,) = document("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    return {
        "RayJob": document("RayJob")["spec"]["entrypoint"],
        "RayCronJob": document("RayCronJob")["spec"]["jobTemplate"]["entrypoint"],
        "CronJob": cron["args"][0],
    }


@pytest.mark.parametrize(
    ("kind", "name", "count"),
    [
        ("RayJob", "search", 2),
        ("RayCronJob", "search", 1),
        ("CronJob", "submit", 1),
    ],
)
def test_entrypoints_are_commands_that_exist(kind: str, name: str, count: int) -> None:
    parsed = [parse(arguments) for arguments in commands(entrypoints()[kind])]

    assert [each[""] for each in parsed] == [name] * count
    for each in parsed:
        job = Path(str(each["job"]))
        assert job.parent == Path("/jobs")
        assert (CHECKOUT / "tune_configs" / job.name).exists()


def test_a_ray_job_that_is_retried_resumes() -> None:
    begins, goes_on = sorted(
        (parse(arguments) for arguments in commands(entrypoints()["RayJob"])),
        key=lambda each: bool(each["resume"]),
    )
    assert {**begins, "resume": True} == goes_on
    # As `submit --storage` does.
    own = entrypoint(str(begins["output"]))
    own = own.replace("python -m rl_compress.cli", "rl-compress")
    own = own.replace(" job.yaml ", f" {begins['job']} ")
    assert entrypoints()["RayJob"].split() == own.split()


def test_the_cron_job_submits_to_the_cluster_that_stays() -> None:
    (arguments,) = commands(entrypoints()["CronJob"])
    parsed = parse(arguments)
    name = document("RayCluster")["metadata"]["name"]
    assert parsed["address"] == f"http://{name}-head-svc:8265"
    assert parsed["wait"] is True
    assert str(parsed["storage"]).startswith("/storage/")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_say_what_they_are_and_their_commands_exist(path: Path) -> None:
    text = comments(path)
    for word in ("What:", "Prerequisites:", "Command:"):
        assert word in text
    assert f"cluster/{path.relative_to(CLUSTER)}" in text
    for line in text.splitlines():
        for arguments in commands(re.sub(r"  #.*|['\"]|^Command:", "", line)):
            parse([word for word in arguments if word != "\\"])


def test_the_readme_has_a_command_for_each_file() -> None:
    text = (CLUSTER / "README.md").read_text(encoding="utf-8")
    for path in FILES:
        assert f"({path.relative_to(CLUSTER)})" in text
        assert f"cluster/{path.relative_to(CLUSTER)}" in text
    (block,) = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    assert parse(next(commands(block)))["wait"] is True
    submit = GROUP.commands["submit"]
    known = {option for parameter in submit.params for option in parameter.opts}
    assert set(re.findall(r"`(--[a-z]+)", text)) <= known
