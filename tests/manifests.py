"""The files in `cluster/`, and the commands that they and their comments hold."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).parents[1]
CLUSTER = CHECKOUT / "cluster"
LAUNCHER = sorted(CLUSTER.glob("*.yaml"))
KUBERAY = sorted((CLUSTER / "kuberay").glob("*.yaml"))
RAY_KINDS = ("RayCluster", "RayJob", "RayCronJob")

_BEFORE_COMMANDS = ("then", "else", "exec")


def load(path: Path) -> list[dict[str, Any]]:
    """Return a file's documents."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def document(kind: str) -> dict[str, Any]:
    """Return the one manifest of a kind."""
    found = [each for path in KUBERAY for each in load(path) if each["kind"] == kind]
    assert len(found) == 1
    return found[0]


def cluster_spec(kind: str) -> dict[str, Any]:
    """Return the specification of the Ray cluster in a manifest."""
    spec: dict[str, Any] = document(kind)["spec"]
    if kind == "RayCronJob":
        spec = spec["jobTemplate"]
    return spec if kind == "RayCluster" else spec["rayClusterSpec"]


def pods(node: Any) -> Iterator[dict[str, Any]]:
    """Yield the specifications of all pods in a manifest."""
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for child in node.values():
            yield from pods(child)
    elif isinstance(node, list):
        for child in node:
            yield from pods(child)


def commands(shell: str) -> Iterator[list[str]]:
    """Yield the arguments of every `rl-compress` in a shell command."""
    # Quotes would hide what is in $(…); none of it matters here.
    plain = re.sub(r"\$\([^()]*\)", "NOW", shell)
    for part in re.split(r";|&&|\|\||[|&<>]", plain):
        words = shlex.split(part)
        while words and (words[0] in _BEFORE_COMMANDS or re.match(r"[A-Z_]+=", words[0])):
            words.pop(0)
        if words[:1] == ["rl-compress"]:
            yield words[1:]


def comments(path: Path) -> str:
    """Return a file's comments as text, with continued lines joined."""
    lines = [
        line.lstrip("# ")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "#" in line[:1]
    ]
    return "\n".join(lines).replace("\\\n", " ")
