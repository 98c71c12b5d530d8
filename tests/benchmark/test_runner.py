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
from typing import ClassVar

import numpy as np
import pytest

from gemma_encoder.benchmark import Plan, Trial, collect, run_plan
from gemma_encoder.benchmark.__main__ import main as run_trial_of
from gemma_encoder.benchmark.locks import LOCK_FILE, locked
from gemma_encoder.benchmark.report import markdown, page, table, write_report
from gemma_encoder.benchmark.runner import Progress, _signals, expected_minutes, has_model
from gemma_encoder.benchmark.trial import run_trial
from gemma_encoder.errors import ConfigError
from gemma_encoder.training.checkpoint_folder import last_checkpoint

RUN = (
    "import sys; from pathlib import Path; from gemma_encoder.benchmark import Plan, run_plan; "
    "root = Path(sys.argv[1]); run_plan(Plan.read(root), root, poll_seconds=0.1)"
)


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
    longer = {**plan.recipes["rte"], "num_train_epochs": 7}
    with pytest.raises(ConfigError, match="begun with another recipe for rte"):
        run_plan(replace(plan, recipes={**plan.recipes, "rte": longer}), tmp_path)
    plan = replace(plan, recipes={**plan.recipes, "cola": longer})  # nothing was trained on it

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
    assert "* Not scored: ax test: its labels are hidden\n" in markdown(results)
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
    process = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)], start_new_session=True)
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


def test_a_lone_sigterm_ends_the_trial_too_and_frees_the_folders(plan_of, tmp_path):
    plan = plan_of("glue", tasks=("cola", "sst2"))
    plan.write(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)])
    lock = tmp_path / Trial("cola", "main", 0).folder / LOCK_FILE
    deadline = time.monotonic() + 240
    while not (lock.is_file() and lock.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(ConfigError, match=rf"Another process, {process.pid}, works in this folder"):
        run_plan(plan, tmp_path)
    trial = int(lock.read_text())
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(trial, 0)
    with locked(tmp_path), locked(lock.parent):
        pass


def test_signals_are_taken_only_from_those_who_would_die_of_them():
    def told(number: int) -> None:
        with _signals() as received:
            os.kill(os.getpid(), number)
            assert received == ([] if number == signal.SIGHUP else [number])

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        told(signal.SIGHUP)
        with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
            told(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_two_processes_never_train_in_one_folder(plan_of, tmp_path, capsys):
    plan_of("glue", tasks=("cola",)).write(tmp_path)
    trial = Trial("cola", "main", 0)
    with locked(tmp_path / trial.folder):
        assert run_trial_of([str(tmp_path), "cola", "main", "0"]) == 2
    said = capsys.readouterr().err
    assert (
        f"error: Another process, {os.getpid()}, works in this folder" in said and str(trial.folder) in said
    )
    assert not (tmp_path / trial.folder / "trial.json").exists()


class _Pretend:
    """A trial's process that has ended at once: it leaves a record and a model, or an error."""

    began: ClassVar[list[Trial]] = []
    broken: ClassVar[set[str]] = set()

    def __init__(self, root: Path, trial: Trial, threads: int) -> None:
        self.began.append(trial)
        folder = root / trial.folder
        folder.mkdir(parents=True, exist_ok=True)
        self.returncode = 2 if trial.task in self.broken else 0
        if self.returncode:
            (folder / "log.txt").write_text("error: broken\n")
            return
        (folder / "model").mkdir(exist_ok=True)
        record = {"trial": {"task": trial.task}, "minutes": 1.0, "resumed": False}
        (folder / "trial.json").write_text(json.dumps(record))

    def poll(self) -> int:
        return self.returncode


@pytest.fixture
def pretend(monkeypatch) -> type[_Pretend]:
    monkeypatch.setattr("gemma_encoder.benchmark.runner._start", _Pretend)
    monkeypatch.setattr(_Pretend, "began", [])
    monkeypatch.setattr(_Pretend, "broken", set())
    return _Pretend


def test_what_starts_warm_and_failed_is_tried_again_from_the_kept_model(plan_of, tmp_path, pretend):
    plan = plan_of("glue", tasks=("mnli", "rte"), warm_start=True)
    pretend.broken.add("rte")
    assert list(run_plan(plan, tmp_path, poll_seconds=0).failed) == [Trial("rte", "main", 0)]
    assert has_model(tmp_path, Trial("mnli", "main", 0))
    pretend.broken.clear()
    pretend.began.clear()
    assert len(run_plan(plan, tmp_path, poll_seconds=0).done) == 2
    assert [trial.task for trial in pretend.began] == ["rte"]
    assert not has_model(tmp_path, Trial("mnli", "main", 0))


def test_a_parent_whose_model_is_gone_is_run_again_for_those_that_need_it(plan_of, tmp_path, pretend):
    plan = plan_of("glue", tasks=("mnli", "rte"), warm_start=True, seeds=2)
    run_plan(plan, tmp_path, poll_seconds=0)
    pretend.began.clear()
    assert not run_plan(plan, tmp_path, poll_seconds=0).waiting and not pretend.began
    (tmp_path / Trial("rte", "main", 1).folder / "trial.json").unlink()
    assert len(run_plan(plan, tmp_path, poll_seconds=0).done) == 4
    assert list(map(str, pretend.began)) == ["mnli, main, seed 1", "rte, main, seed 1"]


def test_the_time_of_a_trial_is_that_of_its_like_or_goes_by_tokens():
    def ended(minutes: float, resumed: bool = False) -> dict:
        return {"minutes": minutes, "resumed": resumed}

    tokens = {"cola": 100.0, "sst2": 1000.0, "mnli": 5000.0}
    done = {
        Trial("cola", "main", 0): ended(2),
        Trial("cola", "stock", 0): ended(4),
        Trial("sst2", "main", 0): ended(1, resumed=True),
    }
    progress = Progress(done)

    def expected(task: str, arm: str, known: dict[str, float] = tokens) -> float:
        return expected_minutes(Trial(task, arm, 1), progress, known)

    assert (expected("cola", "main"), expected("cola", "stock")) == (2, 4)
    assert expected("sst2", "main") == 20, "not the one minute that was left of a resumed trial"
    assert (expected("mnli", "main"), expected("mnli", "stock")) == (100, 200)
    assert expected("mnli", "encoder") == 150, "of both models, since none of its own has ended"
    assert expected("mnli", "main", {}) == 2, "nothing is known of the tokens"
    assert expected_minutes(Trial("cola", "main", 0), Progress(), tokens) == 0
