"""Answers to the test sets, against what the leaderboards' FAQ pages say of the files.

GLUE: one TSV file a task with the columns index and prediction, index from 0 in the order of the test set;
STS-B a number from 0 to 5, the inference tasks names of classes, the others 0 or 1. SuperGLUE: one JSONL file
a task with idx and label; MultiRC nested as its data are, with paragraph, question and answer ids.
"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from gemma_encoder.benchmark import get_suite
from gemma_encoder.benchmark.submission import FILES, write_answers, zip_answers
from gemma_encoder.tasks import get_task, load_split

sys.path.append(str(Path(__file__).parents[1] / "tasks"))
from suite_records import HUB, OFFICIAL


def rows_of(folder, name, records):
    """Records of a test set without labels, as a part of it."""
    for record in records:
        record.pop("label", None)
    (folder / name).mkdir(parents=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / name / "test_sample.jsonl").write_text(text)
    return load_split(get_task(name), "test", folder, labelled=False)


def answers(tmp_path, suite, name, records, scores):
    rows = rows_of(tmp_path, name, records)
    path = write_answers(
        get_suite(suite), get_task(name), "test", rows, np.array(scores, dtype=float), tmp_path / "out"
    )
    assert path.name == FILES[suite][(name, "test")]
    return path.read_text().splitlines()


def hub(name, count):
    return [{**HUB[name], "idx": number} for number in range(count)]


@pytest.mark.parametrize(
    ("name", "scores", "lines"),
    [
        ("cola", [[1, 0], [0, 1]], ["0\t0", "1\t1"]),
        ("mrpc", [[0, 1], [1, 0]], ["0\t1", "1\t0"]),
        ("rte", [[1, 0], [0, 1]], ["0\tentailment", "1\tnot_entailment"]),
        ("qnli", [[1, 0], [0, 1]], ["0\tentailment", "1\tnot_entailment"]),
        ("ax", [[0, 0, 1], [0, 1, 0]], ["0\tcontradiction", "1\tneutral"]),
        ("stsb", [[2.34567], [7.0]], ["0\t2.346", "1\t5.000"]),
    ],
)
def test_glue(tmp_path, name, scores, lines):
    assert answers(tmp_path, "glue", name, hub(name, 2), scores) == ["index\tprediction", *lines]


@pytest.mark.parametrize(
    ("name", "scores", "labels"),
    [
        ("boolq", [[1, 0], [0, 1]], ["false", "true"]),
        ("wic", [[1, 0], [0, 1]], ["false", "true"]),
        ("wsc", [[1, 0], [0, 1]], ["False", "True"]),
        ("cb", [[0, 1, 0], [0, 0, 1]], ["contradiction", "neutral"]),
        ("axb", [[1, 0], [0, 1]], ["entailment", "not_entailment"]),
        ("copa", [[1], [3], [2], [0]], [1, 0]),
    ],
)
def test_superglue(tmp_path, name, scores, labels):
    lines = answers(tmp_path, "superglue", name, hub(name, 2), scores)
    expected = [{"idx": number, "label": label} for number, label in enumerate(labels)]
    assert [json.loads(line) for line in lines] == expected


def test_record_gives_the_entity_itself(tmp_path):
    record = json.loads(json.dumps(OFFICIAL["record"]))
    record["qas"][0] |= {"idx": 17}
    del record["qas"][0]["answers"]
    (line,) = answers(tmp_path, "superglue", "record", [record], [[0], [2], [1]])
    assert json.loads(line) == {"idx": 17, "label": "Charles Babbage"}


def test_record_of_the_hub_is_called_by_its_query(tmp_path):
    """The leaderboard's idx is the query's alone, and the exports say in which passage it is as well."""
    records = [{**HUB["record"], "answers": [], "idx": {"passage": 3, "query": query}} for query in (17, 18)]
    lines = answers(tmp_path, "superglue", "record", records, [[0], [2], [1], [3], [0], [1]])
    assert [json.loads(line) for line in lines] == [
        {"idx": 17, "label": "Charles Babbage"},
        {"idx": 18, "label": "Ada Lovelace"},
    ]


def test_multirc_is_nested_as_its_data_are(tmp_path):
    def answer(number):
        return {"idx": number, "text": f"answer {number}"}

    record = {
        "idx": 4,
        "passage": {
            "text": "It rained.",
            "questions": [
                {"idx": 20, "question": "What?", "answers": [answer(90), answer(91)]},
                {"idx": 21, "question": "When?", "answers": [answer(92)]},
            ],
        },
    }
    (line,) = answers(tmp_path, "superglue", "multirc", [record], [[0, 1], [1, 0], [0, 1]])
    assert json.loads(line) == {
        "idx": 4,
        "passage": {
            "questions": [
                {"idx": 20, "answers": [{"idx": 90, "label": 1}, {"idx": 91, "label": 0}]},
                {"idx": 21, "answers": [{"idx": 92, "label": 1}]},
            ]
        },
    }


def test_the_official_test_file_of_cola_has_a_header_and_its_others_have_none(tmp_path):
    (tmp_path / "CoLA").mkdir()
    (tmp_path / "CoLA" / "test_sample.tsv").write_text("index\tsentence\n0\tBill whistled.\n1\tIt rained.\n")
    rows = load_split(get_task("cola"), "test", tmp_path, labelled=False).rows
    assert rows["text"][:] == ["Bill whistled.", "It rained."] and "label" not in rows.column_names


def test_a_seed_is_zipped_when_all_of_its_answers_are_there(plan_of, tmp_path):
    plan = plan_of("glue", seeds=2)
    for seed in (0, 1):
        for (task, _), name in FILES["glue"].items():
            folder = tmp_path / "trials" / task / "main" / f"seed-{seed}" / "submission"
            folder.mkdir(parents=True, exist_ok=True)
            if (seed, task) != (1, "mnli"):
                (folder / name).write_text("index\tprediction\n")
    written, missing = zip_answers(plan, tmp_path)
    assert [path.name for path in written] == ["submission-seed-0.zip"]
    assert missing == ["seed 1: MNLI-m.tsv, MNLI-mm.tsv"]
    with zipfile.ZipFile(written[0]) as archive:
        assert sorted(archive.namelist()) == sorted(FILES["glue"].values())
