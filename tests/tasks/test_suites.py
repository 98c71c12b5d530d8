"""GLUE and SuperGLUE: what their records become, in every layout, and what is taken for an official split.

`golden/` has the texts that the model sees, to be read. After a change that is meant:
`python tests/tasks/test_suites.py` writes them anew.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from suite_records import HUB, OFFICIAL

from gemma_encoder.errors import DataError, NoLabelsError
from gemma_encoder.tasks import TASKS, Split, Task, get_task, load_split
from gemma_encoder.tasks.files import to_split

GOLDEN = Path(__file__).parent / "golden"


def rows_of(task: Task, *records: dict) -> Split:
    numbered = ((number, f"record {number}", record) for number, record in enumerate(records, 1))
    return to_split(numbered, "memory", task)


def rendered(task: Task) -> str:
    """Every text of the task's record with its label, as the template writes it out."""
    parts = []
    for row in rows_of(task, HUB[task.name]).rows:
        label = (
            row["label"] if task.problem_type != "single_label_classification" else task.labels[row["label"]]
        )
        text = task.template.replace("{text_pair}", row.get("text_pair", "")).replace("{text}", row["text"])
        parts.append(f"{text}\n=> {label}\n")
    return "\n".join(parts)


def test_every_task_has_a_record():
    assert list(HUB) == list(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_the_model_sees_the_golden_text(name):
    assert rendered(get_task(name)) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_records_give_the_same_rows(name):
    task = get_task(name)
    assert rows_of(task, OFFICIAL[name]).rows.to_list() == rows_of(task, HUB[name]).rows.to_list()


def test_the_answers_to_a_question_are_a_group():
    first = HUB["multirc"]
    other = {**first, "idx": {"paragraph": 4, "question": 3, "answer": 0}}
    rows = rows_of(get_task("multirc"), first, other, {**first, "answer": "The sky", "label": 0}).rows
    assert rows["group"] == [0, 1, 0]


def test_two_sentences_of_a_minimal_pair_are_a_group():
    rows = rows_of(get_task("axg"), *({**HUB["axg"], "idx": number} for number in range(4))).rows
    assert rows["group"] == [0, 0, 1, 1]


def test_an_entity_named_twice_is_one_candidate():
    again = {**HUB["record"], "entities": ["Babbage", "Ada Lovelace", "Babbage"]}
    rows = rows_of(get_task("record"), again).rows
    assert rows["candidate"] == ["Babbage", "Ada Lovelace"] and rows["label"] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("text", "span", "word", "marked"),
    [
        ("He said he came.", "he", 2, "He said *he* came."),
        ("He said he came.", "he", 0, "*He* said he came."),
        ("They said he came.", "he", 1, "They said *he* came."),  # off by one, and not the end of "they"
        ("The old\nman ate.", "old man", 1, "The *old\nman* ate."),
    ],
)
def test_a_span_is_found_by_its_words_near_its_index(text, span, word, marked):
    record = {
        "text": f"{text} X",
        "span1_text": "X",
        "span1_index": 99,
        "span2_text": span,
        "span2_index": word,
    }
    assert rows_of(get_task("wsc"), {**record, "label": 1}).rows["text"] == [f"{marked} [X]"]


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("wsc", {"span1_text": "Bob"}, "the span 'Bob' is not in the text"),
        ("copa", {"question": "why"}, "there is no column 'why'|can't be made"),
        ("copa", {"label": -1}, r"has no label \(-1\)"),
        ("record", {"answers": []}, r"has no label \(-1\)"),
        ("stsb", {"label": -1.0}, r"has no label \(-1\)"),  # as the hub's test split has it
        ("multirc", {"label": -1}, r"has no label \(-1\)"),
        ("multirc", {"idx": 3}, "can't be made into one of multirc"),
    ],
)
def test_a_bad_record_is_named(name, change, says):
    with pytest.raises(DataError, match=says) as error:
        rows_of(get_task(name), HUB[name], {**HUB[name], **change})
    assert "record 2" in str(error.value)


def test_a_missing_column_is_named():
    with pytest.raises(DataError, match="no column 'choice2'"):
        rows_of(get_task("copa"), {"premise": "a", "choice1": "b", "question": "cause", "label": 0})


# ------------------------------------------------------------------------------------------- official folders


def official(name: str, rows: int, split: str = "train") -> Task:
    return replace(get_task(name), official_rows={split: rows})


