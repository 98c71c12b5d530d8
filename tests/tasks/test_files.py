"""A user's own files as a task: what is inferred from the labels, how they are numbered, how rows are
parted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from table_files import put, save

from gemma_encoder.errors import ConfigError, DataError
from gemma_encoder.tasks import FileTask, get_task, read_table
from gemma_encoder.tasks.files import to_split


def labelled(labels: list[Any]) -> list[dict[str, Any]]:
    return [{"text": f"t{number}", "label": label} for number, label in enumerate(labels)]


def load(path: Path, **options):
    """All rows to train on but one; the options are FileTask's."""
    return FileTask(path, **options).load()


# What kind of task it is


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("labels", "problem_type", "names", "numbers"),
    [
        (["pos", "neg", "pos", "neu"], "single_label_classification", ("neg", "neu", "pos"), [2, 0, 2, 1]),
        ([10, 9, 2, 10], "single_label_classification", ("2", "9", "10"), [2, 1, 0, 2]),
        ([0, 1, 2, 1], "single_label_classification", ("0", "1", "2"), [0, 1, 2, 1]),
        ([-1, 1, 0, 1], "single_label_classification", ("-1", "0", "1"), [0, 2, 1, 2]),
        ([0.5, 1.0, -3e-2, 2.0], "regression", ("score",), [0.5, 1.0, -0.03, 2.0]),
        ([1.0, 2.0, 3.0, 1.0], "regression", ("score",), [1.0, 2.0, 3.0, 1.0]),
        ([0.5, -1.0, -2.0, 1.0], "regression", ("score",), [0.5, -1.0, -2.0, 1.0]),  # -1 is a target here
    ],
)
def test_inference_is_the_same_in_every_format(tmp_path, suffix, labels, problem_type, names, numbers):
    path = save(tmp_path / f"train{suffix}", labelled(labels))
    task = load(path, validation=path).task
    assert (task.problem_type, task.labels, task.name) == (problem_type, names, "train")
    assert list(read_table(path, task).rows["label"]) == numbers


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_lists_are_multi_label(tmp_path, suffix):
    path = save(tmp_path / f"train{suffix}", labelled([["b", "a"], [], ["c"]]))
    data = load(path, validation=path)
    assert data.task.problem_type == "multi_label_classification"
    assert data.task.labels == ("a", "b", "c")
    assert list(data.train["label"]) == [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]


def test_multi_label_in_csv_by_a_separator(tmp_path):
    path = put(tmp_path / "train.csv", "text,label\nx,b | a\ny,\nz,3|b\n")
    data = load(path, validation=path, label_separator="|")
    assert data.task.labels == ("3", "a", "b")
    assert list(data.train["label"]) == [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]]


def test_true_and_false(tmp_path):
    path = save(tmp_path / "train.jsonl", labelled([True, False, True]))
    data = load(path, validation=path)
    assert data.task.labels == ("false", "true") and list(data.train["label"]) == [1, 0, 1]


def test_whole_numbers_that_pandas_made_floats_can_be_classes(tmp_path):
    path = save(tmp_path / "train.parquet", labelled([1.0, 2.0, 1.0]))
    assert load(path, validation=path, problem_type="single_label_classification").task.labels == ("1", "2")


