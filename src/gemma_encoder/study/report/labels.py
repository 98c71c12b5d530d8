"""Where labels go in a figure, so that they don't cover one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, counted from the top left corner."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        tall = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(wide, 0.0) * max(tall, 0.0)

    @property
    def area(self) -> float:
        """Pixels."""
        return (self.right - self.left) * (self.bottom - self.top)


def spread(wanted: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Places near those that are wanted, in the same order, at least `gap` apart and between two ends.

    If they don't fit in between, the gaps are as large as they can be.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    if len(order) > 1:
        gap = min(gap, (high - low) / (len(order) - 1))
    placed: dict[int, float] = {}
    floor = low
    for index in order:
        placed[index] = floor = max(wanted[index], floor)
        floor += gap
    ceiling = high
    for index in reversed(order):
        placed[index] = ceiling = min(placed[index], ceiling)
        ceiling -= gap
    return [placed[index] for index in range(len(wanted))]


def place(dot: tuple[float, float], size: tuple[float, float], taken: Sequence[Box], frame: Box) -> Box:
    """The place beside a dot where a label of this size covers least of what is taken and stays inside.

    Being further away costs as much as crossing a few thin lines.
    """
    (x, y), (wide, tall) = dot, size
    costs: dict[Box, float] = {}
    for reach, far in ((9.0, 0.0), (20.0, 90.0)):
        for left, top in (
            (x + reach, y - tall / 2),
            (x - reach - wide, y - tall / 2),
            (x - wide / 2, y - reach - tall),
            (x - wide / 2, y + reach),
            (x + reach, y - reach - tall / 2),
            (x + reach, y + reach - tall / 2),
            (x - reach - wide, y - reach - tall / 2),
            (x - reach - wide, y + reach - tall / 2),
        ):
            box = Box(left, top, left + wide, top + tall)
            outside = box.area - box.overlap(frame)
            costs[box] = round(far + 4 * outside + sum(box.overlap(other) for other in taken), 6)
    return min(costs, key=lambda box: costs[box])
