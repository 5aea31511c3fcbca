"""The compression policy: what is done to every group of the target."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rl_compress.errors import ConfigError, CorruptFileError
from rl_compress.space.space_config import UNQUANTIZED, is_bit_width


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is done to one group."""

    pruning_ratio: float = 0.0
    """Fraction of the group's units that is REMOVED, in [0, 1]; 1 only for a single masked unit."""
    weight_bits: int | None = None
    """Bits of the weights of the group's layers; None where the search does not decide them."""
    activation_bits: int | None = None
    """Bits of the inputs of the group's layers; None where the search does not decide them."""

    def __post_init__(self) -> None:
        for name in ("weight_bits", "activation_bits"):
            bits = getattr(self, name)
            if bits is not None and (bits != int(bits) or not is_bit_width(bits)):
                raise ConfigError(
                    f"{name} must be 1 to 8, or {UNQUANTIZED} for no quantization, but got {bits!r}"
                )
        if not 0.0 <= self.pruning_ratio <= 1.0:
            raise ConfigError(
                f"pruning_ratio is the fraction removed and must be in [0, 1], "
                f"but got {self.pruning_ratio!r}"
            )
        # 0, 0.0 and -0.0 are one ratio, and must give one policy id.
        object.__setattr__(self, "pruning_ratio", float(self.pruning_ratio) + 0.0)


@dataclass(frozen=True, slots=True)
class CompressionPolicy:
    """A decision for every group; immutable, hashable, and the same after a JSON round trip."""

    decisions: tuple[tuple[str, Decision], ...]
    """``(group name, decision)`` in forward order."""

    @classmethod
    def from_mapping(cls, decisions: Mapping[str, Decision]) -> CompressionPolicy:
        """Make a policy from a mapping of group name to decision, in the mapping's order."""
        return cls(tuple(decisions.items()))

    def __getitem__(self, group: str) -> Decision:
        for name, decision in self.decisions:
            if name == group:
                return decision
        raise KeyError(group)

    def __iter__(self) -> Iterator[tuple[str, Decision]]:
        return iter(self.decisions)

    def __len__(self) -> int:
        return len(self.decisions)

    @property
    def policy_id(self) -> str:
        """Return a short hash of the decisions: equal policies, and only they, share it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the policy as JSON: ``{"decisions": {group: {"pruning_ratio": …}}}``.

        Bits that are not decided are left out.
        """
        decisions = {
            name: {key: value for key, value in asdict(decision).items() if value is not None}
            for name, decision in self.decisions
        }
        return json.dumps({"decisions": decisions}, indent=indent)

    @classmethod
    def from_json(cls, text: str, *, source: str = "policy") -> CompressionPolicy:
        """Parse :meth:`to_json`'s output.

        Raises:
            ConfigError: The text is not a policy; the message names ``source`` and the key.
        """
        try:
            data = json.loads(text, object_pairs_hook=_without_duplicates)
            decisions = data["decisions"].items()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f'{source}: not a compression policy; expected {{"decisions": {{group: '
                f'{{"pruning_ratio": r}}}}}} ({error})'
            ) from None
        return cls(
            tuple((name, _parse_decision(value, f"{source}: {name}")) for name, value in decisions)
        )

    @classmethod
    def load(cls, path: Path) -> CompressionPolicy:
        """Read a policy file.

        Raises:
            ConfigError: There is no such file or it holds no policy.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: cannot read the policy ({error.strerror})") from None
        except UnicodeDecodeError:
            raise CorruptFileError(f"{path}: not a text file; expected a policy in JSON") from None
        return cls.from_json(text, source=str(path))


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key!r} is given twice; keep one of them")
        found[key] = value
    return found


def _parse_decision(value: Any, where: str) -> Decision:
    known = {field.name for field in fields(Decision)}
    if not isinstance(value, dict) or not set(value) <= known:
        raise ConfigError(f"{where}: a decision has the keys {sorted(known)}, but got {value!r}")
    for key, number in value.items():
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ConfigError(f"{where}.{key}: expected a number, but got {number!r}")
    try:
        return Decision(**value)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
