"""What records of known results are put into: tables, effects, words and notes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gemma_encoder.study.analysis import MEAN, _Words, analyse
from gemma_encoder.study.choosing import left_of_search
from gemma_encoder.study.plan import StudyPlan, TrialKey
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
    assert 'attention: "causal" against "bidirectional": +' in found.answer[0]
    assert " points on the mean of 2 tasks (" in found.answer[0] and found.answer[0].endswith("better.")
    assert len(found.answer) == 2
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


SEARCH = replace(
    PLAN,
    axes={**AXES, "learning_rate": {"low": 1e-5, "high": 1e-3}},
    design="search",
    trials=1,
    finalists=1,
)


def searched(settings: dict[str, dict[str, object]], report: bool = True) -> list[Record]:
    """Records of a search that found one setting for each task, and of its report."""
    draw, records = np.random.default_rng(0), []
    baseline = SEARCH.arms()[0]
    for task, chosen in settings.items():
        arm = SEARCH.arm_of({"attention": "bidirectional", "pooling.kind": "mean", **chosen})
        records.append(
            Record(TrialKey(task, arm.name, "search", 1000), 0, "complete", arm.options, arm.levels)
        )
        records[-1] = replace(records[-1], result=replace(result(0.9, draw), report=None, scores=None))
        for each, right in ((baseline, 0.6), (arm, 0.9))[: 2 if report else 1]:
            records += [
                Record(key, 0, "complete", each.options, each.levels, result(right, draw))
                for key in SEARCH.report_keys([each.name], [task])
            ]
    return records


def test_finalists_that_differ_by_task_are_answered_task_by_task():
    records = searched(
        {
            "sst2": {"attention": "causal", "learning_rate": 1e-4},
            "wnli": {"pooling.kind": "last_k", "learning_rate": 1e-4},
        }
    )
    found = analyse(SEARCH, records, REPORT_ROWS)
    assert len(found.answer) == 2
    for sentence, task in zip(found.answer, SEARCH.tasks, strict=True):
        assert f" points on {task} (" in sentence and sentence.endswith("better.")
    assert found.answer[0].startswith(
        'finalists: "attention causal + learning_rate 0.0001" against "baseline"'
    )
    assert any("nobody tuned" in note and "that of each task" in note for note in found.notes)
    tuned = replace(SEARCH, base={**SEARCH.base, "learning_rate": 3e-5})
    assert any("learning rate is 3e-05" in note for note in analyse(tuned, records, REPORT_ROWS).notes)


def test_a_search_that_a_budget_ended_says_so():
    settings = {task: {"attention": "causal", "learning_rate": 1e-4} for task in SEARCH.tasks}
    whole = searched(settings)
    assert not any("not finished" in note for note in analyse(SEARCH, whole, REPORT_ROWS).notes)
    assert left_of_search(whole, SEARCH) == [] and left_of_search([], PLAN) == []
    longer = replace(SEARCH, trials=5)
    left = "1 of 5 settings of sst2 have been tried; 1 of 5 settings of wnli have been tried"
    (said,) = [note for note in analyse(longer, whole, REPORT_ROWS).notes if "not finished" in note]
    assert left in said and "without --budget_minutes" in said
    assert left_of_search(searched(settings, report=False), SEARCH) == [
        f"the finalists of {task} have not been trained" for task in SEARCH.tasks
    ]


def test_each_arm_has_its_command_of_the_first_task_and_seed():
    records = [
        replace(each, result=replace(each.result, command=f"train {each.key}"))
        for each in reversed(records_of(PLAN, RIGHT))
    ]
    found = analyse(PLAN, records, REPORT_ROWS, commands=["resume"])
    assert found.commands == ["resume", *(f"train sst2, {arm}, seed 0" for arm in RIGHT)]


def test_an_error_is_better_when_it_is_small():
    numbers = np.linspace(0, 1, ROWS)
    rows = ReportRows(("mse",), "regression", numbers, {"mse": 0.0837})
    plan = replace(PLAN, tasks=("sst2",))
    draw = np.random.default_rng(0)
    records = []
    for record in records_of(plan, RIGHT):
        noise = 0.1 if record.key.arm == "attention causal" else 0.3
        scores = (numbers + noise * draw.standard_normal(ROWS)).astype(np.float32)[:, None]
        error = {"mse": float(((scores[:, 0] - numbers) ** 2).mean())}
        records.append(
            replace(record, result=replace(record.result, selection=error, report=error, scores=scores))
        )
    found = analyse(plan, records, {"sst2": rows})
    assert found.lower_is_better == {"sst2", MEAN} and found.axes[0].rows[1].verdict == "better"
    assert found.axes[0].rows[1].difference.estimate < 0
    assert found.set_up["points without reading a text"] == "sst2 8.4 (mse)"
    assert analyse(PLAN, records_of(PLAN, RIGHT), REPORT_ROWS).lower_is_better == set()


def test_trials_of_an_arm_with_different_learning_rates_are_noted():
    records = records_of(PLAN, RIGHT)
    assert not any("different learning rates" in note for note in analyse(PLAN, records, REPORT_ROWS).notes)
    records[0] = replace(records[0], result=replace(records[0].result, learning_rate=5e-5))
    notes = analyse(PLAN, records, REPORT_ROWS).notes
    assert any("different learning rates: sst2, baseline (2e-05, 5e-05)" in note for note in notes)


def test_memory_is_shown_of_a_trial_and_not_of_the_process():
    records = records_of(PLAN, RIGHT)
    found = analyse(PLAN, records, REPORT_ROWS)
    assert {row.peak_mib for axis in found.axes for row in axis.rows} == {0.0}
    assert found.trials[0]["process_peak_mib"] == 900 and "peak_mib" not in found.trials[0]
    on_gpu = [replace(each, result=replace(each.result, peak_of_trial=True)) for each in records]
    found = analyse(PLAN, on_gpu, REPORT_ROWS)
    assert {row.peak_mib for axis in found.axes for row in axis.rows} == {900}
    assert found.trials[0]["peak_mib"] == 900 and "process_peak_mib" not in found.trials[0]


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
