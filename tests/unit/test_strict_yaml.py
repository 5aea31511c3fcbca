"""YAML without duplicate keys."""

from __future__ import annotations

import pytest
import yaml

from rl_compress.strict_yaml import load_yaml

ANCHORS = """
low: &low {bits: 4, size: 1}
both: {<<: *low, bits: 8}
two: {<<: *low, <<: {pad: 3}}
"""


def test_plain_data_is_read_as_ever() -> None:
    assert load_yaml("a: [1, 2.5, yes]\nb: {c: null}") == {"a": [1, 2.5, True], "b": {"c": None}}
    assert load_yaml("") is None
    with pytest.raises(yaml.YAMLError):
        load_yaml("!!python/object/apply:os.getcwd []")


def test_merged_keys_may_be_replaced() -> None:
    assert load_yaml(ANCHORS) == yaml.safe_load(ANCHORS)


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("a: 1\nb: 2\na: 3", "'a'", (1, 3)),
        ("a:\n  b: {c: 1}\n  b: 2", "'b'", (2, 3)),
        ("- x\n- {'p': 1, p: 2}", "'p'", (2, 2)),
    ],
)
def test_key_that_is_given_twice_is_named_with_both_lines(
    text: str, key: str, lines: tuple[int, int]
) -> None:
    with pytest.raises(yaml.YAMLError, match=f"{key} of line {lines[0]} .* in line {lines[1]}"):
        load_yaml(text)
