"""DESIGN.md, section 4: every package imports only from those above it."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rl_compress

ROOT = Path(rl_compress.__file__).parent

# From the bottom up; imports within a package are free.
ORDER = (
    "errors",
    "validation",
    "registry",
    "logs",
    "strict_yaml",
    "space",
    "runs",
    "model",
    "targets",
    "importance",
    "quantizers",
    "transforms",
    "costs",
    "variants",
    "repair",
    "training",
    "evaluation",
    "robustness",
    "monitor",
    "searchers",
    "agent",
    "runtimes",
    "export",
    "report",
    "job",
    "remote_runs",
    "session",
    "comparison",
    "rehearsal",
    "execution",
    "api",
    "scheduled",
    "inspection",
    "rebudget",
    "sweeps",
    "submission",
    "commands",
    "cli",
)
RAY = ("agent/rllib/", "sweeps/", "submission/", "commands/")
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.rglob("*.py")
    if path.relative_to(ROOT).as_posix() != "__init__.py"  # the public API, imported lazily
)


def _imports(file: str) -> Iterator[tuple[int, str]]:
    """Yield the line and full name of everything imported, in functions and type checks too."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _package(file: str) -> str:
    return file.partition("/")[0].removesuffix(".py")


def test_every_package_has_its_place() -> None:
    assert {_package(file) for file in FILES} <= set(ORDER)


@pytest.mark.parametrize("file", FILES)
def test_imports_go_upwards_only(file: str) -> None:
    own = ORDER.index(_package(file))
    wrong = []
    for line, name in _imports(file):
        parts = name.split(".")
        if parts[0] != "rl_compress" or parts[1] == "__version__":
            continue
        assert parts[1] in ORDER, f"{file}:{line}: {name} is in no package with a place"
        if ORDER.index(parts[1]) > own:
            wrong.append(f"{file}:{line} imports {name}")
    assert wrong == []


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith(RAY)])
def test_ray_is_not_imported_outside_its_packages(file: str) -> None:
    assert [name for _, name in _imports(file) if name.split(".")[0] == "ray"] == []


def test_kinds_of_layers_are_told_apart_where_models_are_data() -> None:
    """A new kind of layer is made known in `model/` and `variants/` alone."""
    found = []
    for file in FILES:
        if file.startswith(("model/", "variants/")):
            continue
        names = {name for _, name in _imports(file) if name.startswith("torch.nn.")}
        classes = {name.rpartition(".")[2] for name in names}
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "isinstance",
                "issubclass",
            ):
                kinds = set(
                    ast.unparse(node.args[1]).replace("(", "").replace(")", "").split(" | ")
                )
                kinds -= {"nn.Module", "nn.Parameter"}
                if any(kind.startswith("nn.") or kind in classes for kind in kinds):
                    found.append(f"{file}:{node.lineno}")
    assert found == []


def test_the_monitor_knows_only_the_evaluation() -> None:
    own = {name.split(".")[1] for _, name in _imports("monitor.py") if "rl_compress" in name}
    assert own == {"evaluation"}


HEAVY = "[name for name in ('torch', 'ray') if name in sys.modules]"
IMPORT = f"import sys, rl_compress; print({HEAVY})"
HELP = (
    "import sys\n"
    "from rl_compress.cli import app\n"
    "app(['--help'], prog_name='rl-compress', standalone_mode=False)\n"
    "for name in [command.callback.__name__ for command in app.registered_commands]:\n"
    "    app([name.replace('_', '-'), '--help'], prog_name='rl-compress', standalone_mode=False)\n"
    f"print({HEAVY})"
)


@pytest.mark.parametrize("code", [IMPORT, HELP], ids=["import", "help of all commands"])
def test_neither_torch_nor_ray_is_loaded_and_the_answer_is_quick(code: str) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.splitlines()[-1] == "[]"
    # Of the processor, which other tests share.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5


def test_the_public_functions_stay_what_they_are() -> None:
    # Importing a subpackage binds its name in the package, over whatever had that name.
    code = (
        "import rl_compress; rl_compress.load_job\n"
        "print([n for n in rl_compress.__all__ if not callable(getattr(rl_compress, n))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'prune'"):
        _ = rl_compress.prune


@pytest.mark.parametrize("module", ["agent.rllib.coordinator", "sweeps.sweep_evaluations"])
def test_actors_that_only_keep_books_do_not_import_rllib(module: str) -> None:
    """It would take each run a second and 95 MB."""
    line = f"import sys, rl_compress.{module}; sys.exit('ray.rllib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", line], check=False).returncode == 0
