"""`predict`: formats, streaming, a kill in the middle and going on, bad input."""

from __future__ import annotations

import csv
import gc
import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from gemma_encoder.cli.main import main
from gemma_encoder.encoder import Encoder
from gemma_encoder.scoring import probabilities

TEXTS = ["the film is good", "bad", "not a very good film", "the bank of the river", "money and text"]


def reference(folder, rows):
    """Scores one row at a time, by the encoder itself."""
    encoder = Encoder.from_pretrained(folder)
    logits = [
        encoder(**encoder.collate(encoder.tokenize([row]).input_ids)).logits.detach().numpy() for row in rows
    ]
    return probabilities(np.concatenate(logits), encoder.config.problem_type)


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS))
    return path


def test_lines_in_jsonl_out_equal_scoring_one_by_one(run, encoder_folder, lines, tmp_path):
    out = tmp_path / "out.jsonl"
    status, _, err = run(
        "predict", "--model", encoder_folder, "--input", lines, "--output", out, "--buffer_rows", 2
    )
    assert status == 0 and "5 rows written" in err
    records = read_jsonl(out)
    assert [record["row"] for record in records] == [1, 2, 3, 4, 5]
    chances = np.array([[record["probabilities"][label] for label in ("bad", "good")] for record in records])
    expected = reference(encoder_folder, TEXTS)
    np.testing.assert_allclose(chances, expected, atol=2e-6)
    assert [r["prediction"] for r in records] == [("bad", "good")[i] for i in expected.argmax(1)]


def test_csv_in_csv_out_keeps_columns_quotes_and_line_ends(run, encoder_folder, tmp_path):
    rows = [{"id": f"é{i}", "text": f'{text},\n"x"', "label": "good"} for i, text in enumerate(TEXTS)]
    path, out = write_csv(tmp_path / "in.csv", rows), tmp_path / "out.csv"
    assert (
        run("predict", "--model", encoder_folder, "--input", path, "--output", out, "--keep", "all")[0] == 0
    )
    written = list(csv.DictReader(out.open(newline="")))
    assert list(written[0]) == [
        "row", "id", "text", "label", "prediction", "probability_bad", "probability_good", "truncated",
    ]  # fmt: skip
    assert [{name: row[name] for name in rows[0]} for row in written] == rows
    expected = reference(encoder_folder, [row["text"] for row in rows])
    np.testing.assert_allclose([float(row["probability_good"]) for row in written], expected[:, 1], atol=2e-6)


def test_pairs_from_jsonl_with_columns_of_other_names(run, pair_folder, tmp_path):
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    pairs = list(zip(TEXTS, reversed(TEXTS), strict=True))
    path.write_text("".join(json.dumps({"q": q, "d": d, "id": i}) + "\n" for i, (q, d) in enumerate(pairs)))
    columns = ["--text_column", "q", "--text_pair_column", "d", "--keep", "id"]
    assert run("predict", "--model", pair_folder, "--input", path, "--output", out, *columns)[0] == 0
    records = read_jsonl(out)
    assert [record["id"] for record in records] == [0, 1, 2, 3, 4]
    chances = np.array([list(record["probabilities"].values()) for record in records])
    np.testing.assert_allclose(chances, reference(pair_folder, pairs), atol=2e-6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--problem_type", "multi_label_classification", "--labels", "a,b,c"], list),
        (["--problem_type", "regression"], float),
        (["--problem_type", "regression", "--labels", "x,y"], dict),
    ],
)
def test_multi_label_and_regression(run, adapt, options, expected):
    folder = adapt(*options)
    for format in ("jsonl", "csv"):
        status, out, _ = run("predict", "--model", folder, "--text", TEXTS[0], "--output_format", format)
        assert status == 0
        values = reference(folder, TEXTS[:1])[0]
        if format == "jsonl":
            answer = json.loads(out)["prediction"]
            assert isinstance(answer, expected)
            if expected is list:
                answer = [
                    value for value, chance in zip("abc", values, strict=True) if chance >= 0.5
                ] == answer
                assert answer
            else:
                numbers = list(answer.values()) if expected is dict else [answer]
                np.testing.assert_allclose(numbers, values, atol=2e-6)
        else:
            assert len(list(csv.DictReader(io.StringIO(out)))) == 1


