"""A working folder and its copy: what is pushed, what is pulled, and who is the newest."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
from records import make_record

from rl_compress.errors import RunDirectoryError, StorageError
from rl_compress.runs.mirror import Mirror
from rl_compress.runs.remote import RemoteFolder
from rl_compress.runs.run_directory import RunDirectory

OWNER = "run.owner"


def open_run(tmp_path: Path, machine: str) -> RunDirectory:
    """Return the run as a machine sees it that has just begun."""
    mirror = Mirror(tmp_path / machine / "run", RemoteFolder(f"file://{tmp_path}/storage/run"))
    mirror.begin()
    return RunDirectory(mirror.folder, mirror)


def begin(tmp_path: Path, machine: str = "a") -> RunDirectory:
    run = open_run(tmp_path, machine)
    run.create("name: test\n")
    run.push()
    return run


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != OWNER
    }


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "storage" / "run"


def test_nothing_is_written_before_there_is_a_run(tmp_path: Path, storage: Path) -> None:
    run = open_run(tmp_path, "a")
    run.push()
    assert not storage.exists()


def test_the_copy_follows_what_is_written_changed_and_deleted(
    tmp_path: Path, storage: Path
) -> None:
    run = begin(tmp_path)
    run.write_json("space.json", [1])
    (run.path / "best").mkdir()
    (run.path / "best" / "model").write_bytes(b"12")
    run.push()
    assert files(storage) == files(run.path)
    run.write_json("space.json", [2])
    shutil.rmtree(run.best)
    run.push()
    assert files(storage) == files(run.path)
    assert set(files(storage)) == {"job.yaml", "space.json"}


def test_what_is_unfinished_and_the_lock_stay_here(tmp_path: Path, storage: Path) -> None:
    run = begin(tmp_path)
    for name in ("a.tmp", "run.lock", "best.unfinished/model", "best.previous/model"):
        (run.path / name).parent.mkdir(exist_ok=True)
        (run.path / name).touch()
    run.push()
    assert set(files(storage)) == {"job.yaml"}


def test_a_record_is_there_before_the_ledger_goes_on(tmp_path: Path, storage: Path) -> None:
    store = pickle.loads(pickle.dumps(begin(tmp_path).store()))  # as another process has it
    store.append(make_record(7))
    assert list((storage / "evaluations").iterdir()) == [
        storage / "evaluations" / "part-000007-000007.parquet"
    ]


def test_compaction_reaches_the_copy(tmp_path: Path, storage: Path) -> None:
    run = begin(tmp_path)
    store = run.store()
    for index in range(5):
        store.append(make_record(index))
    run.push()
    assert len(list((storage / "evaluations").iterdir())) == 5
    store.compact()
    assert RunDirectory(storage).store().read() == store.read()  # each row twice for a moment
    run.push()
    assert [path.name for path in (storage / "evaluations").iterdir()] == [
        "part-000000-000004.parquet"
    ]
    assert open_run(tmp_path, "b").store().read() == [make_record(index) for index in range(5)]


def test_unchanged_files_are_not_copied_again(tmp_path: Path, storage: Path) -> None:
    run = begin(tmp_path)
    run.store().append(make_record(0))
    run.push()
    before = {path: path.stat().st_mtime_ns for path in storage.rglob("*.*")}
    again = open_run(tmp_path, "a")  # another process on the same machine
    again.push()
    after = {path: path.stat().st_mtime_ns for path in storage.rglob("*.*")}
    del before[storage / OWNER], after[storage / OWNER]
    assert after == before


def test_another_machine_continues_and_the_first_one_notices(tmp_path: Path) -> None:
    first = begin(tmp_path, "a")
    first.write_json("stale.json", 1)
    first.push()
    second = open_run(tmp_path, "b")
    assert files(second.path) == files(first.path)
    (second.path / "stale.json").unlink()
    second.store().append(make_record(1))
    second.push()

    assert files(open_run(tmp_path, "a").path) == files(second.path)


def test_what_the_storage_missed_is_pushed_by_the_next_process(
    tmp_path: Path, storage: Path
) -> None:
    run = begin(tmp_path)
    run.write_json("space.json", 1)
    assert run.mirror is not None
    run.mirror.note_ahead()
    assert files(open_run(tmp_path, "a").path) == files(storage)
    assert "space.json" in files(storage)


def test_what_never_reached_the_storage_is_pushed_by_the_next_process(
    tmp_path: Path, storage: Path
) -> None:
    run = open_run(tmp_path, "a")
    run.create("name: test\n")
    assert run.mirror is not None
    run.mirror.note_ahead()
    open_run(tmp_path, "a")
    assert set(files(storage)) == {"job.yaml"}


def test_two_that_went_on_are_not_merged_and_nothing_is_lost(tmp_path: Path) -> None:
    first = begin(tmp_path, "a")
    first.write_json("only_here.json", 1)
    assert first.mirror is not None
    first.mirror.note_ahead()
    open_run(tmp_path, "b").push()
    with pytest.raises(RunDirectoryError, match="another machine continued this run") as caught:
        open_run(tmp_path, "a")
    assert f"is in {first.path}: move that away" in str(caught.value)
    assert (first.path / "only_here.json").exists()
    first.path.rename(tmp_path / "aside")
    first.path.with_name("run.state").unlink()
    assert "only_here.json" not in files(open_run(tmp_path, "a").path)


def test_a_run_deleted_on_the_storage_is_gone(tmp_path: Path, storage: Path) -> None:
    begin(tmp_path)
    shutil.rmtree(storage)
    assert files(open_run(tmp_path, "a").path) == {}


def test_a_machine_that_is_overtaken_stops_pushing(tmp_path: Path, storage: Path) -> None:
    run = begin(tmp_path)
    run.write_json("space.json", 1)
    assert run.mirror is not None
    run.mirror.taken = "process 1 on b has taken the run over"
    with pytest.raises(StorageError, match="process 1 on b"):
        run.push()
    assert set(files(storage)) == {"job.yaml"}