def test_overrides(tmp_path):
    path = save(tmp_path / "train.csv", labelled([1, 2, 3]))
    assert load(path, validation=path, problem_type="regression").task.labels == ("score",)
    path = save(tmp_path / "train.csv", labelled(["b", "a", "b"]))
    data = load(
        path,
        validation=path,
        labels=("b", "a", "unused"),
        metrics=("f1_macro",),
        name="mine",
        template="<{text}>",
    )
    assert list(data.train["label"]) == [0, 1, 0]
    assert (data.task.metrics, data.task.name, data.task.template) == (("f1_macro",), "mine", "<{text}>")
    with pytest.raises(DataError, match=r"label 'b' is not one of 'a', 'c' \[.*line 2\]"):
        load(path, labels=("a", "c"))


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (list(range(51)), "51 different whole numbers may be classes or a scale"),
        ([f"note {n}" for n in range(30)], "30 different labels in 30 rows look like no classes"),
        ([1.5, 2.5, "n/a"], r"label 'n/a' is not a number while others are \[.*line 4\]"),
        ([1.5, 2.5, "nan"], r"label 'nan' is not a number while others are"),
        (["same", "same"], "one class only, 'same'"),
    ],
)
def test_what_cannot_be_told_is_asked(tmp_path, labels, reason):
    path = save(tmp_path / "train.csv", labelled(labels))
    with pytest.raises(DataError, match=reason) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([["a"], "b"], r"not a list while others are \[.*line 2\]"),
        ([["a"], ["b", "b"]], r"name one twice \[.*line 2\]"),
        ([[0, 1], [1, 1]], "name one twice"),
        ([["a"], ["b", None]], r"hold one that is empty or a list \[.*line 2\]"),
        ([["a"], [["b"]]], "hold one that is empty or a list"),
        ([["a"], None], r"label is missing \[.*line 2\]"),
    ],
)
def test_bad_label_lists(tmp_path, rows, reason):
    path = save(tmp_path / "train.jsonl", labelled(rows))
    with pytest.raises(DataError, match=reason):
        load(path, validation=path)


@pytest.mark.parametrize(
    ("labels", "options", "line", "reason"),
    [
        (["a", "", "b"], {}, 3, "the label is missing"),
        (["a", "  ", "b"], {}, 3, "the label is missing"),
        (["1.5", "x", "2"], {"problem_type": "regression"}, 3, "the label 'x' is not a number"),
        (["1.5", "nan", "2"], {"problem_type": "regression"}, 3, "the label 'nan' is not a number"),
        (["1.5", "2", "inf"], {"problem_type": "regression"}, 4, "the label 'inf' is not a number"),
        (["1.5", "2", "1_000"], {"problem_type": "regression"}, 4, "the label '1_000' is not a number"),
        (["1.5", "", "2"], {}, 3, "the label is missing"),
    ],
)
def test_bad_labels_name_the_line_or_are_skipped(tmp_path, labels, options, line, reason):
    path = save(tmp_path / "train.csv", labelled(labels))
    with pytest.raises(DataError, match=rf"{reason} \[.*train.csv, line {line}\]"):
        load(path, **options)
    data = load(path, skip_bad_rows=True, **options)
    assert data.skipped == 1
    assert sorted([*data.train["row"], *data.validation["row"]]) == [n for n in (2, 3, 4) if n != line]


