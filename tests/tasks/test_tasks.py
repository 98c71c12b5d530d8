"""The task table, and where the data of a built-in task comes from."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_encoder.errors import ConfigError, DataError, NoLabelsError, NoSplitError
from gemma_encoder.evaluation import check_metrics
from gemma_encoder.tasks import TASKS, Task, get_task, load_split, load_task
from gemma_encoder.tasks.sources import bundled_folder, load_data

BUNDLED = Path(__file__).parents[2] / "datasets"
SST2 = TASKS["sst2"]
SMALL = replace(SST2, official_rows={"train": 3, "validation": 2})


def write(folder: Path, name: str, labels: list[int], texts: list[str] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    texts = texts or [f"text {number}" for number in range(len(labels))]
    pq.write_table(
        pa.table({"sentence": texts, "label": labels, "idx": list(range(len(labels)))}), folder / name
    )
    return folder / name


def no_hub(*args, **options):
    raise ConnectionError("Couldn't reach 'nyu-mll/glue' on the Hub (offline)")


def test_the_table_is_the_official_one():
    facts = {
        name: (*(task.official_rows.get(split) for split in ("train", "validation", "test")), task.metrics)
        for name, task in TASKS.items()
        if name != "mnli"
    }
    assert facts == {
        "cola": (8551, 1043, 1063, ("matthews",)),
        "sst2": (67349, 872, 1821, ("accuracy",)),
        "mrpc": (3668, 408, 1725, ("accuracy", "f1")),
        "stsb": (5749, 1500, 1379, ("pearson", "spearman")),
        "qqp": (363846, 40430, 390965, ("accuracy", "f1")),
        "qnli": (104743, 5463, 5463, ("accuracy",)),
        "rte": (2490, 277, 3000, ("accuracy",)),
        "wnli": (635, 71, 146, ("accuracy",)),
        "ax": (None, None, 1104, ("matthews",)),
        "boolq": (9427, 3270, 3245, ("accuracy",)),
        "cb": (250, 56, 250, ("accuracy", "f1_macro")),
        "copa": (400, 100, 500, ("accuracy",)),
        "multirc": (27243, 4848, 9693, ("f1", "exact_match")),
        "record": (100730, 10000, 10000, ("answer_f1", "answer_exact_match")),
        "superglue_rte": (2490, 277, 3000, ("accuracy",)),
        "wic": (5428, 638, 1400, ("accuracy",)),
        "wsc": (554, 104, 146, ("accuracy",)),
        "axb": (None, None, 1104, ("matthews",)),
        "axg": (None, None, 356, ("accuracy", "gender_parity")),
    }
    assert TASKS["mnli"].official_rows == {
        "train": 392702,
        "validation_matched": 9815,
        "validation_mismatched": 9832,
        "test_matched": 9796,
        "test_mismatched": 9847,
    }


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
def test_every_task_hangs_together(task: Task):
    assert ("{text_pair}" in task.template) == task.is_pair
    assert "{text}" in task.template
    assert task.main_metric == task.metrics[0]
    check_metrics(task.metrics, task.problem_type, len(task.labels), groups=True, candidates=True)
    assert task.trained_on is None or TASKS[task.trained_on].labels == task.labels
    assert {task.validation_split, *task.more_splits} <= task.official_rows.keys()
    assert get_task(task.name) is task


def test_an_unknown_task_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"no task 'sst-2'.*cola, sst2"):
        load_task("sst-2")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"text_columns": ("a", "b", "c")}, "text_columns"),
        ({"problem_type": "guessing"}, "single_label_classification"),
        ({"metrics": ()}, "no metric"),
        ({"labels": ("a", "a")}, "labels"),
    ],
)
def test_a_wrong_task_is_refused(change, says):
    with pytest.raises(ConfigError, match=says):
        replace(SST2, **change)


@pytest.mark.parametrize("place", ["sst2", "glue/sst2", "."])
@pytest.mark.parametrize("name", ["train.parquet", "train-00000-of-00001.parquet"])
def test_data_dir_layouts(tmp_path, place, name):
    write(tmp_path / place, name, [0, 1, 1], [" a film ", "b", "c"])
    write(tmp_path / place, "validation.parquet", [1, 0])
    data = load_data(SMALL, tmp_path)
    assert data.train.to_dict() == {"text": ["a film", "b", "c"], "label": [0, 1, 1], "row": [1, 2, 3]}
    assert data.validation["label"] == [1, 0]
    assert (data.train_note, data.validation_note) == ("", "")
    assert data.train_source == str(tmp_path / place / name)


def test_data_dir_reads_jsonl_and_tsv_and_class_names(tmp_path):
    folder = tmp_path / "sst2"
    folder.mkdir()
    rows = [
        {"sentence": "a", "label": "positive"},
        {"sentence": "b", "label": 0},
        {"sentence": "c", "label": 1},
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "dev.tsv").write_text('sentence\tlabel\n"quoted\t1\nplain "\t0\n')
    data = load_data(SMALL, tmp_path)
    assert data.train["label"] == [1, 0, 1]
    assert data.validation.to_dict() == {"text": ['"quoted', 'plain "'], "label": [1, 0], "row": [2, 3]}


def test_a_pair_and_a_number(tmp_path):
    folder = tmp_path / "stsb"
    folder.mkdir()
    for name, scores in (("train", [5.0, 2.5]), ("validation", [0.0])):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["sentence1", "sentence2", "label"])
            writer.writerows([["one", "two", score] for score in scores])
    task = replace(TASKS["stsb"], official_rows={"train": 2, "validation": 1})
    data = load_data(task, tmp_path)
    assert data.train.to_dict() == {
        "text": ["one"] * 2,
        "text_pair": ["two"] * 2,
        "label": [5.0, 2.5],
        "row": [2, 3],
    }
    assert data.train.column_names == ["text", "text_pair", "label", "row"]


def test_a_part_is_marked_and_a_truncated_official_split_refused(tmp_path):
    write(tmp_path / "sst2", "validation.parquet", [1, 0])
    write(tmp_path / "sst2", "train_sample.parquet", [1, 0])
    assert load_data(SMALL, tmp_path).train_note == "train_sample: 2 rows, not the official train split of 3"
    write(tmp_path / "sst2", "train.parquet", [1, 0])
    with pytest.raises(
        DataError, match=r"sst2's train split has 3 rows, this file has 2 \[.*train.parquet\].*train_sample"
    ):
        load_data(SMALL, tmp_path)


def test_another_split_is_marked(tmp_path):
    write(tmp_path / "sst2", "test.parquet", [1, 0])
    assert load_split(SMALL, "test", tmp_path).note.startswith("test: 2 rows, not one of the splits")


def test_an_official_split_is_taken_before_a_part(tmp_path):
    write(tmp_path / "sst2", "train_sample.parquet", [1])
    write(tmp_path / "glue" / "sst2", "train.parquet", [1, 0, 1])
    assert load_split(SMALL, "train", tmp_path).note == ""


def test_unlabelled_rows_are_never_scored(tmp_path):
    write(tmp_path / "sst2", "validation.parquet", [1, -1])
    with pytest.raises(DataError, match=r"no label \(-1\).*validation.parquet, row 2") as caught:
        load_split(SMALL, "validation", tmp_path)
    assert not isinstance(caught.value, NoLabelsError), "the other row has one"


@pytest.mark.parametrize(
    ("rows", "hidden"),
    [
        ([{"label": -1}, {"label": -1}], True),
        ([{"label": None}, {"label": None}], True),
        ([{}, {}], True),  # as in the official file of the diagnostics
        ([{}, {"label": 0}], False),
        ([{"label": 0}, {}], False),
        ([{"label": -1}, {"label": 7}], False),
        ([{"label": -1}, {"hypothesis": []}], False),
    ],
)
def test_a_split_without_labels_is_told_from_one_with_bad_rows(tmp_path, rows, hidden):
    """A benchmark passes over the former only."""
    text = "".join(json.dumps({"premise": "a", "hypothesis": "b", **row}) + "\n" for row in rows)
    (tmp_path / "test_sample.jsonl").write_text(text)
    with pytest.raises(DataError) as caught:
        load_split(TASKS["ax"], "test", tmp_path)
    assert isinstance(caught.value, NoLabelsError) == hidden


def test_a_label_out_of_range_names_the_row(tmp_path):
    write(tmp_path / "sst2", "validation.parquet", [1, 2])
    with pytest.raises(DataError, match=r"label '2' is not one of 'negative', 'positive' .*row 2"):
        load_split(SMALL, "validation", tmp_path)


def test_data_dir_without_the_task_says_where_it_looked(tmp_path):
    write(tmp_path / "cola", "train.parquet", [1])
    with pytest.raises(NoSplitError, match=r"train split of sst2; looked for train\.\* or .*sst2"):
        load_split(SMALL, "train", tmp_path)
    with pytest.raises(DataError, match="data folder is not there"):
        load_split(SMALL, "train", tmp_path / "nowhere")


def test_another_tasks_rows_are_not_taken(tmp_path):
    """A folder with the task's own subfolder is not searched itself."""
    write(tmp_path / "sst2", "validation.parquet", [1, 0])
    write(tmp_path, "train.parquet", [1, 0, 1])
    with pytest.raises(DataError, match="no file for the train split"):
        load_split(SMALL, "train", tmp_path)


