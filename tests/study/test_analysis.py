"""What records of known results are put into: tables, effects, words and notes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gemma_encoder.study.analysis import MEAN, _Words, analyse
from gemma_encoder.study.plan import StudyPlan
from gemma_encoder.study.records import Record, ReportRows, TrialResult
from gemma_encoder.study.statistics import contrast

ROWS = 400
AXES = {"attention": ["bidirectional", "causal"], "pooling.kind": ["mean", "last_k"]}
PLAN = StudyPlan(tasks=("sst2", "wnli"), base={"model": "m", "epochs": 2}, axes=AXES, seeds=3)
LABELS = np.arange(ROWS) % 2
REPORT_ROWS = {
    task: ReportRows(("accuracy",), "single_label_classification", LABELS, {"accuracy": 0.5})
    for task in PLAN.tasks
}


def result(right: float, draw: np.random.Generator, rate: float = 2e-5) -> TrialResult:
    """A model that gets this share of rows right."""
    hits = draw.random(ROWS) < right
    answers = np.where(hits, LABELS, 1 - LABELS)
    scores = np.eye(2, dtype=np.float32)[answers]
    return TrialResult(
        selection={"accuracy": right},
        report={"accuracy": float(hits.mean())},
        scores=scores,
        learning_rate=rate,
        head_learning_rate=None,
        train_rows=100,
        steps=10,
        minutes=1.5,
        tokens_per_second=100.0,
        peak_mib=900,
        history=[{"step": 5, "loss": 0.7}, {"step": 10, "eval_accuracy": right}],
        command="gemma-encoder train ...",
        environment={"torch": "2", "gpu": "None"},
    )


def records_of(plan: StudyPlan, right: dict[str, float]) -> list[Record]:
    draw = np.random.default_rng(0)
    arms = {arm.name: arm for arm in plan.arms()}
    return [
        Record(
            key, number, "complete", arms[key.arm].options, arms[key.arm].levels, result(right[key.arm], draw)
        )
        for number, key in enumerate(plan.trial_keys())
    ]


RIGHT = {"baseline": 0.6, "attention causal": 0.9, "pooling.kind last_k": 0.6}


def test_one_factor_has_a_table_for_each_axis_and_says_what_is_better():
    found = analyse(PLAN, records_of(PLAN, RIGHT), REPORT_ROWS, commands=["gemma-encoder study resume x"])
    assert [axis.axis for axis in found.axes] == ["attention", "pooling.kind"]
    rows = found.axes[0].rows
    assert [(row.task, row.level) for row in rows] == [
        (task, level) for task in ("sst2", "wnli", MEAN) for level in ("bidirectional", "causal")
    ]
    assert rows[0].difference is None and rows[0].verdict == "" and len(rows[0].values) == 3
    mean = rows[-1]
    assert mean.verdict == "better" and mean.p_value < 0.05
    assert mean.difference.low < 0.3 < mean.difference.high
    assert mean.values == pytest.approx(
        [(a + b) / 2 for a, b in zip(rows[1].values, rows[3].values, strict=True)]
    )
    assert "attention: causal against bidirectional: +" in found.answer[0] and found.answer[0].endswith(
        "better."
    )
    assert found.axes[1].rows[-1].verdict not in ("better", "worse")
    assert found.curves[0].loss == [(5, 0.7)] and found.environment == {"torch": "2"}
    assert len(found.trials) == 18 and {"attention", "pooling.kind", "accuracy"} <= set(found.trials[0])
    assert "error" not in found.trials[0]  # nobody failed
    assert any("same learning rate" in note for note in found.notes)
    assert found.commands == ["gemma-encoder study resume x", "gemma-encoder train ..."]


def test_each_task_is_judged_by_its_own_metric():
    """Two arms of a made-up task, one metric that wants more and one that wants less."""
    values = {"new": {0: 0.80, 1: 0.81, 2: 0.82}, "baseline": {0: 0.50, 1: 0.51, 2: 0.53}}
    draw = np.random.default_rng(0)
    resampled = {
        arm: {seed: value + 0.01 * draw.standard_normal(200) for seed, value in by_seed.items()}
        for arm, by_seed in values.items()
    }
    found = contrast({"new": 1.0, "baseline": -1.0}, values, resampled, units=ROWS)
    said = _Words(0.01)([found, None, found], ["accuracy", "accuracy", "mse"])
    assert [each and each[1].kind for each in said] == ["better", None, "worse"]


def test_a_grid_has_main_effects_and_interactions():
    plan = replace(PLAN, design="grid")
    right = {
        "baseline": 0.5,
        "attention causal": 0.5,
        "pooling.kind last_k": 0.5,
        "attention causal + pooling.kind last_k": 0.9,
    }
    found = analyse(plan, records_of(plan, right), REPORT_ROWS)
    main = {each.name: each for each in found.main_effects if each.task == MEAN}
    assert main["attention causal"].difference.estimate == pytest.approx(0.2, abs=0.05)
    assert main["attention causal"].verdict == main["pooling.kind last_k"].verdict == "better"
    (both,) = [each for each in found.interactions if each.task == MEAN]
    assert both.name == "attention causal x pooling.kind last_k"
    assert both.difference.estimate == pytest.approx(0.4, abs=0.08) and both.verdict == "better"
    assert "averaged over the other axes" in found.answer[0]


def test_a_grid_that_has_not_ended_has_no_effects_yet():
    plan = replace(PLAN, design="grid")
    records = records_of(plan, dict.fromkeys((arm.name for arm in plan.arms()), 0.6))
    some = [
        replace(each, state="waiting", result=None) if each.key.arm.startswith("attention") else each
        for each in records
    ]
    found = analyse(plan, some, REPORT_ROWS)
    assert found.main_effects == [] and found.answer == ["No arm can be compared with the baseline yet."]
    assert "12 trials have not ended; the results are of those that have." in found.notes


def test_what_a_reader_must_know_is_noted():
    plan = replace(PLAN, learning_rates=(1e-5, 2e-5, 5e-5))
    records = [each for each in records_of(plan, RIGHT) if each.key.stage == "report"]
    records[0] = replace(records[0], result=replace(records[0].result, learning_rate=5e-5))
    records[1] = replace(records[1], state="failed", result=None, error="out of memory")
    rows = {**REPORT_ROWS, "wnli": replace(REPORT_ROWS["wnli"], note="400 of 500 rows")}
    notes = analyse(plan, records, rows).notes
    assert any("failed: out of memory" in note for note in notes)
    assert "wnli is judged by 400 of 500 rows: not the official split." in notes
    assert any("edge of those tried: sst2, baseline (5e-05)" in note for note in notes)
    assert not any("same learning rate" in note for note in notes)


def test_unlike_machines_are_noted():
    records = records_of(PLAN, RIGHT)
    assert not any("machines" in note for note in analyse(PLAN, records, REPORT_ROWS).notes)
    assert "machine" not in analyse(PLAN, records, REPORT_ROWS).trials[0]
    last = records[-1].result
    slow = replace(last, environment={"cpu": "Xeon", "cores": "2", "threads": "1", "gpu": "None"})
    fast = replace(last, environment={"cpu": "Xeon", "cores": "16", "threads": "1", "gpu": "H100"})
    records = [replace(each, result=slow if each.number else fast) for each in records]
    found = analyse(PLAN, records, REPORT_ROWS)
    where = f"{len(records) - 1} on Xeon, 1 of 2 cores; 1 on H100"
    assert any(where in note and "tokens/s" in note for note in found.notes)
    assert {row["machine"] for row in found.trials} == {"Xeon, 1 of 2 cores", "H100"}
    assert records[0].to_row()["machine"] == "H100"


def test_nothing_yet_is_a_report_too():
    found = analyse(PLAN, [], {})
    assert found.answer == ["No arm can be compared with the baseline yet."]
    assert found.question and found.trials == []
