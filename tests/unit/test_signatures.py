"""Functions take what they need, and no more than can be kept in mind."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import rl_compress

ROOT = Path(rl_compress.__file__).parent
MOST = 8

KEYWORDS = {
    # A job, or else the keys of one by keyword, and the options of the command.
    "api.py:search"
}


def _wide() -> Iterator[tuple[str, int]]:
    """Yield functions with too many parameters, ``self`` and ``cls`` not counted."""
    for path in ROOT.rglob("*.py"):
        file = path.relative_to(ROOT).as_posix()
        if file.startswith("commands/"):
            continue  # a parameter is an option there
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                own = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = len([one for one in own if one.arg not in ("self", "cls")])
                if count > MOST:
                    yield f"{file}:{node.name}", count


def test_no_function_has_more_than_eight_parameters() -> None:
    assert {name: count for name, count in _wide() if name not in KEYWORDS} == {}