def test_sampling_is_seeded_nested_and_noted(tmp_path):
    write(tmp_path, "train.parquet", [0, 1] * 50)
    write(tmp_path, "validation.parquet", [1, 0])
    task = replace(SST2, official_rows={"train": 100, "validation": 2})

    def rows(count, seed):
        return load_data(task, tmp_path, max_train_rows=count, seed=seed).train["row"]

    assert list(rows(20, 1)) == list(rows(20, 1)) == list(rows(40, 1))[:20]
    assert len(set(rows(40, 1))) == 40
    assert set(rows(20, 1)) != set(rows(20, 2))
    assert (
        load_data(task, tmp_path, max_train_rows=20, seed=3).train_note == "20 of 100 rows drawn with seed 3"
    )
    assert load_data(task, tmp_path, max_train_rows=100).train_note == ""
    with pytest.raises(ConfigError, match="max_train_rows is 0"):
        rows(0, 1)


def test_sampled_rows_keep_their_own_label(tmp_path):
    write(tmp_path, "train.parquet", [number % 2 for number in range(30)])
    write(tmp_path, "validation.parquet", [1, 0])
    task = replace(SST2, official_rows={"train": 30, "validation": 2})
    for row in load_data(task, tmp_path, max_train_rows=10).train:
        assert row["text"] == f"text {row['row'] - 1}" and row["label"] == (row["row"] - 1) % 2


