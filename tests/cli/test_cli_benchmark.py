"""`benchmark` and `report`: options to a plan, a smoke run to a report, what is refused."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from gemma_encoder.benchmark import Plan, Trial
from gemma_encoder.benchmark.__main__ import main as run_trial_of
from gemma_encoder.benchmark.runner import Progress
from gemma_encoder.cli.benchmark import _live_table, make_plan
from gemma_encoder.cli.options import BenchmarkOptions, EncoderOptions, RecipeOptions
from gemma_encoder.tasks import TASKS
from gemma_encoder.training import recipe_for

FAST = ["--head.width", 8, "--bf16", "false", "--max_length", 64]


def plan_of(*, recipe: dict | None = None, encoder: dict | None = None, **options) -> Plan:
    return make_plan(
        BenchmarkOptions(**{"suite": "glue", "model": "m", **options}),
        RecipeOptions(**(recipe or {})),
        EncoderOptions(**(encoder or {})),
    )


def test_every_task_has_the_recipe_of_train_unless_told_otherwise():
    plan = plan_of()
    assert plan.arms == ("main",) and plan.seeds == 3 and plan.encoder_model is None
    for task in plan.tasks:
        assert plan.recipes[task]["learning_rate"] == recipe_for(task).learning_rate
        assert plan.recipes[task]["num_train_epochs"] == recipe_for(task).num_train_epochs
    changed = {"learning_rate": 1e-4, "num_train_epochs": 1.0, "args": {"tune": "lora"}}
    plan = plan_of(recipe=changed, encoder={"max_length": 9, "dropout": 0.3, "attention": "causal"})
    assert {plan.recipes[task]["learning_rate"] for task in plan.tasks} == {1e-4}
    assert plan.recipes["rte"]["dropout"]["attention"] == 0.3 and plan.recipes["rte"]["max_length"] == 9
    assert plan.training["tune"] == "lora" and plan.encoder["attention"] == "causal"
    assert plan_of(encoder={"bidirectional_layers": "9:"}).encoder["bidirectional_layers"] == "9:"
    assert "bidirectional_layers" not in plan.encoder, "older benchmarks, which have no such field, go on"


def test_every_trained_task_has_a_recipe_with_its_cost():
    assert {name for name in TASKS if recipe_for(name).tokens} == {
        name for name, task in TASKS.items() if task.trained_on is None
    }


def test_a_smoke_run_of_the_bundled_tasks_and_its_report(run, decoder_folder, tmp_path):
    folder = tmp_path / "out"
    command = ["benchmark", "glue", "--model", decoder_folder, "--smoke", "--output", folder, *FAST]
    status, printed, err = run(*command)
    assert status == 0, err
    assert "1/2 sst2, main, seed 0: sst2 accuracy 0." in err and "a first look, no result" in printed
    assert "min; trained or judged on other than the official rows)" in err
    results = json.loads((folder / "results.json").read_text())
    assert [task["task"] for task in results["tasks"]] == ["sst2", "wnli"]
    assert {task["train_rows"] for task in results["tasks"]} == {32}
    assert {task["rows"] for task in results["tasks"]} == {64}
    before = (folder / "results.md").read_text()
    status, _, err = run(*command)
    assert status == 0 and "2 trials done before" in err, "nothing is run again"
    (folder / "results.md").unlink()
    assert run("report", folder)[0] == 0
    assert (folder / "results.md").read_text() == before


def test_a_dry_run_says_what_it_costs(run, tmp_path):
    command = ["benchmark", "superglue", "--model", "gemma-3-270m", "--output", tmp_path / "out"]
    status, printed, _ = run(*command, "--baselines", "--max_train_rows", 100, "--dry_run")
    assert status == 0 and not (tmp_path / "out").exists()
    assert "diagnostics       axb, axg" in printed and "main, stock, encoder" in printed
    (cb,) = (line.split() for line in printed.splitlines() if line.split()[:1] == ["cb"])
    assert cb == ["cb", "9", "250", "100", "20", "2e-05", f"{100 * 88 * 20 / 1e6:.2f}"]


def used(printed: str) -> dict[str, list[str]]:
    """The rows of a dry run's table by task."""
    table = printed.partition("\n\n")[0].splitlines()[2:]
    return {words[0]: words[1:] for words in (line.split() for line in table)}


