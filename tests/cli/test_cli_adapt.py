"""`gemma-encoder adapt` with text to learn from."""

from __future__ import annotations

import json
import re

import pytest
from datasets import Dataset

from gemma_encoder.checkpoint import saved_config
from gemma_encoder.cli.adapt import number_of_tokens
from gemma_encoder.errors import ConfigError
from gemma_encoder.tasks import get_task
from gemma_encoder.tasks.glue import GLUE

STAGE = ["--objective", "mntp", "--tokens", "600", "--batch_tokens", "80", "--max_length", "24"]
TEXTS = [
    f"{start} {noun} is {what}"
    for start in ("the", "a")
    for noun in ("river", "bank", "film", "money")
    for what in ("good", "very bad", "not bad")
]


@pytest.fixture
def texts(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return file


def test_a_decoder_learns_from_text_and_train_goes_on_with_it(run, decoder_folder, texts, tmp_path):
    folder = tmp_path / "adapted"
    command = ["adapt", "--model", decoder_folder, "--output", folder, *STAGE, "--corpus", texts]
    status, out, err = run(*command)
    assert status == 0, err
    assert "24 texts" in out and "before" in out and "tokens/s" in out
    assert "train --model" in out and "--new_head" in out
    record = json.loads((folder / "run.json").read_text())
    assert record["objective"] == "mntp" and record["data"]["texts"] == 24
    assert 500 < record["tokens"] < 700 and record["plan"]["tokens"] == 600
    assert f"{record['tokens']} tokens in {record['steps']} steps" in out

    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"{text},{n % 2}\n" for n, text in enumerate(TEXTS)))
    train = ["train", "--model", folder, "--new_head", "--train_file", rows, "--epochs", 1]
    status, _, err = run(*train, "--output", tmp_path / "trained")
    assert status == 0, err
    assert run("inspect", "--model", folder)[0] == 0


def test_every_option_of_training_reaches_the_run(run, decoder_folder, texts, tmp_path):
    options = {
        "learning_rate": 1e-3,
        "warmup_steps": 0.2,
        "weight_decay": 0.0,
        "lr_scheduler_type": "cosine",
        "attention_ramp": 0.5,
        "average_last": 0.5,
        "layer_decay": 0.9,
        "tune": "lora",
        "lora_r": 4,
        "lora_alpha": 8,
        "merge_adapter": False,
        "max_tokens": 300,
        "compile_layers": False,
        "bf16": False,
    }
    words = [f"--{name}={value}".replace("False", "false") for name, value in options.items()]
    folder = tmp_path / "adapted"
    command = ["adapt", "--model", decoder_folder, "--output", folder, *STAGE, "--corpus", texts, *words]
    status, _, err = run(*command)
    assert status == 0, err
    training = json.loads((folder / "run.json").read_text())["training"]
    assert {name: training.get(name, False) for name in options} == options


def test_some_layers_stay_causal_in_adapt_and_train(run, refused, decoder_folder, texts, tmp_path):
    folder, layers = tmp_path / "adapted", "--bidirectional_layers=-2:"
    command = ["adapt", "--model", decoder_folder, "--output", folder, *STAGE, "--corpus", texts]
    status, out, err = run(*command, layers, "--attention_ramp", 0.5)
    assert status == 0, err
    assert "bidirectional (layers -2:, the others causal), window radius" in out
    assert "1 of 4 layers causal, global" in out and "1 of 4 layers bidirectional, global" in out
    assert saved_config(folder).bidirectional_layers == "-2:"

    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"{text},{n % 2}\n" for n, text in enumerate(TEXTS)))
    train = ["train", "--train_file", rows, "--epochs", 1, "--max_length", 24]
    on = [*train, "--model", folder, "--new_head", "--output", tmp_path / "on"]
    status, _, err = run(*on)
    assert status == 0, err
    assert saved_config(tmp_path / "on").bidirectional_layers == "-2:"
    train += ["--output", tmp_path / "out"]
    assert "bidirectional_layers is '-2:' and can't be made '1:'" in refused(
        *train, "--model", folder, "--new_head", "--bidirectional_layers", "1:"
    )
    assert "its bidirectional_layers is -2: and can't" in refused(
        *train, "--model", tmp_path / "on", "--bidirectional_layers", "1:"
    )
    new = [*train, "--model", decoder_folder]
    assert "stock attention is the same in all layers" in refused(*new, layers, "--layout", "padded")
    assert "does nothing with attention causal" in refused(*new, layers, "--attention", "causal")
    assert "the decoder has 4 layers" in refused(*new, "--bidirectional_layers", "9:18")
    options = tmp_path / "options.yaml"
    options.write_text("bidirectional_layers: 1:3\n")  # YAML reads minutes and seconds
    assert "(in a YAML file: in quotes)" in refused(*new, "--config", options)
    options.write_text("bidirectional_layers: '1:3'\n")
    assert run(*new, "--config", options, "--dry_run")[0] == 0


def test_with_a_task_the_new_head_is_its_own(run, decoder_folder, tmp_path):
    folder = tmp_path / "adapted"
    command = ["adapt", "--model", decoder_folder, "--output", folder, *STAGE, "--task", "wnli"]
    status, out, err = run(*command, "--corpus", "task:wnli", "--data_source", "bundled", "--max_length", 64)
    assert status == 0, err
    assert f"train --model {folder} --task wnli" in out and "not_entailment, entailment" in out


