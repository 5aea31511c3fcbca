"""Figures for people: one place that knows units, digits and signs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

COST_LABELS = {
    "macs": "MACs",
    "params": "parameters",
    "size_bytes": "size",
    "bops": "bit operations",
    "peak_memory_bytes": "activation memory",
    "latency_ms": "latency",
}
"""What a sentence calls a cost: "30 % of the MACs"."""
COST_ROWS = {
    "macs": "MACs per sample",
    "params": "Parameters",
    "size_bytes": "Size of the tensors",
    "bops": "Bit operations per sample",
    "peak_memory_bytes": "Peak activation memory",
    "latency_ms": "Latency",
}
"""What a table or an axis calls a cost."""

_PERCENT_SCORES = ("accuracy", "robust_accuracy")
"""Scores that are in percent by contract."""
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_MISSING = "n/a"
_SHORT_PART = 6


def prefix_for(value: float) -> tuple[float, str]:
    """Return the decimal prefix that suits a value, as factor and letter."""
    for factor, letter in _PREFIXES:
        if abs(value) >= factor * 0.9995:
            return factor, letter
    return 1.0, ""


def cost_unit(cost: str) -> str:
    """Return the unit that the values of a cost carry, which may be none."""
    return {"size_bytes": "B", "peak_memory_bytes": "B", "latency_ms": "ms"}.get(cost, "")


def format_cost(cost: str, value: float | None) -> str:
    """Write a cost with three digits, a prefix and its unit: ``1.20M``, ``34.5 kB``."""
    if value is None:
        return _MISSING
    if cost == "latency_ms":
        return format_latency(value)
    factor, letter = prefix_for(value)
    number = f"{value:.0f}" if factor == 1.0 else _three_digits(value / factor)
    unit = cost_unit(cost)
    return f"{number} {letter}{unit}" if unit else f"{number}{letter}"


def format_fraction(value: float | None) -> str:
    """Write a fraction as a percentage: ``30.0 %``."""
    return _MISSING if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def format_score(name: str, value: float | None) -> str:
    """Write a score: ``98.9 %`` if it is a percentage, else four digits."""
    if value is None or math.isnan(value := float(value)):
        return _MISSING
    return f"{value:.1f} %" if name in _PERCENT_SCORES else f"{value:.4g}"


def format_named_score(name: str, value: float | None) -> str:
    """Write a score with its name, as a sentence needs it: ``98.9 % accuracy``, ``r2 0.912``."""
    text = format_score(name, value)
    return f"{text} {name}" if name in _PERCENT_SCORES else f"{name} {text}"


def format_score_change(name: str, before: float | None, after: float | None) -> str:
    """Write the difference of two scores, with its sign: ``-0.3 points``."""
    if before is None or after is None:
        return _MISSING
    change = float(after) - float(before)
    if not math.isfinite(change):
        return _MISSING
    return f"{change:+.1f} points" if name in _PERCENT_SCORES else f"{change:+.4g}"


def format_latency(value: float | None) -> str:
    """Write a latency given in milliseconds: ``0.81 ms``, ``12.3 ms``, ``1.20 s``."""
    if value is None:
        return _MISSING
    if value >= 999.5:
        return f"{_three_digits(value / 1e3)} s"
    return f"{value:.2f} ms" if value < 9.995 else f"{_three_digits(value)} ms"


def format_speedup(
    before: float, after: float, quartiles: Sequence[Sequence[float] | None] = ()
) -> str:
    """Write how many times faster one latency is than another: ``2.1x faster``.

    Args:
        before: Median of the one.
        after: Median of the other.
        quartiles: Of both, lower and upper, where known; if they overlap, the difference may be
            noise and is not claimed.
    """
    if min(before, after) <= 0:
        return _MISSING
    first, second = [*quartiles, None, None][:2]
    if first and second and first[0] <= second[-1] and second[0] <= first[-1]:
        return "no clear difference"
    ratio = before / after
    return f"{ratio:.2g}x faster" if ratio >= 1 else f"{1 / ratio:.2g}x slower"


def format_count(count: int, noun: str, plural: str | None = None) -> str:
    """Write how many there are of something: ``1 epoch``, ``3 epochs``."""
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def format_cell(value: Any) -> str:
    """Write a value of a trial's row: short, but telling close scores apart."""
    if value is None:
        return _MISSING
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def format_duration(seconds: float) -> str:
    """Write a duration: ``8.2 s``, ``12 min``, ``3.4 h``."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def format_time(text: str) -> str:
    """Write a time given as ISO 8601: ``2026-11-24 02:35 UTC``; any other text stays as it is."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{time:%Y-%m-%d %H:%M} {time.tzname() or ''}".rstrip()


def shorten_names(names: Sequence[str], limit: int = 36) -> list[str]:
    """Shorten dotted layer names for an axis, unless two of them would then be the same."""
    short = [_shorten(name, limit) for name in names]
    return short if len(set(short)) == len(set(names)) else list(names)


def _shorten(name: str, limit: int) -> str:
    """Cut the longest parts first: it is the numbers that tell a layer from its neighbours."""
    parts = name.split(".")
    while len(".".join(parts)) > limit:
        longest = max(range(len(parts)), key=lambda index: len(parts[index]))
        if len(parts[longest]) <= _SHORT_PART:
            break
        parts[longest] = f"{parts[longest][: _SHORT_PART - 1]}…"
    return ".".join(parts)


def _three_digits(value: float) -> str:
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f}"
