"""`adapt`, `evaluate` and `inspect`: what they write and print, and bad input."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from gemma_encoder.encoder import Encoder

ROWS = [
    ("good film", "good"),
    ("bad", "bad"),
    ("very good", "good"),
    ("a river bank", "bad"),
    ("money", "good"),
]


@pytest.fixture
def labelled(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS))
    return path


def test_metrics_of_a_file_are_those_of_scoring_one_by_one(run, encoder_folder, labelled, tmp_path):
    out = tmp_path / "result.json"
    status, printed, _ = run("evaluate", "--model", encoder_folder, "--file", labelled, "--json-out", out)
    assert status == 0
    encoder = Encoder.from_pretrained(encoder_folder)
    predicted = [
        encoder.config.labels[
            int(encoder(**encoder.collate(encoder.tokenize([text]).input_ids)).logits.argmax())
        ]
        for text, _ in ROWS
    ]
    result = json.loads(out.read_text())
    accuracy = accuracy_score([label for _, label in ROWS], predicted)
    np.testing.assert_allclose(result["metrics"]["accuracy"], accuracy)
    np.testing.assert_allclose(result["baseline"]["accuracy"], 0.6)
    assert (result["rows"], result["truncated"], result["model"]) == (5, 0, str(encoder_folder))
    assert f"{accuracy:.4f}" in printed and "0.6000" in printed


def test_a_task_takes_its_labels_by_name_whatever_their_order(run, adapt, tmp_path):
    """The model below has RTE's classes the other way round."""
    data = tmp_path / "rte"
    data.mkdir()
    rows = [("the film", "good", 0), ("a river", "bank", 1), ("bad", "bad", 1)]
    lines = [json.dumps({"sentence1": a, "sentence2": b, "label": label}) for a, b, label in rows]
    (data / "validation_sample.jsonl").write_text("\n".join(lines) + "\n")
    model = adapt("--labels", "not_entailment,entailment", "--pairs")
    out = tmp_path / "result.json"
    command = ["evaluate", "--model", model, "--task", "rte", "--data-dir", tmp_path, "--json-out", out]
    status, printed, _ = run(*command)
    assert status == 0 and "not the official split" in printed
    encoder = Encoder.from_pretrained(model)
    hits = [
        encoder.config.labels[
            int(encoder(**encoder.collate(encoder.tokenize([(a, b)]).input_ids)).logits.argmax())
        ]
        == ("entailment", "not_entailment")[label]
        for a, b, label in rows
    ]
    np.testing.assert_allclose(json.loads(out.read_text())["metrics"]["accuracy"], np.mean(hits))


def test_evaluate_dry_run_writes_nothing(run, encoder_folder, labelled, tmp_path):
    before = sorted(encoder_folder.iterdir())
    status, printed, _ = run("evaluate", "--model", encoder_folder, "--file", labelled, "--dry_run")
    assert status == 0 and "bad, good" in printed and "forward passes" in printed
    assert sorted(encoder_folder.iterdir()) == before


@pytest.mark.parametrize(
    ("content", "options", "messages"),
    [
        ("text,label\nx,good\ny,ugly\n", [], ["line 3", "'ugly'", "'bad', 'good'"]),
        ("text,klass\nx,good\n", [], ["'label'", "'klass'"]),
        ("text,label\nx,\n", [], ["line 2", "label"]),
        ("text,label\nx,good\n", ["--metrics", "pearson"], ["'pearson'"]),
        ("text,label\nx,good\n", ["--metrics", "nonsense"], ["'nonsense'"]),
        ("", [], ["no rows"]),
    ],
)
def test_bad_labelled_files_are_refused(refused, encoder_folder, tmp_path, content, options, messages):
    path = tmp_path / "rows.csv"
    path.write_text(content)
    line = refused("evaluate", "--model", encoder_folder, "--file", path, *options)
    assert all(message in line for message in messages), line


def test_bad_rows_can_be_skipped_and_are_counted(run, encoder_folder, tmp_path):
    path, out = tmp_path / "rows.csv", tmp_path / "out.json"
    path.write_text("text,label\nx,good\ny,ugly\nz,bad\n")
    command = ["evaluate", "--model", encoder_folder, "--file", path, "--skip_bad_rows", "--json_out", out]
    assert run(*command)[0] == 0
    result = json.loads(out.read_text())
    assert (result["rows"], result["skipped"]) == (2, 1)


