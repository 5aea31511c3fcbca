"""A Ray cluster of several nodes on this machine, kept by a process of its own.

Its nodes can be killed and added while drivers, which are other processes still, use it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    # On any system but Linux Ray stays on the loopback interface by itself.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    # Dead nodes are noticed in a second instead of in fifteen.
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "300",
    "RAY_health_check_failure_threshold": "3",
}
"""Environment of the cluster, and of the drivers that are to join it."""


class Nodes:
    """The cluster: a head without room for work, and nodes that are added."""

    def __init__(self, *cpus: float) -> None:
        """Start a head and a node for each number of CPUs."""
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ENVIRONMENT},
        )
        started = self._ask("start")
        self.address: str = started["address"]
        self._head: int = started["raylet"]
        self.raylets: list[int] = []
        """Process ids of the nodes' raylets, in the order in which they were added."""
        for number in cpus:
            self.add(number)

    def add(self, cpus: float) -> int:
        """Add a node, and return the process id of its raylet."""
        pid: int = self._ask("add", cpus=cpus)["raylet"]
        self.raylets.append(pid)
        return pid

    def kill(self, raylet: int) -> None:
        """Kill a node: its raylet, and so all of its workers."""
        self._ask("kill", raylet=raylet)
        self.raylets.remove(raylet)

    def runners(self) -> dict[int, int]:
        """Return the process id of each env runner that runs, with that of its node's raylet."""
        return {pid: raylet for pid, raylet in _actors("EnvRunner") if raylet in self.raylets}

    def coordinators(self) -> list[int]:
        """Return the process ids of the coordinators that run; they are where the driver is."""
        return [pid for pid, raylet in _actors("Coordinator") if raylet == self._head]

    def close(self) -> None:
        """End all nodes."""
        if self._process.poll() is None:
            self._ask("stop")
        self._process.wait(timeout=60)

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([command, arguments]) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError(f"the cluster's process ended ({self._process.poll()})")


def _actors(name: str) -> Iterator[tuple[int, int]]:
    """Yield the process ids of actors of a class, and of their parents."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            title = (folder / "cmdline").read_text(encoding="utf-8", errors="replace")
            # An actor's title is its class, and the method that it is at.
            if re.match(rf"ray::\w*{name}\b", title):
                stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
                yield int(folder.name), int(stat.rpartition(")")[2].split()[1])


def _serve() -> None:
    from ray.cluster_utils import Cluster

    common = {
        "node_ip_address": "127.0.0.1",
        "object_store_memory": 100 << 20,
        "include_dashboard": False,
    }
    cluster = None
    nodes: dict[int, Any] = {}
    for line in sys.stdin:
        command, arguments = json.loads(line)
        answer: dict[str, Any] = {}
        match command:
            case "start":
                cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **common})
                head = cluster.head_node.all_processes["raylet"][0].process.pid
                answer = {"address": cluster.address, "raylet": head}
            case "add":
                node = cluster.add_node(num_cpus=arguments["cpus"], **common)
                raylet = node.all_processes["raylet"][0].process.pid
                nodes[raylet] = node
                answer["raylet"] = raylet
            case "kill":
                cluster.remove_node(nodes.pop(arguments["raylet"]), allow_graceful=False)
            case "stop":
                cluster.shutdown()
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        if command == "stop":
            return


if __name__ == "__main__":
    _serve()
