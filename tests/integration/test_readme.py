"""The README's example of an own model, run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def blocks() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for language, body in re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL):
        found.setdefault(language, []).append(body)
    return found


def test_own_model_is_compressed_by_the_documented_lines(
    blocks: dict[str, list[str]], tmp_path: Path
) -> None:
    target, use = blocks["python"]
    (tmp_path / "my_target.py").write_text(target, encoding="utf-8")
    (tmp_path / "job.yaml").write_text(blocks["yaml"][1], encoding="utf-8")
    script = (
        'rl_compress.check(rl_compress.load_job("job.yaml"))\n'
        "print(sum(p.numel() for p in model.parameters() if p.ndim == 2))\n"
    )
    # A search of few evaluations goes the same way.
    script = f"{use.replace('evaluations=40', 'evaluations=10')}\n{script}"
    (tmp_path / "use.py").write_text(script, encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "use.py"], cwd=tmp_path, capture_output=True, text=True, timeout=280
    )

    assert done.returncode == 0, done.stderr
    # The budget is of MACs, and each weight takes part in one.
    assert int(done.stdout.split()[-1]) <= 0.4 * (30 * 64 + 64 * 32 + 32 * 2)


def test_demo_job_is_the_shipped_one(blocks: dict[str, list[str]]) -> None:
    shown = yaml.safe_load(blocks["yaml"][0])
    shipped = yaml.safe_load((ROOT / "tune_configs/digits.yaml").read_text(encoding="utf-8"))
    for key in shown:
        if isinstance(shown[key], dict):
            assert shown[key].items() <= shipped[key].items()
        else:
            assert shown[key] == shipped[key]


def test_files_to_read_exist(blocks: dict[str, list[str]]) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\(((?:rl_compress|tune_configs|\.github)/[^)]+)\)", text)
    assert len(linked) >= 7
    for path in linked:
        assert (ROOT / path).is_file(), path
