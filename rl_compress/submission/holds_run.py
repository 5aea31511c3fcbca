"""Asks on a cluster whether remote storage holds a run: exit code 0 if it does."""

from __future__ import annotations

import sys

from rl_compress.errors import RLCompressError
from rl_compress.remote_runs import holds_run


def main(location: str) -> int:
    """Return the exit code; of trouble, the search that comes next tells."""
    try:
        return 0 if holds_run(location) else 1
    except RLCompressError:
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