def test_a_warm_start_of_superglue_trains_mnli_too(run):
    status, printed, err = run("benchmark", "superglue", "--model", "m", "--warm_start", "--dry_run")
    assert status == 0, err
    tasks = used(printed)
    assert next(iter(tasks)) == "mnli" and {"superglue_rte", "cb"} <= set(tasks)
    assert "mnli" not in used(run("benchmark", "superglue", "--model", "m", "--dry_run")[1])


def test_a_task_named_twice_is_planned_once(run):
    status, printed, _ = run("benchmark", "glue", "--model", "m", "--tasks", "rte,cola,rte", "--dry_run")
    assert status == 0 and {task: words[0] for task, words in used(printed).items()} == {
        "rte": "3",
        "cola": "3",
    }


def test_a_dry_run_counts_the_rows_that_are_there(run, suite_data, monkeypatch):
    command = ["benchmark", "superglue", "--model", "m", "--data_dir", suite_data, "--dry_run"]
    status, printed, err = run(*command, "--tasks", "cb,copa")
    assert status == 0, err
    assert used(printed)["cb"] == ["3", "250", "8", "20", "2e-05", f"{8 * 88 * 20 / 1e6:.2f}"]
    assert used(printed)["copa"][:3] == ["3", "400", "8"], "lists, of two rows each"
    assert used(run(*command, "--tasks", "cb", "--max_train_rows", 5)[1])["cb"][2] == "5"
    monkeypatch.setattr("gemma_encoder.benchmark.workload.LARGE_FILE", 10)
    printed = run(*command, "--tasks", "cb")[1]
    assert used(printed)["cb"][1:5] == ["250", "at", "most", "250"]
    assert "at most 1.3 million" in printed and "at most 1.5 hours" in printed


def test_data_are_looked_for_before_the_first_trial(refused, suite_data, tmp_path):
    (tmp_path / "data" / "glue" / "rte").mkdir(parents=True)
    for path in (suite_data / "glue" / "rte").glob("train*"):
        (tmp_path / "data" / "glue" / "rte" / path.name).write_text(path.read_text())
    command = ["benchmark", "glue", "--model", "m", "--output", tmp_path / "out", "--data_dir"]
    assert "no file for rte/validation [" in refused(*command, tmp_path / "data", "--tasks", "rte")
    assert "The data folder is not there [nowhere]" in refused(*command, "nowhere")
    assert not (tmp_path / "out").exists()


class _Here:
    """A trial's process that is this one: that spares the seconds which imports take."""

    def __init__(self, root: Path, trial: Trial, threads: int) -> None:
        self.returncode = run_trial_of([str(root), trial.task, trial.arm, str(trial.seed)])

    def poll(self) -> int:
        return self.returncode


