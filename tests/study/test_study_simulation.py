"""Studies made of known parts, row by row: how often intervals cover and how often words are wrong.

`pytest tests/study/test_study_simulation.py -s` prints the rates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import special, stats

from gemma_encoder.study.resampling import Resamples
from gemma_encoder.study.statistics import Contrast, Variance, contrast, holm, over_tasks
from gemma_encoder.study.verdicts import verdict

DRAWS = 150
STUDIES_OF_PARTS = 20_000
SLACK = stats.norm.ppf(0.995)  # binomial standard errors that a simulated rate may be off


@dataclass(frozen=True)
class World:
    """Standard deviations of what makes a score: a training; a row for all, for an arm, for a training."""

    rows: int
    training: float
    difficulty: float
    taste: float
    chance: float

    @property
    def spread(self) -> float:
        return float(np.sqrt(self.training**2 + self.difficulty**2 + self.taste**2 + self.chance**2))

    def latent(self, rng: np.random.Generator, arms: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
        """Standard normal training effects `[arms, seeds]`; what rows add to scores `[arms, seeds, N]`."""
        of_rows = (
            self.difficulty * rng.normal(size=self.rows)
            + self.taste * rng.normal(size=(arms, 1, self.rows))
            + self.chance * rng.normal(size=(arms, seeds, self.rows))
        )
        return rng.normal(size=(arms, seeds)), of_rows


WORLDS = {
    "seeds": World(rows=250, training=0.6, difficulty=1.0, taste=0.1, chance=0.2),
    "rows": World(rows=100, training=0.02, difficulty=0.5, taste=1.0, chance=0.2),
    "both": World(rows=150, training=0.15, difficulty=0.8, taste=0.6, chance=0.4),
}

Results = tuple[dict[str, dict[int, float]], dict[str, dict[int, np.ndarray]]]


def accuracy_study(rng: np.random.Generator, world: World, margins: list[float], seeds: int) -> Results:
    """Rows of class 1; a model is right where margin, training and row together are above 0."""
    resamples = Resamples(
        "accuracy",
        "single_label_classification",
        np.ones(world.rows, int),
        count=DRAWS,
        seed=rng.integers(99),
    )
    training, of_rows = world.latent(rng, len(margins), seeds)
    logits = np.array(margins)[:, None, None] + world.training * training[:, :, None] + of_rows
    scores = np.stack([np.zeros_like(logits), logits], axis=-1)
    return judged(resamples, scores, lambda one: float(one.argmax(axis=1).mean()))


def true_accuracy(world: World, margin: float) -> float:
    return float(special.ndtr(margin / world.spread))


def spearman_study(rng: np.random.Generator, world: World, slopes: list[float], seeds: int) -> Results:
    """Predictions follow the labels by a slope that trainings differ in."""
    labels = rng.normal(size=world.rows)
    resamples = Resamples("spearman", "regression", labels, count=DRAWS)
    training, of_rows = world.latent(rng, len(slopes), seeds)
    slope = np.array(slopes)[:, None] + world.training * training
    scores = (slope[:, :, None] * labels + of_rows)[..., None]
    return judged(resamples, scores, lambda one: float(stats.spearmanr(one[:, 0], labels).statistic))


def true_spearman(world: World, slope: float) -> float:
    """Of a bivariate normal, over the normal distribution of slopes (Gauss-Hermite)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    slopes, noise = slope + world.training * nodes, world.spread**2 - world.training**2
    pearson = slopes / np.sqrt(slopes**2 + noise)
    return float((weights / weights.sum()) @ (6 / np.pi * np.arcsin(pearson / 2)))


def judged(resamples: Resamples, scores: np.ndarray, metric: Callable[[np.ndarray], float]) -> Results:
    """Metrics and resamples of scores `[arms, seeds, N, C]`; arm names are their numbers."""
    named = {str(arm): dict(enumerate(of_arm)) for arm, of_arm in enumerate(scores)}
    values = {arm: {seed: metric(one) for seed, one in of_arm.items()} for arm, of_arm in named.items()}
    resampled = {
        arm: {seed: resamples.values(one) for seed, one in of_arm.items()} for arm, of_arm in named.items()
    }
    return values, resampled