def test_cola_without_a_header(tmp_path):
    folder = tmp_path / "glue_data" / "CoLA"
    folder.mkdir(parents=True)
    (folder / "train.tsv").write_text('gj04\t1\t\tA "quote.\ngj04\t0\t*\tNo the.\n')
    (folder / "dev.tsv").write_text("label\tsentence\n1\tFine.\n")
    train = load_split(official("cola", 2), "train", tmp_path / "glue_data")
    assert train.rows["text"] == ['A "quote.', "No the."] and train.rows["label"] == [1, 0]
    assert train.rows["row"] == [1, 2] and not train.note
    assert load_split(official("cola", 1, "validation"), "validation", tmp_path / "glue_data").rows[
        "label"
    ] == [1]


def test_the_diagnostics_of_glue_have_a_file_with_labels_and_one_to_answer(tmp_path):
    folder, task = tmp_path / "glue_data" / "diagnostic", official("ax", 2, "test")
    folder.mkdir(parents=True)
    header = "Lexical Semantics\tPredicate-Argument Structure\tLogic\tKnowledge\tDomain"
    (folder / "diagnostic-full.tsv").write_text(
        f"{header}\tPremise\tHypothesis\tLabel\n"
        '\t\tNegation\t\tNews\tThe "cat" sat.\tThe cat did not sit.\tcontradiction\n'
        "\t\tNegation\t\tNews\tIt rained.\tIt was cold.\tneutral\n"
    )
    (folder / "diagnostic.tsv").write_text("index\tsentence1\tsentence2\n0\tA.\tB.\n1\tC.\tD.\n")
    split = load_split(task, "test", tmp_path / "glue_data")
    assert split.rows.select_columns(["text", "text_pair", "label"]).to_list() == [
        {"text": 'The "cat" sat.', "text_pair": "The cat did not sit.", "label": 2},
        {"text": "It rained.", "text_pair": "It was cold.", "label": 1},
    ]
    assert not split.note and split.source.endswith("diagnostic-full.tsv")
    assert load_split(task, "test", tmp_path / "glue_data", labelled=False).rows["text"] == ["A.", "C."]
    (folder / "diagnostic-full.tsv").unlink()
    with pytest.raises(NoLabelsError, match="no column 'label'"):
        load_split(task, "test", tmp_path / "glue_data")


def test_torn_rows_of_official_tsv_files_are_left_out_if_the_others_are_all_there(tmp_path):
    folder = tmp_path / "QQP"
    folder.mkdir()
    lines = ["id\tquestion1\tquestion2\tis_duplicate", "0\ta\tb\t1", "1\ta", "2\tc\td\t0"]
    (folder / "train.tsv").write_text("\n".join(lines) + "\n")
    split = load_split(official("qqp", 2), "train", tmp_path)
    assert split.rows["row"] == [2, 4] and split.skipped == 1
    with pytest.raises(DataError, match="has 3 rows, this file has 2 and 1 bad"):
        load_split(official("qqp", 3), "train", tmp_path)


@pytest.mark.parametrize(
    ("name", "place", "split"),
    [
        ("copa", "COPA/val.jsonl", "validation"),
        ("superglue_rte", "superglue/rte/validation.jsonl", "validation"),
        ("axb", "AX-b/AX-b.jsonl", "test"),
        ("mnli", "MNLI/dev_matched.jsonl", "validation_matched"),
        ("mnli", "glue/mnli/validation_mismatched.jsonl", "validation_mismatched"),
        ("ax", "diagnostic/diagnostic.jsonl", "test"),
    ],
)
def test_files_are_found_where_the_suites_have_them(tmp_path, name, place, split):
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text(json.dumps(OFFICIAL.get(name, HUB[name])) + "\n")
    found = load_split(official(name, 1, split), split, tmp_path)
    assert not found.note and found.source.endswith(place)


def test_two_tasks_called_rte_are_kept_apart(tmp_path):
    for suite, record in (("glue", HUB["rte"]), ("superglue", HUB["superglue_rte"])):
        (tmp_path / suite / "rte").mkdir(parents=True)
        (tmp_path / suite / "rte" / "train.jsonl").write_text(json.dumps(record) + "\n")
    assert "/glue/" in load_split(official("rte", 1), "train", tmp_path).source
    assert "/superglue/" in load_split(official("superglue_rte", 1), "train", tmp_path).source


def test_lists_are_counted_by_lists(tmp_path):
    (tmp_path / "train.jsonl").write_text(2 * (json.dumps(HUB["copa"]) + "\n"))
    with pytest.raises(DataError, match="has 400 rows, this file has 1"):
        load_split(get_task("copa"), "train", tmp_path)  # the same idx twice is one list


if __name__ == "__main__":
    for task_name in TASKS:
        (GOLDEN / f"{task_name}.txt").write_text(rendered(get_task(task_name)), encoding="utf-8")
