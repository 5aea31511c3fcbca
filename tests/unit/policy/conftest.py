from __future__ import annotations

from hypothesis import settings

# An example's time says nothing on a machine whose cores are shared.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
