"""The sweep's one store of measurements: an actor that all its trials and their runners ask."""

from __future__ import annotations

import dataclasses
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rl_compress.agent.rllib.coordinator import NAMESPACE, answer
from rl_compress.agent.rllib.lease import Holder, Lease
from rl_compress.evaluation.shared import Answer
from rl_compress.runs.record import EvaluationRecord
from rl_compress.runs.store import EvaluationStore


class SweepEvaluations:
    """Runs as a named actor; a resumed sweep's knows again what the folder holds.

    A store for each key, because variants of different keys are different things.
    """

    def __init__(self, folder: str) -> None:
        """Open the stores in a folder."""
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._stores: dict[str, EvaluationStore] = {}
        self._records: dict[str, dict[str, EvaluationRecord]] = {}
        self._leases: dict[tuple[str, str], Lease] = {}
        for path in sorted(self._folder.iterdir()):
            if path.is_dir():
                self._open(path.name)

    def claim(self, key: str, policy_id: str, holder: Holder) -> Answer:
        """See :meth:`SharedMeasurements.claim`.

        Args:
            key: Digest of all that decides measurements.
            policy_id: Of the variant.
            holder: The actor that asks.
        """
        for leased, lease in list(self._leases.items()):
            # Its successor asks: the lease was never handed in.
            if lease.holder.actor_id == holder.actor_id:
                del self._leases[leased]
        if (record := self._records.get(key, {}).get(policy_id)) is not None:
            return Answer("known", record)
        other = self._leases.get((key, policy_id))
        if other is not None and other.is_held():
            return Answer("pending")
        self._leases[key, policy_id] = Lease(holder)
        return Answer("granted")

    def complete(self, key: str, record: EvaluationRecord) -> None:
        """See :meth:`SharedMeasurements.complete`; a variant's second record is dropped."""
        self._open(key)
        records = self._records[key]
        if record.policy_id not in records:
            numbered = dataclasses.replace(record, evaluation_id=len(records))
            self._stores[key].append(numbered)
            records[record.policy_id] = numbered
        self.give_up(key, record.policy_id)

    def give_up(self, key: str, policy_id: str) -> None:
        """See :meth:`SharedMeasurements.give_up`."""
        self._leases.pop((key, policy_id), None)

    def measured(self) -> int:
        """Return how many variants the sweep has measured."""
        return sum(len(records) for records in self._records.values())

    def compact(self) -> None:
        """Make one part of each store's."""
        for store in self._stores.values():
            store.compact()

    def _open(self, key: str) -> None:
        if key not in self._stores:
            store = EvaluationStore(self._folder / key)
            self._records[key] = {record.policy_id: record for record in store.read()}
            self._stores[key] = store


@dataclass(frozen=True, slots=True)
class RemoteEvaluations:
    """The interface of :class:`SharedMeasurements` over the actor, from within another actor."""

    name: str
    """The actor's."""

    def claim(self, key: str, policy_id: str) -> Answer:
        """See :meth:`SharedMeasurements.claim`."""
        asking = Holder.this_actor()
        return answer(self._actor().claim.remote(key, policy_id, asking))

    def complete(self, key: str, record: EvaluationRecord) -> None:
        """See :meth:`SharedMeasurements.complete`; returns when the record is stored."""
        answer(self._actor().complete.remote(key, record))

    def give_up(self, key: str, policy_id: str) -> None:
        """See :meth:`SharedMeasurements.give_up`."""
        answer(self._actor().give_up.remote(key, policy_id))

    def _actor(self) -> Any:
        return ray.get_actor(self.name, namespace=NAMESPACE)


def start_evaluations(folder: Path) -> tuple[Any, RemoteEvaluations]:
    """Start a sweep's actor, on this node, whose disk holds the folder.

    Returns:
        Its handle, and what trials ask it through.
    """
    here = ray.get_runtime_context().get_node_id()
    name = f"sweep-{uuid.uuid4().hex}"
    actor = (
        ray.remote(SweepEvaluations)
        .options(
            name=name,
            namespace=NAMESPACE,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        )
        .remote(str(folder.resolve()))
    )
    return actor, RemoteEvaluations(name)
