"""`--attention auto`: chosen by the rows, told, recorded; what was given, and what a folder is, stays."""

from __future__ import annotations

import json

import pytest

from gemma_encoder.checkpoint import saved_config
from gemma_encoder.cli.options import StudyOptions
from gemma_encoder.cli.study import plan_of
from gemma_encoder.cli.study_recipes import Recipes
from gemma_encoder.training import EncoderTrainer, recommended

FAST = ["--epochs", 1, "--batch_size", 8, "--max_length", 24, "--bf16", "false", "--head.width", 8]


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "train.csv"
    lines = [f"a {word} film {number},{word}" for number in range(12) for word in ("good", "bad")]
    file.write_text("\n".join(["text,label", *lines]) + "\n")
    return ["--train_file", file, "--validation_file", file, "--output", tmp_path / "out"]


@pytest.fixture
def command(decoder_folder, rows):
    return ["train", "--model", decoder_folder, *rows, *FAST, "--attention", "auto"]


def told(err: str) -> str:
    (line,) = (line for line in err.splitlines() if line.startswith("--attention auto: "))
    return line


def record(folder) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_few_rows_are_learnt_causally_and_it_is_told_and_recorded(run, command, tmp_path):
    status, printed, err = run(*command)
    assert status == 0, err
    out, why = tmp_path / "out", f"for 24 rows: {recommended(24).why}"
    assert told(err) == f"--attention auto: causal attention, last_k pooling; {why}"
    assert record(out)["attention"] == {
        "asked": "auto",
        "attention": "causal",
        "pooling": "last_k",
        "why": why,
    }
    config = saved_config(out)
    assert (config.attention, config.pooling.kind, config.pooling.k) == ("causal", "last_k", 1)
    assert '"auto"' not in (out / "gemma_encoder.json").read_text()
    assert why in printed and why in (out / "README.md").read_text()
    assert why in run("inspect", "--model", out)[1]


@pytest.mark.parametrize(("drawn", "attention"), [([], "bidirectional"), (["--max_train_rows", 5], "causal")])
def test_the_rows_that_are_trained_on_count(run, command, monkeypatch, drawn, attention):
    table = [{"up_to": 20, "attention": "causal", "pooling": "last_k", "evidence": "few", "doc": "a.md"}]
    table.append({"attention": "bidirectional", "pooling": "mean", "evidence": "many", "doc": "b.md"})
    monkeypatch.setattr("gemma_encoder.training.recommendations._table", lambda: table)
    status, _, err = run(*command, *drawn, "--dry_run")
    assert status == 0 and f"auto: {attention} attention" in told(err), err


