"""Files on remote storage: a local file URI, and S3."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from s3_server import S3Server

from rl_compress.errors import ConfigError, StorageError
from rl_compress.runs import remote as module
from rl_compress.runs.remote import RemoteFolder, is_uri, shown


@pytest.fixture(params=["file", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, s3: S3Server) -> RemoteFolder:
    name = request.node.originalname
    uri = f"file://{tmp_path}/there/run" if request.param == "file" else s3.uri(f"{name}/run")
    return RemoteFolder(uri)


def test_files_come_back_until_they_are_deleted(folder: RemoteFolder, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(bytes(range(256)) * 50_000)

    assert folder.list() == {}
    assert folder.read("a") is None
    folder.write("a", b"old")
    folder.write("a", b"new")
    folder.put(local, "deep/er/b")
    assert folder.list() == {"a": 3, "deep/er/b": 12_800_000}
    assert folder.read("a") == b"new"
    assert folder.read("deep/er/b") == local.read_bytes()
    pickle.loads(pickle.dumps(folder)).fetch(tmp_path / "copy")
    assert (tmp_path / "copy" / "deep" / "er" / "b").read_bytes() == local.read_bytes()
    folder.delete("a")
    folder.delete("a")
    assert list(folder.list()) == ["deep/er/b"]


def test_a_missing_local_file_is_no_trouble_of_the_storage(
    folder: RemoteFolder, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        folder.put(tmp_path / "nothing", "a")
    assert folder.read("a") is None


def test_a_name_is_the_last_part_of_the_path(folder: RemoteFolder) -> None:
    assert folder.name == "run"


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("ftp://host/runs", "ftp://host/runs: storage of the kind ftp:// is not supported"),
        ("s3://bucket", "names no folder; give it as s3://bucket/runs/name"),
        ("s3:///runs", "no usable URI"),
        ("s3://key:secret@bucket/runs?nonsense=1", "s3://bucket/runs.nonsense=1: no usable URI"),
        ("gs://bucket/", "names no folder"),
        ("file://host/runs", "no usable URI"),
    ],
)
def test_other_uris_are_refused(uri: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        RemoteFolder(uri)
    assert "secret" not in str(caught.value)


def test_a_bucket_that_is_missing_is_said_to_be(s3: S3Server) -> None:
    with pytest.raises(StorageError, match=r"s3://other/run.*there is no such bucket"):
        RemoteFolder(s3.uri("run", bucket="other")).write("a", b"")


def test_what_fails_for_a_while_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DELAYS_S", (0.05,))
    folder = RemoteFolder(f"file://{tmp_path}/run")
    folder.patience_s = 0.3
    in_the_way = tmp_path / "run"
    in_the_way.write_text("a file, where there should be a folder", encoding="utf-8")
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            in_the_way.unlink()

    monkeypatch.setattr(module.time, "sleep", sleep)
    folder.write("a", b"1")

    assert (len(slept), folder.read("a")) == (3, b"1")


def test_what_fails_for_good_is_not_waited_for_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DELAYS_S", (0.05,))
    folder = RemoteFolder(f"file://{tmp_path}/run")
    folder.patience_s = 0.2
    (tmp_path / "run").touch()
    with pytest.raises(StorageError, match="run: cannot be used"):
        folder.write("a", b"1")
    monkeypatch.setattr(module.time, "sleep", pytest.fail)
    with pytest.raises(StorageError, match="run: cannot be used"):
        folder.write("a", b"1")


def test_uris_are_told_from_paths_and_shown_without_keys() -> None:
    assert [is_uri(one) for one in ("s3://b/x", "a/b", Path("/a/b"))] == [True, False, False]
    assert shown("s3://key:secret@bucket/runs?region=x") == "s3://bucket/runs?region=x"
