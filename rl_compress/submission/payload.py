"""What travels with a job: the folder that becomes the working directory on the cluster."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

from rl_compress.errors import ConfigError, TargetError
from rl_compress.job import Job
from rl_compress.registry import is_path
from rl_compress.targets.factory import locate_factory

JOB_FILE = "job.yaml"

# Ray leaves out what a .gitignore names, and that is often weights.
_LEFT_OUT = shutil.ignore_patterns("__pycache__", ".git", ".gitignore", ".venv")
_OWN = "rl_compress"


def stage(job: Job, folder: Path, include: Sequence[Path] = ()) -> None:
    """Copy a job and the files that it names into a folder, at the same relative paths.

    These are the job with all defaults filled in, the top-level modules or packages of the
    target's factory and of own parts unless they are installed, the target's weights, and the
    device's profile with its table of latencies. Absolute paths in the job are taken to be the
    cluster's, and stay as they are.

    Args:
        job: A valid job; its relative paths start from the current folder.
        folder: An empty folder.
        include: Further files and folders within the current folder, such as data.

    Raises:
        ConfigError: One of them does not exist here, or lies outside of the current folder.
    """
    named = [Path(job.target.weights)] if job.target.weights else []
    if job.device is not None and Path(job.device).suffix:
        named.append(Path(job.device))
        profile = job.device_profile()
        if profile is not None and profile.latency_table is not None:
            named.append(Path(profile.latency_table))
    locate_factory(job.target.factory)
    for key, name in [("target.factory", job.target.factory), *job.named_parts()]:
        for source in _local_modules(key, name) if is_path(name) else ():
            _copy(source, folder / source.name)
    for path in named:
        if not path.is_absolute() and not str(path).startswith("~"):
            _copy_relative(path, folder, "the job")
    for path in include:
        _copy_relative(path, folder, "--include")
    if (folder / JOB_FILE).exists():
        raise ConfigError(f"--include: {JOB_FILE} is the name of the job itself; rename the file")
    (folder / JOB_FILE).write_text(job.to_yaml(), encoding="utf-8")


def requirements(pip: Iterable[str], folder: Path) -> list[str]:
    """Return pip's requirements as the cluster sees them; local wheels are put into the folder.

    Raises:
        ConfigError: A wheel does not exist.
    """
    found = []
    for requirement in pip:
        path = Path(requirement).expanduser()
        if path.suffix == ".whl":
            if not path.is_file():
                raise ConfigError(f"--pip {requirement}: there is no such wheel; build it first")
            shutil.copyfile(path, folder / path.name)
            # Ray expands the variable before it calls pip.
            requirement = f"${{RAY_RUNTIME_ENV_CREATE_WORKING_DIR}}/{path.name}"
        found.append(requirement)
    return found


def _local_modules(key: str, path: str) -> list[Path]:
    """Return the files or folders of a path's top-level module that clusters cannot have."""
    name = path.partition(":")[0].partition(".")[0]
    if name == "__main__":
        raise TargetError(
            f"{key}: {path!r} is of the program that runs here, and not on a cluster; "
            f"put it into a module, and name that"
        )
    if name == _OWN:
        return []
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise TargetError(
            f"{key}: there is no module {name!r} (for {path!r}), neither installed "
            f"nor in {here}; start in the folder that holds it, or install it"
        )
    if spec.submodule_search_locations:
        places = [Path(location) for location in spec.submodule_search_locations]
    else:
        places = [Path(spec.origin)] if spec.has_location and spec.origin else []
    return [place for place in places if not _is_installed(place)]


def _is_installed(place: Path) -> bool:
    paths = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    return "site-packages" in place.parts or any(place.is_relative_to(path) for path in paths)


def _copy_relative(path: Path, folder: Path, source: str) -> None:
    here = Path.cwd().resolve()
    if not path.exists():
        raise ConfigError(f"{source}: there is no {path}; the path is relative to {here}")
    try:
        relative = Path(os.path.abspath(path)).relative_to(Path.cwd())
    except ValueError:
        raise ConfigError(
            f"{source}: {path} lies outside of {here}, which stands for the working directory on "
            f"the cluster; start in a folder that holds it"
        ) from None
    _copy(path, folder / relative)


def _copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, destination, ignore=_LEFT_OUT, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, destination)
