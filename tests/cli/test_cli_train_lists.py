"""`train --train_lists`: a file of lists to a re-ranker."""

from __future__ import annotations

import json

import pytest

from gemma_encoder import Encoder
from gemma_encoder.ranking import Reranker

FAST = ["--epochs", 2, "--batch_size", 4, "--max_length", 32, "--bf16", "false", "--head.width", 8]
TOPICS = ["money", "river", "film", "bank"]


def lists(path, queries=range(12), *, label=lambda right: int(right)):
    records = []
    for number in queries:
        documents = [
            {"id": f"d{place}", "text": f"a {topic} is good", "label": label(place == number % 4)}
            for place, topic in enumerate(TOPICS)
        ]
        records.append({"query": f"the {TOPICS[number % 4]} {'very ' * number}", "documents": documents})
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def command(decoder_folder, tmp_path):
    train = lists(tmp_path / "lists.jsonl")
    return ["train", "--model", decoder_folder, "--train_lists", train, "--output", tmp_path / "out", *FAST]


def test_a_file_of_lists_becomes_a_reranker(run, command, tmp_path):
    status, printed, err = run(
        *command, "--list_size", 3, "--ranking_loss", "pairwise", "--validation_fraction", 0.25
    )
    assert status == 0, err
    assert "ranking: 9 lists to train on, 12 documents to judge by" in err
    assert "ndcg@10" in printed and "rr@10" in printed and "9 lists of" in printed
    assert "gemma-encoder rank" in printed and "gemma-encoder evaluate" not in printed
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["training"]["ranking_loss"] == "pairwise" and record["data"]["train_rows"] == 9
    assert record["encoder"]["text"]["template"] == "Query: {text} Document: {text_pair}"
    assert len(Reranker.from_pretrained(tmp_path / "out").rank("the money", TOPICS)) == 4
    status, printed, _ = run("predict", "--model", tmp_path / "out", "--text", "q", "--text_pair", "d")
    assert status == 0 and isinstance(json.loads(printed)["prediction"], float)


def test_lists_to_judge_by_and_a_part_to_train_on(run, command, tmp_path):
    judged = lists(tmp_path / "dev.jsonl", range(20, 24), label=lambda right: 2 * right)
    status, _, err = run(*command, "--validation_lists", judged, "--max_train_rows", 5, "--metrics", "rr@10")
    assert status == 0, err
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["data"]["train_note"] == "5 of 12 lists drawn with seed 0"
    assert record["data"]["validation_source"] == str(judged) and list(record["metrics"]) == ["rr@10"]


def test_a_dry_run_says_what_a_step_sees(run, command, tmp_path):
    status, printed, err = run(*command, "--list_size", 3, "--dry_run")
    assert status == 0, err
    facts = dict(line.strip().split("  ", 1) for line in printed.splitlines() if "  " in line.strip())
    facts = {name: fact.strip() for name, fact in facts.items()}
    assert facts["lists"] == "11 to train on; at most 3 documents of each, 1 relevant"
    assert facts["train rows"] == "33" and facts["validation rows"] == "4"
    assert facts["steps"].startswith("3 an epoch") and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--task", "sst2"], "Give one of --task, --train_file, --train_lists and --collection"),
        (["--label_column", "y"], "--label_column does nothing here: it is for rows"),
        (["--list_sampling", "uniform", "--list_positives", "3"], "--list_positives does nothing here"),
        (["--list_size", "1"], "size is 1"),
        (["--ranking_loss", "hinge"], "--ranking_loss"),
        (["--validation_fraction", "1"], "validation_fraction is 1"),
        (["--max_train_rows", "0"], "max_train_rows is 0"),
        (["--metrics", "accuracy,pearson"], "does not fit data with lists"),
        (["--train_lists", "none.jsonl"], "there is no such file"),
        (["--args.ranking_loss", "poly1"], "--args.ranking_loss has an option of its own"),
    ],
)
def test_bad_options_are_refused(refused, command, words, says):
    assert says in refused(*command, *words)


def test_options_of_lists_do_nothing_without_them(refused, decoder_folder, tmp_path):
    said = refused(
        "train", "--model", decoder_folder, "--task", "sst2", "--output", tmp_path / "out", "--list_size", 8
    )
    assert "--list_size does nothing here: it is for --train_lists" in said


def test_a_query_is_not_on_both_sides(refused, command, tmp_path):
    judged = lists(tmp_path / "dev.jsonl", range(11, 13))
    said = refused(*command, "--validation_lists", judged)
    assert "1 of the queries would be both trained on and judged by" in said


