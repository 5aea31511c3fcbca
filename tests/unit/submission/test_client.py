from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from ray.job_submission import JobStatus

from rl_compress.errors import ConfigError, SubmissionError
from rl_compress.submission import client as module
from rl_compress.submission.client import connect, follow


@pytest.fixture
def other_server() -> Iterator[int]:
    """Serve pages that are not Ray's; yields the port."""
    server = http.server.HTTPServer(("127.0.0.1", 0), _Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    "address", ["ray://127.0.0.1:10001", "auto", "http://", "http://h:port", "ftp://h:1", ""]
)
def test_only_urls_of_dashboards_are_addresses(address: str) -> None:
    with pytest.raises(ConfigError, match=r"--address .*: (give the URL|cannot connect)"):
        connect(address)


def test_nothing_answers() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConfigError, match=f"--address 127.0.0.1:{port}: cannot connect"):
        connect(f"127.0.0.1:{port}")


def test_something_else_answers(other_server: int) -> None:
    with pytest.raises(ConfigError, match="not a Ray dashboard"):
        connect(f"http://127.0.0.1:{other_server}")


def test_silent_server_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._Client, "patience_s", 0.5)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(ConfigError, match="not a Ray dashboard"),
    ):
        connect(f"127.0.0.1:{server.getsockname()[1]}")


def test_address_of_the_environment_is_named_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"^RAY_API_SERVER_ADDRESS=127\.0\.0\.1:1: cannot"):
        connect("127.0.0.1:1")


class FakeClient:
    """A job whose log is followed in several goes, each of which may break off."""

    LOG = "one\ntwo\nthree\n"
    ENDED: ClassVar[dict[str, Any]] = {"driver_exit_code": 0}

    def __init__(self, goes: list[list[str] | None], running: int) -> None:
        """Take the pieces of each go; None, or none left, is a connection refused."""
        self.goes = goes
        self.running = running

    async def tail_job_logs(self, _: str) -> AsyncIterator[str]:
        pieces = self.goes.pop(0) if self.goes else None
        for piece in pieces or ():
            yield piece
        if pieces is None or "".join(pieces) != self.LOG:
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_info(self, _: str) -> Any:
        self.running -= 1
        status = JobStatus.RUNNING if self.running >= 0 else JobStatus.SUCCEEDED
        return SimpleNamespace(status=status, **self.ENDED)

    def get_job_logs(self, _: str) -> str:
        return self.LOG


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_S", 0.0)


@pytest.mark.parametrize(
    "goes",
    [
        [["one\n", "two\nthree\n"]],
        [["one\nt"], None, ["one\n", "two\n", "three\n"]],
        [["one\n"], ["one\ntw"]],
    ],
)
def test_every_part_of_the_log_is_heard_once(goes: list[list[str] | None]) -> None:
    heard: list[str] = []
    client: Any = FakeClient(goes, running=len(goes) - 1)

    details = follow(client, "job", heard.append)

    assert details.status == JobStatus.SUCCEEDED
    assert "".join(heard) == FakeClient.LOG


def test_a_cluster_that_is_gone_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.05)
    client: Any = FakeClient([], running=0)

    def refuse(_: str) -> Any:
        raise ConnectionError("refused")

    client.get_job_info = refuse
    with pytest.raises(SubmissionError, match="--wait --id job"):
        follow(client, "job", lambda _: None)


def test_job_that_does_not_begin_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_QUIET_S", -1.0)
    client: Any = FakeClient([[], [], [FakeClient.LOG]], running=2)
    begun = client.get_job_info

    def wait(name: str) -> Any:
        details = begun(name)
        if client.running >= 0:
            details.status, details.message = JobStatus.PENDING, "may be waiting for resources"
        return details

    client.get_job_info = wait
    heard: list[str] = []

    follow(client, "job", heard.append)

    assert "".join(heard).count("job waits: may be waiting for resources\n") == 1
    assert "".join(heard).endswith(FakeClient.LOG)
