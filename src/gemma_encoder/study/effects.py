"""What each axis of a full grid of arms does, and what two do together: the weights of `contrast`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from itertools import combinations, product

from ..errors import ConfigError

Level = Hashable
Arms = Mapping[str, Mapping[str, Level]]


@dataclass(frozen=True)
class MainEffect:
    """A level of an axis against the axis's baseline level, averaged over all other axes.

    Attributes:
        axis: What is changed.
        level: To what.
        baseline: From what.
        weights: Arm to weight, for `contrast`.
    """

    axis: str
    level: Level
    baseline: Level
    weights: dict[str, float]


@dataclass(frozen=True)
class Interaction:
    """How much more (or less) a level does beside a level of another axis, averaged over the remaining axes.

    Attributes:
        axes: The two axes.
        levels: What they are changed to.
        baselines: What they are changed from.
        weights: Arm to weight, for `contrast`.
    """

    axes: tuple[str, str]
    levels: tuple[Level, Level]
    baselines: tuple[Level, Level]
    weights: dict[str, float]


def main_effects(arms: Arms, baseline: str) -> list[MainEffect]:
    """The effect of every level of every axis but the baseline's.

    Args:
        arms: Arm to axis to level. A full grid: every combination of the axes' levels is one arm.
        baseline: The arm whose levels the others are compared with.

    Returns:
        In the order in which axes and levels occur; axes with one level have no effect.

    Raises:
        ConfigError: It is not a full grid, or there is no such baseline.
    """
    levels = _levels(arms, baseline)
    effects = []
    for axis in levels:
        start = arms[baseline][axis]
        for level in levels[axis]:
            if level != start:
                signs = {level: 1.0, start: -1.0}
                weights = {arm: signs.get(of_arm[axis], 0.0) for arm, of_arm in arms.items()}
                effects.append(MainEffect(axis, level, start, _averaged(weights, 2)))
    return effects


def interactions(arms: Arms, baseline: str) -> list[Interaction]:
    """The interaction of every level of an axis with every level of another one, for every pair of axes.

    Args:
        arms: As in `main_effects`.
        baseline: As in `main_effects`.

    Returns:
        In the order in which axes and levels occur.

    Raises:
        ConfigError: It is not a full grid, or there is no such baseline.
    """
    levels = _levels(arms, baseline)
    effects = []
    for first, second in combinations(levels, 2):
        starts = (arms[baseline][first], arms[baseline][second])
        for pair in product(levels[first], levels[second]):
            if pair[0] != starts[0] and pair[1] != starts[1]:
                signs = [{level: 1.0, start: -1.0} for level, start in zip(pair, starts, strict=True)]
                weights = {
                    arm: signs[0].get(of_arm[first], 0.0) * signs[1].get(of_arm[second], 0.0)
                    for arm, of_arm in arms.items()
                }
                effects.append(Interaction((first, second), pair, starts, _averaged(weights, 4)))
    return effects


def _averaged(signs: Mapping[str, float], corners: int) -> dict[str, float]:
    """Each corner becomes the mean of the arms that are in it."""
    used = {arm: sign for arm, sign in signs.items() if sign}
    return {arm: sign * corners / len(used) for arm, sign in used.items()}


def _levels(arms: Arms, baseline: str) -> dict[str, list[Level]]:
    """The levels of each axis, after a look whether the grid is full."""
    if baseline not in arms:
        raise ConfigError(f"there is no arm {baseline!r}", fix=f"use one of {', '.join(arms)}")
    axes = list(arms[baseline])
    for arm, of_arm in arms.items():
        if set(of_arm) != set(axes):
            raise ConfigError(
                f"arm {arm!r} has the axes {', '.join(of_arm)}, the baseline {', '.join(axes)}",
                fix="give every arm a level of every axis",
            )
    levels = {axis: list(dict.fromkeys(of_arm[axis] for of_arm in arms.values())) for axis in axes}
    seen: dict[tuple[Level, ...], str] = {}
    for arm, of_arm in arms.items():
        place = tuple(of_arm[axis] for axis in axes)
        if place in seen:
            raise ConfigError(f"arms {seen[place]!r} and {arm!r} have the same levels", fix="leave one out")
        seen[place] = arm
    missing = [place for place in product(*levels.values()) if place not in seen]
    if missing:
        first = ", ".join(f"{axis}={level}" for axis, level in zip(axes, missing[0], strict=True))
        raise ConfigError(
            f"the grid is not full: {len(missing)} combinations have no arm, such as {first}",
            fix="add arms for them, or compare each arm with the baseline instead",
        )
    return levels
