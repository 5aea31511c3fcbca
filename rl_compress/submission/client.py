"""Talking to a cluster's job server: every trouble is one line."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from rl_compress.errors import ConfigError, SubmissionError
from rl_compress.searchers.reachable import connection_problem

_PORTS = {"http": 80, "https": 443}
_POLL_S = 1.0
_PATIENCE_S = 60.0
"""How long a cluster may be silent while a job is waited for."""

_QUIET_S = 10.0
"""How long nothing is said of a job that has not begun."""

_NOISY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_VARIABLE = "RAY_API_SERVER_ADDRESS"
_OVERRIDES = ("RAY_ADDRESS", _VARIABLE)


class _Client(JobSubmissionClient):
    """Waits for a server's answer, but not without end."""

    patience_s = 10.0
    """The first answer needs nothing but the server itself."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": self.patience_s, **options})


def connect(address: str) -> JobSubmissionClient:
    """Return a client of the job server at a URL, which has answered.

    Authentication is Ray's: by the token in ``RAY_AUTH_TOKEN``, or in ``~/.ray/auth_token``.

    Args:
        address: ``http://host:port`` or ``https://host:port``; ``http://`` may be left out.

    Raises:
        ConfigError: It is no such URL, nothing answers there, or the token is refused.
    """
    url = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        parts, port = urlsplit(""), None
    if port is None or parts.hostname is None or parts.scheme not in _PORTS:
        raise ConfigError(
            f"{_named(address)}: give the URL of the cluster's dashboard, as http://127.0.0.1:8265"
        )
    if problem := connection_problem(parts.hostname, port):
        raise ConfigError(
            f"{_named(address)}: cannot connect to the cluster's dashboard ({problem}); check "
            f"that it runs, and that its port is forwarded to this machine"
        )
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    with _answering(address), _without_overrides():
        client = _Client(url)
    client.patience_s = _PATIENCE_S
    return client


def _named(address: str) -> str:
    """Say where an address was given."""
    given = os.environ.get(_VARIABLE) == address
    return f"{_VARIABLE}={address}" if given else f"--address {address}"


def follow(
    client: JobSubmissionClient, submission_id: str, hear: Callable[[str], None]
) -> JobDetails:
    """Hand on a job's log as it grows, until the job has ended; returns how.

    The log is followed anew where the connection is lost; no part is handed on twice.

    Raises:
        SubmissionError: The cluster does not answer any more; the job may go on.
    """
    return asyncio.run(_follow(client, submission_id, hear))


async def _follow(
    client: JobSubmissionClient, submission_id: str, hear: Callable[[str], None]
) -> JobDetails:
    heard = 0
    begun = silent_since = time.monotonic()
    told = False
    while True:
        whole = False
        position = 0
        pieces = client.tail_job_logs(submission_id)
        while True:
            try:
                piece = await anext(pieces)
            except StopAsyncIteration:
                whole = True
                break
            except (RuntimeError, aiohttp.ClientError, OSError):
                break
            hear(piece[max(0, heard - position) :])
            position += len(piece)
            heard = max(heard, position)
            silent_since = time.monotonic()
        with contextlib.suppress(RuntimeError, OSError):
            details = client.get_job_info(submission_id)
            silent_since = time.monotonic()
            if details.status == JobStatus.PENDING and not told and begun < silent_since - _QUIET_S:
                told = True
                # Ray itself ends the wait, by default after a quarter of an hour.
                hear(f"{submission_id} waits: {details.message}\n")
            if details.status.is_terminal():
                if not whole:
                    hear(client.get_job_logs(submission_id)[heard:])
                return details
        if time.monotonic() - silent_since > _PATIENCE_S:
            raise SubmissionError(
                f"the cluster has not answered for {_PATIENCE_S:.0f} s; wait for {submission_id} "
                f"again with --wait --id {submission_id}"
            )
        await asyncio.sleep(_POLL_S)


@contextlib.contextmanager
def _answering(address: str) -> Iterator[None]:
    """Say in one line what a server's answer is not."""
    try:
        yield
    except AuthenticationError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"{_named(address)}: the cluster refuses this client ({reason}); set RAY_AUTH_TOKEN "
            f"to the cluster's token, and RAY_AUTH_MODE=token"
        ) from None
    # ValueError: the answer is no JSON. KeyError: it is, of something else.
    except (RuntimeError, ConnectionError, requests.RequestException, ValueError, KeyError):
        raise ConfigError(
            f"{_named(address)}: what answers there is not a Ray dashboard; give the "
            f"dashboard's URL (by default port 8265), not that of the cluster's other services"
        ) from None


@contextlib.contextmanager
def _without_overrides() -> Iterator[None]:
    """Let an address count that is given, which Ray's variables would overrule."""
    saved = {name: os.environ.pop(name) for name in _OVERRIDES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)