def test_bundled_sst2_and_wnli(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", no_hub)
    monkeypatch.delenv("GEMMA_ENCODER_DATA", raising=False)
    data = load_task("sst2", max_train_rows=50)
    assert (data.train.num_rows, data.validation.num_rows) == (50, 872)
    assert data.train_note == (
        "train_sample: 4,000 rows, not the official train split of 67,349; 50 of 4,000 rows drawn with seed 0"
    )
    assert data.validation_note == "" and sum(data.validation["label"]) == 444
    wnli = load_task("wnli")
    assert (wnli.train.num_rows, wnli.validation.num_rows, wnli.train_note) == (635, 71, "")


def test_bundled_files_are_those_listed_and_small():
    listed = dict(reversed(line.split()) for line in (BUNDLED / "SHA256SUMS").read_text().splitlines())
    data = [path for path in BUNDLED.glob("*/**/*") if path.is_file()]
    files = {path.relative_to(BUNDLED).as_posix(): path for path in data}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == listed
    assert sum(path.stat().st_size for path in BUNDLED.rglob("*") if path.is_file()) < 3_000_000
    readme = (BUNDLED / "README.md").read_text()
    assert all(name in readme and digest in readme for name, digest in listed.items())


def test_the_variable_names_another_bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("GEMMA_ENCODER_DATA", str(tmp_path))
    write(tmp_path / "glue" / "sst2", "validation.parquet", [1, 0])
    assert bundled_folder() == tmp_path
    assert load_split(SMALL, "validation", source="bundled").rows.num_rows == 2
    with pytest.raises(NoSplitError, match="no train split of sst2 is bundled"):
        load_split(SMALL, "train", source="bundled")


def test_the_hub_is_asked_last_and_never_runs_code(monkeypatch):
    calls = []

    def hub(*args, **options):
        calls.append((args, options))
        return datasets.Dataset.from_dict(
            {"sentence": ["a ", "b", "c"], "label": [1, 0, 1], "idx": [0, 1, 2]}
        )

    monkeypatch.setattr(datasets, "load_dataset", hub)
    split = load_split(SMALL, "train", source="hub")
    assert calls == [(("nyu-mll/glue", "sst2"), {"split": "train"})]
    assert split.rows.to_dict() == {"text": ["a", "b", "c"], "label": [1, 0, 1], "row": [1, 2, 3]}
    with pytest.raises(DataError, match=r"train split has 67,349 rows, this file has 3 \[nyu-mll/glue"):
        load_split(SST2, "train", source="hub")


def test_offline_says_what_was_tried_and_what_to_do(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", no_hub)
    with pytest.raises(
        DataError, match=r"no train split of cola is bundled.*hub did not give it.*--data-dir"
    ) as caught:
        load_task("cola")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="hub did not give it"):
        load_task("sst2", source="hub")


def test_a_wheel_without_the_clone_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "load_dataset", no_hub)
    monkeypatch.setattr(
        "gemma_encoder.tasks.sources.__file__", str(tmp_path / "a" / "b" / "c" / "sources.py")
    )
    monkeypatch.delenv("GEMMA_ENCODER_DATA", raising=False)
    assert bundled_folder() is None
    with pytest.raises(DataError, match=r"only in a clone.*GEMMA_ENCODER_DATA"):
        load_task("sst2")


def test_a_wrong_source_is_refused():
    with pytest.raises(ConfigError, match="auto, bundled, hub"):
        load_task("sst2", source="web")