def covers(got: Contrast, true: float) -> bool:
    return got.interval[0] <= true <= got.interval[1]


def off(rate: float, studies: int) -> float:
    return float(SLACK * np.sqrt(rate * (1 - rate) / studies))


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("name", WORLDS)
def test_intervals_of_accuracy_cover_95_percent(name, seeds):
    """Two arms of unlike accuracy. Where the interaction counts, intervals may be wider than need be."""
    rng, world, studies = np.random.default_rng(10 * seeds + len(name)), WORLDS[name], 600
    margins = [0.4, 0.6]
    true = true_accuracy(world, 0.6) - true_accuracy(world, 0.4)
    got = [
        contrast({"1": 1, "0": -1}, *accuracy_study(rng, world, margins, seeds), units=world.rows)
        for _ in range(studies)
    ]
    rate = np.mean([covers(one, true) for one in got])
    part = np.mean([one.variance.seeds / one.variance.total for one in got])
    print(f"accuracy, {name}, {seeds} seeds: covered {rate:.3f}; {part:.0%} of the variance is of seeds")
    assert {"seeds": part > 0.8, "rows": part < 0.35, "both": 0.35 < part < 0.8}[name]
    assert rate >= 0.95 - off(0.95, studies)
    assert rate <= 0.95 + off(0.95, studies) + 0.01


@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_of_spearman_cover_95_percent(seeds):
    rng, studies = np.random.default_rng(seeds), 150
    world = World(rows=120, training=0.15, difficulty=0.3, taste=0.7, chance=0.3)
    true = true_spearman(world, 1.2) - true_spearman(world, 0.9)
    got = [
        contrast({"1": 1, "0": -1}, *spearman_study(rng, world, [0.9, 1.2], seeds), units=world.rows)
        for _ in range(studies)
    ]
    rate = np.mean([covers(one, true) for one in got])
    print(f"spearman, {seeds} seeds: covered {rate:.3f}")
    assert rate >= 0.95 - off(0.95, studies)


def test_intervals_of_a_mean_over_tasks_cover_95_percent():
    """Three unlike tasks, one with five seeds."""
    rng, studies = np.random.default_rng(4), 300
    tasks = list(zip(WORLDS.values(), (3, 5, 3), strict=True))
    true = np.mean([true_accuracy(world, 0.6) - true_accuracy(world, 0.4) for world, _ in tasks])
    covered = 0
    for _ in range(studies):
        contrasts = [
            contrast({"1": 1, "0": -1}, *accuracy_study(rng, world, [0.4, 0.6], seeds), units=world.rows)
            for world, seeds in tasks
        ]
        covered += covers(over_tasks(contrasts), float(true))
    print(f"mean of three tasks: covered {covered / studies:.3f}")
    assert covered / studies >= 0.95 - off(0.95, studies)


def test_a_percentile_bootstrap_of_three_seeds_covers_far_less():
    """Seeds drawn with replacement, and the rows with them, in the world where seeds count most."""
    rng, world, studies = np.random.default_rng(5), WORLDS["seeds"], 400
    covered = np.zeros(2)
    for _ in range(studies):
        values, resampled = accuracy_study(rng, world, [0.5, 0.5], 3)
        covered[0] += covers(contrast({"1": 1, "0": -1}, values, resampled, units=world.rows), 0.0)
        draws = np.stack([resampled["1"][seed] - resampled["0"][seed] for seed in range(3)])
        means = draws[rng.integers(3, size=(3, DRAWS)), np.arange(DRAWS)].mean(axis=0)
        low, high = np.percentile(means, [2.5, 97.5])
        covered[1] += low <= 0 <= high
    print(
        f"three seeds: Student t covered {covered[0] / studies:.3f}, percentiles {covered[1] / studies:.3f}"
    )
    assert covered[0] / studies >= 0.95 - off(0.95, studies)
    assert covered[1] / studies < 0.85


