"""Tables from written-out records: marks, splits left out, averages, comparisons with the majority."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from gemma_encoder.benchmark import Plan, Trial, collect
from gemma_encoder.benchmark.paired import majority_metrics
from gemma_encoder.benchmark.report import describe, figure, markdown, page, table, to_dict
from gemma_encoder.cli.report import write_and_print
from gemma_encoder.evaluation import compute_metrics, majority_baseline
from gemma_encoder.tasks import TASKS, get_task
from gemma_encoder.tasks.glue import GLUE

HELDOUT = "heldout_from_train: 8 rows, not the official validation split of 40,430"
LABELS = np.array([0, 0, 0, 0, 0, 1, 1, 1])


def judge(folder: Path, task: str, split: str, scores: np.ndarray, labels: np.ndarray, note: str) -> dict:
    """Scores of a split in a file, and what a trial's record says of them."""
    described = get_task(task)
    file = f"scores-{task}-{split}.npz"
    np.savez(folder / file, scores=scores.astype(np.float32), labels=labels)
    return {
        "task": task,
        "split": split,
        "metrics": compute_metrics(described.metrics, scores, labels),
        "baseline": majority_baseline(
            labels, described.metrics, described.problem_type, num_labels=len(described.labels)
        ),
        "rows": len(labels),
        "note": note,
        "scores": file,
    }


@pytest.fixture
def write(tmp_path):
    """Write a plan and its trials' records: `lacking` are (task, split, seed) without a result, `notes` those
    of splits by task; scores are drawn."""

    def make(tasks, *, seeds=2, arms=("main",), notes=None, train_note="", lacking=(), old=False) -> Path:
        plan = Plan(
            suite="glue",
            model="m",
            arms=arms,
            tasks=tuple(tasks),
            seeds=seeds,
            encoder_model="e",
            recipes={task: {"max_validation_rows": None} for task in TASKS},
        )
        plan.write(tmp_path)
        random = np.random.default_rng(0)
        for trial in plan.trials():
            task, folder = get_task(trial.task), tmp_path / trial.folder
            folder.mkdir(parents=True)
            results, left_out = [], []
            for split in (task.validation_split, *task.more_splits):
                if (trial.task, split, trial.seed) in lacking:
                    left_out.append({"task": trial.task, "split": split, "why": "no such\nfile"})
                    continue
                scores = random.normal(size=(8, len(task.labels)))
                labels = LABELS / 2 if trial.task == "stsb" else LABELS
                note = (notes or {}).get(trial.task, "")
                results.append(judge(folder, trial.task, split, scores, labels, note))
            if not old and "ax" in tasks and trial.task == "mnli":
                left_out.append({"task": "ax", "split": "test", "why": "its labels are hidden"})
            record = {
                "trial": {"task": trial.task, "arm": trial.arm, "seed": trial.seed},
                "model": "m",
                "train_rows": 8,
                "train_note": f"{train_note} with seed {trial.seed}" if train_note else "",
                "results": results,
                "minutes": 1.0,
                "resumed": False,
                "run": {"tokens_per_second": 10.0},
            }
            (folder / "trial.json").write_text(json.dumps(record if old else record | {"left_out": left_out}))
        return tmp_path

    return make


def row_of(results, task, model="this model") -> dict[str, str]:
    (row,) = (row for row in table(results) if (row["task"], row["model"]) == (task, model))
    return row


