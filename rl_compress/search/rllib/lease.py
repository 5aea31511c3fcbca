"""A lease: an actor works at something, until it hands it in or dies."""

from __future__ import annotations

from typing import Any

import ray


class Lease:
    """Finds out whether the actor that holds it still lives, once somebody asks.

    One that died and was restarted lives; it is to say itself that it begins anew.
    """

    def __init__(self, holder: Any) -> None:
        """Begin the lease of the actor with this handle."""
        self.holder = holder
        self._ping: ray.ObjectRef | None = None

    def is_held(self) -> bool:
        """Say whether the holder lives, as far as is known; ask again later."""
        if self._ping is None:
            # The call waits behind the holder's work, and fails when the holder is dead.
            self._ping = self.holder.__ray_ready__.remote()
        done, _ = ray.wait([self._ping], timeout=0)
        if done:
            try:
                ray.get(self._ping)
            except ray.exceptions.RayActorError:
                return False
            self._ping = None
        return True
