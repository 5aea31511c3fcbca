"""The append-only store of evaluation records: parquet parts in one folder.

A part is written whole under another name and renamed into place, so a reader never sees half a
part, and a process killed at any moment leaves only whole parts behind. Parts of one record are
merged when there are many, for a file takes a millisecond to read, however little is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rl_compress.errors import CorruptFileError
from rl_compress.runs.failure import Failure, from_lines, to_lines
from rl_compress.runs.grants import GrantLog
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.schema import from_table, to_table
from rl_compress.runs.written import whole, written


_MERGED = 512
"""Records, each in a part of its own, that are merged into one part."""


class EvaluationStore:
    """Records of one run: nothing but ``part-*.parquet`` files is in their folder.

    Beside it are its failures, ``<folder>.failures.jsonl``, and the log of what was begun,
    ``<folder>.grants.jsonl``. In runs of 0.1.0 they are within the folder.

    One process writes (the ledger's); any number may read.
    """

    def __init__(
        self, folder: str | Path, written: Callable[[Path], None] = lambda _path: None
    ) -> None:
        """Name the folder, which is made with its first part.

        Args:
            folder: On this machine; what is on remote storage is its copy.
            written: Called with the path of each file that was written, before anybody hears of
                what is in it.
        """
        self._folder = Path(folder).resolve()
        self._written = written
        self._appended: list[tuple[Path, EvaluationRecord]] = []

    def append(self, record: EvaluationRecord) -> None:
        """Store one record; when this returns, it outlives the process.

        Raises:
            StorageError: It cannot be written, as on a full disk, or the copy stayed away.
        """
        self._appended.append((self._write(_name([record]), [record]), record))
        if len(self._appended) == _MERGED:
            parts, records = zip(*self._appended, strict=True)
            self._appended.clear()
            self._merge(parts, sorted(records, key=lambda one: one.evaluation_id))

    def read(self) -> list[EvaluationRecord]:
        """Return all records in the order of their ids.

        Raises:
            CorruptFileError: A part cannot be read; the message names it.
        """
        records: dict[int, EvaluationRecord] = {}
        for path in self._parts():
            try:
                rows = from_table(pq.ParquetFile(path).read())
            except FileNotFoundError:
                return self.read()  # it was merged meanwhile
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
        path = self._beside("failures.jsonl")
        text = to_lines([*self.read_failures(), failure])
        path.parent.mkdir(parents=True, exist_ok=True)
        with written(path), whole(path) as file:
            file.write_text(text, encoding="utf-8")
        self._written(path)

    def read_failures(self) -> list[Failure]:
        """Return all failures in the order in which they happened.

        Raises:
            CorruptFileError: Their file cannot be read.
        """
        path = self._beside("failures.jsonl")
        try:
            return from_lines(path.read_text(encoding="utf-8")) if path.exists() else []
        except (OSError, ValueError, TypeError) as error:
            raise CorruptFileError(
                f"{path}: not a readable list of failures ({error}); remove it and resume, which "
                f"evaluates its variants again"
            ) from None

    def open_grants(self) -> GrantLog:
        """Open the log of what was begun, which only the process that grants writes."""
        return GrantLog(self._beside("grants.jsonl"))

    def compact(self) -> None:
        """Merge all parts into one, for quick reading."""
        parts = self._parts()
        if len(parts) > 1:
            self._merge(parts, self.read())

    def _merge(self, parts: Sequence[Path], records: Sequence[EvaluationRecord]) -> None:
        merged = self._write(_name(records), records)
        for path in parts:
            # A crash in between leaves rows twice, which reading by id makes one again.
            if path != merged:
                path.unlink(missing_ok=True)

    def _beside(self, name: str) -> Path:
        within = self._folder / name
        return within if within.exists() else Path(f"{self._folder}.{name}")

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob("*.parquet"))

    def _write(self, name: str, records: Sequence[EvaluationRecord]) -> Path:
        path = self._folder / f"{name}.parquet"
        # Beside the folder, which is a data set at any moment.
        unfinished = Path(f"{self._folder}.{name}.tmp")
        with written(path):
            self._folder.mkdir(parents=True, exist_ok=True)
            # A dictionary of one value takes longer to write than the value.
            pq.write_table(to_table(records), unfinished, use_dictionary=len(records) > 1)
            unfinished.rename(path)
        self._written(path)
        return path


def _name(records: Sequence[EvaluationRecord]) -> str:
    return f"part-{records[0].evaluation_id:06d}-{records[-1].evaluation_id:06d}"