def test_other_rows_are_marked_in_every_format_and_in_the_average(write, capfd):
    pytest.importorskip("matplotlib")
    folder = write(GLUE, seeds=1, notes={"qqp": HELDOUT})
    results = collect(folder, resamples=9)
    qqp, average = row_of(results, "qqp"), row_of(results, "average")
    assert qqp["score"].endswith("*") and qqp["notes"] == f"validation: {HELDOUT}"
    assert row_of(results, "qqp", "majority")["score"].endswith("*")
    assert average["score"].endswith("*") and average["notes"] == "other rows: qqp"
    assert not row_of(results, "rte")["score"].endswith("*")
    assert row_of(results, "rte")["notes"] == "official rows"
    explained = "behind a score: trained or judged on other than the official rows"
    assert explained in markdown(results) and f"| {average['score'][:-1]}\\* |" in markdown(results)
    html = page(results, None)
    assert explained in html and f"<td>{average['score']}</td>" in html and HELDOUT in html
    data = to_dict(results)["averages"]["main"]
    assert data["partial"] == ("qqp",) and set(data["tasks"]) == set(GLUE) - {"ax", "wnli"}
    svg = figure(results)
    assert "<!-- qqp* -->" in svg and "<!-- rte -->" in svg
    assert "* trained or judged on other than the official rows" in svg

    write_and_print(folder, wnli=False)
    lines = capfd.readouterr().out.splitlines()
    (shown,) = (line for line in lines if line.split()[:3] == ["average", "this", "model"])
    assert average["score"] in shown
    caption = lines.index("* trained or judged on other than the official rows")
    assert lines[caption + 1 :] == [f"  qqp      validation: {HELDOUT}", "  average  qqp"]


def test_nothing_is_marked_where_all_rows_are_official(write, capfd):
    folder = write(GLUE, seeds=1)
    results = collect(folder, resamples=9)
    assert "\\*" not in markdown(results) and "behind a score" not in markdown(results)
    assert row_of(results, "average")["notes"] == "official rows"
    write_and_print(folder, wnli=False)
    assert "other than the official" not in capfd.readouterr().out


def test_notes_say_which_rows_they_are_about(write):
    drawn = "8 of 9 rows drawn"
    results = collect(write(["mnli"], train_note=drawn, notes={"mnli": drawn}), resamples=9)
    assert results.tasks[0].notes == (
        f"train: {drawn}",
        f"validation_matched: {drawn}",
        f"validation_mismatched: {drawn}",
    )
    assert "train" not in row_of(results, "mnli", "majority")["notes"], "it learns from none"


def test_a_split_that_one_seed_lacks_is_left_out_of_its_mean(write, tmp_path):
    lacking = ("mnli", "validation_mismatched", 0)
    results = collect(write(["mnli", "ax"], lacking=[lacking], arms=("main", "stock")), resamples=9)
    main, stock = results.tasks
    matched = [
        json.loads(path.read_text())["results"][0]["metrics"]["accuracy"]
        for path in tmp_path.glob("trials/mnli/main/*/trial.json")
    ]
    assert len(matched) == 2 and list(main.metrics) == ["accuracy"] and main.rows == 8
    assert main.score[0] == main.metrics["accuracy"][0] == pytest.approx(np.mean(matched))
    assert main.notes == ("validation_mismatched: left out (seed 0 has none)",)
    assert stock.against is not None, "it lacks the same split"


@pytest.mark.parametrize("old", [False, True])
def test_there_is_no_average_without_a_split_that_counts(write, old):
    lacking = [("mnli", "validation_mismatched", seed) for seed in (0, 1)]
    results = collect(write(GLUE, lacking=lacking, old=old), resamples=9)
    assert results.averages["main"].score is None
    average = row_of(results, "average")
    assert average["score"] == "none" and average["notes"] == "mnli (validation_mismatched) missing"
    said = describe(results)
    assert "No average of this model: mnli (validation_mismatched) missing." in said
    assert row_of(results, "mnli")["notes"] == "validation_mismatched: left out"
    assert row_of(results, "mnli")["score"].endswith("*")
    reasons = [line for line in said if line.startswith("Not scored: ")]
    assert reasons == (
        []
        if old  # records of before this was noted
        else [
            "Not scored: mnli validation_mismatched: no such file",
            "Not scored: ax test: its labels are hidden",
        ]
    )


def test_an_average_is_of_the_seeds_that_have_every_split(write):
    results = collect(write(GLUE, lacking=[("mnli", "validation_mismatched", 1)]), resamples=9)
    assert results.averages["main"].seeds == (0,)
    assert row_of(results, "average")["seeds"] == "1"
    assert "Not scored: mnli validation_mismatched (mnli, main, seed 1): no such file" in describe(results)


