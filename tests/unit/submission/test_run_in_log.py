from __future__ import annotations

import base64
import io
import itertools
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_compress.errors import CorruptFileError
from rl_compress.submission.run_in_log import RunInLog, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    (directory / "best").mkdir()
    (directory / "job.yaml").write_text("name: tiny\n", encoding="utf-8")
    (directory / "best" / "model.safetensors").write_bytes(bytes(range(256)) * 200)
    return directory


@pytest.fixture(scope="module")
def log(run: Path) -> str:
    text = io.StringIO()
    write_run(run, text)
    return text.getvalue()


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_a_run_comes_out_as_it_went_in(run: Path, log: str, tmp_path: Path) -> None:
    reader = RunInLog()

    assert reader.feed(log) == ""
    reader.unpack(tmp_path / "new" / "run")

    assert reader.complete
    assert contents(tmp_path / "new" / "run") == contents(run)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["run"]


@given(cuts=st.lists(st.integers(0, 2000), max_size=20))
def test_the_log_may_be_cut_anywhere_and_lines_for_people_get_through(
    log: str, cuts: list[int]
) -> None:
    first, rest = log.split("\n", 1)
    text = f"preparation …\n{first}\nof a worker\n{rest}done"
    reader = RunInLog()
    places = sorted({0, *(min(cut, len(text)) for cut in cuts), len(text)})

    heard = "".join(reader.feed(text[start:end]) for start, end in itertools.pairwise(places))

    assert heard + reader.end() == "preparation …\nof a worker\ndone"
    assert reader.complete


def test_nothing_is_written_of_a_run_that_never_began(tmp_path: Path) -> None:
    text = io.StringIO()
    write_run(tmp_path / "run", text)
    assert text.getvalue() == ""
    assert not RunInLog().complete


def test_a_lost_line_is_noticed(log: str) -> None:
    with pytest.raises(CorruptFileError, match="damaged"):
        RunInLog().feed(log.split("\n", 1)[1])


def test_a_garbled_line_is_noticed() -> None:
    with pytest.raises(CorruptFileError, match="damaged"):
        RunInLog().feed("rl-compress-run: not base64!\n")


def test_an_archive_that_leads_outside_is_refused(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../outside"))
    reader = RunInLog()
    reader.feed(f"rl-compress-run: {base64.b64encode(packed.getvalue()).decode()}\n")

    with pytest.raises(CorruptFileError, match="cannot be unpacked"):
        reader.unpack(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
