"""Trials in a storage: each is run once, whoever dies; results survive as they were."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gemma_encoder.errors import ConfigError
from gemma_encoder.study.choosing import best_learning_rate, finalists, search_ended
from gemma_encoder.study.plan import StudyPlan, TrialKey
from gemma_encoder.study.records import DIED, INTERRUPTED, Record, ReportRows, TrialResult
from gemma_encoder.study.storage import StudyStorage
from gemma_encoder.study.worker import Worker

PLAN = StudyPlan(
    tasks=("sst2",), base={"model": "m"}, axes={"attention": ["bidirectional", "causal"]}, seeds=3
)
RESULT = TrialResult(
    selection={"accuracy": 0.5},
    report={"accuracy": 0.75},
    scores=np.array([[0.5, -1.25], [3.0, 2.0]], dtype=np.float32),
    learning_rate=1e-5,
    head_learning_rate=None,
    train_rows=8,
    steps=2,
    minutes=0.1,
    tokens_per_second=100.0,
    peak_mib=10,
    history=[{"step": 1, "loss": 0.5}],
)
ROWS = ReportRows(("accuracy",), "single_label_classification", np.array([0, 1]), {"accuracy": 0.5})


def always(key: TrialKey) -> bool:
    return True


@pytest.fixture
def storage(tmp_path) -> StudyStorage:
    found = StudyStorage(tmp_path, "one", heartbeat_seconds=1)
    found.begin(PLAN)
    return found


def test_a_study_begins_and_ends(storage):
    assert storage.plan() == PLAN
    keys = []
    while claimed := storage.claim(always):
        keys.append(claimed.key)
        storage.finish(claimed, RESULT, 0.5)
    assert keys == PLAN.trial_keys()
    records = storage.records()
    assert {record.state for record in records} == {"complete"} and len(records) == 6
    result = records[0].result
    assert result is not None and result.scores is not None
    assert result.scores.tolist() == RESULT.scores.tolist() and result.scores.dtype == np.float32
    assert replace(result, scores=None) == replace(RESULT, scores=None)
    storage.begin(PLAN)
    assert storage.claim(always) is None  # nothing is repeated
    storage.begin(replace(PLAN, seeds=4))
    assert [storage.claim(always).key.seed for _ in range(2)] == [3, 3]


def test_another_plan_is_refused_with_the_difference(storage):
    with pytest.raises(ConfigError, match=r"base was .*'m'.* and is .*'other'"):
        storage.begin(replace(PLAN, base={"model": "other"}))
    assert storage.plan() == PLAN


def test_what_is_not_ready_waits(storage):
    assert storage.claim(lambda key: False) is None
    assert storage.claim(lambda key: key.seed == 2).key.seed == 2


def test_a_failed_trial_runs_again_with_the_next_start_only(storage):
    claimed = storage.claim(always)
    storage.fail(claimed, "bad row")
    assert [each.error for each in storage.records() if each.state == "failed"] == ["bad row"]
    while other := storage.claim(always):
        assert other.key != claimed.key
        storage.finish(other, RESULT, 0.5)
    storage.begin(PLAN)
    assert storage.claim(always).key == claimed.key
    assert not [each for each in storage.records() if each.state == "failed"]


def test_a_trial_that_was_interrupted_waits_again_at_once(storage):
    claimed = storage.claim(always)
    storage.release(claimed)
    keys = []
    while again := storage.claim(always):
        keys.append(again.key)
    assert sorted(map(str, keys)) == sorted(map(str, PLAN.trial_keys()))


def test_of_two_trials_with_one_key_one_is_run(storage):
    study = storage._study("one")
    waiting = study.get_trials()
    study.enqueue_trial({}, user_attrs=waiting[0].user_attrs)  # another machine began at the same time
    keys = []
    while claimed := storage.claim(always):
        keys.append(claimed.key)
        storage.finish(claimed, RESULT, 0.5)
    assert keys == PLAN.trial_keys()
    assert len(storage.records()) == 6


def test_a_worker_that_has_no_file_here_is_found_by_its_heartbeat(storage, tmp_path):
    elsewhere = StudyStorage(tmp_path / "other", "one", storage.url, heartbeat_seconds=1)
    with elsewhere.alive():
        claimed = elsewhere.claim(always)
        with elsewhere.beating(claimed):
            time.sleep(1.5)
            assert storage.give_up_dead() == []
    deadline = time.monotonic() + 30
    while not (dead := storage.give_up_dead()):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert dead == [claimed.key]


def test_a_worker_that_dies_before_it_has_signed_is_found(storage):
    study = storage._study("one")
    first = study.get_trials()[0]
    storage._storage.set_trial_state_values(first._trial_id, storage._optuna.trial.TrialState.RUNNING)
    keys = []
    while claimed := storage.claim(always):
        keys.append(claimed.key)
    assert sorted(map(str, keys)) == sorted(map(str, PLAN.trial_keys()))


def test_who_was_given_up_wrongly_harms_nothing(storage):
    claimed = storage.claim(always)
    study = storage._study("one")
    storage._end(storage._optuna.Trial(study, claimed.trial._trial_id), "FAIL", error="its worker died")
    storage.give_up_dead()
    storage.finish(claimed, RESULT, 0.5)
    again = [each.state for each in storage.records() if each.key == claimed.key]
    assert again == ["waiting"]


def test_a_search_whose_trials_fail_comes_to_an_end(storage):
    axes = {
        "attention": ["bidirectional", "causal"],
        "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
    }
    plan = replace(PLAN, axes=axes, design="search", trials=3)
    ended = ["bad row", "interrupted", "bad row", "result"]
    for how in ended:
        claimed = storage.search(plan, "sst2", 1000)
        assert claimed.key.stage == "search" and "learning_rate" in claimed.arm.options
        assert not search_ended(storage.records(), plan, "sst2")
        if how == "result":
            storage.finish(claimed, RESULT, 0.5)
        elif how == "interrupted":
            storage.release(claimed)
        else:
            storage.fail(claimed, how)
    assert storage.search(plan, "sst2", 1000) is None
    assert search_ended(storage.records(), plan, "sst2")


def test_rows_are_kept_and_others_refused(storage):
    storage.set_rows("sst2", ROWS)
    storage.set_rows("sst2", ROWS)
    assert storage.rows()["sst2"].labels.tolist() == [0, 1]
    with pytest.raises(ConfigError, match="The rows of sst2 are not those"):
        storage.set_rows("sst2", replace(ROWS, labels=np.array([1, 1])))
    storage.set_rows("sst2", replace(ROWS, digest="1"))  # an older study knows none
    storage.set_rows("rte", replace(ROWS, digest="1"))
    with pytest.raises(ConfigError, match="The texts or training labels of rte are not those"):
        storage.set_rows("rte", replace(ROWS, digest="2"))


def test_what_older_versions_stored_is_read():
    old = ROWS.to_json()
    del old["digest"]
    assert ReportRows.from_json(old).digest == ""
    old = RESULT.to_json()
    del old["peak_of_trial"]
    assert not TrialResult.from_json(old).peak_of_trial


def test_a_study_that_was_stopped_before_it_had_a_plan_says_so(tmp_path):
    storage = StudyStorage(tmp_path, "one")
    storage._study("one", create=True)
    with pytest.raises(ConfigError, match="stopped before it had a plan"):
        storage.plan()
    storage.begin(PLAN)
    assert storage.plan() == PLAN


def test_studies_are_named_without_their_searches(storage):
    storage._study("one/sst2", create=True)
    assert storage.studies() == ["one"]
    storage._study("two", create=True)
    assert sorted(storage.studies()) == ["one", "two"]


def test_a_storage_that_can_not_be_opened_says_so_without_the_password(tmp_path):
    with pytest.raises(ConfigError) as error:
        StudyStorage(tmp_path, "one", "nosuch://user:secret@host/db")
    assert "can't be opened" in str(error.value) and "secret" not in str(error.value)
    with pytest.raises(ConfigError, match="There is no study 'two'"):
        StudyStorage(tmp_path, "two").plan()


WORKER = """
import random, sys, time
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[2])
from test_storage import RESULT, always
from gemma_encoder.study.storage import StudyStorage

