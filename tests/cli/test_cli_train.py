"""`train`: options to arguments, a file or a task to a folder, an interruption, bad input."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import asdict, fields

import pytest
from safetensors.torch import load_file

from gemma_encoder.cli.main import main
from gemma_encoder.cli.options import TrainingOptions, TrainOptions
from gemma_encoder.cli.train import training_arguments
from gemma_encoder.compiling import why_not_compiled
from gemma_encoder.dropout import DropoutConfig
from gemma_encoder.encoder import Encoder
from gemma_encoder.errors import ConfigError
from gemma_encoder.training import EncoderTrainer, EncoderTrainingArguments, recipe_for

WORDS = {
    "good": ["a very good film", "good text", "very very good"],
    "bad": ["a bad film", "bad text", "not it"],
}
FAST = ["--epochs", 2, "--batch_size", 4, "--max_length", 24, "--bf16", "false", "--head.width", 8]


def labelled(path, count=24, header="text,label"):
    rows = [f"{WORDS[label][i % 3]} {i},{label}" for i in range(count // 2) for label in ("good", "bad")]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture
def train_file(tmp_path):
    return labelled(tmp_path / "train.csv")


@pytest.fixture
def command(decoder_folder, train_file, tmp_path):
    paths = ["--model", decoder_folder, "--train_file", train_file, "--output", tmp_path / "out"]
    return ["train", *paths, *FAST]


@pytest.mark.skipif(bool(why_not_compiled()), reason=f"can't compile: {why_not_compiled()}")
def test_layers_are_compiled_on_request(run, command, train_file, tmp_path):
    status, _, err = run(*command, "--compile_layers", "true")
    assert status == 0, err
    assert json.loads((tmp_path / "out" / "run.json").read_text())["compiled_layers"] is True
    predict = ["predict", "--model", tmp_path / "out", "--input", train_file]
    for choice in ("true", "false"):
        output = tmp_path / f"{choice}.jsonl"
        status, _, err = run(*predict, "--compile_layers", choice, "--output", output)
        assert status == 0, err
    found, stock = ((tmp_path / f"{choice}.jsonl").read_text().splitlines() for choice in ("true", "false"))
    for one, other in zip(found, stock, strict=True):
        assert json.loads(one)["prediction"] == json.loads(other)["prediction"]


def test_defaults_are_those_of_the_training_arguments_and_the_recipe(tmp_path):
    ours, theirs = asdict(TrainingOptions()), {f.name: f.default for f in fields(EncoderTrainingArguments)}
    open_ones = {"args", *(name for name, value in ours.items() if value is None)}
    assert {n: v for n, v in ours.items() if n not in open_ones} == {
        n: theirs[n] for n in ours if n not in open_ones
    }
    args = training_arguments(TrainOptions("m", str(tmp_path), task="sst2"), TrainingOptions())
    recipe = recipe_for("sst2")
    assert (args.learning_rate, args.num_train_epochs) == (recipe.learning_rate, recipe.num_train_epochs)
    assert (args.head_learning_rate, args.train_batch_size) == (recipe.head_learning_rate, recipe.batch_size)


def test_every_other_field_of_the_training_arguments_passes_through(tmp_path):
    options = TrainOptions("m", str(tmp_path), task="sst2")
    args = training_arguments(options, TrainingOptions(learning_rate=3e-4, args={"adam_beta2": 0.98}))
    assert (args.adam_beta2, args.learning_rate) == (0.98, 3e-4)
    for name, value in (
        ("adam_beat2", 1),
        ("seed", 1),
        ("save_strategy", "never"),
    ):
        with pytest.raises(ConfigError):
            training_arguments(options, TrainingOptions(args={name: value}))


def test_a_strategy_may_be_no(run, command):
    """YAML reads a bare `no` as false."""
    nothing = ["--args.eval_strategy", "no", "--args.save_strategy", "no"]
    status, _, err = run(*command, "--dry_run", *nothing, "--args.load_best_model_at_end", "false")
    assert status == 0, err
    options, extra = TrainOptions("m", "out", task="sst2"), {"eval_strategy": False, "save_strategy": "no"}
    args = training_arguments(options, TrainingOptions(args=extra | {"load_best_model_at_end": False}))
    assert (args.eval_strategy, args.save_strategy) == ("no", "no")


def test_a_file_to_a_folder_that_predicts(run, command, tmp_path, train_file):
    validation = labelled(tmp_path / "dev.csv", count=10)
    status, printed, err = run(*command, "--validation_file", validation)
    assert status == 0, err
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["data"]["train_rows"], record["data"]["validation_rows"]) == (24, 10)
    assert (
        f"{record['metrics']['accuracy']:.4f}" in printed
        and "majority baseline" in printed
        and "0.5000" in printed
    )
    # What was printed as next steps works.
    assert f"gemma-encoder evaluate --model {tmp_path / 'out'} --file {validation}" in printed
    status, judged, _ = run("evaluate", "--model", tmp_path / "out", "--file", validation)
    assert status == 0 and f"{record['metrics']['accuracy']:.4f}" in judged
    status, out, _ = run("predict", "--model", tmp_path / "out", "--text", "a good film")
    assert status == 0 and json.loads(out)["prediction"] in ("good", "bad")
    status, out, _ = run("inspect", "--model", tmp_path / "out")
    assert status == 0 and "finished" in out


def test_pairs_of_a_task_from_an_adapted_folder_with_lora(run, adapt, tmp_path):
    data, lines = tmp_path / "rte", []
    data.mkdir()
    for i in range(16):
        lines.append(json.dumps({"sentence1": f"the film {i}", "sentence2": "good", "label": i % 2}))
    for name in ("train_sample", "validation_sample"):
        (data / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    model = adapt("--task", "rte", "--max_length", "64")
    arguments = ["--model", model, "--task", "rte", "--data-dir", tmp_path, "--output", tmp_path / "out"]
    status, printed, err = run("train", *arguments, "--tune", "lora", "--max_train_rows", 8, *FAST[:4])
    assert status == 0, err
    assert "8 rows" in printed and "--text_pair" in printed
    assert Encoder.from_pretrained(tmp_path / "out").config.labels == ("entailment", "not_entailment")


@pytest.mark.parametrize("labels", [[0.5, 1.25, 3, 2], ["a|b", "b", "a", "a|b"]])
def test_regression_and_multi_label_files(run, decoder_folder, tmp_path, labels):
    path = tmp_path / "train.csv"
    path.write_text("text,label\n" + "".join(f"film {i},{labels[i % 4]}\n" for i in range(16)))
    extra = ["--label_separator", "|"] if "|" in str(labels[0]) else []
    arguments = ["--model", decoder_folder, "--train_file", path, "--output", tmp_path / "out"]
    status, printed, err = run("train", *arguments, *FAST, *extra)
    assert status == 0, err
    assert ("pearson" if not extra else "f1_micro") in printed


def test_dry_run_says_the_plan_and_writes_nothing(run, command, tmp_path):
    before = sorted(tmp_path.iterdir())
    status, printed, _ = run(*command, "--dry_run")
    assert status == 0 and sorted(tmp_path.iterdir()) == before
    for fact in (
        "labels                      bad 1",
        "validation rows",
        "6 an epoch, 2 epochs",
        "text, label",
        "tokens per text",
    ):
        assert fact in printed, printed


def test_a_dry_run_counts_the_embeddings_that_would_train(run, command, tmp_path):
    planned = [run(*command, "--dry_run", *more)[1] for more in ([], ["--train_embeddings"])]
    frozen, trained = (int(re.search(r"full: ([\d,]+)", each)[1].replace(",", "")) for each in planned)
    assert run(*command, "--train_embeddings")[0] == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert frozen < trained == record["parameters"]["trained"]


def test_an_interrupted_run_resumes_to_the_same_weights(run, refused, command, tmp_path, monkeypatch):
    assert run(*command)[0] == 0
    whole = load_file(tmp_path / "out" / "model.safetensors")
    again = [word if word != tmp_path / "out" else tmp_path / "again" for word in command]
    step, calls = EncoderTrainer.training_step, []

    def interrupted(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(EncoderTrainer, "training_step", interrupted)
        status, _, err = run(*again)
    assert status == 130 and "--resume" in err and not (tmp_path / "again").exists()
    assert "--resume" in refused(*again)  # nothing is started over by mistake
    assert run(*again, "--resume")[0] == 0
    resumed = load_file(tmp_path / "again" / "model.safetensors")
    assert whole.keys() == resumed.keys() and all(whole[name].equal(resumed[name]) for name in whole)


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        ("text,label\nx,good\nx,good\n", ["one class"]),
        ("text,klass\nx,good\n", ["'label'", "'klass'"]),
        ("", ["no rows"]),
        ("text,label\nx,good\ny\n", ["line 3"]),
        ("text,label\nx,good\ny,\nz,bad\n", ["line 3", "label"]),
    ],
)
def test_bad_files_are_refused_before_anything_is_written(
    refused, command, train_file, tmp_path, content, messages
):
    train_file.write_text(content)
    line = refused(*command)
    assert all(message in line for message in [*messages, "train.csv"]), line
    assert not (tmp_path / "out").exists()


def test_an_unseen_label_in_the_validation_file_names_row_and_label(refused, command, tmp_path):
    path = tmp_path / "dev.csv"
    path.write_text("text,label\nx,good\ny,ugly\n")
    line = refused(*command, "--validation_file", path)
    assert "dev.csv, line 3" in line and "'ugly'" in line


def test_bad_rows_are_skipped_and_counted(run, command, train_file, tmp_path):
    with train_file.open("ab") as file:
        file.write(b"\xff\xfe,good\nonly one field\n")
    status, printed, err = run(*command, "--skip-bad-rows")
    assert status == 0, err
    assert json.loads((tmp_path / "out" / "run.json").read_text())["data"]["skipped"] == 2
    assert any("bad rows skipped" in line and line.endswith(" 2") for line in printed.splitlines())


def test_options_that_contradict_are_refused(
    refused, command, encoder_folder, decoder_folder, train_file, tmp_path
):
    out = ["--output", tmp_path / "out"]
    assert "Give one of --task" in refused("train", "--model", decoder_folder, *out)
    assert "pairs" in refused(*command, "--text_pair_column", "label", "--template", "{text}")
    assert "'pearson'" in refused(*command, "--metrics", "pearson")
    assert "'adam_beta3'" in refused(*command, "--args.adam_beta3", "1")
    assert "tune" in refused(*command, "--tune", "all")
    assert "no checkpoint" in refused(*command, "--resume")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("made", ["bidirectional", "causal"])
def test_what_an_adapted_folder_is_can_be_said_and_not_changed(
    run, refused, adapt, train_file, made, tmp_path
):
    """Also where the option is given at its default."""
    folder = adapt("--labels", "bad,good", "--attention", made)
    command = ["train", "--model", folder, "--train_file", train_file, "--output", tmp_path / "out"]
    other = {"bidirectional": "causal", "causal": "bidirectional"}[made]
    assert f"its attention is {made}" in refused(*command, "--attention", other)
    assert "its pooling is" in refused(*command, "--pooling.kind", "last_k")
    file = tmp_path / "options.yaml"
    file.write_text(f"attention: {other}\n")
    assert f"its attention is {made}" in refused(*command, "--config", file)
    assert run(*command, "--attention", made, "--dry_run")[0] == 0


def test_a_new_head_takes_over_the_backbone_and_learns_another_task(
    run, refused, adapt, train_file, decoder_folder, tmp_path
):
    folder = adapt("--labels", "no,maybe,yes", "--pairs", "--attention", "causal", "--pooling.kind", "last_k")
    command = ["train", "--train_file", train_file, "--epochs", 1, "--bf16", "false"]
    refusal = refused(*command, "--model", folder, "--output", tmp_path / "out", "--head.width", 6)
    assert "its head is" in refusal and "add --new_head" in refusal
    command += ["--max_length", 24, "--head.width", 6]
    assert run(*command, "--model", folder, "--output", tmp_path / "out", "--new_head")[0] == 0
    config = Encoder.from_pretrained(tmp_path / "out").config
    assert config.attention == "causal" and config.pooling.kind == "last_k" and not config.text.is_pair
    assert config.labels == ("bad", "good") and config.head.width == 6 and config.text.max_length == 24

    assert "trained before as model" in run("inspect", "--model", tmp_path / "out")[1]
    assert "trained before as `model`" in (tmp_path / "out" / "README.md").read_text()

    more = ["--model", folder, "--output", tmp_path / "other", "--new_head"]
    assert "The encoder's attention is 'causal'" in refused(*command, *more, "--attention", "bidirectional")
    assert run(*command, *more, "--pooling.kind", "mean", "--dry_run")[0] == 0
    assert "--new_head does nothing here" in refused(
        *command, "--model", decoder_folder, "--new_head", "--output", tmp_path / "other"
    )


def test_an_adapted_folder_may_be_trained_with_other_dropout(run, refused, adapt, train_file, tmp_path):
    folder = adapt("--labels", "bad,good", "--dropout", "0.2")
    command = ["train", "--model", folder, "--train_file", train_file, "--epochs", 1, "--bf16", "false"]
    assert run(*command, "--output", tmp_path / "same")[0] == 0
    assert Encoder.from_pretrained(tmp_path / "same").config.dropout == DropoutConfig.uniform(0.2)
    other = ["--dropout.attention", "0.1", "--dropout.head", "0.3"]
    assert run(*command, "--output", tmp_path / "other", *other)[0] == 0
    encoder = Encoder.from_pretrained(tmp_path / "other")
    assert encoder.config.dropout == DropoutConfig(attention=0.1, head=0.3)
    assert {layer.self_attn.attention_dropout for layer in encoder.stock_backbone.layers} == {0.1}
    assert "dropout.head is 1.5" in refused(*command, "--output", tmp_path / "bad", "--dropout.head", "1.5")


def test_a_lora_adapter_may_be_kept_by_itself(run, refused, command, tmp_path):
    assert run(*command, "--tune", "lora", "--merge_adapter", "false")[0] == 0
    folder = tmp_path / "out"
    assert (folder / "adapter_model.safetensors").is_file() and not (folder / "model.safetensors").exists()
    status, printed, _ = run("predict", "--model", folder, "--text", "a good film")
    assert status == 0 and '"prediction"' in printed
    assert "--merge_adapter does nothing here" in refused(*command, "--overwrite", "--merge_adapter", "false")


@pytest.mark.parametrize(
    ("verb", "options", "named"),
    [
        ("train", ["--task", "sst2", "--text_column", "x"], "--text_column does nothing here"),
        ("train", ["--task", "sst2", "--validation_file", "x"], "--validation_file does nothing here"),
        ("train", ["--train_file", "x.csv", "--data_dir", "x"], "--data_dir does nothing here"),
        (
            "train",
            ["--train_file", "x.csv", "--validation_file", "y.csv", "--validation_fraction", "0.2"],
            "--validation_fraction does nothing",
        ),
        ("train", ["--task", "sst2", "--lora_r", "4"], "--lora_r does nothing here: it is for --tune lora"),
        ("evaluate", ["--task", "sst2", "--label_column", "x"], "--label_column does nothing here"),
        ("evaluate", ["--file", "x.csv", "--split", "test"], "--split does nothing here"),
    ],
)
def test_options_that_would_do_nothing_are_refused(refused, encoder_folder, tmp_path, verb, options, named):
    output = ["--output", tmp_path / "out"] if verb == "train" else []
    assert named in refused(verb, "--model", encoder_folder, *output, *options)


def test_an_adapted_regression_model_learns_a_task_whose_score_has_another_name(
    run, refused, adapt, tmp_path
):
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"film {i},{i}.5\n" for i in range(8)))
    rows = ["--train_file", tmp_path / "rows.csv", "--labels", "grade", "--epochs", "1"]
    folder = adapt("--problem_type", "regression")
    assert run("train", "--model", folder, "--output", tmp_path / "out", *rows)[0] == 0
    two = adapt("--problem_type", "regression", "--labels", "a,b")
    command = ["train", "--model", two, "--output", tmp_path / "two", "--train_file", tmp_path / "rows.csv"]
    assert "gives 2 numbers, a row of the data has one" in refused(*command)


def test_the_commands_to_go_on_with_can_be_pasted(run, command, tmp_path):
    output = tmp_path / "my model"
    words = [word for word in command if word not in ("--output", tmp_path / "out")]
    status, printed, err = run(*words, "--output", output)
    assert status == 0, err
    assert "single_label_classification of bad, good" in err
    predict = next(line for line in printed.splitlines() if "gemma-encoder predict" in line)
    assert shlex.split(predict)[2:4] == ["--model", str(output)]


def test_a_dry_run_refuses_what_the_run_would(refused, command, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    assert "--overwrite" in refused(*command, "--dry_run")
    fp16 = [*command, "--output", tmp_path / "new", "--args.fp16", "true", "--dry_run"]
    assert "fp16 can't train Gemma" in refused(*fp16)


def test_an_output_that_exists_is_not_touched(refused, command, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    assert "--overwrite" in refused(*command)
    assert "other files" in refused(*command, "--overwrite")
    assert (tmp_path / "out" / "precious").read_text() == "x"


def test_a_run_interrupted_before_its_first_checkpoint_says_to_start_again(run, command, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(EncoderTrainer, "training_step", interrupted)
        status, _, err = run(*command)
    assert status == 130 and "no checkpoint was written yet" in err
    assert run(*command)[0] == 0


@pytest.mark.parametrize(
    ("name", "value"), [("max_steps", "abc"), ("data_seed", "abc"), ("lr_scheduler_kwargs", "3")]
)
def test_other_training_options_of_a_wrong_type_are_named(refused, command, name, value):
    assert f"{name} is " in refused(*command, f"--args.{name}", value)


def test_a_non_finite_loss_stops_and_names_the_rows(refused, command, monkeypatch):
    loss = Encoder.loss
    monkeypatch.setattr(
        Encoder, "loss", lambda self, *arguments, **options: loss(self, *arguments, **options) * float("nan")
    )
    line = refused(*command)
    assert "rows" in line and "nan" in line


def test_out_of_memory_names_the_budget(refused, command, monkeypatch):
    def forward(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Encoder, "forward", forward)
    assert "max_tokens=2048" in refused(*command)


def test_a_full_disk_while_saving_is_one_line(refused, command, monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gemma_encoder.training.packed_trainer.save_file", full)
    assert "No space left" in refused(*command)
    assert not (tmp_path / "out").exists()


def test_main_returns_the_status_of_a_missing_model(capfd, tmp_path, train_file):
    arguments = ["train", "--model", str(tmp_path / "none"), "--train_file", str(train_file), "--output", "x"]
    assert main(arguments) == 2
    assert str(tmp_path / "none") in capfd.readouterr().err
