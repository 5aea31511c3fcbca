"""Addresses of clusters: who gave them, and what listens there."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest

from rl_compress.errors import ConfigError
from rl_compress.searchers import reachable
from rl_compress.searchers.reachable import check_reachable, cluster_address


@pytest.fixture(autouse=True)
def _not_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(reachable, "_TIMEOUT_S", 1.0)


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_address_given_comes_before_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster_address("10.0.0.2:6379") == "10.0.0.2:6379"
    assert cluster_address(None) == "10.0.0.1:6379"
    assert cluster_address("local") is None
    for nothing in ("", "local"):
        monkeypatch.setenv("RAY_ADDRESS", nothing)
        assert cluster_address(None) is None


def test_wrong_address_of_the_environment_is_named_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"^RAY_ADDRESS=127\.0\.0\.1:1: .*unset that variable"):
        check_reachable(None)
    with pytest.raises(ConfigError, match=r"^--address 127\.0\.0\.1:2: .*leave the option out"):
        check_reachable("127.0.0.1:2")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_what_listens_but_is_no_cluster_is_refused_at_once(silent: str, scheme: str) -> None:
    with pytest.raises(ConfigError, match=f"--address {scheme}{silent}: .*listens there is no Ray"):
        check_reachable(f"{scheme}{silent}")


def test_what_speaks_rays_protocol_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        check_reachable(f"127.0.0.1:{port}")
    finally:
        server.stop(None)


def test_other_forms_are_left_to_ray(monkeypatch: pytest.MonkeyPatch, silent: str) -> None:
    for address in ("auto", "local", "somewhere"):
        check_reachable(address)
    monkeypatch.setenv("RAY_USE_TLS", "1")
    check_reachable(silent)


def test_connected_process_needs_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ray:
        @staticmethod
        def is_initialized() -> bool:
            return True

    monkeypatch.setitem(sys.modules, "ray", Ray)  # type: ignore[arg-type]
    check_reachable("127.0.0.1:1")