def test_a_smoke_run_of_superglue_with_baselines(run, decoder_folder, suite_data, tmp_path, monkeypatch):
    monkeypatch.setattr("gemma_encoder.benchmark.runner._start", _Here)
    folder = tmp_path / "out"
    command = ["benchmark", "superglue", "--model", decoder_folder, "--data_dir", suite_data, "--smoke"]
    command += ["--baselines", "--encoder_model", decoder_folder, "--tasks", "copa,axb"]
    status, printed, err = run(*command, "--warm_start", "--output", folder, *FAST)
    assert status == 0, err
    assert "mnli, encoder, seed 0: mnli accuracy 0." in err
    results = json.loads((folder / "results.json").read_text())
    settings = [(task["task"], task["arm"]) for task in results["tasks"]]
    arms = ("main", "stock", "encoder")
    assert settings == [(task, arm) for task in ("copa", "superglue_rte", "axb") for arm in arms]
    assert all(task["against"] for task in results["tasks"] if task["arm"] != "main")
    assert all(task["against_majority"] for task in results["tasks"] if task["arm"] == "main")
    assert all("test: " in task["notes"][1] for task in results["tasks"] if task["task"] == "axb")
    assert "* trained or judged on other than the official rows" in printed
    assert "superglue_rte, cb begin from" in printed


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["benchmark", "blue", "--model", "m"], "there is no suite 'blue'"),
        (["benchmark", "glue"], "Required, but not given: --model"),
        (["benchmark", "glue", "--model", "m", "--tasks", "boolq"], "'boolq' is no task of GLUE"),
        (["benchmark", "glue", "--model", "m", "--template", "{text}"], "--template"),
        (["benchmark", "glue", "--model", "m", "--args.seed", "1"], "--args.seed is set by the benchmark"),
        (["benchmark", "glue", "--model", "m", "--args.colour", "1"], "no training option 'colour'"),
        (["benchmark", "glue", "--model", "m", "--args.adam_beta1", "x"], "adam_beta1 is 'x'"),
        (["benchmark", "superglue", "--model", "m", "--smoke"], "No task of SuperGLUE is bundled"),
        (["benchmark", "glue", "--model", "m", "--dropout", "2"], "dropout.attention is 2"),
        (
            ["benchmark", "glue", "--model", "m", "--max_train_rows", "0", "--dry_run"],
            "--max_train_rows is 0",
        ),
        (["benchmark", "glue", "--model", "m", "--smoke", "--max_train_rows", "0"], "--max_train_rows is 0"),
        (["benchmark", "glue", "--model", "m", "--epochs", "-1", "--dry_run"], "--num_train_epochs is -1"),
        (["benchmark", "glue", "--model", "m", "--learning_rate", "0", "--dry_run"], "--learning_rate is 0"),
        (["benchmark", "glue", "--model", "m", "--max_length", "0", "--dry_run"], "--max_length is 0"),
        (["benchmark", "glue", "--model", "m", "--jobs", "0", "--dry_run"], "--jobs is 0"),
        (
            ["benchmark", "glue", "--model", "m", "--data_dir", "/nope", "--dry_run"],
            "folder is not there [/nope]",
        ),
        (["benchmark", "superglue", "--model", "m", "--wnli", "--dry_run"], "WNLI is no task of SuperGLUE"),
        (["benchmark", "glue", "--model", "/no/decoder", "--smoke"], "does not exist [/no/decoder]"),
        (
            ["benchmark", "glue", "--model", "m", "--baselines", "--encoder_model", "./no-encoder"],
            "does not exist [./no-encoder]",
        ),
        (["report", "nowhere"], "There is no folder nowhere"),
        (["report"], "Required, but not given: --folder"),
    ],
)
def test_what_can_not_work_is_one_line(refused, words, says):
    assert says in refused(*words)


def test_an_encoder_is_no_decoder_and_a_folder_without_a_plan_no_benchmark(refused, encoder_folder, tmp_path):
    assert "is an encoder already" in refused("benchmark", "glue", "--model", encoder_folder)
    assert "plan.json is missing" in refused("report", tmp_path)


def test_the_live_table_shows_what_ended_runs_and_waits():
    plan = plan_of(tasks=["cola", "rte"], seeds=2)
    trials = plan.trials()
    result = {"task": "cola", "metrics": {"matthews": 0.5}, "note": ""}
    done = {trials[0]: {"trial": {"task": "cola"}, "train_note": "", "results": [result]}}
    progress = Progress(done, {trials[1]: 0.0}, {trials[2]: "broken"}, [trials[3]])
    text = StringIO()
    Console(file=text, width=100).print(_live_table(plan, progress))
    assert "2 of 4 trials" in text.getvalue()
    cola, rte = (line for line in text.getvalue().splitlines() if "cola" in line or "rte" in line)
    assert "50.0" in cola and "failed" in cola and "min" in rte and "-" in rte
    assert trials[1] == Trial("rte", "main", 0)
    assert "*" not in text.getvalue()
    for other in ({"train_note": "a part"}, {"results": [{**result, "note": "heldout_from_train"}]}):
        progress.done[trials[0]] = {**done[trials[0]], **other}
        Console(file=text, width=100).print(_live_table(plan, progress))
        assert text.getvalue().endswith("* trained or judged on other than the official rows\n")
        assert "50.0*" in text.getvalue()
        text.truncate(0)