def test_a_dry_run_says_what_would_be_learnt(run, decoder_folder, texts, tmp_path):
    folder = tmp_path / "adapted"
    command = ["adapt", "--model", decoder_folder, "--output", folder, *STAGE, "--corpus", texts]
    status, out, _ = run(*command, "--dry-run")
    assert status == 0 and "mntp, 20% masked" in out and re.search(r"about \d+ tokens in \d+ steps", out)
    assert not folder.exists()


@pytest.mark.parametrize("head", [["--labels", "bad,good"], []])
def test_a_kept_adapter_is_trained_on_by_the_command_that_is_printed(
    run, decoder_folder, texts, suite_data, tmp_path, head
):
    folder = tmp_path / "adapted"
    command = ["adapt", "--model", decoder_folder, "--output", folder, *STAGE, "--corpus", texts]
    lora = ["--tune", "lora", "--lora_r", 4, "--lora_alpha", 8, "--merge_adapter", "false"]
    status, out, err = run(*command, *head, *lora)
    assert status == 0, err
    rows = tmp_path / "rows.csv"
    rows.write_text(
        "text,label\n" + "".join(f"{text},{'bad' if 'bad' in text else 'good'}\n" for text in TEXTS)
    )
    program, *words = out.splitlines()[-1].removeprefix("Next: ").split()
    found = {"FILE": rows, "FOLDER": tmp_path / "trained", "NAME": "sst2"}
    data = [] if head else ["--data_dir", suite_data]
    status, _, err = run(*(found.get(word, word) for word in words), *data, "--epochs", 1)
    assert program == "gemma-encoder" and status == 0, err


def test_files_data_sets_and_a_suite_are_one_corpus(run, decoder_folder, suite_data, tmp_path):
    parquet, hub, folder = tmp_path / "rows.parquet", tmp_path / "hub", tmp_path / "adapted"
    Dataset.from_dict({"text": TEXTS}).to_parquet(parquet)
    hub.mkdir()  # it stands in for the hub: the same library opens both
    (hub / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:3]))
    sources = [str(parquet), f"hub:{hub}", *(f"task:{name}" for name in GLUE)]
    status, _, err = run(
        *["adapt", "--model", decoder_folder, "--output", folder, *STAGE],
        *["--corpus", f"{parquet},hub:{hub},task:glue", "--data_dir", suite_data, "--tokens", "3K"],
    )
    assert status == 0, err
    data = json.loads((folder / "run.json").read_text())["data"]
    assert list(data["by_source"]) == sources and data["by_source"][f"hub:{hub}"]["texts"] == 3
    unread = {source for source, read in data["by_source"].items() if not read["texts"]}
    assert unread == {f"task:{name}" for name in GLUE if get_task(name).trained_on}
    assert all(f"{source}: {read['texts']} text" in err for source, read in data["by_source"].items())


def test_a_step_that_is_raised_to_the_longest_document_is_told(run, decoder_folder, texts, tmp_path):
    command = [
        "adapt",
        "--model",
        decoder_folder,
        "--output",
        tmp_path / "adapted",
        *STAGE,
        "--corpus",
        texts,
    ]
    status, _, err = run(*command, "--batch_tokens", 5, "--dry-run")
    assert status == 0 and "and not 5 (--batch_tokens)" in err
    assert "--batch_tokens" not in run(*command, "--dry-run")[2]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--tokens", "5M"], "--tokens does nothing here: it is for --objective"),
        (["--objective", "mntp"], "no text to adapt on"),
        (["--objective", "mntp", "--corpus", "nowhere.txt"], "nowhere.txt"),
        (
            ["--objective", "mntp", "--corpus", "TEXTS,nowhere.txt", "--tokens", "50"],
            "no such file [nowhere.txt",
        ),
        (
            ["--objective", "mntp", "--corpus", "TEXTS", "--warmup_steps", "900", "--tokens", "1K"],
            "warmup_steps is 900, and there",
        ),
        (["--objective", "mntp", "--corpus", "task:nothing"], "no task 'nothing'"),
        (["--objective", "mntp", "--corpus", "TEXTS", "--tokens", "many"], "--tokens is 'many'"),
        (["--objective", "mntp", "--corpus", "TEXTS", "--lora_r", "4"], "it is for --tune lora"),
        (["--objective", "mntp", "--corpus", "TEXTS", "--mask_rate", "2"], "mask_rate is 2"),
        (["--objective", "mlm", "--corpus", "TEXTS", "--resume"], "no checkpoint to resume"),
        (["--objective", "mlm", "--corpus", "TEXTS", "--original_share", "1"], "original_share is 1"),
    ],
)
def test_mistakes_are_told_in_a_line(refused, decoder_folder, texts, tmp_path, more, says):
    more = [word.replace("TEXTS", str(texts)) for word in more]
    assert says in refused("adapt", "--model", decoder_folder, "--output", tmp_path / "new", *more)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "number"), [("500K", 500_000), ("5m", 5_000_000), ("1.5B", 1_500_000_000), ("1_000", 1000)]
)
def test_numbers_of_tokens(words, number):
    assert number_of_tokens(words) == number


@pytest.mark.parametrize("words", ["", "K", "-5", "0", "nan", "inf", "5X"])
def test_what_is_no_number_of_tokens(words):
    with pytest.raises(ConfigError, match="--tokens"):
        number_of_tokens(words)
