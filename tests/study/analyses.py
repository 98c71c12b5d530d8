"""Made-up analyses: a rich one and the least there can be."""

from __future__ import annotations

import itertools
import math
import random

from gemma_encoder.study.findings import Analysis, ArmResult, AxisResult, Curve, Effect, Interval

MEAN = "mean of tasks"
METRICS = {"sst2": "accuracy", "cola": "matthews", "rte": "accuracy"}
AXES = {
    "attention": ("bidirectional", "causal", "bidirectional, width", "causal, last two layers open"),
    "pooling": ("mean", "last", "last_k", "attentive"),
}


def rich() -> Analysis:
    """Three tasks, two axes of four levels, effects, a search's importance, 60 trials."""
    chance = random.Random(0)
    tasks = [*METRICS, MEAN]
    base = {"sst2": 0.887, "cola": 0.412, "rte": 0.631, MEAN: 0.643}

    def difference(size: float = 0.02) -> Interval:
        middle, half = chance.gauss(0, size), chance.uniform(0.004, 0.02)
        return Interval(middle, middle - half, middle + half)

    def result(axis: str, level: str, task: str) -> ArmResult:
        first = level == AXES[axis][0]
        found = None if first else difference()
        value = base[task] + (found.estimate if found else 0)
        certain = found is not None and abs(found.estimate) > found.high - found.estimate
        minutes = 4.2 if first else chance.uniform(3, 6)
        return ArmResult(
            arm="baseline" if first else f"{axis} {level}",
            level=level,
            task=task,
            learning_rate=None if task == MEAN else 5e-5,
            values=[value - 0.004, value, value + 0.004],
            mean=value,
            half_width=chance.uniform(0.004, 0.02),
            difference=found,
            p_value=None if first else (0.0004 if certain else chance.uniform(0.05, 1)),
            effect_size=None if found is None else found.estimate / 0.009,
            verdict=""
            if found is None
            else (
                f"{'better' if found.estimate > 0 else 'worse'} than {AXES[axis][0]}"
                if certain
                else "no difference shown"
            ),
            minutes=minutes,
            tokens_per_second=52_000 / minutes,
            peak_mib=900 * minutes,
        )

    axes = [
        AxisResult(axis, levels[0], [result(axis, level, task) for task in tasks for level in levels])
        for axis, levels in AXES.items()
    ]
    main = [
        Effect(
            f"{axis} {level}", task, difference(), p, "no difference shown" if p > 0.05 else "a difference"
        )
        for task in tasks
        for axis, levels in AXES.items()
        for level, p in zip(levels[1:], (0.0004, 0.03, 0.61), strict=True)
    ]
    crossed = [
        Effect(f"attention {one} x pooling {other}", MEAN, difference(), 0.4, "no interaction shown")
        for one, other in itertools.product(AXES["attention"][1:], AXES["pooling"][1:])
    ]
    arms = ["baseline", *(f"{axis} {level}" for axis, levels in AXES.items() for level in levels[1:])]
    courses = []
    for task, arm, seed in itertools.product(METRICS, arms, range(3)):
        end, pace = chance.uniform(0.25, 0.45), chance.uniform(60, 120)
        loss = [
            (step, end + 0.45 * math.exp(-step / pace) + chance.gauss(0, 0.02)) for step in range(5, 405, 5)
        ]
        gain = [
            (step, base[task] + 0.1 - 0.3 * math.exp(-step / 90) + chance.gauss(0, 0.01))
            for step in range(50, 401, 50)
        ]
        courses.append(Curve(task, arm, seed, loss, gain))
    trials = [
        {
            "task": task,
            "arm": arm,
            "stage": "report",
            "seed": seed,
            "learning rate": 5e-5,
            "state": "done",
            "metric": base[task] + chance.gauss(0, 0.02),
            "selection metric": base[task] + chance.gauss(0, 0.02),
            "minutes": chance.uniform(3, 6),
            "tokens/s": 12_345,
            "peak MiB": 3456.7,
        }
        for task, arm, seed in itertools.product(METRICS, arms, range(3))
    ][:59]
    failed = dict.fromkeys(trials[0]) | {
        "task": "rte",
        "arm": "pooling attentive",
        "stage": "report",
        "seed": 2,
        "state": "failed: out of memory",
    }
    return Analysis(
        question="Does it pay to open a decoder's attention, and how should its token states be pooled?",
        answer=[
            "Attention: bidirectional is best; causal loses 2.1 points [1.2, 3.0] on the mean (p < 0.001).",
            "Pooling: no difference was shown between mean and the others; up to 1.4 points are possible.",
        ],
        metrics=METRICS,
        set_up={
            "model": "gemma-3-270m (Q4_K_M, packaged)",
            "training rows": "2,000 of 67,349 (sst2), 2,000 of 8,551 (cola), 2,490 (rte)",
            "selection rows": "500, split off the training rows",
            "judged by": "all development rows",
            "seeds": "3 for each arm and task",
            "learning rates": "the best of 2e-5, 5e-5 and 1e-4 for each arm and task, by selection rows",
        },
        held_fixed={
            "batch_size": 32,
            "epochs": 2,
            "pooling": {"k": 2, "normalize": True},
            **{f"option_{number}": number for number in range(14)},
        },
        axes=axes,
        main_effects=main,
        interactions=crossed,
        importance={
            task: {"learning_rate": share, "attention": 0.8 - share, "pooling": 0.15, "dropout.head": 0.05}
            for task, share in zip(METRICS, (0.61, 0.34, 0.47), strict=True)
        },
        curves=courses,
        trials=[*trials, failed],
        notes=[
            "1 trial of 60 failed: rte, pooling attentive, seed 2 (out of memory).",
            "sst2 and cola learn from a part of their training rows.",
        ],
        commands=[
            "gemma-encoder study --config study.yaml --output runs/study",
            "gemma-encoder train --config runs/study/trials/rte/baseline/seed-0/train.yaml",
        ],
        environment={
            "gemma-encoder": "0.9.0",
            "torch": "2.10.0",
            "processor": "2 cores of an Xeon, bfloat16 by AMX",
        },
    )


def minimal(difference: Interval | None = None) -> Analysis:
    """One task and one seed, and nothing that needs more."""
    rows = [
        ArmResult("baseline", "mean", "sst2", 5e-5, [0.87], 0.87, None),
        ArmResult("pooling last", "last", "sst2", 5e-5, [0.85], 0.85, None, difference),
    ]
    return Analysis(
        question="",
        answer=["Pooling: one seed is too few to tell."],
        metrics={"sst2": "accuracy"},
        set_up={},
        held_fixed={},
        axes=[AxisResult("pooling", "mean", rows)],
    )
