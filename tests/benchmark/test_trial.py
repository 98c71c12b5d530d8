"""A trial of every task and arm, on eight rows with tiny models."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gemma_encoder.benchmark import Trial, collect
from gemma_encoder.benchmark.submission import FILES
from gemma_encoder.benchmark.trial import run_trial
from gemma_encoder.evaluation import compute_metrics
from gemma_encoder.tasks import TASKS
from gemma_encoder.tasks.superglue import SUPERGLUE

TRAINED = [name for name, task in TASKS.items() if task.trained_on is None]


@pytest.mark.parametrize("name", TRAINED)
def test_every_task_end_to_end(plan_of, tmp_path, name):
    plan = plan_of("superglue" if name in SUPERGLUE else "glue", submission=True)
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
    for result in record["results"]:
        task = TASKS[result["task"]]
        assert tuple(result["metrics"]) == tuple(result["baseline"]) == task.metrics
        assert "not the official" in result["note"]
        with np.load(tmp_path / "trials" / name / "main" / "seed-0" / result["scores"]) as kept:
            data = {key: kept[key] for key in kept.files}
        scores, labels = data.pop("scores"), data.pop("labels")
        assert compute_metrics(task.metrics, scores, labels, **data) == pytest.approx(result["metrics"])
    assert "not the official train split" in record["train_note"]


@pytest.mark.parametrize("arm", ["stock", "encoder"])
@pytest.mark.parametrize("name", ["sst2", "stsb", "mnli", "copa", "multirc", "superglue_rte"])
def test_baselines_learn_the_same_rows_in_the_same_steps(plan_of, tmp_path, name, arm):
    plan = plan_of("superglue" if name in SUPERGLUE else "glue", arms=("main", arm))
    plan.write(tmp_path)
    record = run_trial(plan, Trial(name, arm, 0), tmp_path)
    assert record["train_rows"] == (16 if name == "copa" else 8)
    assert record["model"] == (plan.encoder_model if arm == "encoder" else plan.model)
    assert record["results"][0]["rows"] == (16 if name == "copa" else 8)
    history = record["run"]["history"]
    assert max(entry["step"] for entry in history) == 2  # eight rows, or lists, in batches of four


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
