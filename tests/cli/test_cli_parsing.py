"""Command lines and YAML files to options; errors in one line; start-up without torch."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import MISSING, asdict, fields
from typing import get_args, get_origin, get_type_hints

import pytest

from gemma_encoder.cli.main import VERBS, main
from gemma_encoder.cli.options import (
    OPTIONS,
    AdaptOptions,
    DropoutOptions,
    EncoderOptions,
    HeadOptions,
    PoolingOptions,
)
from gemma_encoder.cli.parsing import _field_help, normalise, parse
from gemma_encoder.dropout import DropoutConfig
from gemma_encoder.heads import HeadConfig
from gemma_encoder.pooling import PoolingConfig

BASE = ["--model", "m", "--output", "o"]


def adapt_options(*arguments: str):
    return parse("gemma-encoder adapt", "", OPTIONS["adapt"], [*BASE, *arguments])


@pytest.mark.parametrize(
    ("options", "config"),
    [(PoolingOptions, PoolingConfig), (HeadOptions, HeadConfig), (DropoutOptions, DropoutConfig)],
)
def test_options_have_the_fields_and_defaults_of_the_configs_they_stand_for(options, config):
    assert asdict(options()) == asdict(config())


def test_every_option_has_help_and_every_verb_has_options():
    assert set(OPTIONS) == set(VERBS)
    for kinds in OPTIONS.values():
        for kind in kinds:
            undescribed = {field.name for field in fields(kind)} - set(_field_help(kind)) - {"given"}
            assert not undescribed, (kind, undescribed)


@pytest.mark.parametrize(
    "spelling", [["--labels", "a,b"], ["--labels=[a, b]"], ["--labels", "a", "--labels", "b"]]
)
def test_lists_by_commas_brackets_or_repetition(spelling):
    assert adapt_options(*spelling)[0].labels == ["a", "b"]


# What YAML would take for nothing, for numbers, truths, lists or mappings, or couldn't read.
NOT_YAML = [
    "#",
    "# x",
    "null",
    "~",
    "1",
    "yes",
    ":",
    "k: v",
    "[a]",
    "{text}",
    "|",
    ",",
    " ",
    '"x"',
    "\x7f",
]
NOT_YAML += ["\U0001f600", "\ufeff", "\u2028", "\t", "é", "a\nb"]


@pytest.mark.parametrize("text", NOT_YAML)
def test_texts_are_taken_to_the_letter(text, tmp_path, run):
    arguments = ["--model", "m", "--label_separator", text, "--label_column", text, f"--json_out={text}"]
    options, *more = parse("gemma-encoder evaluate", "", OPTIONS["evaluate"], arguments)
    assert (options.label_separator, options.label_column, options.json_out) == (text, text, text)
    status, printed, _ = run("evaluate", *arguments, "--print_config")
    assert status == 0
    file = tmp_path / "options.yaml"
    file.write_text(printed, encoding="utf-8")
    again = parse("gemma-encoder evaluate", "", OPTIONS["evaluate"], ["--config", str(file)])
    assert again == (options, *more)
    file.write_text(json.dumps({"model": "m", "label_separator": text}, ensure_ascii=text != "\U0001f600"))
    options, *_ = parse("gemma-encoder evaluate", "", OPTIONS["evaluate"], ["--config", str(file)])
    assert options.label_separator == text


@pytest.mark.parametrize("labels", [["yes", "no"], ["1", "2"], ["null", "#"], ["\U0001f600", "1e5"]])
def test_list_items_are_taken_to_the_letter(labels):
    assert adapt_options("--labels", ",".join(labels))[0].labels == labels


@pytest.mark.parametrize("text", ["#", "~", "null", "1", "1e5", ":", "[x]", "'q'", "- x", "a: b", "&a", ""])
def test_an_option_that_is_a_text_is_taken_to_the_letter(text):
    words = ["--model", "m", "--output", "o", "--train_file", "f", "--label_separator", text]
    options = parse("gemma-encoder train", "", OPTIONS["train"], [*words, "--label_column", text])[0]
    assert (options.label_separator, options.label_column) == (text, text)


def test_a_null_in_a_yaml_file_is_nothing(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("text_pair_column: null\nlabel_separator: ~\n")
    words = ["--model", "m", "--output", "o", "--config", str(file)]
    options = parse("gemma-encoder train", "", OPTIONS["train"], words)[0]
    assert (options.text_pair_column, options.label_separator) == (None, None)


def test_free_texts_are_taken_to_the_letter():
    texts = ["a, b", "[1] x", "- x", "null", 'say "no"', "--text", "k: v", "1", "1e5", "#x", "\U0001f600"]
    words = [word for text in texts for word in ("--text", text)]
    options, _ = parse("gemma-encoder predict", "", OPTIONS["predict"], ["--model", "m", *words])
    assert options.text == texts


def test_flags_need_no_value_and_dashes_are_underscores():
    assert adapt_options("--dry-run")[0].dry_run is True
    assert adapt_options("--dry_run", "false")[0].dry_run is False
    assert adapt_options("--max-length=9")[-1].max_length == 9
    assert normalise(["--a-b=c-d", "e-f", "-"], ()) == ["--a_b=c-d", "e-f", "-"]


def test_dropout_is_one_rate_or_a_rate_each():
    assert adapt_options()[-1].dropout is None
    assert adapt_options("--dropout", "0.2")[-1].dropout == DropoutOptions(0.2, 0.2, 0.2, 0.2)
    assert adapt_options("--dropout=0")[-1].dropout == DropoutOptions()
    assert adapt_options("--dropout.head", "0.3")[-1].dropout == DropoutOptions(head=0.3)
    assert adapt_options("--dropout", "0.1")[-1].given == {"dropout"}


@pytest.mark.parametrize(
    ("file_says", "arguments", "rates"),
    [
        ("0.1", [], (0.1, 0.1, 0.1, 0.1)),
        ("0.1", ["--dropout.head", "0.2"], (0.1, 0.1, 0.1, 0.2)),
        ("1e-1", ["--dropout.head", "0.2"], (0.1, 0.1, 0.1, 0.2)),
        ("{head: 0.3}", ["--dropout.embedding", "0.2"], (0.0, 0.0, 0.2, 0.3)),
        ("{head: 0.3}", ["--dropout", "0.2"], (0.2, 0.2, 0.2, 0.2)),
        ("null", ["--dropout", "0.2", "--dropout.head", "0"], (0.2, 0.2, 0.2, 0.0)),
        ("0.1", ["--dropout", "null"], None),
    ],
)
def test_a_rate_for_one_place_leaves_the_others_as_they_are(tmp_path, file_says, arguments, rates):
    file = tmp_path / "adapt.yaml"
    file.write_text(f"dropout: {file_says}\n")
    dropout = adapt_options("--config", str(file), *arguments)[-1].dropout
    assert dropout == (None if rates is None else DropoutOptions(*rates))


def test_yaml_file_with_overrides_and_print_config_round_trip(tmp_path, run):
    file = tmp_path / "adapt.yaml"
    file.write_text("model: m\noutput: o\nlabels: [a, b]\npooling: {kind: last_k, k: 3}\n")
    arguments = ["--config", str(file), "--pooling.k", "5"]
    options, masked, encoder = parse("gemma-encoder adapt", "", OPTIONS["adapt"], arguments)
    assert (options.labels, encoder.pooling) == (["a", "b"], PoolingOptions("last_k", 5))
    status, printed, _ = run("adapt", *arguments, "--print_config")
    assert status == 0
    file.write_text(printed)
    assert parse("gemma-encoder adapt", "", OPTIONS["adapt"], ["--config", str(file)]) == (
        options,
        masked,
        encoder,
    )


@pytest.mark.parametrize("written", [["--labels", "c,d"], ["--labels=c", "--labels=d"]])
@pytest.mark.parametrize("file_says", ["[a, b]", "[a]", "a, b"])
def test_a_list_on_the_command_line_replaces_that_of_the_file(tmp_path, written, file_says):
    file = tmp_path / "adapt.yaml"
    file.write_text(f"model: m\noutput: o\nlabels: {file_says}\n")
    config = ["--config", str(file)]
    from_file = [item.strip() for item in file_says.strip("[]").split(",")]

    def labels(*arguments):
        return parse("gemma-encoder adapt", "", OPTIONS["adapt"], arguments)[0].labels

    assert labels(*config) == from_file
    assert labels(*config, *written) == ["c", "d"]
    assert labels(*written, *config) == from_file  # what stands behind wins
    assert labels("--labels", "x", *config, *written) == ["c", "d"]


def test_every_list_option_replaces_that_of_the_file(tmp_path):
    lists = {
        (verb, name)
        for verb, kinds in OPTIONS.items()
        for kind in kinds
        for name, hint in get_type_hints(kind).items()
        if list in (get_origin(part) for part in (hint, *get_args(hint)))
        if hint != list[float]
    }
    assert {("train", "metrics"), ("predict", "keep"), ("predict", "text")} < lists
    for verb, name in lists:
        file = tmp_path / "options.yaml"
        file.write_text(f"{name}: [from, file]\n")
        required = [
            f"--{field.name}=x"
            for field in fields(OPTIONS[verb][0])
            if field.default is MISSING and field.default_factory is MISSING
        ]
        arguments = [*required, "--config", str(file), f"--{name}", "one", f"--{name}", "two"]
        parsed = parse("p", "", OPTIONS[verb], arguments)
        assert [vars(each)[name] for each in parsed if name in vars(each)] == [["one", "two"]]


def test_lists_of_numbers_are_read_from_file_and_line(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("learning_rates: [1.0e-5, 2]\n")
    read = ["--config", str(file)]
    (options,) = parse("p", "", OPTIONS["study"], read)
    assert options.learning_rates == [1e-5, 2.0]
    (options,) = parse("p", "", OPTIONS["study"], [*read, "--learning_rates", "1e-4,3e-4"])
    assert options.learning_rates == [1e-4, 3e-4]


def test_yaml_files_take_the_names_that_the_command_line_takes(tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text("model: m\noutput: o\nepochs: 3\nbatch-size: 4\nmax-length: 9\n")
    *_, training, encoder = parse("p", "", OPTIONS["train"], ["--config", str(file), "--batch-size", "5"])
    assert (training.num_train_epochs, training.per_device_train_batch_size) == (3, 5)
    assert encoder.max_length == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["foo"], "There is no verb 'foo'"),
        (["predct"], "did you mean predict?"),
        (["adapt"], "Required, but not given: --model, --output"),
        (["train", *BASE, "sst2"], "The word 'sst2' belongs to no option"),
        (["train", "./data/x.csv", *BASE], "'./data/x.csv' belongs to no option"),
        (["predict", "--model", "m", "--text", "a", "funny", "film"], "'funny' belongs to no option"),
        (["adapt", *BASE, "--modle", "x"], "There is no option modle; did you mean model?"),
        (["adapt", *BASE, "--pooling.kind", "x"], "--pooling.kind is 'x', expected one of 'mean', 'first_k'"),
        (["adapt", *BASE, "--max_length", "x"], "--max_length is 'x', expected int"),
        (["adapt", *BASE, "--dropout", "x"], "--dropout is 'x', expected float"),
        (["adapt", *BASE, "--dropout"], "--dropout is '', expected float"),
        (["adapt", *BASE, "--config", "no.yaml"], "--config: there is no file"),
        (["adapt", "--model"], "expected one argument"),
        (["adapt", *BASE, "--labels"], "--labels needs a value"),
        (["predict", "--model", "m", "--keep", "--overwrite"], "--keep needs a value"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(refused, arguments, message):
    assert message in refused(*arguments)


def test_what_yaml_reads_as_no_string_is_to_be_quoted(refused, tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("labels: [yes, no]\n")
    expected = "expected text (in a YAML file: in quotes)"
    assert f"--labels is True, {expected}" in refused("adapt", *BASE, "--config", file)
    file.write_text("template: 1\n")
    assert f"--template is 1, {expected}" in refused("adapt", *BASE, "--config", file)
    file.write_text("labels: {a: b}\n")
    assert "--labels is {'a': 'b'}, expected a list" in refused("adapt", *BASE, "--config", file)


def test_a_yaml_file_with_an_unknown_or_broken_line_is_refused(refused, tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("model: m\noutput: o\nmodle: x\n")
    assert "modle" in refused("adapt", "--config", file)
    file.write_text("model: [m\n")
    assert "no readable YAML" in refused("adapt", "--config", file)
    file.write_text("model\n")
    assert "has no `option: value` lines" in refused("adapt", "--config", file)
    file.write_bytes(b"model: \xff\n")
    assert "not UTF-8" in refused("adapt", "--config", file)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)])
def test_help_names_every_option_with_its_default(run, arguments):
    status, out, err = run(*arguments)
    assert status == 0 and out and not err
    if len(arguments) == 2:
        for kind in OPTIONS[arguments[0]]:
            assert all(f"--{field.name}" in out for field in fields(kind) if field.name != "given")
        assert "%(" not in out and "<class" not in out


def test_help_loads_neither_torch_nor_transformers():
    code = (
        "import sys, json; from gemma_encoder.cli.main import main\n"
        f"[main([verb, '--help']) for verb in {list(VERBS)}]\n"
        "heavy = ('torch', 'transformers', 'datasets', 'numpy')\n"
        "print(json.dumps([name for name in heavy if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        (PermissionError(13, "Permission denied", "/x"), 2, "error: Permission denied: /x"),
        (OSError(28, "No space left on device"), 2, "error: No space left on device"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), 2, "error: Input is not UTF-8"),
        (argparse.ArgumentError(None, "two\nlines"), 2, "error: two lines"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_a_verb_raises_becomes_a_status_and_a_line(monkeypatch, run, raised, status, message):
    def fail(*_):
        raise raised

    monkeypatch.setattr("gemma_encoder.cli.inspect.run", fail)
    ended, _, err = run("inspect", "--model", "m")
    assert (ended, err.startswith(message), err.count("\n")) == (status, True, 1)


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("gemma_encoder.cli.inspect.run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["inspect", "--model", "m"])


def test_encoder_options_are_those_of_the_encoder():
    """Options left alone give the encoder's own defaults; what they leave open is the recipe's."""
    from gemma_encoder.cli.common import encoder_config
    from gemma_encoder.encoder_config import EncoderConfig
    from gemma_encoder.training import recipe_for

    recipe, kind = recipe_for("sst2"), EncoderConfig().problem_type
    made = encoder_config(EncoderOptions(), "sst2", "{text}", kind, ["0", "1"])
    assert (made.dropout, made.text.max_length) == (recipe.dropout, recipe.max_length)
    made = encoder_config(EncoderOptions(dropout=0.0, max_length=512), "sst2", "{text}", kind, ["0", "1"])
    assert made == EncoderConfig()
    assert AdaptOptions("m", "o").problem_type == EncoderConfig().problem_type
