from __future__ import annotations

from pathlib import Path

import pytest

from rl_compress.errors import StorageError
from rl_compress.runs.grants import MOST_LOSSES, GrantLog


def test_what_was_begun_and_never_ended_is_lost(tmp_path: Path) -> None:
    log = GrantLog(tmp_path / "grants.jsonl")
    for policy_id in ("measured", "killed", "killed", "failed", "running"):
        log.note(policy_id, 1)
    assert log.lost({"measured", "failed"}) == 3
    assert log.retried == 1


def test_another_process_takes_over_and_skips_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "grants.jsonl"
    GrantLog(path).note("a", 1)
    with path.open("a") as file:
        file.write('\n{"policy_id": "b", "wor')
    second = GrantLog(path)
    second.note("a", 2)
    third = GrantLog(path)
    assert (third.lost(set()), third.retried) == (2, 1)


def test_a_variant_that_nobody_survives_is_deadly_and_all_its_losses_count(tmp_path: Path) -> None:
    path = tmp_path / "grants.jsonl"
    for count in range(MOST_LOSSES):
        log = GrantLog(path)
        assert log.is_deadly("a") == (count == MOST_LOSSES)
        log.note("a", 1)
    log = GrantLog(path)
    assert log.is_deadly("a")
    log.give_up("a")
    assert GrantLog(path).lost({"a"}) == MOST_LOSSES


def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    log = GrantLog(tmp_path / "grants.jsonl")
    (tmp_path / "grants.jsonl").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"No space left on device.*--resume"):
        log.note("a", 1)
