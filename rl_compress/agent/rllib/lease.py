"""A lease: an actor works at something, until it hands it in or dies."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import ray
from ray import cloudpickle


@dataclass(frozen=True, slots=True)
class Holder:
    """An actor that may hold leases."""

    actor_id: str
    handle: bytes
    """Pickled: whoever unpickles it imports what its class needs, a second's work for RLlib's env
    runners, and few leases are ever asked after."""

    @classmethod
    @functools.cache
    def this_actor(cls) -> Holder:
        """Return the actor that calls this."""
        context = ray.get_runtime_context()
        return cls(context.get_actor_id(), cloudpickle.dumps(context.current_actor))


class Lease:
    """Finds out whether the actor that holds it still lives, once somebody asks.

    One that died and was restarted lives; it is to say itself that it begins anew.
    """

    def __init__(self, holder: Holder) -> None:
        """Begin the lease."""
        self.holder = holder
        self._ping: ray.ObjectRef | None = None

    def is_held(self) -> bool:
        """Say whether the holder lives, as far as is known; ask again later."""
        if self._ping is None:
            # The call waits behind the holder's work, and fails when the holder is dead.
            self._ping = cloudpickle.loads(self.holder.handle).__ray_ready__.remote()
        done, _ = ray.wait([self._ping], timeout=0)
        if done:
            try:
                ray.get(self._ping)
            except ray.exceptions.RayActorError:
                return False
            self._ping = None
        return True
