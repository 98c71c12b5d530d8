"""The plan of a benchmark: run, stopped, gone on with, and what must not be mixed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gemma_encoder.benchmark import Plan, Trial, collect, run_plan
from gemma_encoder.benchmark.report import markdown, page, table, write_report
from gemma_encoder.benchmark.trial import run_trial
from gemma_encoder.errors import ConfigError
from gemma_encoder.training.checkpoint_folder import last_checkpoint


def test_trials_come_seed_by_seed_and_parents_first(plan_of):
    plan = plan_of("glue", tasks=("mrpc", "ax", "rte"), seeds=2, arms=("main", "stock"), warm_start=True)
    trials = plan.trials()
    assert [str(trial) for trial in trials[:4]] == [
        "mnli, main, seed 0",
        "mnli, stock, seed 0",
        "mrpc, main, seed 0",
        "mrpc, stock, seed 0",
    ]
    assert len(trials) == 12 and {trial.seed for trial in trials[6:]} == {1}
    assert plan.parent(Trial("rte", "main", 1)) == Trial("mnli", "main", 1)
    assert plan.parent(Trial("mnli", "main", 1)) is None
    assert plan.diagnostics("mnli") == ("ax",)


def test_the_stock_classifier_starts_cold_and_needs_no_model_of_mnli(plan_of, tmp_path):
    plan = plan_of("superglue", tasks=("cb",), arms=("main", "stock", "encoder"), warm_start=True)
    assert [str(trial) for trial in plan.trials()] == [
        "mnli, main, seed 0",
        "mnli, encoder, seed 0",
        "cb, main, seed 0",
        "cb, stock, seed 0",
        "cb, encoder, seed 0",
    ]
    assert plan.parent(Trial("cb", "stock", 0)) is None
    assert run_trial(plan, Trial("cb", "stock", 0), tmp_path)["warm_start"] is False


def test_a_diagnostic_brings_the_task_that_answers_it(plan_of):
    assert [trial.task for trial in plan_of("superglue", tasks=("axg",)).trials()] == ["superglue_rte"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tasks": ("boolq",)}, "'boolq' is no task of GLUE"),
        ({"seeds": 0}, "seeds is 0"),
        ({"arms": ("main", "encoder"), "encoder_model": None}, "--encoder_model"),
    ],
)
def test_a_plan_that_can_not_work_is_refused(plan_of, options, says):
    with pytest.raises(ConfigError, match=says):
        plan_of("glue", **options)


def test_a_benchmark_runs_reports_and_goes_on_with_more(plan_of, tmp_path):
    plan = plan_of("glue", tasks=("mnli", "ax", "rte"), arms=("main", "encoder"), warm_start=True)
    progress = run_plan(plan, tmp_path, jobs=2, poll_seconds=0.1)
    assert len(progress.done) == 4 and not progress.failed and not progress.waiting
    assert not list(tmp_path.glob("trials/*/*/*/model")), "weights are deleted"
    before = {path: path.read_bytes() for path in tmp_path.rglob("trial.json")}
    assert len(before) == 4
    with pytest.raises(ConfigError, match=r"begun with other options: data_source was 'auto' and is 'hub'"):
        run_plan(replace(plan, data_source="hub"), tmp_path)

    progress = run_plan(replace(plan, seeds=2), tmp_path, jobs=2, poll_seconds=0.1)
    assert len(progress.done) == 8
    assert {path: path.read_bytes() for path in before} == before, "finished trials are not run again"

    results = collect(tmp_path, resamples=99)
    assert not results.missing and [each.score for each in results.averages.values()] == [None, None]
    rows = {(row["task"], row["model"]): row for row in table(results)}
    assert list(rows) == [
        ("mnli", "this model"),
        ("mnli", "established encoder"),
        ("mnli", "majority"),
        ("rte", "this model"),
        ("rte", "established encoder"),
        ("rte", "majority"),
    ]
    row = rows[("mnli", "established encoder")]
    assert row["seeds"] == "2" and "±" in row["score"] and row["difference"] and 0 <= float(row["p"]) <= 1
    assert row["train rows"] == "8 (part)" and "not the official" in row["notes"]
    assert "Trained on a part of the official rows" in markdown(results)
    # COPA's 400 questions are 800 rows; a diagnostic was trained on another task's rows.
    copa = replace(results.tasks[0], task="copa", train_rows=800, trained_on_all=True)
    axb = replace(results.tasks[0], task="axb", train_rows=500)
    rows_of = [row["train rows"] for row in table(replace(results, tasks=[copa, axb]))]
    assert rows_of == ["800", "", "500 (part)", ""], "the majority learns nothing"
    assert "Trained on a part" not in markdown(replace(results, tasks=[copa]))
    assert "validation_mismatched: accuracy" in row["metrics"]
    assert "No average: only mnli, ax, rte were asked for." in markdown(results)
    whole = replace(results, plan=replace(results.plan, tasks=results.plan.of_suite.tasks))
    assert [row["score"] for row in table(whole)[-2:]] == ["none"] * 2
    written = write_report(results, tmp_path)
    assert {path.name for path in written} >= {"results.json", "results.md", "results.html"}
    for text in (markdown(results), page(results, None)):
        assert "Warm start: rte, mrpc, stsb begin from" in text and "not the official" in text
    again = collect(tmp_path, resamples=99)
    assert again == results, "the report is made of the records alone"


def test_a_kill_loses_no_finished_trial_and_the_next_run_goes_on(plan_of, tmp_path):
    plan = plan_of("glue", tasks=("cola", "sst2", "rte"))
    plan.write(tmp_path)
    code = (
        "import sys; from pathlib import Path; from gemma_encoder.benchmark import Plan, run_plan; "
        "root = Path(sys.argv[1]); run_plan(Plan.read(root), root, poll_seconds=0.1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], start_new_session=True)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("trials/*/*/*/trial.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("trials/*/*/*/trial.json")}
    assert 1 <= len(first) < 3
    progress = run_plan(plan, tmp_path, poll_seconds=0.1)
    assert len(progress.done) == 3
    assert {path: path.stat().st_mtime_ns for path in first} == first


@pytest.mark.parametrize("arm", ["main", "stock"])
def test_a_trial_killed_while_it_trains_goes_on_from_its_checkpoint(plan_of, tmp_path, arm):
    plan, trial = plan_of("glue", tasks=("rte",), arms=("main", "stock")), Trial("rte", arm, 0)
    plan = replace(plan, recipes={"rte": {**plan.recipes["rte"], "num_train_epochs": 12}})
    plan.write(tmp_path)
    command = [sys.executable, "-m", "gemma_encoder.benchmark", str(tmp_path), "rte", arm, "0"]
    checkpoints = tmp_path / trial.folder / "model.checkpoints"
    process = subprocess.Popen(command)
    while last_checkpoint(checkpoints) is None and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    killed_at = Path(str(last_checkpoint(checkpoints))).name
    assert not (tmp_path / trial.folder / "trial.json").exists() and killed_at != "checkpoint-24"

    record = run_trial(plan, trial, tmp_path)
    assert record["resumed"] is True and record["run"]["resumed_from"] == killed_at
    through = run_trial(plan, trial, tmp_path / "through")
    assert through["resumed"] is False and through["run"]["steps"] == record["run"]["steps"] == 24
    scores = [
        np.load(root / trial.folder / record["results"][0]["scores"])["scores"]
        for root in (tmp_path, tmp_path / "through")
    ]
    np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-5)


def test_a_failed_trial_is_named_and_stops_no_other(plan_of, tmp_path, suite_data):
    broken = tmp_path / "data"
    for task in ("cola", "rte"):
        (broken / "glue" / task).mkdir(parents=True)
        for path in (suite_data / "glue" / task).iterdir():
            (broken / "glue" / task / path.name).write_text(path.read_text())
    (broken / "glue" / "cola" / "train_sample.jsonl").write_text("{broken\n")
    plan = plan_of("glue", tasks=("cola", "rte"), data_dir=str(broken))
    progress = run_plan(plan, tmp_path / "out", poll_seconds=0.1)
    assert [trial.task for trial in progress.done] == ["rte"]
    assert "broken JSON" in progress.failed[Trial("cola", "main", 0)]


def test_a_plan_of_which_nothing_has_run_may_be_another_one(plan_of, tmp_path):
    plan_of("glue", model="misspelt").write(tmp_path)
    plan = plan_of("glue", tasks=("cola",))
    assert run_plan(plan, tmp_path, budget_minutes=-1).waiting and Plan.read(tmp_path) == plan


def test_no_trial_is_begun_without_time_for_it(plan_of, tmp_path):
    plan = plan_of("glue", tasks=("cola", "rte"))
    first = run_plan(replace(plan, tasks=("cola",)), tmp_path, poll_seconds=0.1)
    path = tmp_path / next(iter(first.done)).folder / "trial.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"minutes": 60.0}))
    progress = run_plan(plan, tmp_path, budget_minutes=5, poll_seconds=0.1)
    assert [trial.task for trial in progress.waiting] == ["rte"] and len(progress.done) == 1


def test_a_folder_without_a_plan_is_no_benchmark(tmp_path):
    with pytest.raises(ConfigError, match=r"plan.json is missing"):
        Plan.read(tmp_path)
