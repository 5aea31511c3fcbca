"""A Ray cluster of several nodes on this machine, kept by a process of its own.

Its nodes can be killed and added while drivers, which are other processes still, use it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Environment of everything that is to stay on the loopback interface, drivers included."""


class Nodes:
    """The cluster: a head without room for work, and nodes that are added."""

    def __init__(self, *cpus: float) -> None:
        """Start a head and a node for each number of CPUs."""
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **LOOPBACK},
        )
        self.address: str = self._ask("start")["address"]
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

    def workers(self, pids: Path) -> dict[int, int]:
        """Return the raylet of each process that left its id in a folder and still runs."""
        found = {}
        for path in pids.iterdir():
            if (parent := _parent(int(path.name))) in self.raylets:
                found[int(path.name)] = parent
        return found

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


def _parent(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, parent = stat.rpartition(")")[2].split()[:2]
    return None if state == "Z" else int(parent)


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
                answer["address"] = cluster.address
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
