from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_compress.errors import ConfigError, CorruptFileError
from rl_compress.space.compression_policy import CompressionPolicy, Decision


def _decide(ratio: float) -> Decision:
    return Decision(pruning_ratio=ratio)


RATIOS = st.floats(min_value=0.0, max_value=1.0)
POLICIES = st.dictionaries(st.text(max_size=8), RATIOS, max_size=6).map(
    lambda ratios: _policy(**ratios)
)


def _policy(**ratios: float) -> CompressionPolicy:
    return CompressionPolicy.from_mapping({name: _decide(r) for name, r in ratios.items()})


@given(POLICIES)
def test_json_round_trip_gives_an_equal_policy(policy: CompressionPolicy) -> None:
    again = CompressionPolicy.from_json(policy.to_json())
    assert again == policy
    assert hash(again) == hash(policy)


@given(POLICIES)
def test_indented_json_is_the_same_policy(policy: CompressionPolicy) -> None:
    assert CompressionPolicy.from_json(policy.to_json(indent=2)) == policy


FEW_POLICIES = st.dictionaries(
    st.sampled_from("ab"), st.sampled_from([0.0, 0.25, 0.5]).map(_decide), max_size=2
).map(CompressionPolicy.from_mapping)


@given(POLICIES, POLICIES)
def test_arbitrary_policies_share_an_id_only_if_equal(
    a: CompressionPolicy, b: CompressionPolicy
) -> None:
    assert (a.policy_id == b.policy_id) == (a == b)


@given(FEW_POLICIES, FEW_POLICIES)
def test_policies_share_an_id_if_and_only_if_equal(
    a: CompressionPolicy, b: CompressionPolicy
) -> None:
    assert (a.policy_id == b.policy_id) == (a == b)


@given(POLICIES)
def test_a_round_trip_keeps_the_id(policy: CompressionPolicy) -> None:
    assert CompressionPolicy.from_json(policy.to_json()).policy_id == policy.policy_id


@pytest.mark.parametrize("zero", ["0", "-0.0"], ids=["whole-number", "minus-zero"])
def test_equal_ratios_written_differently_share_an_id(zero: str) -> None:
    text = f'{{"decisions": {{"a": {{"pruning_ratio": {zero}}}}}}}'
    written = CompressionPolicy.from_json(text)
    assert written == _policy(a=0.0)
    assert written.policy_id == _policy(a=0.0).policy_id


def test_json_has_the_documented_form() -> None:
    assert json.loads(_policy(a=0.25, b=0.5).to_json()) == {
        "decisions": {"a": {"pruning_ratio": 0.25}, "b": {"pruning_ratio": 0.5}}
    }


def test_a_policy_is_read_by_group_and_in_order() -> None:
    policy = _policy(b=0.5, a=0.25)
    assert policy["a"] == Decision(pruning_ratio=0.25)
    assert [name for name, _ in policy] == ["b", "a"]
    assert len(policy) == 2


def test_an_unknown_group_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="other"):
        _policy(a=0.5)["other"]


@pytest.mark.parametrize("ratio", [-0.01, 1.01, 1.5, float("nan"), float("inf")])
def test_a_ratio_outside_its_range_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match=r"pruning_ratio .* must be in \[0, 1\]"):
        Decision(pruning_ratio=ratio)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "null", '"text"', "{}", '{"decisions": 3}', '{"decisions": null}', "{oops"],
)
def test_what_is_no_policy_is_refused_with_its_source(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^best\.json: not a compression policy"):
        CompressionPolicy.from_json(text, source="best.json")


@pytest.mark.parametrize("decision", ['{"ratio": 0.5}', "0.5", "null", "[0.5]"])
def test_a_bad_decision_names_group_and_known_keys(decision: str) -> None:
    text = f'{{"decisions": {{"conv1": {decision}}}}}'
    with pytest.raises(ConfigError, match=r"policy: conv1: .*'pruning_ratio'"):
        CompressionPolicy.from_json(text)


@pytest.mark.parametrize("value", ['"0.5"', "true", "null", "[0.5]"])
def test_a_ratio_that_is_no_number_is_refused(value: str) -> None:
    text = f'{{"decisions": {{"conv1": {{"pruning_ratio": {value}}}}}}}'
    with pytest.raises(ConfigError, match=r"conv1\.pruning_ratio: expected a number"):
        CompressionPolicy.from_json(text)


def test_a_policy_file_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text(_policy(a=0.5).to_json(indent=2), encoding="utf-8")
    assert CompressionPolicy.load(path) == _policy(a=0.5)


def test_a_missing_policy_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.json: cannot read the policy"):
        CompressionPolicy.load(tmp_path / "absent.json")


def test_a_binary_policy_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(CorruptFileError, match=r"policy\.json: not a text file"):
        CompressionPolicy.load(path)
