"""How a run comes back: as lines of the job's log, the one thing that every cluster hands out.

The run directory lies on whatever node the job ran on, which may have no storage in common with
anybody and be gone a minute later. So the job itself packs it (``tar.gz``) and prints it in base64,
each line marked, with a checksum at the end. A third is added to its size; runs that are too big
for that are kept on shared storage instead (``--storage``).
"""

from __future__ import annotations

import base64
import hashlib
import os
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import IO

from rl_compress.errors import CorruptFileError

_MARK = "rl-compress-run: "
_END = "sha256 "
# Ray sends a job's log in messages of about 20 000 characters, and keeps lines whole.
_BYTES_PER_LINE = 12_000


def write_run(directory: Path, log: IO[str]) -> None:
    """Print a run directory as marked lines; nothing if there is none."""
    if not directory.is_dir():
        return
    digest = hashlib.sha256()
    with tempfile.TemporaryFile() as packed:
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            archive.add(directory, arcname=".")
        packed.seek(0)
        while data := packed.read(_BYTES_PER_LINE):
            digest.update(data)
            log.write(f"{_MARK}{base64.b64encode(data).decode('ascii')}\n")
    log.write(f"{_MARK}{_END}{digest.hexdigest()}\n")


class RunInLog:
    """Takes a run out of a job's log, and lets everything else through."""

    def __init__(self) -> None:
        """Begin; what is collected goes to a temporary file that ends with this object."""
        self._packed = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the object
        self._digest = hashlib.sha256()
        self._rest = ""
        self.complete = False
        """Whether all of a run has been seen."""

    def feed(self, text: str) -> str:
        """Take the next piece of the log, cut anywhere; returns its lines that are for people.

        Raises:
            CorruptFileError: Part of the run is missing or damaged.
        """
        *lines, self._rest = (self._rest + text).split("\n")
        return "".join(f"{line}\n" for line in lines if not self._take(line))

    def end(self) -> str:
        """Return a last line that had no end."""
        rest, self._rest = self._rest, ""
        return rest

    def unpack(self, directory: Path) -> None:
        """Write the run into a directory that does not exist, or is empty; appears whole.

        Raises:
            CorruptFileError: The archive cannot be read.
        """
        directory.parent.mkdir(parents=True, exist_ok=True)
        self._packed.seek(0)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".fetched-") as scratch:
            run = Path(scratch) / "run"
            try:
                with tarfile.open(fileobj=self._packed, mode="r:gz") as archive:
                    # The filter refuses links and paths that lead outside.
                    archive.extractall(run, filter="data")
            except tarfile.TarError as error:
                raise CorruptFileError(
                    f"{directory}: the run cannot be unpacked ({error})"
                ) from None
            os.replace(run, directory)

    def _take(self, line: str) -> bool:
        if not line.startswith(_MARK):
            return False
        content = line.removeprefix(_MARK)
        if content.startswith(_END):
            if content.removeprefix(_END) != self._digest.hexdigest():
                raise CorruptFileError(
                    "the job's log: the run in it is damaged; fetch it again with --wait --id"
                )
            self.complete = True
            return True
        try:
            data = base64.b64decode(content, validate=True)
        except ValueError:
            raise CorruptFileError(
                "the job's log: the run in it is damaged; fetch it again with --wait --id"
            ) from None
        self._packed.write(data)
        self._digest.update(data)
        return True


if __name__ == "__main__":
    write_run(Path(sys.argv[1]), sys.stdout)
