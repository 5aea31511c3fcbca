"""A lease: an actor works at something, until it hands it in or dies."""

from __future__ import annotations

from typing import Any

import ray


class Lease:
    """Knows whether the actor that holds it still lives."""

    def __init__(self, holder: Any) -> None:
        """Begin the lease of the actor with this handle."""
        self.holder = holder
        # The call waits behind the holder's work, and fails when the holder dies.
        self._ping: ray.ObjectRef = holder.__ray_ready__.remote()

    def is_held(self) -> bool:
        """Say whether the holder has lived through the whole of the lease."""
        done, _ = ray.wait([self._ping], timeout=0)
        if done:
            try:
                ray.get(self._ping)
            except ray.exceptions.RayActorError:
                return False
            self._ping = self.holder.__ray_ready__.remote()
        return True
