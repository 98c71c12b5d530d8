"""A study's plan: axes read, arms expanded, what can be gone on with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gemma_encoder.errors import ConfigError
from gemma_encoder.study.plan import Axis, StudyPlan, TrialKey, flat

AXES = {
    "attention": ["bidirectional", "causal"],
    "pooling": {
        "mean": {"pooling.kind": "mean"},
        "last": {"pooling.kind": "last_k"},
        "last 3": {"pooling": {"kind": "last_k", "k": 3}},
    },
}
PLAN = StudyPlan(tasks=("cola", "rte"), base={"model": "m", "epochs": 2}, axes=AXES, seeds=2)


def test_one_factor_changes_one_axis_at_a_time():
    assert [(arm.name, dict(arm.options)) for arm in PLAN.arms()] == [
        ("baseline", {"attention": "bidirectional", "pooling.kind": "mean"}),
        ("attention causal", {"pooling.kind": "mean", "attention": "causal"}),
        ("pooling last", {"attention": "bidirectional", "pooling.kind": "last_k"}),
        ("pooling last 3", {"attention": "bidirectional", "pooling.kind": "last_k", "pooling.k": 3}),
    ]
    assert PLAN.arms()[3].levels == {"attention": "bidirectional", "pooling": "last 3"}


def test_a_grid_has_every_combination_the_baseline_first():
    arms = replace(PLAN, design="grid").arms()
    assert [arm.name for arm in arms] == [
        "baseline",
        "pooling last",
        "pooling last 3",
        "attention causal",
        "attention causal + pooling last",
        "attention causal + pooling last 3",
    ]
    assert arms[5].options == {"attention": "causal", "pooling.kind": "last_k", "pooling.k": 3}


def test_what_a_level_sets_comes_before_what_the_baseline_has():
    axes = {
        "layout": {
            "packed": {"layout": "packed"},
            "left": {"layout": "padded", "padding_side": "left"},
        },
        "window": {"radius": {"window": "radius", "layout": "packed"}, "full": {"window": "full"}},
    }
    assert [dict(arm.options) for arm in replace(PLAN, axes=axes).arms()] == [
        {"layout": "packed", "window": "radius"},
        {"window": "radius", "layout": "padded", "padding_side": "left"},
        {"layout": "packed", "window": "full"},
    ]


def test_two_axes_that_set_the_same_option_are_no_grid():
    axes = {
        "one": {"a": {"layout": "packed"}, "b": {"layout": "padded"}},
        "two": {"c": {"layout": "packed"}, "d": {"layout": "padded"}},
    }
    with pytest.raises(ConfigError, match="one and two both set layout"):
        replace(PLAN, axes=axes, design="grid").arms()


def test_learning_rates_come_first_with_seeds_of_their_own_then_seed_by_seed():
    keys = replace(PLAN, learning_rates=(1e-5, 3e-5)).trial_keys()
    assert keys[0] == TrialKey("cola", "baseline", "tuning", 1000, 1e-5)
    assert [key.stage for key in keys] == ["tuning"] * 16 + ["report"] * 16
    assert [key.seed for key in keys[16:]] == [0] * 8 + [1] * 8
    assert len(set(keys)) == len(keys)
    assert str(keys[1]) == "cola, baseline, learning rate 3e-05, seed 1000"


def test_a_search_knows_its_baseline_and_makes_arms_of_settings():
    axes = {**AXES, "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}}
    plan = replace(PLAN, axes=axes, design="search")
    assert [arm.name for arm in plan.arms()] == ["baseline"]
    assert "learning_rate" not in plan.arms()[0].options  # that of the base options
    arm = plan.arm_of({"attention": "causal", "pooling": "mean", "learning_rate": 0.000123456})
    assert arm.name == "attention causal + learning_rate 0.000123456"
    assert arm.options == {"attention": "causal", "pooling.kind": "mean", "learning_rate": 0.000123456}


def test_the_arms_to_check_have_every_option():
    assert PLAN.arms_to_check() == PLAN.arms()
    axes = {"attention": ["bidirectional", "causal"], "learning_rate": {"low": 1e-5, "high": 1e-3}}
    arms = replace(PLAN, axes=axes, design="search").arms_to_check()
    assert [dict(arm.options) for arm in arms] == [
        {"attention": "bidirectional"},
        {"attention": "bidirectional", "learning_rate": 1e-5},
        {"attention": "causal", "learning_rate": 1e-5},
        {"attention": "bidirectional", "learning_rate": 1e-3},
    ]


def test_options_flatten():
    assert flat({"pooling": {"kind": "mean"}, "args": {"a": {}}}) == {"pooling.kind": "mean", "args.a": {}}
    assert Axis.read("train_embeddings", [False, True]).levels[0].name == "false"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"axes": {}}, "no axis"),
        ({"axes": {"attention": "causal"}}, "The axis attention is 'causal'"),
        ({"axes": {"attention": ["causal"]}}, "has 1 level"),
        ({"axes": {"attention": ["causal", "causal"]}}, "a level twice"),
        ({"axes": {"a": {"x": "causal", "y": {}}}}, "The level x of the axis a"),
        ({"axes": {"learning_rate": {"low": 1e-5, "high": 1e-3}}}, "is a range"),
        ({"axes": {"k": {"low": 3, "high": 1}}, "design": "search"}, "The range of the axis k"),
        ({"axes": {"k": {"low": 0, "high": 1, "log": True}}, "design": "search"}, "above 0 with log"),
        ({"axes": {"learning_rate": [1e-5, 1e-4]}, "learning_rates": (1e-5,)}, "tuned for every arm too"),
        ({"design": "search", "learning_rates": (1e-5,)}, "A search chooses"),
        ({"design": "random"}, "design is 'random'"),
        ({"tasks": ("rte", "rte")}, "each once"),
        ({"tasks": ()}, "at least one task"),
        ({"learning_rates": (1e-3, 0.001)}, "name each learning rate once"),
        ({"seeds": 0}, "seeds is 0"),
        ({"report_rows": 0}, "report_rows is 0"),
    ],
)
def test_a_plan_that_can_not_work_is_refused(given, says):
    with pytest.raises(ConfigError, match=says):
        replace(PLAN, **given)


def test_plans_survive_json():
    assert StudyPlan.from_dict(PLAN.to_dict()) == PLAN


def test_more_seeds_tasks_and_arms_go_on_with_a_study():
    more = {**AXES, "window": ["radius", "full"]}
    replace(PLAN, seeds=5, tasks=("cola", "rte", "mrpc"), question="?").check_continues(PLAN)
    axes = {**AXES, "attention": ["bidirectional", "causal"]}
    replace(PLAN, axes=axes).check_continues(PLAN)
    with pytest.raises(ConfigError, match="axes was"):  # the old arms did not say their window
        replace(PLAN, axes=more).check_continues(PLAN)
    longer = {**AXES, "pooling": {**AXES["pooling"], "first": {"pooling.kind": "first_k"}}}
    replace(PLAN, axes=longer).check_continues(PLAN)
    search = replace(PLAN, design="search", trials=8)
    replace(search, trials=20, finalists=5).check_continues(search)


@pytest.mark.parametrize(
    "changed",
    [
        {"base": {"model": "m", "epochs": 3}},
        {"axes": {"attention": ["causal", "bidirectional"]}},
        {"learning_rates": (1e-5,)},
        {"selection_rows": 10},
        {"report_rows": 10},
        {"design": "grid"},
        {"seeds": 1},
        {"tasks": ("rte", "mrpc")},
    ],
)
def test_a_changed_plan_is_refused_with_what_differs(changed):
    name = next(iter(changed))
    with pytest.raises(ConfigError, match=f"{name} was .* and is "):
        replace(PLAN, **changed).check_continues(PLAN)