def test_a_non_number_in_a_regression_column_names_the_line(refused, adapt, tmp_path):
    model, path = adapt("--problem_type", "regression"), tmp_path / "rows.csv"
    path.write_text("text,label\nx,1.5\ny,often\n")
    line = refused("evaluate", "--model", model, "--file", path)
    assert "line 3" in line and "'often'" in line


def test_a_model_for_something_else_is_refused(refused, encoder_folder, pair_folder, labelled):
    assert "pairs" in refused(
        "evaluate", "--model", encoder_folder, "--task", "rte", "--data-dir", labelled.parent
    )
    assert "there is no task 'rtee'" in refused("evaluate", "--model", pair_folder, "--task", "rtee")
    assert "Give one of --task, --file and --run" in refused("evaluate", "--model", pair_folder)
    assert "--model" in refused("evaluate", "--file", labelled)
    assert "--json_out" not in refused("evaluate", "--model", pair_folder, "--file", labelled)


def test_a_result_is_not_replaced_unasked(refused, encoder_folder, labelled, tmp_path):
    out = tmp_path / "result.json"
    out.write_text("precious")
    assert "exists" in refused("evaluate", "--model", encoder_folder, "--file", labelled, "--json_out", out)
    assert out.read_text() == "precious"


def test_a_result_that_can_not_be_a_file_is_refused_before_the_work(
    refused, encoder_folder, labelled, tmp_path
):
    command = ["evaluate", "--model", encoder_folder, "--file", labelled, "--json_out", tmp_path]
    assert "A folder is there, not a file" in refused(*command, "--overwrite")


def test_adapt_says_what_was_verified_and_what_is_next(run, decoder_folder, tmp_path):
    folder = tmp_path / "model"
    command = ["adapt", "--model", decoder_folder, "--output", folder, "--task", "rte", "--max_length", 64]
    status, printed, _ = run(*command, "--dry_run")
    assert status == 0 and not folder.exists() and "nothing written" in printed
    status, printed, _ = run(*command, "--pooling.kind", "last_k", "--dropout", "0.1")
    assert status == 0
    assert "2 of 4 layers bidirectional, local (window 4); 2 of 4 layers bidirectional, global" in printed
    assert f"train --model {folder} --task rte" in printed
    config = Encoder.from_pretrained(folder).config
    assert (config.labels, config.pooling.kind, config.dropout.head) == (
        ("entailment", "not_entailment"),
        "last_k",
        0.1,
    )
    assert config.text.template.startswith("Premise: {text}")


