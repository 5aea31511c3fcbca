"""A study's two files: its figures as JSON, a line for each row, and its tables to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def read_study(path: Path) -> dict[str, Any]:
    """Return the figures of a study, named without a suffix; none where there are none yet."""
    stored = path.with_suffix(".json")
    return json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else {}


def write_study(path: Path, found: dict[str, Any], text: str | None = None) -> None:
    """Write a study's figures, and its page: ``text``, or else a table for each list of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix, content in ((".json", folded(found)), (".md", text or _page(path.name, found))):
        unfinished = path.with_name(f".{path.name}{suffix}")
        unfinished.write_text(content.rstrip("\n") + "\n", encoding="utf-8")
        unfinished.replace(path.with_suffix(suffix))
    print(f"wrote {path}.json and .md")


def folded(value: Any, depth: int = 0) -> str:
    """Return JSON with a line for each row of a table and each entry of what holds one.

    Figures have seven digits.
    """
    if _is_table(value):
        return "[\n" + ",\n".join(json.dumps(_rounded(row)) for row in value) + "\n]"
    if isinstance(value, dict) and (depth == 0 or any(map(_is_table, value.values()))):
        entries = (f"{json.dumps(key)}: {folded(inner, 1)}" for key, inner in value.items())
        return "{\n" + ",\n".join(entries) + "\n}"
    return json.dumps(_rounded(value))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _page(title: str, found: dict[str, Any], level: int = 1) -> str:
    marks = "#" * level
    nested = {key for key, value in found.items() if isinstance(value, dict) or _is_table(value)}
    plain = {key: value for key, value in found.items() if key not in nested | {"verdicts"}}
    blocks = [f"{marks} {title.replace('_', ' ').capitalize()}", plain.pop("what", "")]
    blocks.append("\n".join(f"- {key}: {_cell(value)}" for key, value in plain.items()))
    for key, value in found.items():
        if _is_table(value):
            blocks += ["" if key == "rows" else f"{marks}# {key.replace('_', ' ')}"]
            blocks.append("\n".join(_table(value)))
        elif key == "verdicts":
            blocks.append("\n".join(f"- {verdict}" for verdict in value))
        elif isinstance(value, dict) and key not in ("environment", "job"):
            blocks.append(_page(key, value, level + 1))
    return "\n\n".join(filter(None, blocks))


def _table(rows: list[dict[str, Any]]) -> list[str]:
    """Return what is not nested as a Markdown table."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    names = [key for key in names if not any(isinstance(row.get(key), dict) for row in rows)]
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    heads = [name.replace("_", " ") for name in names]
    return [f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(names), *cells)]


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