def test_all_lists_of_a_query_are_held_out_together(tmp_path):
    from gemma_encoder.ranking.learning import hold_out
    from gemma_encoder.ranking.list_files import read_lists

    path = tmp_path / "triples.tsv"
    path.write_text("".join(f"query {number % 7}\tright\twrong {number}\n" for number in range(40)))
    kept, held = hold_out(read_lists(path), 0.3, seed=1)
    of_kept, of_held = ({each.query for each in side} for side in (kept, held))
    assert len(kept) + len(held) == 40 and not of_kept & of_held and len(of_held) == 2


def test_lists_without_judgments_are_refused_before_training(refused, command, tmp_path):
    path = tmp_path / "lists.jsonl"
    path.write_text('{"query": "a", "documents": ["b", "c"]}\n{"query": "d", "documents": ["b", "c"]}\n')
    assert "query 'lists-1' has no labels to learn from" in refused(*command, "--dry_run").replace(
        f"{path}", "lists"
    )


def test_one_list_without_labels_is_found_before_it_is_drawn(refused, command, tmp_path):
    path = lists(tmp_path / "lists.jsonl")
    with path.open("a") as file:
        file.write('{"query_id": "q9", "query": "a", "documents": ["b", "c"]}\n')
    said = refused(*command, "--dry_run")
    assert "query 'q9' has no labels to learn from" in said and "lists.jsonl, list 13" in said


@pytest.mark.parametrize(
    ("label", "loss", "says"),
    [
        (lambda right: 0, "softmax", "all 12 lists have no relevant document, or one document alone"),
        (lambda right: 0, "pointwise", "all 12 lists have no relevant document"),
        (lambda right: 3, "listmle", "all 12 lists have labels that are all equal"),
        (
            lambda right: right - 0.5,
            "softmax",
            "the label -0.5, and the loss softmax takes labels as weights",
        ),
        (lambda right: right - 0.5, "lambda", "kl or margin_mse"),
        (lambda right: 121 * right, "lambda", "takes 2^label as gain, which overflows"),
    ],
)
def test_labels_that_teach_a_loss_nothing_are_refused(refused, command, tmp_path, label, loss, says):
    lists(tmp_path / "lists.jsonl", label=label)
    assert says in refused(*command, "--dry_run", "--ranking_loss", loss)


@pytest.mark.parametrize("loss", ["kl", "margin_mse", "listmle", "pairwise"])
def test_scores_of_a_teacher_may_be_negative(run, command, tmp_path, loss):
    lists(tmp_path / "lists.jsonl", label=lambda right: right - 3.5)
    status, _, err = run(*command, "--dry_run", "--ranking_loss", loss)
    assert status == 0 and "lists have" not in err


def test_grades_of_judges_may_be_negative(run, command, tmp_path):
    lists(tmp_path / "lists.jsonl", label=lambda right: 1 if right else -2)
    assert run(*command, "--dry_run")[0] == 0


def test_lists_that_teach_nothing_are_counted(run, command, tmp_path):
    path = lists(tmp_path / "lists.jsonl")
    other = lists(tmp_path / "other.jsonl", range(20, 23), label=lambda right: 0)
    words = [f"{path},{other}" if word == path else word for word in command]
    status, _, err = run(*words, "--dry_run")
    assert status == 0 and "3 of 15 lists have no relevant document" in err, err


def test_the_score_of_a_regression_goes_on_as_one_to_rank_by(run, refused, command, adapt, tmp_path):
    folder = adapt("--problem_type", "regression", "--labels", "likeness", "--pairs")
    words = ["train", "--model", folder, *command[3:7], "--bf16", "false"]
    status, _, err = run(*words, "--learning_rate", 1e-9, "--head_learning_rate", 1e-9)
    assert status == 0, err
    assert f"{folder} gives a number: its head is kept and learns to rank by it" in err
    encoder = Reranker.from_pretrained(tmp_path / "out").encoder
    assert encoder.config.problem_type == "ranking" and encoder.config.labels == ("likeness",)
    assert encoder.config.warm_start == ("model",)
    before, after = (
        Reranker(each).rank("the money", TOPICS) for each in (Encoder.from_pretrained(folder), encoder)
    )
    assert [each.text for each in before] == [each.text for each in after]
    assert "does single_label_classification" in refused(
        "train", "--model", adapt("--labels", "a,b", "--pairs"), *words[3:], "--overwrite"
    )
