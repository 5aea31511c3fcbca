from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rl_compress.errors import ConfigError
from rl_compress.registry import QUANTIZERS, Registry


def test_a_wrong_name_is_told_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"must be symmetric, .*did you mean symmetric\?"):
        QUANTIZERS.path("symetric")


def test_checking_a_name_imports_nothing() -> None:
    code = "import sys; from rl_compress.registry import QUANTIZERS as q; q.path('kmeans'); "
    code += "q.path('no_such_module:Class'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_installed_packages_bring_parts_as_entry_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "brings-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brings\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[rl_compress.things]\nown = brings:Own\n")
    (tmp_path / "brings.py").write_text("class Own(dict): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    things = Registry("things", "builtins:dict", {})
    assert things.path("own") == "brings:Own"
    assert issubclass(things.find("own"), dict)
    assert things.name_of(things.find("own")) == "brings:Own"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:Class", "there is no module 'no_such_module' .*start in the folder"),
        ("pathlib:Nothing", "module pathlib has no 'Nothing'"),
        (
            "pathlib:Path",
            "pathlib:Path must be a class derived from rl_compress.quantizers.*Quantizer",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        QUANTIZERS.find(path)