def test_standard_input_to_standard_output_is_nothing_but_records(run, encoder_folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(TEXTS).encode())))
    status, out, err = run("predict", "--model", encoder_folder, "--input", "-")
    assert status == 0 and err == ""
    assert len([json.loads(line) for line in out.splitlines()]) == 5


def test_texts_on_the_command_line(run, encoder_folder, pair_folder, refused):
    status, out, _ = run("predict", "--model", encoder_folder, "--text", "good, film", "--text", "bad")
    assert status == 0 and [json.loads(line)["row"] for line in out.splitlines()] == [1, 2]
    assert "pairs" in refused("predict", "--model", pair_folder, "--text", "a")
    assert run("predict", "--model", pair_folder, "--text", "a", "--text_pair", "b")[0] == 0
    assert "--input or --text" in refused("predict", "--model", encoder_folder)


def test_long_and_empty_texts_are_counted(run, encoder_folder, tmp_path):
    path, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    path.write_text("good " * 90 + "\n\nbad\n")
    status, _, err = run("predict", "--model", encoder_folder, "--input", path, "--output", out)
    assert status == 0
    assert "1 text longer than 24 tokens" in err and "1 empty text" in err
    assert [record["truncated"] for record in read_jsonl(out)] == [True, False, False]


def test_an_output_is_never_replaced_unasked(refused, run, encoder_folder, lines, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("precious\n")
    command = ["predict", "--model", encoder_folder, "--input", lines, "--output", out]
    assert "--resume" in refused(*command) and out.read_text() == "precious\n"
    assert "can be resumed" in refused(*command, "--resume") and out.read_text() == "precious\n"
    assert run(*command, "--overwrite")[0] == 0 and len(read_jsonl(out)) == 5


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize("cut", [0, 1, 40, 0.3, 0.77, -1, None])
def test_resume_after_a_cut_anywhere_gives_the_same_bytes(run, encoder_folder, tmp_path, suffix, cut):
    rows = [{"id": str(i), "text": f'{TEXTS[i % 5]} {i}\n"é'} for i in range(23)]
    path, out = write_csv(tmp_path / "in.csv", rows), tmp_path / f"out.{suffix}"
    command = ["predict", "--model", encoder_folder, "--input", path, "--output", out, "--keep", "all"]
    command += ["--buffer_rows", 4]
    assert run(*command)[0] == 0
    whole = out.read_bytes()
    out.write_bytes(whole[: int(cut * len(whole)) if isinstance(cut, float) else cut])
    assert run(*command, "--resume")[0] == 0
    assert out.read_bytes() == whole


def test_the_input_is_never_its_own_output(refused, encoder_folder, tmp_path):
    path = write_csv(tmp_path / "in.csv", [{"text": "a"}])
    before = path.read_bytes()
    command = ["predict", "--model", encoder_folder, "--input", path, "--output", path, "--overwrite"]
    assert "is the input" in refused(*command) and path.read_bytes() == before


def test_resume_with_another_input_is_refused_and_changes_nothing(
    run, refused, encoder_folder, lines, tmp_path
):
    out = tmp_path / "out.jsonl"
    command = ["predict", "--model", encoder_folder, "--output", out]
    assert run(*command, "--input", lines)[0] == 0
    before = out.read_bytes()
    shorter = tmp_path / "short.txt"
    shorter.write_text("one\ntwo\n")
    assert "doesn't belong to this input" in refused(*command, "--input", shorter, "--resume")
    assert out.read_bytes() == before


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_resume_with_other_columns_is_refused(run, refused, encoder_folder, tmp_path, suffix):
    rows, out = [{"id": str(i), "text": f"film {i}"} for i in range(3)], tmp_path / f"out.{suffix}"
    command = ["predict", "--model", encoder_folder, "--input", write_csv(tmp_path / "in.csv", rows)]
    assert run(*command, "--output", out, "--keep", "id")[0] == 0
    before = out.read_bytes()
    assert "columns" in refused(*command, "--output", out, "--resume")
    assert out.read_bytes() == before


def test_overwriting_leaves_the_old_output_until_there_is_a_new_row(
    run, refused, encoder_folder, tmp_path, monkeypatch
):
    rows, out = [{"id": str(i), "text": f"film {i}"} for i in range(3)], tmp_path / "out.csv"
    command = ["predict", "--model", encoder_folder, "--input", write_csv(tmp_path / "in.csv", rows)]
    command += ["--output", out, "--overwrite"]
    assert run(*command)[0] == 0
    before = out.read_bytes()
    assert "no column 'idd' to keep" in refused(*command, "--keep", "idd")
    assert out.read_bytes() == before


def test_scores_that_are_no_numbers_are_an_error_and_no_answer(refused, adapt, tmp_path, monkeypatch):
    from gemma_encoder.encoder import Encoder

    folder, load = adapt("--labels", "bad,good"), Encoder.from_pretrained

    def spoilt(*args, **kwargs):
        encoder = load(*args, **kwargs)
        encoder.head.output.bias.data[1] = float("nan")
        return encoder

    monkeypatch.setattr(Encoder, "from_pretrained", spoilt)
    command = ["predict", "--model", folder, "--text", "a film", "--output", tmp_path / "out.jsonl"]
    assert "nan [row 1]" in refused(*command)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize("rows", [3, 4])
def test_resume_with_another_model_is_refused_and_changes_nothing(
    run, refused, encoder_folder, adapt, tmp_path, suffix, rows
):
    """Whether or not the output ends with a whole buffer."""
    out, texts = tmp_path / f"out.{suffix}", tmp_path / "in.txt"
    texts.write_text("a good film\na bad film\nthe river\nthe bank\nnot it\n")
    command = ["predict", "--output", out, "--input", texts, "--buffer_rows", 4]
    assert run(*command, "--model", encoder_folder)[0] == 0
    kept = rows + (suffix == "csv")  # a header
    before = b"".join(out.read_bytes().splitlines(keepends=True)[:kept])
    out.write_bytes(before)
    other = adapt("--labels", "bad,good", "--seed", "1")
    assert f"of row {rows} is" in refused(*command, "--model", other, "--resume")
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.csv", b"body,id\nx,1\n", "there is no column 'text'; the columns are 'body', 'id'"),
        ("in.csv", b"", "there are no rows"),
        ("in.jsonl", b'{"text": \n', "line 1"),
        ("in.txt", b"\xff\xfe\n", "line 1"),
        ("in.xyz", b"a", "format"),
        (None, b"", "no such file"),
    ],
)
def test_bad_input_names_file_and_line_and_keeps_what_is_written(
    refused, encoder_folder, tmp_path, name, content, message
):
    path = tmp_path / (name or "missing.csv")
    if name:
        path.write_bytes(content)
    out = tmp_path / "out.jsonl"
    line = refused("predict", "--model", encoder_folder, "--input", path, "--output", out)
    assert message in line and path.name in line
    assert not out.exists()
    out.write_text("precious\n")
    refused("predict", "--model", encoder_folder, "--input", path, "--output", out, "--overwrite")
    assert out.read_text() == "precious\n"