def test_nan_and_null_labels_in_parquet_and_json(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b", "c"], "label": [1.5, float("nan"), 2.0]}), path)
    with pytest.raises(DataError, match=r"label is missing \[.*a.parquet, row 2\]"):
        load(path)
    path = put(tmp_path / "a.jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": null}\n')
    with pytest.raises(DataError, match=r"label is missing \[.*line 2\]"):
        load(path, labels=("x", "y"))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_an_unseen_label_in_validation(tmp_path, suffix):
    train = save(tmp_path / f"train{suffix}", labelled(["neg", "pos"]))
    other = save(tmp_path / f"dev{suffix}", labelled(["pos", "neutral", "neg"]))
    place = {".csv": "line 3", ".jsonl": "line 2", ".parquet": "row 2"}[suffix]
    with pytest.raises(
        DataError, match=rf"label 'neutral' is not one of 'neg', 'pos' \[.*dev{suffix}, {place}\]"
    ):
        load(train, validation=other)
    data = load(train, validation=other, skip_bad_rows=True)
    assert (data.skipped, list(data.validation["label"])) == (1, [1, 0])


def test_a_class_number_is_no_class_name(tmp_path):
    train = save(tmp_path / "train.csv", labelled(["neg", "pos"]))
    other = save(tmp_path / "dev.csv", labelled([0, 1]))
    with pytest.raises(DataError, match=r"label '0' is not one of 'neg', 'pos'"):
        load(train, validation=other)


def test_formats_may_differ_between_the_parts(tmp_path):
    train = save(tmp_path / "train.csv", labelled([3, 4, 3]))
    other = save(tmp_path / "dev.parquet", labelled([4, 3]))
    data = load(train, validation=other)
    assert list(data.validation["label"]) == [1, 0] and data.validation_note == data.train_note == ""


def test_pairs_and_named_columns(tmp_path):
    rows = [{"question": "q1", "answer": "a1", "good": "yes"}, {"question": "q2", "answer": "", "good": "no"}]
    path = save(tmp_path / "train.csv", rows)
    data = load(path, validation=path, text_column="question", text_pair_column="answer", label_column="good")
    assert data.train[0] == {"text": "q1", "text_pair": "a1", "label": 1, "row": 2}
    assert "{text_pair}" in data.task.template
    assert data.empty_texts == 2  # kept, in both parts
    with pytest.raises(DataError, match="no column 'reply'; the columns are 'question', 'answer', 'good'"):
        load(path, text_column="question", text_pair_column="reply", label_column="good")


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "true", '"1e999"', "[1]"])
def test_json_values_that_are_no_numbers(tmp_path, number):
    path = put(tmp_path / "a.jsonl", '{"text": "a", "label": 1.5}\n{"text": "b", "label": ' + number + "}\n")
    with pytest.raises(DataError, match=r"is not a number \[.*line 2\]"):
        load(path, problem_type="regression")


def test_plain_lines_have_no_labels(tmp_path):
    with pytest.raises(DataError, match="plain lines have no labels"):
        load(put(tmp_path / "a.txt", "a\nb\n"))


@pytest.mark.parametrize(
    ("bad", "options", "reason"),
    [
        ({"a": 1}, {}, "column 'label' holds a dict, not a label: {'a': 1}"),
        ({"a": 1}, {"problem_type": "multi_label_classification"}, "holds a dict.*"),
        (["a", "b"], {"problem_type": "single_label_classification"}, r"label \['a', 'b'\] is a list"),
        (["x"] * 900, {"problem_type": "single_label_classification"}, r"'x', .*\.\.\. is a list"),
    ],
)
def test_structures_are_no_labels(tmp_path, bad, options, reason):
    good = [["x"], ["y"]] if "multi" in options.get("problem_type", "") else ["x", "y"]
    path = save(tmp_path / "a.jsonl", labelled([good[0], bad, good[1]]))
    for names in ({}, {"labels": ("x", "y")}):
        with pytest.raises(DataError, match=rf"{reason} \[.*a.jsonl, line 2\]") as caught:
            load(path, **options, **names)
        assert len(str(caught.value)) < 300
        data = load(path, skip_bad_rows=True, **options, **names)
        assert (data.skipped, data.task.labels) == (1, ("x", "y"))