def test_a_report_says_whether_wnli_counts(write):
    folder = write(GLUE, seeds=1)
    without, counted = collect(folder, resamples=9), collect(folder, wnli=True, resamples=9)
    scores = {result.task: result.score[0] for result in without.tasks}
    assert counted.averages["main"].score[0] == pytest.approx(np.mean(list(scores.values())))
    del scores["wnli"]
    assert without.averages["main"].score[0] == pytest.approx(np.mean(list(scores.values())))
    assert (to_dict(without)["wnli"], to_dict(counted)["wnli"]) == (False, True)
    names = "cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte"
    assert f"Average: the mean of {names}; without wnli, ax." in describe(without)
    assert f"Average: the mean of {names}, wnli; without ax." in describe(counted)


def test_the_main_model_is_compared_with_the_majority(write):
    folder = write(["rte"], seeds=1)
    path = folder / Trial("rte", "main", 0).folder
    right = np.eye(2)[LABELS]
    record = json.loads((path / "trial.json").read_text())
    record["results"] = [judge(path, "rte", "validation", right, LABELS, "")]
    (path / "trial.json").write_text(json.dumps(record))
    results = collect(folder)
    # Right in the three rows where the majority is wrong: of the 8 ways to swap those, 2 differ as much.
    assert results.tasks[0].against_majority.difference == pytest.approx(3 / 8)
    assert results.tasks[0].against_majority.p_value == pytest.approx(2 / 8)
    row = row_of(results, "rte", "majority")
    assert (row["score"], row["difference"], row["p"]) == ("62.5", "+37.5", "0.250")


def test_guesses_are_not_above_a_majority_whose_f1_is_nothing(write):
    """QQP's majority has an F1 of 0: guesses that know nothing have a better one, and a worse accuracy."""
    results = collect(write(["qqp"], seeds=3), resamples=99)
    (result,) = results.tasks
    accuracy = result.metrics["accuracy"][0] - 5 / 8
    assert result.against_majority.difference == pytest.approx(accuracy)
    row = row_of(results, "qqp", "majority")
    assert row["metrics"] == "difference of accuracy" and row["difference"] == f"{100 * accuracy:+.1f}"


def test_by_what_a_model_is_compared_with_the_majority():
    assert majority_metrics("multirc") == ()
    assert majority_metrics("axg") == majority_metrics("cb") == majority_metrics("mnli") == ("accuracy",)
    assert majority_metrics("stsb") == ("pearson", "spearman")
    assert majority_metrics("record") == ("answer_f1", "answer_exact_match")


def test_a_mean_has_no_correlation_and_a_model_is_compared_with_it_all_the_same(write):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (result,) = collect(write(["stsb"]), resamples=99).tasks
    assert result.against_majority.difference == pytest.approx(result.score[0])


@pytest.mark.parametrize(("broken", "says"), [(None, "is missing"), (b"PK", "can't be read")])
def test_a_table_says_which_difference_it_lacks_for_want_of_scores(write, broken, says, capfd):
    folder = write(["rte", "wnli"], arms=("main", "stock"))
    path = folder / Trial("rte", "stock", 1).folder / "scores-rte-validation.npz"
    path.unlink()
    if broken:
        path.write_bytes(broken)
    results = collect(folder, resamples=9)
    row = row_of(results, "rte", "stock classifier")
    assert row["difference"] == "" and not row["score"].endswith("*")
    assert row["notes"] == f"no difference: rte/stock/seed-1/scores-rte-validation.npz {says}"
    assert row_of(results, "wnli", "stock classifier")["difference"]
    write_and_print(folder, wnli=False)
    assert (
        f"rte, stock classifier: no difference, rte/stock/seed-1/{path.name} {says}" in capfd.readouterr().err
    )


def test_a_report_is_the_same_when_it_is_made_again(write):
    pytest.importorskip("matplotlib")
    results = collect(write(["rte", "cola"]), resamples=9)
    assert figure(results) == figure(results)