def test_rows_before_a_bad_one_are_written_and_skipping_goes_on(run, encoder_folder, tmp_path):
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    good = [json.dumps({"text": text}) for text in TEXTS]
    path.write_text("\n".join([*good[:4], "{broken", good[4]]) + "\n")
    command = ["predict", "--model", encoder_folder, "--input", path, "--output", out, "--buffer_rows", 2]
    status, _, err = run(*command)
    assert status == 2 and "4 rows written" in err and "--resume" in err and "line 5" in err
    assert [record["row"] for record in read_jsonl(out)] == [1, 2, 3, 4]
    status, _, err = run(*command, "--resume", "--skip_bad_rows")
    assert status == 0 and "1 bad row" in err
    assert [record["row"] for record in read_jsonl(out)] == [1, 2, 3, 4, 6]


@pytest.mark.parametrize("output", ["out.jsonl", "out.csv", "-"])
@pytest.mark.parametrize("content", ['{"text": ["a"]}\n{"text": {}}\n', "{broken\n[]\n"])
@pytest.mark.parametrize("dry_run", [[], ["--dry_run"]])
def test_nothing_but_bad_rows_is_an_error_that_counts_them_and_touches_no_output(
    refused, encoder_folder, tmp_path, monkeypatch, output, content, dry_run
):
    path, out = tmp_path / "in.jsonl", output if output == "-" else tmp_path / output
    path.write_text(content)
    command = ["predict", "--model", encoder_folder, "--output", out, "--skip_bad_rows", *dry_run]
    line = refused(*command, "--input", path)
    assert "2 bad rows" in line and "line 1" in line and path.name in line
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    line = refused(*command, "--input", "-", "--input_format", "jsonl")
    assert "2 bad rows" in line and "standard input, line 1" in line
    if output != "-":
        assert not out.exists()
        out.write_text("precious\n")
        refused(*command, "--input", path, "--overwrite")
        assert out.read_text() == "precious\n"