def test_a_pooling_that_is_given_stays_also_at_its_default(run, command, tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("attention: auto\npooling: {kind: mean}\n")
    status, _, err = run(*command[: command.index("--attention")], "--config", file)
    assert status == 0, err
    assert "causal attention, mean pooling" in told(err) and told(err).endswith("the pooling was given")
    config = saved_config(tmp_path / "out")
    assert (config.attention, config.pooling.kind) == ("causal", "mean")


def test_no_auto_is_no_record_and_the_default_stays(run, command, tmp_path):
    status, _, err = run(*command[: command.index("--attention")])
    assert status == 0 and "--attention auto" not in err, err
    assert "attention" not in record(tmp_path / "out")
    assert saved_config(tmp_path / "out").attention == "bidirectional"


@pytest.mark.parametrize("new_head", [[], ["--new_head"]])
def test_a_folder_keeps_its_attention(run, adapt, rows, tmp_path, new_head):
    folder = adapt("--labels", "bad,good", "--bidirectional_layers=-2:", "--pooling.kind", "first_k")
    command = ["train", "--model", folder, *rows, "--epochs", 1, "--bf16", "false", "--attention", "auto"]
    status, _, err = run(*command, *new_head)
    assert status == 0, err
    line = f"--attention auto: bidirectional attention, first_k pooling; {folder} keeps its own"
    assert told(err) == line and record(tmp_path / "out")["attention"]["attention"] == "bidirectional"
    config = saved_config(tmp_path / "out")
    assert (config.attention, config.bidirectional_layers) == ("bidirectional", "-2:")
    assert config.pooling.kind == "first_k"


def test_a_new_head_of_a_folder_may_have_another_pooling(run, refused, adapt, rows, tmp_path):
    folder = adapt("--labels", "bad,good")
    command = ["train", "--model", folder, *rows, "--epochs", 1, "--bf16", "false", "--attention", "auto"]
    command += ["--pooling.kind", "last_k"]
    assert "its pooling is" in refused(*command)
    assert run(*command, "--new_head")[0] == 0
    config = saved_config(tmp_path / "out")
    assert (config.attention, config.pooling.kind) == ("bidirectional", "last_k")


def test_a_resumed_run_chooses_and_records_the_same(run, refused, command, tmp_path, monkeypatch):
    step, calls = EncoderTrainer.training_step, []

    def interrupted(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    command += ["--epochs", 2]
    with monkeypatch.context() as patch:
        patch.setattr(EncoderTrainer, "training_step", interrupted)
        assert run(*command)[0] == 130
    begun = record(tmp_path / "out.checkpoints")["attention"]
    other = ["--resume", "--attention", "bidirectional", "--pooling.kind", "last_k"]
    assert "encoder.attention was" in refused(*command, *other)
    status, _, err = run(*command, "--resume")
    assert status == 0 and told(err), err
    resumed = record(tmp_path / "out")
    assert resumed["resumed_from"] and resumed["attention"] == begun


def test_ranking_has_evidence_of_its_own(run, decoder_folder, tmp_path):
    file = tmp_path / "lists.jsonl"
    documents = [{"id": str(n), "text": f"film {n}", "label": int(n == 1)} for n in range(3)]
    queries = [json.dumps({"query": f"the film {n}", "documents": documents}) for n in range(8)]
    file.write_text("\n".join(queries) + "\n")
    words = ["--model", decoder_folder, "--train_lists", file, "--output", tmp_path / "out", *FAST]
    status, _, err = run("train", *words, "--attention", "auto", "--dry_run")
    assert status == 0, err
    assert "causal attention, last_k pooling; for 7 lists: " in told(err) and "TREC DL 2019" in told(err)


def test_who_does_not_know_the_rows_refuses_auto(refused, decoder_folder, tmp_path):
    model = ["--model", decoder_folder, "--output", tmp_path / "out", "--attention", "auto"]
    assert "Mend: give bidirectional or causal" in refused("adapt", *model, "--labels", "a,b")
    assert "for `train` and `study`" in refused("benchmark", "glue", *model, "--dry_run")
    assert not (tmp_path / "out").exists()


def test_an_unknown_attention_is_refused(refused, command):
    assert "--attention is 'sideways'" in refused(*command, "--attention", "sideways")


def test_a_study_chooses_as_train_does(decoder_folder, encoder_folder, tmp_path, capsys):
    axes = {
        "start": {
            "chosen": {"attention": "auto"},
            "pooled": {"attention": "auto", "pooling.kind": "mean"},
            "folder": {"attention": "auto", "model": str(encoder_folder)},
        }
    }
    base = {"data_source": "bundled", "max_train_rows": 16}
    plan = plan_of(StudyOptions(model=str(decoder_folder), tasks=["wnli"], base=base, axes=axes))
    recipes, arms = Recipes(plan, tmp_path), plan.arms()
    made = [recipes(arm, "wnli", 0, None).config for arm in arms]
    assert [(each.attention, each.pooling.kind) for each in made] == [
        ("causal", "last_k"),
        ("causal", "mean"),
        ("bidirectional", "mean"),
    ]
    recipes.check(arms)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(
        "wnli, baseline: --attention auto: causal attention, last_k pooling; for 16 rows"
    )
    assert len(lines) == 3 and lines[2].endswith("keeps its own")
