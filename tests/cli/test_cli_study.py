"""`gemma-encoder study`, from its YAML file to report and export, with a tiny decoder."""

from __future__ import annotations

import csv
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from gemma_encoder.cli.options import StudyOptions
from gemma_encoder.cli.study import _duration, _to_resume, plan_of
from gemma_encoder.cli.study_recipes import Recipes
from gemma_encoder.errors import ConfigError
from gemma_encoder.study.storage import StudyStorage

BASE = {
    "data_source": "bundled",
    "max_train_rows": 16,
    "epochs": 1,
    "batch_size": 8,
    "max_length": 48,
    "head.width": 8,
}
STUDY = {
    "question": "Is it the mask?",
    "tasks": ["wnli"],
    "base": BASE,
    "axes": {"attention": ["bidirectional", "causal"]},
    "seeds": 2,
    "selection_rows": 8,
    "report_rows": 16,
}


@pytest.fixture
def written(tmp_path, decoder_folder):
    """Write a study's file with changes; gives the command that runs it."""

    def write(**changes: object) -> list[str]:
        file = tmp_path / "study.yaml"
        file.write_text(yaml.safe_dump({**STUDY, "model": str(decoder_folder), **changes}), encoding="utf-8")
        return ["study", "--config", str(file), "--output", str(tmp_path / "study")]

    return write


def test_a_study_is_run_reported_exported_and_gone_on_with(run, written, tmp_path):
    folder = tmp_path / "study"
    status, out, err = run(*written(learning_rates=[1e-3, 3e-3]))
    assert status == 0, err
    assert 'attention: "causal" against "bidirectional"' in out and "8 of 8" in err
    records = StudyStorage(folder, "study").records()
    tuning = [each for each in records if each.key.stage == "tuning"]
    report = [each for each in records if each.key.stage == "report"]
    assert [len(tuning), len(report)] == [4, 4]
    assert all(each.result.report is None and each.result.scores is None for each in tuning)
    for each in report:
        tried = {
            other.result.selection["accuracy"]: other.key.learning_rate
            for other in reversed(tuning)
            if other.key.arm == each.key.arm
        }
        assert each.result.learning_rate == tried[max(tried)]  # of two that are equal the lower one
        assert each.result.scores.shape == (16, 2) and each.result.train_rows == 16
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Is it the mask?" in page and "http" not in page.replace("http://www.w3.org", "")
    assert "Is it the mask?" in (folder / "report.md").read_text(encoding="utf-8")

    status, _, err = run("study", "status", folder)
    assert status == 0
    status, out, _ = run("study", "status", folder)
    assert "8 of 8" in out
    status, _, _ = run("study", "export", folder)
    rows = list(csv.DictReader((folder / "trials.csv").open(encoding="utf-8")))
    assert len(rows) == 8 and {row["state"] for row in rows} == {"complete"}
    assert {row["axis.attention"] for row in rows} == {"bidirectional", "causal"}
    run("study", "export", folder, "--format", "parquet")
    assert (folder / "trials.parquet").is_file()

    moved = folder.rename(tmp_path / "moved")
    status, out, _ = run("study", "status", moved)
    assert status == 0 and "8 of 8" in out and "best so far  wnli: " in out
    moved.rename(folder)

    began = time.monotonic()
    status, _, err = run(*written(learning_rates=[1e-3, 3e-3]))
    assert status == 0 and len(StudyStorage(folder, "study").records()) == 8, err
    assert [line for line in err.splitlines() if "8 of 8" in line] == ["8 of 8 trials were done before"]
    assert time.monotonic() - began < 60
    error = run(*written(learning_rates=[1e-3]))[2]
    assert "learning_rates was [0.001, 0.003] and is [0.001]" in error


def test_the_smoke_study_runs_and_its_report_is_whole(run, decoder_folder, tmp_path):
    recipe = Path(__file__).parents[2] / "recipes" / "study_smoke.yaml"
    status, out, err = run("study", "--config", recipe, "--model", decoder_folder, "--output", tmp_path)
    assert status == 0, err
    assert "24 of 24" in err and 'pooling: "last" against "mean"' in out
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    plain = re.sub(r"<[^>]+>", " ", page)
    for part in (
        "Does anything help",
        "attention",
        "pooling",
        "mean of tasks",
        "sst2",
        "wnli",
        "learning rate",
    ):
        assert part in plain
    assert page.count("<svg") >= 4 and page.count("<tr") > 24
    trials = [
        line for line in (tmp_path / "report.md").read_text(encoding="utf-8").splitlines() if "report" in line
    ]
    assert trials