def test_a_dry_run_refuses_the_output_that_the_run_would(refused, encoder_folder, lines, tmp_path):
    (tmp_path / "out.jsonl").write_text("precious\n")
    command = ["predict", "--model", encoder_folder, "--input", lines, "--dry_run"]
    assert "The output exists" in refused(*command, "--output", tmp_path / "out.jsonl")
    assert "Can't tell the format" in refused(*command, "--output", tmp_path / "out.txt")
    assert "can be resumed" in refused(*command, "--output", tmp_path / "out.jsonl", "--resume")


@pytest.mark.parametrize(
    ("name", "message"), [("folder", "A folder is there"), ("file/out.jsonl", "file is a file, not a folder")]
)
def test_an_output_that_can_not_be_a_file_is_refused_before_the_work(
    refused, encoder_folder, lines, tmp_path, name, message
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    command = ["predict", "--model", encoder_folder, "--input", lines, "--output_format", "jsonl"]
    assert message in refused(*command, "--output", tmp_path / name)


def test_a_link_that_leads_nowhere_is_written_through(run, encoder_folder, lines, tmp_path):
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "later" / "out.jsonl")
    command = ["predict", "--model", encoder_folder, "--input", lines, "--output", tmp_path / "link.jsonl"]
    assert run(*command)[0] == 0
    assert len(read_jsonl(tmp_path / "later" / "out.jsonl")) == len(TEXTS)


def test_columns_to_keep_must_be_there_and_not_ours(refused, encoder_folder, tmp_path):
    path = write_csv(tmp_path / "in.csv", [{"text": "a", "prediction": "x"}])
    command = ["predict", "--model", encoder_folder, "--input", path, "--output", tmp_path / "out.csv"]
    assert "'id'" in refused(*command, "--keep", "id")
    assert "'prediction'" in refused(*command, "--keep", "all")


def test_dry_run_says_the_plan_and_writes_nothing(run, encoder_folder, lines, tmp_path):
    out = tmp_path / "out.jsonl"
    status, printed, _ = run(
        "predict", "--model", encoder_folder, "--input", lines, "--output", out, "--dry_run"
    )
    assert status == 0 and not out.exists()
    encoder = Encoder.from_pretrained(encoder_folder)
    lengths = [len(ids) for ids in encoder.tokenize(TEXTS).input_ids]
    assert f"longest {max(lengths)}" in printed and str(sum(lengths)) in printed and "bad, good" in printed