def words(rng: np.random.Generator, world: World, margins: list[float], seeds: int) -> list[str]:
    """What is said of every arm against the first, p values adjusted by Holm."""
    values, resampled = accuracy_study(rng, world, margins, seeds)
    contrasts = [
        contrast({str(arm): 1, "0": -1}, values, resampled, units=world.rows)
        for arm in range(1, len(margins))
    ]
    adjusted = holm([one.p_value for one in contrasts])
    return [verdict(one, p, comparisons=6).kind for one, p in zip(contrasts, adjusted, strict=True)]


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("name", WORLDS)
def test_six_arms_like_the_baseline_are_rarely_called_better_or_worse(name, seeds):
    rng, studies = np.random.default_rng(20 * seeds + len(name)), 300
    wrong = [
        bool({"better", "worse"} & set(words(rng, WORLDS[name], [0.5] * 7, seeds))) for _ in range(studies)
    ]
    print(f"six arms alike, {name}, {seeds} seeds: a wrong word in {np.mean(wrong):.3f} of studies")
    assert np.mean(wrong) <= 0.05 + off(0.05, studies)


@pytest.mark.parametrize("name", ["rows", "both"])
def test_an_arm_that_is_much_better_is_called_so(name):
    rng, studies, seeds = np.random.default_rng(6), 60, 3
    said = [words(rng, WORLDS[name], [0.2] * 6 + [1.4], seeds)[-1] for _ in range(studies)]
    print(f"one arm much better, {name}: called so in {said.count('better') / studies:.2f} of studies")
    assert said.count("better") > 0.5 * studies
    assert "worse" not in said


def rates_for_normal_parts(
    seeds: int, training: float, rows: float, interaction: float
) -> tuple[float, float]:
    """How often p < .05 for a contrast of 0 whose parts have these variances, by the formulas alone.

    As they are, and without the lower limit of the seeds' part and the safe side of its degrees of freedom.
    """
    rng, studies, degrees = np.random.default_rng(7), STUDIES_OF_PARTS, 499
    shared = interaction / seeds
    estimates = rng.normal(0, np.sqrt(training / seeds + shared + rows), studies)
    of_seeds = (training / seeds + shared) * rng.chisquare(seeds - 1, studies) / (seeds - 1)
    of_rows = rows * rng.chisquare(degrees, studies) / degrees
    parts = [
        Variance(max(one, shared), other, seeds - 1, degrees)
        for one, other in zip(of_seeds.tolist(), of_rows.tolist(), strict=True)
    ]

    def rate(totals: np.ndarray, degrees: np.ndarray) -> float:
        return float((2 * stats.t.sf(abs(estimates) / np.sqrt(totals), degrees) < 0.05).mean())

    total = of_seeds + of_rows
    return (
        rate(np.array([part.total for part in parts]), np.array([part.degrees_of_freedom for part in parts])),
        rate(total, total**2 / (of_seeds**2 / (seeds - 1) + of_rows**2 / degrees)),
    )


@pytest.mark.parametrize(
    ("seeds", "most", "most_without"), [(2, 0.09, 0.13), (3, 0.055, 0.08), (5, 0.05, 0.06)]
)
def test_rate_of_false_alarms_in_the_worst_proportion_of_the_parts(seeds, most, most_without):
    """The numbers that the docstring of `contrast` gives."""
    rates = [
        rates_for_normal_parts(seeds, (1 - interaction) * seeds, rows, interaction * seeds)
        for rows in (0.1, 0.2, 0.5)
        for interaction in (0, 0.3)
    ]
    worst, worst_without = np.max(rates, axis=0)
    print(f"{seeds} seeds, normal parts: p < .05 in at most {worst:.3f}, unprotected {worst_without:.3f}")
    assert worst <= most + off(most, STUDIES_OF_PARTS)
    assert worst_without == pytest.approx(most_without, abs=0.008)