def test_bytes_are_no_labels(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b"], "label": [b"x", b"y"]}), path)
    with pytest.raises(DataError, match=r"column 'label' holds bytes.*a.parquet, row 1\]"):
        load(path)
    pq.write_table(pa.table({"text": ["a", "b"], "label": [[b"x"], [b"y"]]}), path)
    with pytest.raises(DataError, match=r"hold one that is empty or a list.*row 1\]"):
        load(path)


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1e39", '"-1e300"', '"' + "9" * 39 + '"'])
def test_targets_beyond_float32(tmp_path, number):
    path = put(tmp_path / "a.jsonl", '{"text": "a", "label": 1.5}\n{"text": "b", "label": ' + number + "}\n")
    csv = save(tmp_path / "a.csv", labelled([1.5, number.strip('"')]))
    with pytest.raises(DataError, match=r"too large for float32 \[.*line 3\]"):
        load(csv)
    for options in ({}, {"problem_type": "regression"}):
        with pytest.raises(DataError, match=r"label .* is too large for float32 \[.*line 2\]"):
            load(path, **options)


def test_a_class_of_very_many_digits(tmp_path):
    """Python refuses to make an int of more than 4,300."""
    path = save(tmp_path / "a.csv", labelled(["9" * 5000, "1", "2"]))
    assert load(path).task.labels == ("1", "2", "9" * 5000)
    with pytest.raises(DataError, match=r"label '9+\.\.\. is not one of"):
        load(path, labels=("1", "2"))


@pytest.mark.parametrize("label", ['"\\ud800"', '["x", "\\ud800"]'])
def test_half_of_a_surrogate_pair_is_no_label(tmp_path, label):
    """It can't be written to the saved folder, hours later."""
    path = put(tmp_path / "a.jsonl", '{"text": "a", "label": ' + label + '}\n{"text": "b", "label": "x"}\n')
    with pytest.raises(DataError, match=r"half of a surrogate pair \[.*line 1\]"):
        load(path)


def test_no_label_at_all(tmp_path):
    path = save(tmp_path / "a.jsonl", labelled([[], []]))
    for options in ({}, {"skip_bad_rows": True}):
        with pytest.raises(DataError, match=r"no row has a label \["):
            load(path, **options)
    path = save(tmp_path / "a.jsonl", labelled([["a"], ["b"]]))
    with pytest.raises(DataError, match=r"no row has a label, first bad row: .*is a list .*line 1\]"):
        load(path, problem_type="single_label_classification", skip_bad_rows=True)


# Parts


def test_rows_held_out_are_seeded_disjoint_and_noted(tmp_path):
    path = save(tmp_path / "train.csv", labelled(["a", "b"] * 50))
    first, again, other = load(path, seed=1), load(path, seed=1), load(path, seed=2)
    assert (first.train.num_rows, first.validation.num_rows) == (90, 10)
    assert list(first.validation["row"]) == list(again.validation["row"]) != list(other.validation["row"])
    assert sorted([*first.train["row"], *first.validation["row"]]) == list(range(2, 102))
    assert first.validation_note == "10 of the 100 training rows, held out with seed 1"
    assert "90 of 100" in first.train_note
    assert load(path, validation_fraction=0.25).validation.num_rows == 25
    for row in first.validation:
        assert row["text"] == f"t{row['row'] - 2}" and row["label"] == row["row"] % 2


def test_few_rows_still_split(tmp_path):
    path = save(tmp_path / "train.csv", labelled(["a", "b"]))
    for fraction in (0.01, 0.99):
        data = load(path, validation_fraction=fraction)
        assert (data.train.num_rows, data.validation.num_rows) == (1, 1)
    one = save(tmp_path / "one.csv", labelled([1.5]))
    with pytest.raises(DataError, match="can't be split in two"):
        load(one)


def test_sampling_after_holding_out(tmp_path):
    path = save(tmp_path / "train.csv", labelled(["a", "b"] * 50))
    data = load(path, max_train_rows=30, seed=5)
    assert (data.train.num_rows, data.validation.num_rows) == (30, 10)
    assert not set(data.train["row"]) & set(data.validation["row"])
    assert data.train_note.endswith("30 of 90 rows drawn with seed 5")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"problem_type": "regresion"}, "problem_type is 'regresion'.*regression"),
        ({"labels": "ab"}, "labels are 'ab'.*list of names"),
        ({"labels": (0, 1)}, r"labels are \(0, 1\).*list of names"),
        ({"metrics": "accuracy"}, "metrics are 'accuracy'.*list of names"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        FileTask("train.csv", **options)


def test_rows_in_memory_without_a_column():
    with pytest.raises(DataError, match=r"no column 'label'; the columns are 'sentence' \[hub, row 1\]"):
        to_split(iter([(1, "hub, row 1", {"sentence": "a"})]), "hub", get_task("sst2"))


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_a_fraction_out_of_bounds(fraction):
    with pytest.raises(ConfigError, match="validation_fraction"):
        FileTask("train.csv", validation_fraction=fraction)