def test_a_search_ends_with_finalists_in_the_report(run, written, tmp_path):
    axes = {**STUDY["axes"], "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    status, out, err = run(
        *written(axes=axes, design="search", trials=4, finalists=1, pruning="median", seeds=2)
    )
    assert status == 0, err
    assert "finalists: " in out and "not finished" not in err
    records = StudyStorage(tmp_path / "study", "study").records()
    assert sum(each.key.stage == "search" for each in records) == 4
    reported = [each for each in records if each.key.stage == "report"]
    assert len(reported) == 4 and len({each.key.arm for each in reported}) == 2
    assert "Optuna" in (tmp_path / "study" / "report.md").read_text(encoding="utf-8")


def test_a_killed_study_goes_on(written, tmp_path):
    command = [sys.executable, "-m", "gemma_encoder", *written(seeds=2), "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    storage = None
    deadline = time.monotonic() + 200
    while True:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
        if (tmp_path / "study" / "study.db").is_file():
            storage = storage or StudyStorage(tmp_path / "study", "study")
            try:
                records = storage.records()
            except ConfigError:  # not begun yet
                continue
            if any(each.state == "complete" for each in records):
                break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert subprocess.run(command, stderr=subprocess.DEVNULL, timeout=200, check=False).returncode == 0
    records = storage.records()
    assert len(records) == 4 and {each.state for each in records} == {"complete"}


def test_arms_are_what_train_would_read(written, decoder_folder, tmp_path):
    options = StudyOptions(
        model=str(decoder_folder), tasks=["wnli"], base=BASE, axes={"pooling.kind": ["mean", "last_k"]}
    )
    plan = plan_of(options)
    recipe = Recipes(plan, tmp_path)(plan.arms()[1], "wnli", 3, 5e-4)
    assert recipe.config.pooling.kind == "last_k" and recipe.config.text.max_length == 48
    assert recipe.args.learning_rate == 5e-4 and recipe.args.seed == 3
    assert recipe.args.per_device_train_batch_size == 8 and recipe.args.eval_strategy == "no"
    assert recipe.max_train_rows == 16 and len(recipe.data.train) > 600
    assert "--pooling.kind=last_k" in recipe.command and "--task=wnli" in recipe.command


def test_folders_are_arms_too_and_their_backbone_is_what_is_trained(run, written, encoder_folder, tmp_path):
    axes = {"start": {"as it is": {}, "learnt": {"model": str(encoder_folder)}}}
    status, _, err = run(*written(axes=axes, seeds=1))
    assert status == 0, err
    records = {each.key.arm: each for each in StudyStorage(tmp_path / "study", "study").records()}
    assert records.keys() == {"baseline", "start learnt"}
    command = shlex.split(records["start learnt"].result.command)
    assert f"--model={encoder_folder}" in command
    assert "--new_head" in command and "--pooling.kind=mean" in command
    assert "--new_head" not in records["baseline"].result.command
    assert run(*command[1:-1], tmp_path / "repeated")[0] == 0
    # That folder was only adapted, so both begin with the same weights.
    scores = [each.result.scores for each in records.values()]
    assert (scores[0] == scores[1]).all()

    other = {"start": {"as it is": {}, "learnt": {"model": str(encoder_folder), "attention": "causal"}}}
    _, _, err = run(*written(axes=other, seeds=1), "--output", str(tmp_path / "other"))
    assert "The arm start learnt can't be made for wnli" in err
    assert "attention is 'bidirectional' and can't be made 'causal'" in err
    assert not (tmp_path / "other").exists()


def test_an_axis_of_layers_is_verified_level_by_level(run, written, tmp_path):
    axes = {"bidirectional_layers": [None, "2:", ":2"]}
    status, _, err = run(*written(axes=axes, seeds=1))
    assert status == 0, err
    records = {each.key.arm: each for each in StudyStorage(tmp_path / "study", "study").records()}
    assert "--bidirectional_layers=:2" in records["bidirectional_layers :2"].result.command
    scores = [each.result.scores.tobytes() for each in records.values()]
    assert len(set(scores)) == 3


def test_a_dry_run_and_a_preview_write_nothing(run, written, tmp_path):
    status, out, _ = run(*written(), "--dry-run")
    assert status == 0 and "attention causal" in out and "trials to report  4" in out
    status, out, err = run(*written(), "--preview")
    assert status == 0 and "By two short trials" in out, err
    assert re.search(r"all  about (?!0 )[\d.]+ (seconds|minutes) with one worker", out), out
    assert not (tmp_path / "study" / "study.db").exists()


MISSING = {"start": {"as it is": {}, "learnt": {"model": "adapted/mntp"}}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"axes": {}}, "There is no axis"),
        ({"axes": {"pooler.kind": ["mean", "last_k"]}}, "no option pooler.kind; did you mean pooling.kind?"),
        ({"axes": {"attention": ["bidirectional", "sideways"]}}, "The arm attention sideways can't be made"),
        ({"base": {**BASE, "seed": 3}}, "seed is set by the study"),
        ({"base": {**BASE, "train_file": "rows.csv"}}, "Give tasks, or a train_file in base"),
        ({"tasks": []}, "Give tasks, or a train_file in base"),
        ({"tasks": ["sst3"]}, "sst3"),
        ({"model": None}, "No decoder is named"),
        ({"workers": 0}, "workers is 0"),
        ({"learning_rates": ["fast"]}, "expected a list of numbers"),
        (
            {"axes": MISSING},
            "The arm start learnt can't be made for wnli: No folder, file or reachable hub model",
        ),
        (
            {"axes": {"start": {"a": {}, "b": {"model": "./none"}}}},
            "start b can't be made for wnli: The folder",
        ),
        ({"tasks": ["copa"]}, "can't be made for copa: A study trains on rows, and this is a ranking task"),
        ({"base": {**BASE, "padding_side": "left"}}, "do nothing in the packed layout"),
        (
            {"design": "search", "axes": {"lerning_rate": {"low": 1e-5, "high": 1e-3}}},
            "no option lerning_rate",
        ),
    ],
)
def test_mistakes_are_told_before_anything_runs(refused, written, tmp_path, changes, says):
    assert says in refused(*written(**changes))
    assert not (tmp_path / "study").exists()


