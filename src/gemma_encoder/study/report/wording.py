"""Numbers as a report writes them. Metrics are in points: the metric times 100."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ..findings import ArmResult, Interval

NOTHING = "–"  # where there is no number
SIGNIFICANT = 0.05
_POINTS = ("metric", "score", "accuracy")
_MIB_PER_GIB = 1024


def points(value: float) -> str:
    """`87.4`."""
    return f"{100 * value:.1f}".replace("-", "−")


def difference(value: float) -> str:
    """`+1.2` or `−0.4`; what rounds to nothing has no sign."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def mean(result: ArmResult) -> str:
    """`87.4 ± 1.2`, or the mean alone where there is one seed."""
    half = result.half_width
    return points(result.mean) + ("" if half is None or math.isnan(half) else f" ± {points(half)}")


def interval(value: Interval | None) -> str:
    """`+1.2 [+0.3, +2.1]`, without the ends if they are not known."""
    if value is None:
        return NOTHING
    if not bounded(value):
        return difference(value.estimate)
    return f"{difference(value.estimate)} [{difference(value.low)}, {difference(value.high)}]"


def bounded(value: Interval) -> bool:
    """Whether both ends are known."""
    return math.isfinite(value.low) and math.isfinite(value.high)


def p_value(value: float | None) -> str:
    """`< 0.001`, or three decimals."""
    if value is None or math.isnan(value):
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def effect_size(value: float | None) -> str:
    """`+1.32`."""
    if value is None or math.isnan(value):
        return NOTHING
    return f"{value:+.2f}".replace("-", "−")


def rate(value: float | None) -> str:
    """A learning rate: `2e-5`."""
    return NOTHING if value is None else f"{value:g}".replace("e-0", "e-")


def share(value: float) -> str:
    """`42 %`."""
    return f"{100 * value:.0f} %"


def minutes(value: float) -> str:
    """`3.4`."""
    return f"{value:.1f}" if value else NOTHING


def per_second(value: float) -> str:
    """`12,345`."""
    return f"{value:,.0f}" if value else NOTHING


def memory(mib: float) -> str:
    """`812 MiB` or `5.2 GiB`."""
    if not mib:
        return NOTHING
    return f"{mib:.0f} MiB" if mib < _MIB_PER_GIB else f"{mib / _MIB_PER_GIB:.1f} GiB"


def option(value: Any) -> str:
    """The value of an option as YAML has it: `true`, `null`, `2e-05`, `[a, b]`."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def trial_value(name: str, value: Any, metrics: Mapping[str, str]) -> str:
    """A value of a trial by the name of its column.

    Where the name is that of a main metric or ends in `metric`, `score` or `accuracy`, the value is in
    points; learning rates are written as such, minutes with one decimal, `... MiB` and `tokens ...` whole.
    """
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return value if isinstance(value, str) else option(value)
    words = name.replace("_", " ").lower()
    if is_points(name, metrics):
        return points(value)
    if words.endswith("rate"):
        return rate(value)
    if "minutes" in words:
        return f"{value:.1f}"
    if words.endswith("mib") or words.startswith("tokens"):
        return f"{value:,.0f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def is_points(name: str, metrics: Mapping[str, str]) -> bool:
    """Whether a trial's column has metrics."""
    name = name.removesuffix(" (selection)")
    return name in metrics.values() or name.replace("_", " ").lower().endswith(_POINTS)