def test_dry_run_of_a_resumed_run_counts_what_is_left(run, encoder_folder, lines, tmp_path):
    out = tmp_path / "out.csv"
    command = ["predict", "--model", encoder_folder, "--input", lines, "--output", out, "--buffer_rows", 1]
    assert run(*command)[0] == 0
    before = b"".join(out.read_bytes().splitlines(keepends=True)[:4])
    out.write_bytes(before)
    status, printed, _ = run(*command, "--resume", "--dry_run")
    # The last row written is scored again, to see that the model is the same.
    assert status == 0 and re.search(r"rows +3\n", printed) and out.read_bytes() == before


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize(
    ("there", "options"),
    [
        ("as it was\n", []),
        ("as it was\n", ["--resume"]),
        ('{"row": 7}\n', ["--resume"]),
        ("row\n7\n", ["--resume"]),
        ("whole", ["--resume"]),
        ("whole", ["--resume", "--keep", "id,more"]),
        ("", ["--keep", "idd"]),
        ("", ["--keep", "prediction"]),
        ("", ["--keep", "all"]),
        ("", ["--keep", "id,late"]),
        ("", ["--output_format", "jsonl", "--keep", "late"]),
    ],
)
def test_dry_run_refuses_what_the_run_would_refuse(run, encoder_folder, tmp_path, suffix, there, options):
    path, out = tmp_path / "in.jsonl", tmp_path / f"out.{suffix}"
    rows = [{"text": "a", "id": 1, "more": 2, "prediction": 3}, {"text": "b", "id": 2, "more": 2, "late": 3}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["predict", "--model", encoder_folder, "--input", path, "--output", out]
    if there == "whole":
        assert run(*command, "--keep", "id")[0] == 0
    else:
        out.write_text(there)
    before = out.read_bytes()
    planned, _, said = run(*command, *options, "--dry_run")
    assert out.read_bytes() == before
    done, _, error = run(*command, *options)
    assert (planned, said.splitlines()[-1]) == (done, error.splitlines()[-1]) and planned == 2


def test_dry_run_refuses_an_output_whose_format_is_unknown(refused, encoder_folder, tmp_path):
    command = ["predict", "--model", encoder_folder, "--text", "a", "--output", tmp_path / "out.txt"]
    assert "format of the output" in refused(*command, "--dry_run")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "gemma_encoder.json").unlink(), "gemma_encoder.json"),
        (lambda folder: _truncate(folder / "model.safetensors"), "copy the whole folder"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(refused, adapt, break_it, message):
    folder = adapt("--labels", "a,b")
    break_it(folder)
    assert message in refused("predict", "--model", folder, "--text", "a")


def test_no_folder_and_no_device(refused, encoder_folder, tmp_path):
    assert str(tmp_path / "none") in refused("predict", "--model", tmp_path / "none", "--text", "a")
    assert "'cuda:99'" in refused("predict", "--model", encoder_folder, "--text", "a", "--device", "cuda:99")


def test_out_of_memory_says_which_budget_to_lower(refused, encoder_folder, monkeypatch):
    def forward(*_, **__):
        raise RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        )

    monkeypatch.setattr(Encoder, "forward", forward)
    line = refused("predict", "--model", encoder_folder, "--text", "a", "--text", "b", "--max_tokens", 777)
    assert "max_tokens=777" in line and "lower max_tokens" in line


def test_a_full_disk_leaves_whole_records_and_a_line(refused, encoder_folder, lines, tmp_path, monkeypatch):
    """What is on disk after ENOSPC in the middle of a write can be resumed."""
    from gemma_encoder.cli.predictions import Predictions

    flush, calls = Predictions.flush, []

    def flush_until_full(self):
        calls.append(1)
        if len(calls) == 2:
            self._file.write(self._buffer.getvalue().encode()[:20])
            self._file.flush()
            raise OSError(28, "No space left on device")
        flush(self)

    out = tmp_path / "out.jsonl"
    command = ["predict", "--model", encoder_folder, "--input", lines, "--output", out, "--buffer_rows", 2]
    with monkeypatch.context() as patch:
        patch.setattr(Predictions, "flush", flush_until_full)
        assert "No space left" in refused(*command)
    assert main([str(word) for word in [*command, "--resume"]]) == 0
    assert [record["row"] for record in read_jsonl(out)] == [1, 2, 3, 4, 5]


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("locale", [{"PYTHONIOENCODING": "ascii"}, ASCII])
def test_records_are_utf8_and_tables_legible_whatever_the_locale(encoder_folder, adapt, tmp_path, locale):
    labels = ["schön", "\U0001f600"]
    model, path = adapt("--labels", ",".join(labels)), tmp_path / "in.csv"
    path.write_text("text,é\nein schöner Film,\U0001f600\n", encoding="utf-8")
    predict = ["predict", "--model", str(model), "--input", str(path)]
    commands = [[*predict, "--keep", "all"], ["inspect", "--model", str(model), "--json"]]
    commands.append([*predict, "--dry_run"])
    code = "import json, sys; from gemma_encoder.cli.main import main\n"
    code += "sys.exit(max(main(command) for command in json.loads(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)], env={**os.environ, **locale}, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    record, others = done.stdout.decode().split("\n", 1)
    record = json.loads(record)
    assert (record["é"], list(record["probabilities"])) == ("\U0001f600", labels)
    inspected, rest = json.JSONDecoder().raw_decode(others)
    assert inspected["labels"] == labels
    assert "sch\\xf6n, \\U0001f600" in others[rest:]