def test_a_dry_run_refuses_options_that_do_not_exist(refused, written, tmp_path):
    wrong = written(axes={"attentoin": ["bidirectional", "causal"]})
    assert "no option attentoin; did you mean attention?" in refused(*wrong, "--dry-run")


def test_changed_texts_are_refused(run, written, tmp_path):
    rows = [f"text {number},{'good' if number % 3 else 'bad'}" for number in range(40)]
    file = tmp_path / "rows.csv"
    file.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    base = {**BASE, "train_file": str(file)}
    del base["data_source"]
    assert run(*written(tasks=[], base=base, seeds=1))[0] == 0
    file.write_text("\n".join(["text,label", *rows]).replace("text 7", "words"), encoding="utf-8")
    status, _, err = run(*written(tasks=[], base=base, seeds=2))
    assert status != 0 and "The texts or training labels of file are not those" in err


def test_the_command_to_go_on_names_the_study_and_hides_a_password():
    options = StudyOptions(output="my study", name="a b", storage="postgresql://me:secret@host/db")
    words = shlex.split(_to_resume(options))
    assert words[:4] == ["gemma-encoder", "study", "resume", "my study"]
    assert words[4:] == ["--name=a b", "--storage=postgresql://me:...@host/db"]
    assert _to_resume(StudyOptions(output="runs/a")) == "gemma-encoder study resume runs/a"


def test_a_budget_that_ends_a_search_is_told(run, written):
    axes = {**STUDY["axes"], "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    command = written(axes=axes, design="search", trials=3, finalists=1, seeds=1)
    status, _, err = run(*command, "--budget_minutes", "0")
    assert status == 0 and "the search is not finished: 0 of 3 settings of wnli have been tried" in err
    assert "goes on (to the end without --budget_minutes)" in err


@pytest.mark.parametrize(("minutes", "said"), [(0.5, "30 seconds"), (1.26, "1.3 minutes"), (90, "1.5 hours")])
def test_durations_in_words(minutes, said):
    assert _duration(minutes) == said


def test_actions_need_a_study(refused, tmp_path):
    assert "holds no study" in refused("study", "report", tmp_path / "none")
    assert "takes the plan from the storage" in refused("study", "status", tmp_path, "--seeds", "5")
