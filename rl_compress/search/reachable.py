"""Whether a Ray cluster answers; asked before minutes are spent on preparation."""

from __future__ import annotations

import re
import socket

from rl_compress.errors import ConfigError

_TIMEOUT_S = 5.0


def check_reachable(address: str) -> None:
    """Make sure that something listens at a cluster's address.

    Ray itself would try for minutes, and say so in lines that nobody can read.

    Args:
        address: ``host:port`` or ``ray://host:port``; other forms, such as ``auto``, pass.

    Raises:
        ConfigError: Nothing answers.
    """
    match = re.fullmatch(r"(?:ray://)?\[?([^/\[\]]+?)\]?:(\d+)", address)
    if match is None:
        return
    if problem := connection_problem(match[1], int(match[2])):
        raise ConfigError(
            f"--address {address}: cannot connect to a Ray cluster ({problem}); "
            f"check that it runs, or leave the option out for a local one"
        )


def connection_problem(host: str, port: int) -> str | None:
    """Return why nothing can be connected to at a host's port; None if something listens."""
    try:
        socket.create_connection((host, port), timeout=_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        return str(error)
    return None