storage = StudyStorage(Path(sys.argv[1]), "one", heartbeat_seconds=5)
with storage.alive():
    while True:
        claimed = storage.claim(always)
        if claimed is None:
            if any(each.state == "running" for each in storage.records()):
                time.sleep(0.05)
                continue
            break
        with storage.beating(claimed), (Path(sys.argv[1]) / "ran.txt").open("a") as log:
            time.sleep(random.random() * 0.2)
            storage.finish(claimed, RESULT, 0.5)
            log.write(f"{claimed.key}\\n")
"""


def test_killed_workers_lose_and_repeat_nothing(tmp_path):
    plan = replace(PLAN, seeds=12)
    storage = StudyStorage(tmp_path, "one", heartbeat_seconds=5)
    storage.begin(plan)
    command = [sys.executable, "-c", WORKER, str(tmp_path), str(Path(__file__).parent)]
    draw = random.Random(0)

    def start() -> subprocess.Popen:
        return subprocess.Popen(command)

    workers, kills = [start(), start()], 0
    deadline = time.monotonic() + 240
    while workers:
        assert time.monotonic() < deadline, storage.records()
        for worker in list(workers):
            if worker.poll() is not None:
                workers.remove(worker)
                if worker.returncode:
                    workers.append(start())
        states = Counter(each.state for each in storage.records())
        if kills < 3 and states["running"] and states["complete"] >= 2 + 4 * kills:
            time.sleep(draw.random() * 0.2)
            os.kill(workers[0].pid, signal.SIGKILL)
            kills += 1
        time.sleep(0.02)
    assert kills == 3
    records = storage.records()
    assert sorted(str(each.key) for each in records) == sorted(map(str, plan.trial_keys()))
    assert {each.state for each in records} == {"complete"}
    all_trials = storage._study("one").get_trials(deepcopy=False)
    complete = Counter(
        json.dumps(each.user_attrs["key"]) for each in all_trials if each.state.name == "COMPLETE"
    )
    assert set(complete.values()) == {1}
    ran = (tmp_path / "ran.txt").read_text().splitlines()
    assert len(ran) <= len(records)  # a result is kept before its line is written


def _record(key: TrialKey, value: float | None, number: int = 0, options: dict | None = None) -> Record:
    state = "complete" if value is not None else "failed"
    result = None if value is None else replace(RESULT, selection={"accuracy": value})
    error = "" if result else "bad row"
    return Record(key, number, state, options or {}, {"attention": key.arm}, result, error)


def test_the_best_learning_rate_is_by_the_mean_of_all_tries():
    plan = replace(PLAN, learning_rates=(1e-5, 3e-5), tuning_seeds=2)
    values = {(1e-5, 1000): 0.9, (1e-5, 1001): 0.5, (3e-5, 1000): 0.8, (3e-5, 1001): 0.8}
    records = [
        _record(TrialKey("sst2", "baseline", "tuning", seed, rate), value)
        for (rate, seed), value in values.items()
    ]

    def best(some: list[Record], higher: bool = True) -> float | None:
        return best_learning_rate(some, plan, "sst2", "baseline", "accuracy", higher=higher)

    assert best(records) == 3e-5
    assert best(records, higher=False) == 1e-5
    assert best(records[:3]) is None  # one has not ended

    def ended(record: Record, error: str) -> Record:
        return replace(record, state="failed", result=None, error=error)

    assert best([*records[:2], *(ended(each, "bad row") for each in records[2:])]) == 1e-5
    assert best([*records[:3], ended(records[3], "bad row")]) == 1e-5  # the other has one seed, 0.8
    assert best([ended(each, "bad row") for each in records]) is None
    for error in (INTERRUPTED, DIED, ""):
        assert best([*records[:3], ended(records[3], error)]) is None, "it runs again"


def test_an_arm_keeps_the_learning_rate_of_its_first_report_trials(storage, tmp_path):
    plan = replace(PLAN, learning_rates=(1e-5, 3e-5), seeds=2)
    storage = StudyStorage(tmp_path / "tuned", "tuned")
    storage.begin(plan)
    storage.set_rows("sst2", ROWS)

    def end(key: TrialKey, rate: float, value: float) -> None:
        claimed = storage.claim(lambda other: other == key)
        storage.finish(claimed, replace(RESULT, selection={"accuracy": value}, learning_rate=rate), value)

    low, high = (TrialKey("sst2", "baseline", "tuning", 1000, rate) for rate in plan.learning_rates)
    end(low, 1e-5, 0.6)
    storage.fail(storage.claim(lambda other: other == high), "out of memory")
    assert Worker(storage, None)._rate("sst2", "baseline") == 1e-5
    end(TrialKey("sst2", "baseline", "report", 0), 1e-5, 0.6)
    storage.begin(plan)  # the next start tries again what failed
    end(high, 3e-5, 0.9)
    assert Worker(storage, None)._rate("sst2", "baseline") == 1e-5


def test_finalists_are_the_best_settings_each_once_without_the_baseline():
    plan = replace(PLAN, design="search", finalists=2)
    baseline = {"attention": "bidirectional"}
    tried = [("a", 0.5, {"x": 1}), ("b", 0.9, {"x": 2}), ("base", 0.95, baseline), ("b", 0.8, {"x": 2})]
    records = [
        _record(TrialKey("sst2", name, "search", 1000), value, number, options)
        for number, (name, value, options) in enumerate(tried)
    ]
    assert [arm.name for arm in finalists(records, plan, "sst2", "accuracy", higher=True)] == ["b", "a"]
    assert [arm.name for arm in finalists(records, plan, "sst2", "accuracy", higher=False)] == ["a", "b"]
    one_name = [
        _record(TrialKey("sst2", "a", "search", 1000), value, number, {"x": number})
        for number, value in enumerate((0.5, 0.9, 0.7))
    ]
    assert [arm.options for arm in finalists(one_name, plan, "sst2", "accuracy", higher=True)] == [{"x": 1}]