def test_words_are_utf8_whatever_the_locale(run, encoder_folder):
    word = "schön".encode().decode("ascii", "surrogateescape")  # as Python reads it in the locale C
    outputs = [run("predict", "--model", encoder_folder, "--text", text)[1] for text in ("schön", word)]
    assert outputs[0] == outputs[1]


def test_a_terminal_gets_escapes_for_what_it_cannot_show(encoder_folder, monkeypatch):
    class Terminal(io.TextIOWrapper):
        def isatty(self):
            return True

    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Terminal(shown, encoding="ascii"))
    assert main(["predict", "--model", str(encoder_folder), "--text", "schön"]) == 0
    assert b"sch\\xf6n" in shown.getvalue()


def test_words_that_are_not_utf8_are_refused(refused, encoder_folder):
    assert "--text is not UTF-8" in refused("predict", "--model", encoder_folder, "--text", "a\udcff")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_half_a_surrogate_pair_in_a_kept_column_is_escaped(run, encoder_folder, tmp_path, suffix):
    path, out = tmp_path / "in.jsonl", tmp_path / f"out.{suffix}"
    path.write_text(json.dumps({"text": "a", "id": "x\ud83d"}) + "\n")
    command = ["predict", "--model", encoder_folder, "--input", path, "--keep", "id"]
    assert run(*command, "--output", out)[0] == 0
    assert "x\\ud83d" in out.read_text(encoding="utf-8")
    assert run(*command, "--output_format", suffix)[1] == out.read_text(encoding="utf-8")


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit it ignored
from gemma_encoder import scoring
from gemma_encoder.cli.main import main
real = scoring.score_token_ids
def slow(*arguments, **options):
    time.sleep(0.2)
    return real(*arguments, **options)
scoring.score_token_ids = slow
sys.exit(main(sys.argv[1:]))
"""


def start(*arguments, **options):
    command = [sys.executable, "-c", SLOW, *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **options)


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process_can_be_resumed_to_the_same_output(run, encoder_folder, tmp_path, signal_number):
    path = tmp_path / "in.txt"
    path.write_text("".join(f"{TEXTS[i % 5]} {i}\n" for i in range(80)))
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    command = ["predict", "--model", encoder_folder, "--input", path, "--buffer_rows", 4]
    assert run(*command, "--output", whole)[0] == 0
    process = start(*command, "--output", out, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while not (out.exists() and out.read_bytes().count(b"\n") >= 8):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal_number)
    _, err = process.communicate(timeout=30)
    if signal_number == signal.SIGINT:
        assert process.returncode == 130 and "--resume" in err and "Traceback" not in err
    else:
        assert process.returncode == -signal.SIGKILL
    kept = out.read_bytes()
    assert 8 <= kept.count(b"\n") < 80
    status, _, err = run(*command, "--output", out, "--resume")
    assert status == 0 and "resuming after" in err
    assert out.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1])
    assert out.read_bytes() == whole.read_bytes()


def test_a_reader_that_has_enough_ends_it_quietly(encoder_folder, tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("".join(f"text {i}\n" for i in range(5000)))
    arguments = ["predict", "--model", encoder_folder, "--input", path, "--buffer_rows", 4]
    process = start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert json.loads(process.stdout.readline())["row"] == 1
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == ""


def _truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


def test_what_scoring_does_not_use_is_not_loaded(encoder_folder, lines, nothing_needless):
    nothing_needless("predict", "--model", encoder_folder, "--input", lines)


def test_the_collector_runs_again_after_loading(run, encoder_folder, lines):
    assert run("predict", "--model", encoder_folder, "--input", lines)[0] == 0
    assert gc.isenabled()


@pytest.mark.parametrize(("native", "name"), [(True, "bfloat16"), (False, "float32")])
def test_auto_takes_bfloat16_where_it_is_fast(
    run, encoder_folder, lines, tmp_path, monkeypatch, native, name
):
    monkeypatch.setattr("gemma_encoder.precision.bf16_is_native", lambda device: native)
    given = ["predict", "--model", encoder_folder, "--input", lines]
    found, expected = tmp_path / "auto.jsonl", tmp_path / "named.jsonl"
    status, _, err = run(*given, "--device", "cpu", "--dtype", "auto", "--output", found)
    assert status == 0 and f"{name}: this processor" in err
    assert run(*given, "--dtype", name, "--output", expected)[0] == 0
    assert found.read_text() == expected.read_text()
