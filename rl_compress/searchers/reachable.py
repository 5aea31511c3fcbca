"""Whether a Ray cluster answers; asked before minutes are spent on preparation."""

from __future__ import annotations

import os
import re
import socket
import sys

from rl_compress.errors import ConfigError

_TIMEOUT_S = 5.0
_VARIABLE = "RAY_ADDRESS"
_LOCAL = "local"


def cluster_address(address: str | None) -> str | None:
    """Return the address of the cluster to join: the one given, or the environment's.

    Returns:
        None where a local cluster is to be started.
    """
    found = address or os.environ.get(_VARIABLE)
    return None if found == _LOCAL else found or None


def cannot_connect(address: str | None, reason: object) -> ConfigError:
    """Return the error that says whose address it is that leads nowhere.

    Args:
        address: As it was given; None where the environment's was taken.
        reason: Why there is no connection.
    """
    named = f"--address {address}" if address else f"{_VARIABLE}={os.environ.get(_VARIABLE)}"
    remedy = "leave the option out" if address else "unset that variable of the environment"
    return ConfigError(
        f"{named}: cannot connect to a Ray cluster ({' '.join(str(reason).split())}); check that "
        f"it runs, or {remedy} for a local one"
    )


def check_reachable(address: str | None) -> None:
    """Make sure that something listens at a cluster's address, and could be a cluster.

    Ray itself would try for minutes, and say so in lines that nobody can read.

    Args:
        address: ``host:port`` or ``ray://host:port``; other forms, such as ``auto``, pass. None
            looks at the environment's, unless this process is connected already.

    Raises:
        ConfigError: Nothing answers.
    """
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return
    match = re.fullmatch(r"(?:ray://)?\[?([^/\[\]]+?)\]?:(\d+)", cluster_address(address) or "")
    if match is None:
        return
    host, port = match[1], int(match[2])
    problem = connection_problem(host, port) or _protocol_problem(host, port)
    if problem:
        raise cannot_connect(address, problem)


def connection_problem(host: str, port: int) -> str | None:
    """Return why nothing can be connected to at a host's port; None if something listens."""
    try:
        socket.create_connection((host, port), timeout=_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        return str(error)
    return None


def _protocol_problem(host: str, port: int) -> str | None:
    """Return why what listens is no Ray; None if it may be."""
    import grpc

    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return None
    at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with grpc.insecure_channel(at, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_TIMEOUT_S)
        except grpc.FutureTimeoutError:
            return "what listens there is no Ray; its port is 6379, or 10001 after ray://"
    return None
