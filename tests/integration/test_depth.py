"""The path from a command to a variant is short enough to be read in one go."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from running import run_here, write_job

import rl_compress
from rl_compress.variants.slimmable import SlimmableNetwork

ROOT = str(Path(rl_compress.__file__).parent)
MOST = 12


def _frames() -> list[str]:
    """Return our functions on the stack, the innermost first, up to the command's."""
    names, frame = [], sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith(ROOT):
            names.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}")
        frame = frame.f_back
    return names


def test_a_variant_is_reached_in_few_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[list[str]] = []
    build = SlimmableNetwork.variant

    def noting(network: SlimmableNetwork, *amounts: Any, **options: Any) -> Any:
        found.append(["slimmable.py:variant", *_frames()])
        return build(network, *amounts, **options)

    monkeypatch.setattr(SlimmableNetwork, "variant", noting)
    job = write_job(tmp_path, search__evaluations=2)

    outcome = run_here("search", job, "--output", tmp_path / "run")

    assert outcome.code == 0, outcome.stderr
    assert any("baseline_search.py:run_baseline" in names for names in found)
    assert all(names[-1] == "search.py:search" for names in found)
    assert max(found, key=len)[MOST:] == []