def test_adapt_refuses_what_is_no_decoder_and_what_has_no_labels(
    refused, decoder_folder, encoder_folder, tmp_path
):
    out = ["--output", tmp_path / "out"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert str(empty) in refused("adapt", "--model", empty, *out, "--labels", "a,b")
    assert "encoder already" in refused("adapt", "--model", encoder_folder, *out, "--labels", "a,b")
    assert "--labels" in refused("adapt", "--model", decoder_folder, *out)
    assert "at least two classes" in refused("adapt", "--model", decoder_folder, *out, "--labels", "a")
    assert "template" in refused(
        "adapt", "--model", decoder_folder, *out, "--labels", "a,b", "--template", "no slot"
    )
    assert not (tmp_path / "out").exists()


def test_adapt_never_touches_a_folder_that_exists(refused, run, decoder_folder, encoder_folder, tmp_path):
    precious = tmp_path / "out" / "precious.txt"
    precious.parent.mkdir()
    precious.write_text("x")
    command = ["adapt", "--model", decoder_folder, "--output", precious.parent, "--labels", "a,b"]
    assert "--overwrite" in refused(*command)
    assert precious.read_text() == "x"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_is_said_before_the_work(refused, decoder_folder, tmp_path):
    tmp_path.chmod(0o500)
    assert "permission" in refused(
        "adapt", "--model", decoder_folder, "--output", tmp_path / "out", "--labels", "a,b"
    )


def _read_only(path):
    path.write_text("precious")
    path.chmod(0o400)


@pytest.mark.parametrize(
    ("break_it", "below", "message"),
    [
        (lambda path: path.symlink_to(path), "", "leads to itself"),
        (lambda path: path.symlink_to(path), "more/out.jsonl", "leads to itself"),
        (lambda path: path.write_text("x"), "out.jsonl", "is a file, not a folder"),
        (lambda path: path.write_text("x"), "more/out.jsonl", "is a file, not a folder"),
        (lambda path: path.mkdir(), "", "A folder is there, not a file"),
        (lambda path: (path / "x").mkdir(parents=True), "", "A folder is there, not a file"),
        pytest.param(
            _read_only, "", "No permission", marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may")
        ),
    ],
)
@pytest.mark.parametrize("dry_run", [[], ["--dry_run"]])
def test_where_no_file_can_be_written_is_said_before_the_work(
    refused, encoder_folder, labelled, tmp_path, monkeypatch, break_it, below, message, dry_run
):
    def forward(*_, **__):
        raise AssertionError("worked before looking")

    monkeypatch.setattr(Encoder, "forward", forward)
    path = tmp_path / "there.jsonl"
    break_it(path)
    out = path / below
    model = ["--model", encoder_folder, "--overwrite", *dry_run]
    for command in (
        ["evaluate", *model, "--file", labelled, "--json_out", out],
        ["predict", *model, "--input", labelled, "--output", out],
    ):
        line = refused(*command)
        assert message in line and str(path) in line


@pytest.mark.parametrize(
    ("break_it", "below", "message"),
    [
        (lambda path: path.symlink_to(path.parent / "gone"), "", "leads nowhere"),
        (lambda path: path.symlink_to(path.parent / "gone"), "out", "leads nowhere"),
        (lambda path: path.symlink_to(path), "", "leads to itself"),
        (lambda path: path.write_text("x"), "", "A file is there, not a folder"),
        (lambda path: path.write_text("x"), "more/out", "is a file, not a folder"),
        pytest.param(
            lambda path: path.mkdir(0o500),
            "",
            "No permission",
            marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may"),
        ),
    ],
)
def test_where_no_folder_can_be_written_is_said_before_the_work(
    refused, decoder_folder, tmp_path, break_it, below, message
):
    path = tmp_path / "there"
    break_it(path)
    line = refused(
        "adapt",
        "--model",
        decoder_folder,
        "--output",
        path / below,
        "--labels",
        "a,b",
        "--overwrite",
        "--dry_run",
    )
    assert message in line and str(path) in line


@pytest.mark.parametrize("below", ["", "out.json"])
def test_a_result_is_written_through_a_link_that_leads_nowhere_yet(
    run, encoder_folder, labelled, tmp_path, below
):
    (tmp_path / "link").symlink_to(tmp_path / "later" / "target")
    out = tmp_path / "link" / below
    assert run("evaluate", "--model", encoder_folder, "--file", labelled, "--json_out", out)[0] == 0
    assert json.loads((tmp_path / "later" / "target" / below).read_text())["rows"] == len(ROWS)


def test_devices_can_be_written_to(run, encoder_folder):
    command = ["predict", "--model", encoder_folder, "--text", "a", "--output", "/dev/null"]
    assert run(*command, "--output_format", "csv")[0] == 0


def test_a_file_where_a_folder_should_be(refused, decoder_folder, tmp_path):
    (tmp_path / "file").write_text("x")
    line = refused(
        "adapt", "--model", decoder_folder, "--output", tmp_path / "file" / "out", "--labels", "a,b"
    )
    assert str(tmp_path / "file") in line


def test_a_tokenizer_without_a_pad_token_is_given_one(run, tmp_path):
    from gemma_encoder.testing import tiny_decoder, tiny_tokenizer

    decoder = tiny_decoder("llama")
    decoder.backbone.save_pretrained(tmp_path / "decoder")
    tiny_tokenizer(pad=False).save_pretrained(tmp_path / "decoder")
    model = tmp_path / "model"
    assert run("adapt", "--model", tmp_path / "decoder", "--output", model, "--labels", "a,b")[0] == 0
    assert run("predict", "--model", model, "--text", "good", "--text", "a very bad film")[0] == 0


def test_inspect_measures_what_the_folder_holds(run, refused, encoder_folder, tmp_path):
    status, printed, _ = run("inspect", "--model", encoder_folder)
    assert status == 0 and "bidirectional" in printed and "bad, good" in printed
    status, printed, _ = run("inspect", "--model", encoder_folder, "--json")
    assert status == 0 and json.loads(printed)["labels"] == ["bad", "good"]
    assert str(tmp_path) in refused("inspect", "--model", tmp_path)
    assert "nowhere" in refused("inspect", "--model", Path("nowhere"))
