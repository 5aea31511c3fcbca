"""The append-only store of evaluation records: parquet parts in one folder.

A part is written whole under another name and renamed into place, so a reader never sees half a
part, and a process killed at any moment leaves only whole parts behind.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from rl_compress.errors import CorruptFileError
from rl_compress.runs.failure import Failure, from_lines, to_lines
from rl_compress.runs.grants import GrantLog
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.schema import from_table, to_table
from rl_compress.runs.written import written

_UNFINISHED = ".tmp"
_FAILURES = "failures.jsonl"
_GRANTS = "grants.jsonl"


def open_location(location: str | Path) -> tuple[fs.FileSystem, str]:
    """Return the file system and path of a local folder or of a URI such as ``s3://bucket/runs``."""
    if "://" in str(location):
        return fs.FileSystem.from_uri(str(location))
    return fs.LocalFileSystem(), str(Path(location).resolve())


class EvaluationStore:
    """Records of one run: nothing but ``part-*.parquet`` files is in their folder.

    Beside it are its failures, ``<folder>.failures.jsonl``, and, where it is a local one, the log
    of what was begun, ``<folder>.grants.jsonl``. In runs of 0.1.0 they are within the folder.

    One process writes (the ledger's); any number may read.
    """

    def __init__(
        self, location: str | Path, written: Callable[[str], None] = lambda _path: None
    ) -> None:
        """Open, and create where needed, a folder.

        Args:
            location: Path or URI.
            written: Called with the path of each file that was written, before anybody hears of
                what is in it.
        """
        self._fs, self._root = open_location(location)
        self._written = written
        self._fs.create_dir(self._root, recursive=True)

    def append(self, record: EvaluationRecord) -> None:
        """Store one record; when this returns, it outlives the process.

        Raises:
            StorageError: It cannot be written, as on a full disk, or the copy stayed away.
        """
        self._write(f"part-{record.evaluation_id:06d}-{record.evaluation_id:06d}", [record])

    def read(self) -> list[EvaluationRecord]:
        """Return all records in the order of their ids.

        Raises:
            CorruptFileError: A part cannot be read; the message names it.
        """
        records: dict[int, EvaluationRecord] = {}
        for path in self._parts():
            try:
                with self._fs.open_input_file(path) as file:
                    rows = from_table(pq.read_table(file))
            except (pa.ArrowException, OSError, ValueError, TypeError) as error:
                raise CorruptFileError(
                    f"{path}: not a readable part of evaluations ({error}); "
                    f"remove it and resume, which repeats only its evaluations"
                ) from None
            records |= {row.evaluation_id: row for row in rows}
        return [records[key] for key in sorted(records)]

    def append_failure(self, failure: Failure) -> None:
        """Store a failure; there are few, so that all are written again, as storage allows.

        Raises:
            StorageError: It cannot be written, as on a full disk, or the copy stayed away.
        """
        path = self._beside(_FAILURES)
        text = to_lines([*self.read_failures(), failure])
        with written(path):
            with self._fs.open_output_stream(path + _UNFINISHED) as file:
                file.write(text.encode())
            self._fs.move(path + _UNFINISHED, path)
        self._written(path)

    def read_failures(self) -> list[Failure]:
        """Return all failures in the order in which they happened.

        Raises:
            CorruptFileError: Their file cannot be read.
        """
        path = self._beside(_FAILURES)
        if self._fs.get_file_info(path).type == fs.FileType.NotFound:
            return []
        try:
            with self._fs.open_input_stream(path) as file:
                return from_lines(file.read().decode())
        except (OSError, ValueError, TypeError) as error:
            raise CorruptFileError(
                f"{path}: not a readable list of failures ({error}); remove it and resume, which "
                f"evaluates its variants again"
            ) from None

    def open_grants(self) -> GrantLog:
        """Open the log of what was begun, which only the process that grants writes."""
        local = isinstance(self._fs, fs.LocalFileSystem)
        return GrantLog(Path(self._beside(_GRANTS)) if local else None)

    def compact(self) -> None:
        """Merge all parts into one, for quick reading."""
        parts = self._parts()
        records = self.read()
        if len(parts) < 2:
            return
        first, last = records[0].evaluation_id, records[-1].evaluation_id
        merged = self._write(f"part-{first:06d}-{last:06d}", records)
        for path in parts:
            # A crash in between leaves rows twice, which reading by id makes one again.
            if path != merged:
                self._fs.delete_file(path)

    def _beside(self, name: str) -> str:
        within = posixpath.join(self._root, name)
        exists = self._fs.get_file_info(within).type != fs.FileType.NotFound
        return within if exists else f"{self._root}.{name}"

    def _parts(self) -> list[str]:
        found = self._fs.get_file_info(fs.FileSelector(self._root))
        return sorted(info.path for info in found if info.path.endswith(".parquet"))

    def _write(self, name: str, records: Sequence[EvaluationRecord]) -> str:
        path = posixpath.join(self._root, f"{name}.parquet")
        # Beside the folder, which is a data set at any moment.
        unfinished = f"{self._root}.{name}{_UNFINISHED}"
        with written(path):
            with self._fs.open_output_stream(unfinished) as file:
                # A dictionary of one value takes longer to write than the value.
                pq.write_table(to_table(records), file, use_dictionary=len(records) > 1)
            self._fs.move(unfinished, path)
        self._written(path)
        return path
