"""A search of 300 evaluations in which processes are killed 20 times, at random: is anything lost?

    python tests/benchmarks/faults.py --name faults

A cluster of three raylets on this machine, a driver of its own, two env runners on nodes of their
own, and the digits ResNet, wide enough that an evaluation takes a tenth of a second and more, so
that kills hit work. Killed with SIGKILL are env runners, raylets (whose node another one replaces),
the driver (which is resumed) and the coordinator that keeps the ledger; what and when is drawn from
a seed. In the end the store must hold 300 distinct variants, and every record that was there when
a process was killed, unchanged.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from figures import RESULTS, write_study
from nodes import ENVIRONMENT, Nodes

from rl_compress.runs.environment import describe_environment
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.store import EvaluationStore

KILLS = {"env runner": 8, "raylet": 5, "driver": 4, "coordinator": 3}
JOB = {
    "name": "faults",
    "target": {"factory": "digits", "options": {"model": "resnet", "width": 64, "epochs": 1}},
    "budget": {"macs": 0.5},
    "search": {"algorithm": "ppo", "num_env_runners": 2},
    "finetuning": {"epochs": 0},
    "export": {"onnx": False},
}

_PATIENCE_S = 300


class Campaign:
    """A search, and what is done to it."""

    def __init__(self, folder: Path, nodes: Nodes, evaluations: int, seed: int) -> None:
        self.run = folder / "run"
        self._job = folder / "job.yaml"
        self._errors = folder / "errors.txt"
        job = {**JOB, "search": {**JOB["search"], "evaluations": evaluations, "seed": seed}}
        self._job.write_text(yaml.safe_dump(job), encoding="utf-8")
        self._nodes = nodes
        self._random = random.Random(seed)
        self.kept: dict[int, EvaluationRecord] = {}
        """Records that were there when something was killed."""
        self.driver = self._start()

    def records(self) -> list[EvaluationRecord]:
        """Return what is stored now."""
        folder = self.run / "evaluations"
        return EvaluationStore(folder).read() if folder.exists() else []

    def wait_for(self, count: int) -> None:
        """Wait until so many evaluations are stored."""
        deadline = time.monotonic() + _PATIENCE_S
        while len(self.records()) < count:
            if self.driver.poll() is not None:
                raise RuntimeError(f"the search ended:\n{self.errors()}")
            if time.monotonic() > deadline:
                count = len(self.records())
                raise RuntimeError(f"{count} evaluations, and no more:\n{self.errors()}")
            time.sleep(0.1)

    def kill(self, kind: str) -> str:
        """Kill one process of a kind; return of which kind it was, where none of it lives."""
        self.kept |= {record.evaluation_id: record for record in self.records()}
        victims = {
            "env runner": list(self._nodes.runners()),
            "coordinator": self._nodes.coordinators(),
            "raylet": self._nodes.raylets,
            "driver": [self.driver.pid],
        }
        # Just after another kill there may be none yet that has come back.
        kind = kind if victims[kind] else "raylet"
        victim = self._random.choice(victims[kind])
        if kind == "raylet":
            self._nodes.kill(victim)
            time.sleep(self._random.uniform(0.0, 5.0))
            self._nodes.add(1)
        elif kind == "driver":
            self.driver.kill()
            self.driver.wait()
            self.driver = self._start("--resume")
        else:
            os.kill(victim, signal.SIGKILL)
        return kind

    def errors(self) -> str:
        """Return the end of what all drivers wrote."""
        return self._errors.read_text(encoding="utf-8")[-4000:]

    def _start(self, *more: str) -> subprocess.Popen[str]:
        with self._errors.open("a", encoding="utf-8") as errors:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "rl_compress.cli", "search", str(self._job)),
                    *("--output", str(self.run), "--address", self._nodes.address, *more),
                ],
                env={**os.environ, **ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )


def run(evaluations: int, seed: int) -> dict[str, Any]:
    """Run the campaign and return what came of it."""
    kinds = [kind for kind, count in KILLS.items() for _ in range(count)]
    random.Random(seed).shuffle(kinds)
    log = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Nodes(1, 1) as nodes:
        campaign = Campaign(Path(folder), nodes, evaluations, seed)
        for number, drawn in enumerate(kinds, 1):
            campaign.wait_for(number * evaluations // (len(kinds) + 1))
            kind = campaign.kill(drawn)
            log.append({"killed": kind, "after": len(campaign.kept)})
            print(f"{number:2d}. {kind} killed at {log[-1]['after']} evaluations", flush=True)
        if campaign.driver.wait(timeout=_PATIENCE_S):
            raise RuntimeError(f"the search failed:\n{campaign.errors()}")
        records = campaign.records()
        summary = json.loads((campaign.run / "summary.json").read_text(encoding="utf-8"))
    final = {record.evaluation_id: record for record in records}
    wall = sorted(record.wall_s for record in records)
    return {
        "evaluations": len(records),
        "distinct_variants": len({record.policy_id for record in records}),
        "distinct_ids": len(final),
        "stored_before_a_kill": len(campaign.kept),
        "of_them_missing": sum(key not in final for key in campaign.kept),
        "of_them_changed": sum(
            key in final and final[key] != record for key, record in campaign.kept.items()
        ),
        "lost": summary["lost"],
        "retried": summary["retried"],
        "failures": summary["failures"],
        "median_wall_s": wall[len(wall) // 2],
        "seconds": time.monotonic() - start,
        "kills": log,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evaluations", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", help="name of the result files; by default nothing is written")
    options = parser.parse_args()
    found = run(options.evaluations, options.seed)
    sound = (
        found["evaluations"] == found["distinct_variants"] == found["distinct_ids"]
        and found["evaluations"] == options.evaluations
        and found["of_them_missing"] == found["of_them_changed"] == 0
    )
    print(
        f"{len(found['kills'])} kills in {found['seconds']:.0f} s: {found['evaluations']} "
        f"evaluations, {found['distinct_variants']} distinct variants under "
        f"{found['distinct_ids']} ids; of {found['stored_before_a_kill']} stored before a kill "
        f"{found['of_them_missing']} missing and {found['of_them_changed']} changed; "
        f"{found['lost']} lost in mid-evaluation, {found['retried']} begun again, "
        f"{found['failures']} failures: {'met' if sound else 'NOT met'}"
    )
    if options.name:
        found = {"environment": describe_environment(), "seed": options.seed, "job": JOB, **found}
        write_study(RESULTS / options.name, found)
    if not sound:
        sys.exit(1)


if __name__ == "__main__":
    main()
