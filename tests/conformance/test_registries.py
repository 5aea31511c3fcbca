"""What every registry must hold to."""

from __future__ import annotations

import inspect

import pytest

from rl_compress import registry
from rl_compress.errors import ConfigError
from rl_compress.registry import Part, Registry

BUILT_IN = [
    (found, name)
    for _, found in inspect.getmembers(registry, lambda value: isinstance(value, Registry))
    for name in found.built_in
]


@pytest.mark.parametrize(
    ("found", "name"), BUILT_IN, ids=[f"{found.kind}-{name}" for found, name in BUILT_IN]
)
def test_what_is_built_in_is_found_knows_its_name_and_takes_no_other_options(
    found: Registry, name: str
) -> None:
    part = found.find(name)
    if found.base is None:
        assert callable(part)
        return
    assert found.name_of(part) == name
    assert issubclass(part, Part)
    assert part.__doc__
    with pytest.raises(ConfigError, match=r"^unknown key kind_options\.no_such_option"):
        found.load(name, {"no_such_option": 1}, key="kind")
