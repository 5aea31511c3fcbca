"""YAML in which a key that is given twice is an error: nobody can know which one is meant."""

from __future__ import annotations

from typing import Any

import yaml

_MERGE = "tag:yaml.org,2002:merge"


class DuplicateKeyError(yaml.YAMLError):
    """A mapping has a key twice; the message names key and lines."""


class _Loader(yaml.SafeLoader):
    """Reads plain data only."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            line, name = key.start_mark.line + 1, (key.tag, str(key.value))
            # Of several `<<` in one mapping all count.
            if name in lines and key.tag != _MERGE:
                raise DuplicateKeyError(
                    f"key {key.value!r} of line {lines[name]} is given again in line {line}; keep "
                    f"one of them"
                )
            lines[name] = line
        return node


def load_yaml(text: str) -> Any:
    """Return the plain data that a YAML document holds.

    Raises:
        yaml.YAMLError: It is no YAML, holds more than plain data, or has a key twice.
    """
    # The loader makes plain data only, as that of `yaml.safe_load` does.
    return yaml.load(text, Loader=_Loader)
