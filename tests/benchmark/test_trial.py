"""A trial of every task and arm, on eight rows with tiny models."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback

from gemma_encoder.benchmark import Trial, collect
from gemma_encoder.benchmark.stock import StockClassifier
from gemma_encoder.benchmark.submission import FILES, zip_answers
from gemma_encoder.benchmark.trial import run_trial, training_arguments
from gemma_encoder.errors import DataError
from gemma_encoder.evaluation import compute_metrics
from gemma_encoder.tasks import TASKS, load_task
from gemma_encoder.tasks.superglue import SUPERGLUE

TRAINED = [name for name, task in TASKS.items() if task.trained_on is None]


@pytest.mark.parametrize("name", TRAINED)
def test_every_task_end_to_end(plan_of, tmp_path, official_tests, name):
    suite = "superglue" if name in SUPERGLUE else "glue"
    plan = plan_of(suite, submission=True, data_dir=str(official_tests))
    plan.write(tmp_path)
    record = run_trial(plan, Trial(name, "main", 0), tmp_path)
    answered = {path.name for path in tmp_path.glob("trials/*/main/seed-0/submission/*")}
    assert answered == {
        file for (task, _), file in FILES[plan.suite].items() if name in (task, TASKS[task].trained_on)
    }
    written = json.loads((tmp_path / "trials" / name / "main" / "seed-0" / "trial.json").read_text())
    assert written["results"] == record["results"] and written["run"]["status"] == "finished"
    splits = [(result["task"], result["split"]) for result in record["results"]]
    expected = [(name, TASKS[name].validation_split), *((name, split) for split in TASKS[name].more_splits)]
    expected += [
        (other, task.validation_split)
        for other, task in TASKS.items()
        if task.trained_on == name and other != "ax"  # whose labels are hidden
    ]
    assert splits == expected
    ax = {"task": "ax", "split": "test", "why": "its labels are hidden"}
    assert record["left_out"] == ([ax] if name == "mnli" else []) and record["unanswered"] == []
    for result in record["results"]:
        task = TASKS[result["task"]]
        assert tuple(result["metrics"]) == tuple(result["baseline"]) == task.metrics
        assert ("not the official" in result["note"]) == (task.trained_on is None)
        with np.load(tmp_path / "trials" / name / "main" / "seed-0" / result["scores"]) as kept:
            data = {key: kept[key] for key in kept.files}
        scores, labels = data.pop("scores"), data.pop("labels")
        assert compute_metrics(task.metrics, scores, labels, **data) == pytest.approx(result["metrics"])
    assert "not the official train split" in record["train_note"]


def test_a_split_that_is_not_there_is_told(plan_of, tmp_path, own_data):
    (own_data / "glue" / "mnli" / "validation_mismatched_sample.jsonl").unlink()
    plan = plan_of("glue", tasks=("mnli",), data_dir=str(own_data))
    record = run_trial(plan, Trial("mnli", "main", 0), tmp_path)
    why = "it is not among the data"
    assert record["left_out"] == [{"task": "mnli", "split": "validation_mismatched", "why": why}]
    assert [result["split"] for result in record["results"]] == ["validation_matched"]


@pytest.mark.parametrize(
    ("name", "rows", "says"),
    [
        ("validation_mismatched", 6 * ['"label": 0'], "has 9,832 rows, this file has 6"),
        ("validation_mismatched_sample", ['"label": 0', '"label": '], "broken JSON.*line 2"),
        ("validation_mismatched_sample", ['"label": 0', '"label": 7'], "'7' is not one of.*line 2"),
        ("validation_mismatched_sample", ['"label": -1', '"label": 0'], "no label.*line 1"),
    ],
)
def test_bad_rows_to_be_judged_by_end_a_trial_before_it_trains(plan_of, tmp_path, own_data, name, rows, says):
    text = "".join(f'{{"premise": "a", "hypothesis": "b", {row}}}\n' for row in rows)
    (own_data / "glue" / "mnli" / f"{name}.jsonl").write_text(text)
    plan, trial = plan_of("glue", tasks=("mnli",), data_dir=str(own_data)), Trial("mnli", "main", 0)
    with pytest.raises(DataError, match=says):
        run_trial(plan, trial, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_part_of_a_test_set_is_not_answered(plan_of, tmp_path):
    plan = plan_of("glue", submission=True)
    record = run_trial(plan, Trial("cola", "main", 0), tmp_path)
    why = "test_sample: 6 rows, not the official test split of 1,063"
    assert record["unanswered"] == [{"task": "cola", "split": "test", "why": why}]
    written, (missing,) = zip_answers(plan, tmp_path)
    assert not written and f"CoLA.tsv ({why}), SST-2.tsv, " in missing


def test_a_suite_that_starts_from_mnli_does_not_answer_it(plan_of, tmp_path, official_tests):
    plan = plan_of("superglue", submission=True, warm_start=True, data_dir=str(official_tests))
    record = run_trial(plan, Trial("mnli", "main", 0), tmp_path)
    assert record["unanswered"] == [] and not list(tmp_path.glob("trials/**/submission"))


@pytest.mark.parametrize("arm", ["stock", "encoder"])
@pytest.mark.parametrize("name", ["sst2", "stsb", "mnli", "copa", "multirc", "record", "superglue_rte"])
def test_baselines_learn_the_same_rows_in_the_same_steps(plan_of, tmp_path, name, arm):
    plan = plan_of("superglue" if name in SUPERGLUE else "glue", arms=("main", arm))
    plan.write(tmp_path)
    record = run_trial(plan, Trial(name, arm, 0), tmp_path)
    rows = {"copa": 16, "record": 24}.get(name, 8)  # two choices, three entities
    assert record["train_rows"] == record["results"][0]["rows"] == rows
    assert record["model"] == (plan.encoder_model if arm == "encoder" else plan.model)
    assert record["embeddings_trained"] == (arm == "stock")
    history = record["run"]["history"]
    assert max(entry["step"] for entry in history) == 2  # eight rows, or lists, in batches of four


@pytest.mark.parametrize("arm", ["main", "stock"])
def test_other_options_of_training_are_those_of_all_arms(plan_of, tmp_path, arm):
    training = plan_of("glue").training | {"max_steps": 1, "train_embeddings": True}
    record = run_trial(plan_of("glue", training=training), Trial("sst2", arm, 0), tmp_path)
    assert record["run"]["steps"] == 1 and record["embeddings_trained"] is True


def stock(plan, name, folder):
    args = training_arguments(plan, Trial(name, "stock", 0), folder)
    return StockClassifier(plan, load_task(name, plan.data_dir), args)


def test_the_stock_trainer_optimises_as_the_plan_says_and_as_ours_does(plan_of, tmp_path):
    given = {
        "weight_decay": 0.3,
        "adam_beta2": 0.9,
        "adam_epsilon": 1e-6,
        "max_grad_norm": 0.5,
        "lr_scheduler_type": "cosine",
        "save_strategy": "steps",
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_steps": 1,
    }
    training = plan_of("glue").training | given | {"max_tokens": 64, "early_stopping_patience": 2}
    trainer = stock(plan_of("glue", training=training), "rte", tmp_path).trainer
    assert {name: getattr(trainer.args, name) for name in given} == given
    assert any(isinstance(each, EarlyStoppingCallback) for each in trainer.callback_handler.callbacks)
    args = stock(plan_of("glue"), "rte", tmp_path).trainer.args
    assert (args.warmup_steps, args.weight_decay, args.lr_scheduler_type) == (0.1, 0.01, "linear")
    assert (args.learning_rate, args.num_train_epochs, args.train_batch_size) == (1e-3, 1, 4)


@pytest.mark.parametrize("name", ["sst2", "stsb", "copa"])
def test_the_stock_trainer_learns_the_same_from_accumulated_batches(plan_of, tmp_path, name):
    def weights(batch: int, accumulated: int):
        plan = plan_of("superglue" if name == "copa" else "glue")
        plan = replace(
            plan,
            recipes={name: {**plan.recipes[name], "batch_size": batch}},
            training={
                **plan.training,
                "gradient_accumulation_steps": accumulated,
                "max_steps": 1,
                "warmup_steps": 0,
                "optim": "sgd",  # whose step tells how large the gradient is
                "max_grad_norm": 0.0,
            },
        )
        classifier = stock(plan, name, tmp_path / f"{batch}")
        before = {key: value.clone() for key, value in classifier.trainer.model.named_parameters()}
        assert classifier.train()["steps"] == 1
        return before, dict(classifier.trainer.model.named_parameters())

    before, whole = weights(8, 1)
    _, parts = weights(2, 4)
    assert any(not torch.equal(before[key], whole[key]) for key in whole)
    for key in whole:
        torch.testing.assert_close(parts[key], whole[key], rtol=1e-4, atol=1e-6)


def test_the_speed_of_the_stock_trainer_is_that_of_its_steps(plan_of, tmp_path, monkeypatch):
    """As ours: without evaluations."""

    def slow(*args, **options):
        time.sleep(1)
        return {"accuracy": 1.0}

    monkeypatch.setattr("gemma_encoder.benchmark.stock.compute_metrics", slow)
    classifier = stock(plan_of("glue"), "sst2", tmp_path)
    run = classifier.train()
    ids = classifier.tokenizer("a warm , funny film")["input_ids"]
    assert run["tokens"] == 8 * len(ids)
    assert run["wall_seconds"] - run["train_seconds"] > 0.9
    assert run["tokens_per_second"] > run["tokens"] / (run["wall_seconds"] - 0.9)


@pytest.mark.parametrize("arm", ["main", "stock"])
def test_a_trial_that_went_on_tells_no_time_that_is_not_all_of_it(plan_of, tmp_path, monkeypatch, arm):
    plan = plan_of("glue", tasks=("rte",), arms=("main", "stock"))
    plan.write(tmp_path)
    trials = [Trial("rte", each, 0) for each in ("main", "stock")]
    for trial in trials:
        if trial.arm != arm:
            assert run_trial(plan, trial, tmp_path)["resumed"] is False
    with monkeypatch.context() as patch:

        def killed(*args):
            raise KeyboardInterrupt

        patch.setattr("gemma_encoder.benchmark.trial._judge", killed)
        with pytest.raises(KeyboardInterrupt):
            run_trial(plan, Trial("rte", arm, 0), tmp_path)
    record = run_trial(plan, Trial("rte", arm, 0), tmp_path)
    assert record["resumed"] is True
    result = {each.arm: each for each in collect(tmp_path, resamples=9).tasks}
    assert result[arm].minutes is None and result[{"main": "stock", "stock": "main"}[arm]].minutes > 0
    speed = result[arm].tokens_per_second
    assert speed is None if arm == "stock" else speed > 0  # nothing was left to train; ours is remembered
