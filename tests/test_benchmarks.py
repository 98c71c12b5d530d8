"""The benchmarks run, and refuse to time two different functions. Their figures mean nothing here."""

from __future__ import annotations

import argparse
import gzip
import json
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch
from benchmarks import __main__ as every_benchmark
from benchmarks import (
    attention,
    break_even,
    common,
    cosine_ranking,
    cross_encoder,
    cuda_speed,
    embeddings,
    growth,
    llama_cpp,
    questions,
    ranking_quality,
    ranking_speed,
    scoring_speed,
    training_speed,
    where_time_goes,
)
from datasets import Dataset

from gemma_encoder import Encoder
from gemma_encoder.cli import main as cli
from gemma_encoder.errors import ConfigError, DataError
from gemma_encoder.ranking import Reranker, read_run
from gemma_encoder.ranking.lists import CandidateList
from gemma_encoder.testing import tiny_decoder
from gemma_encoder.text import TextConfig

TINY = ["--model", "unused", "--rounds", "2", "--device", "cpu"]


def test_gpu_speed_leaves_out_what_fails_and_keeps_the_rest(tmp_path, monkeypatch):
    def refuse(backbone):
        raise RuntimeError("no compiler\nhere")

    monkeypatch.setattr(cuda_speed, "compiled_layers", refuse)
    out = tmp_path / "deep" / "gpu.json"
    shown = ["--tiny", "--device", "cpu", "--seconds-each", "0.01", "--shapes", "gemma-3-270m"]
    cuda_speed.main([*shown, "--out", str(out)])
    result = json.loads(out.read_text())
    compiled = [why for name, why in result["left_out"].items() if "compiled" in name]
    assert set(compiled) == {"RuntimeError: no compiler"} and len(compiled) == 5
    scored = {each["contender"]: each for each in result["rows"] if each["kind"] == "scoring passages"}
    assert set(scored) == {
        *("packed (matmul)", "packed (flex)", "packed (sdpa)", "padded sdpa", "padded, as CrossEncoder"),
        *("products alone", "collation alone"),
    }
    assert min(each.get("least_cosine", 1) for each in scored.values()) > 0.999
    trained = {each["contender"]: each for each in result["rows"] if each["kind"] == "training passages"}
    assert set(trained) == {"packed", "padded sdpa", "padded sdpa, by length"}
    assert trained["packed"]["loss"] == pytest.approx(trained["padded sdpa"]["loss"], abs=0.02)
    assert min(each["tokens_per_second"] for each in trained.values()) > 0


@pytest.mark.parametrize("more", [[], ["--train-embeddings"]])
def test_training_speed_runs_every_trainer(decoder_folder, tmp_path, monkeypatch, more):
    if more:  # once is enough to wait for
        monkeypatch.setattr(training_speed, "why_not_compiled", lambda device: "not in this test")
    out = tmp_path / "deep" / "training.json"
    training_speed.main(
        [
            *("--model", str(decoder_folder), "--device", "cpu", "--rounds", "2", "--steps", "2"),
            *("--batch-size", "3", "--dtypes", "float32", "bfloat16", "--no-alone", "--out", str(out), *more),
        ]
    )
    result = json.loads(out.read_text())
    names = [*training_speed.CONTENDERS, *(training_speed.WITH_EMBEDDINGS if more else [])]
    assert [(each["dtype"], each["contender"]) for each in result["table"]] == [
        (dtype, name) for dtype in ("float32", "bfloat16") for name in names
    ]
    rates = {(each["dtype"], each["name"]): each["rates"] for each in result["measured"]}
    for each in result["table"]:
        theirs, ours = rates[each["dtype"], each["contender"]], rates[each["dtype"], "packed"]
        assert min(theirs) > 0 and each["tokens_per_second"] == median(theirs)
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        assert each["times_as_long_as_ours"] == [median(ratios), min(ratios), max(ratios)]
        limit = result["limits"][each["dtype"]]
        assert each["share_of_limit"] == median(a / b for a, b in zip(theirs, limit, strict=True))
    assert result["token embeddings"].startswith("trained" if more else "frozen")
    shares = dict(part.rsplit(" ", 1) for part in result["padding"].split("; "))
    assert shares["padded"] == shares["HF Trainer"] != "0%" and not {"packed", "not compiled"} & shares.keys()


def test_a_trainer_by_itself_says_what_it_takes(decoder_folder, monkeypatch, capsys):
    small = ["--device", "cpu", "--steps", "1", "--batch-size", "3", "--dtypes", "float32", "--rounds", "1"]
    measured = training_speed._with_alone

    def one_alone(trained, runs):  # a process takes seconds to start
        return measured(trained, runs) if trained.name == "HF Trainer" else trained

    monkeypatch.setattr(training_speed, "_with_alone", one_alone)
    result = training_speed.main(["--model", str(decoder_folder), *small])
    (row,) = (row for row in result["table"] if "peak_mib" in row)
    assert row["contender"] == "HF Trainer" and row["peak_mib"] > 100 and row["start_up_seconds"] > 0.5
    assert "memory, MiB" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="give --train-embeddings"):
        training_speed.main(["--model", str(decoder_folder), *small, "--contender", "frozen"])


def test_a_trainer_that_fails_by_itself_keeps_its_rates(decoder_folder, monkeypatch):
    monkeypatch.setattr(training_speed, "why_not_compiled", lambda device: "not in this test")

    def refuse(command, name, fix):
        raise ConfigError(f"{name}: no memory", fix=fix)

    monkeypatch.setattr(training_speed, "answer_of", refuse)
    small = ["--device", "cpu", "--steps", "1", "--batch-size", "3", "--dtypes", "float32", "--rounds", "1"]
    result = training_speed.main(["--model", str(decoder_folder), *small])
    assert len(result["table"]) == 5 and not any("peak_mib" in row for row in result["table"])
    assert result["packed, float32"] == "packed: no memory. Mend: try fewer rows a step."


def test_scoring_speed_goes_through_its_workloads(collection, tmp_path):
    few = [*TINY, "--rows", "3", "--rounds", "1", "--dtypes", "float32", "--no-compile-layers"]
    (tmp_path / "glue" / "mrpc").mkdir(parents=True)
    for split in ("train", "validation"):
        columns = {"sentence1": ["a film", "money"], "sentence2": ["the bank", "good"], "label": [0, 1]}
        path = tmp_path / "glue" / "mrpc" / f"{split}_sample.parquet"
        Dataset.from_dict(columns | {"idx": [0, 1]}).to_parquet(path)
    result = scoring_speed.main(
        [
            *(*few, "--data-dir", str(tmp_path / "glue"), "--collection", str(collection)),
            *("--run", str(collection / "all.trec"), "--contenders", "padded"),
            *("--out", str(tmp_path / "speed.json"), "--plot", str(tmp_path / "speed.svg")),
        ],
        decoder=tiny_decoder("gemma3"),
    )
    assert json.loads((tmp_path / "speed.json").read_text()) == result
    for name in ("mrpc", "queries", "mixed"):
        assert [row["contender"] for row in result[name]["table"]] == ["gemma-encoder", "padded"]
        assert (tmp_path / f"speed-{name}.svg").is_file()
    bundled = scoring_speed.main([*few, "--contenders", "padded"], decoder=tiny_decoder("llama"))
    assert any("WNLI" in name for name in bundled), "without a folder the result must say that it isn't MRPC"


def test_scoring_speed_cut_off_leaves_the_workloads_before(collection, tmp_path, monkeypatch, capsys):
    whole, measured = scoring_speed.measure, []

    def measure(*args, **options):
        if measured:
            raise KeyboardInterrupt
        measured.append(1)
        return whole(*args, **options)

    monkeypatch.setattr(scoring_speed, "measure", measure)
    arguments = [
        *(*TINY, "--rows", "3", "--rounds", "1", "--dtypes", "float32", "--no-compile-layers", "--no-alone"),
        *("--collection", str(collection), "--run", str(collection / "all.trec")),
        *("--contenders", "padded", "--out", str(tmp_path / "speed.json")),
    ]
    status = common.exit_status(lambda: scoring_speed.main(arguments, decoder=tiny_decoder("gemma3")))
    assert status == 130 and capsys.readouterr().err.endswith("interrupted\n")
    kept = json.loads((tmp_path / "speed.json").read_text())
    assert "queries" in kept and "mixed" not in kept


@pytest.fixture
def parts(monkeypatch):
    """Commands of the parts that were run; each writes a result, `re-ranking` fails."""
    ran = []

    class Part:
        def __init__(self, words):
            ran.append(words[2:])
            self.status = 2 if "benchmarks.ranking_speed" in words else 0
            Path(words[-1]).write_text(json.dumps({"module": words[2]}))

        def wait(self):
            return self.status

    monkeypatch.setattr(every_benchmark.subprocess, "Popen", Part)
    monkeypatch.setattr("importlib.util.find_spec", lambda package: package)
    return ran


def test_all_benchmarks_go_into_one_file(tmp_path, parts, capsys):
    given = ["--data-dir", "glue", "--collection", "c", "--run", "r", "--rounds", "1", "--rows", "3"]
    status = every_benchmark.main([*given, "--dtypes", "float32", "--no-repack", "--out", str(tmp_path)])
    assert status == 2 and "re-ranking failed: exit status 2" in capsys.readouterr().err
    found = json.loads((tmp_path / "speed.json").read_text())
    assert {part: each["module"] for part, each in found.items()} == {
        part: module for part, (module, _) in every_benchmark.TAKES.items()
    }
    training, scoring, ranking, vectors = (" ".join(words[1:-2]) for words in parts)
    assert training == "--rounds 1 --dtypes float32 --data-dir glue"
    assert scoring.startswith("--rounds 1 --dtypes float32 --data-dir glue --collection c --run r --rows 3 ")
    assert ranking == "--rounds 1 --dtypes float32 --collection c --run r"
    assert vectors == "--rounds 1 --dtypes float32 --data-dir glue --rows 3 --no-repack"


def test_a_benchmark_without_data_is_left_out(tmp_path, parts, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    assert every_benchmark.main(["--out", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    assert "re-ranking is left out: give --collection" in said and "pip install llama-cpp-python" in said
    assert list(json.loads((tmp_path / "speed.json").read_text())) == ["training", "scoring"]


def test_all_benchmarks_cut_off_wait_for_what_was_measured(tmp_path, parts, monkeypatch):
    waits = iter([KeyboardInterrupt, 130])

    def wait(self):
        if (status := next(waits)) is KeyboardInterrupt:
            raise KeyboardInterrupt
        return status

    monkeypatch.setattr(every_benchmark.subprocess.Popen, "wait", wait)
    assert every_benchmark.main(["--out", str(tmp_path)]) == 130
    assert list(json.loads((tmp_path / "speed.json").read_text())) == ["training"] and len(parts) == 1


def test_growth_runs_verbs_and_lengths(tmp_path):
    encoder = Encoder.from_decoder(
        tiny_decoder("llama"),
        text=TextConfig(template="{text} {text_pair}"),
        problem_type="ranking",
        labels=["relevance"],
        verify=False,
    )
    encoder.save_pretrained(tmp_path / "model")
    folder = ["--folder", str(tmp_path / "model"), "--out", str(tmp_path / "growth.json")]
    plot = tmp_path / "growth.svg"
    result = growth.main(
        [*folder, "--rows", "150", "--lengths", "8", "16", "--tokens", "64", "--plot", str(plot)]
    )
    assert plot.read_text().rstrip().endswith("</svg>")
    assert [(each["verb"], each["rows"]) for each in result["by_rows"]] == [("predict", 150), ("rank", 150)]
    assert all(each["seconds"] > 0 and each["peak_mib"] > 50 for each in result["by_rows"])
    assert [(each["length"], each["texts"]) for each in result["by_length"]] == [(8, 8), (16, 4)]
    assert json.loads((tmp_path / "growth.json").read_text())["by_rows"] == result["by_rows"]
    with pytest.raises(ConfigError, match="predict failed with status [0-9]+: .*nowhere"):
        growth.main(["--folder", "nowhere", "--rows", "1", "--lengths"])


@pytest.mark.parametrize(
    "given", [["--rounds", "0"], ["--steps", "0"], ["--batch-size", "-1"], ["--device", "cuda"]], ids=str
)
def test_nothing_to_time_is_one_line(given, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        training_speed.main([*TINY, *given])
    said = "no GPU" if "cuda" in given else f"{given[0]} is at least 1"
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_training_speed_cut_off_leaves_the_precision_before(decoder_folder, tmp_path, monkeypatch):
    def compare(runs, dtype):
        if dtype == "bfloat16":
            raise KeyboardInterrupt
        return [training_speed.Trained("packed", dtype, [2.0])], [4.0]

    monkeypatch.setattr(training_speed, "_compare", compare)
    out = tmp_path / "training.json"
    given = ["--model", str(decoder_folder), "--device", "cpu", "--batch-size", "3", "--out", str(out)]
    with pytest.raises(KeyboardInterrupt):
        training_speed.main([*given, "--no-alone"])
    assert [each["dtype"] for each in json.loads(out.read_text())["table"]] == ["float32"]


def test_time_is_taken_apart(decoder_folder, tmp_path):
    out = tmp_path / "time.json"
    few = ["--rows", "4", "--batch-size", "2", "--rounds", "1", "--dtypes", "float32", "--device", "cpu"]
    result = where_time_goes.main([*few, "--model", str(decoder_folder), "--out", str(out)])
    assert [each["part"] for each in result["found"]] == ["scoring", "training"]
    for each in result["found"]:
        assert min(*each["seconds"], *each["products_alone_seconds"]) > 0
        assert sum(each["shares"].values()) == pytest.approx(1)
        assert each["shares"]["products of linear layers"] > 0
    assert result["found"][1]["shares"]["AdamW, norm of the gradients"] > 0
    assert json.loads(out.read_text())["found"] == result["found"]


def test_shares_of_groups_of_operators():
    found = where_time_goes.shares({"aten::mm": 6, "aten::bmm": 1, "## Call CompiledFxGraph x": 2, "else": 1})
    assert found["products of linear layers"] == 0.6 and found[where_time_goes.REST] == 0.1
    assert found["attention's products and softmax"] == 0.1 and found["fused passes"] == 0.2


def test_gains_by_rows_are_those_of_the_studies(tmp_path, capsys):
    columns = "task,arm,stage,seed,state,axis.recipe,train_rows,report.accuracy,report.matthews"

    def study(rows, gain):
        lines = [columns]
        for seed in range(3):
            for arm, more in (("causal, last", 0), ("adapted", gain + seed / 100)):
                lines += [
                    f'sst2,x,report,{seed},complete,"{arm}",{rows},{0.8 + more},',
                    f'cola,x,report,{seed},complete,"{arm}",{rows - 7},0.5,{0.3 + more}',
                    f'cola,x,tuning,{seed},complete,"{arm}",{rows},0.9,0.9',
                ]
        lines.append(f'sst2,x,report,7,complete,"adapted",{rows},0.1,')  # without CoLA
        path = tmp_path / f"{rows}.csv"
        path.write_text("\n".join(lines) + "\n")
        return str(path)

    files = [study(3000, 0.05), study(500, -0.03)]
    plot, out = tmp_path / "gains.svg", tmp_path / "gains.json"
    given = ["--reference", "causal, last", "--plot", str(plot), "--out", str(out)]
    few, many = break_even.main([*files, *given])
    assert (few.rows, few.seeds, many.rows, many.seeds) == (500, 3, 3000, 3)
    assert few.points == pytest.approx(-2) and many.points == pytest.approx(6)
    assert many.half == pytest.approx(4.303 / 3**0.5, abs=1e-3)
    assert "-2.0 ± 2.5" in capsys.readouterr().out and "adapted" in plot.read_text()
    assert [each["rows"] for each in json.loads(out.read_text())] == [500, 3000]
    with pytest.raises(DataError, match="No seed of 'nothing' has all tasks"):
        break_even.main([files[0], "--reference", "nothing"])
    with pytest.raises(DataError, match=r"no column axis\.pooling"):
        break_even.main([files[0], "--reference", "nothing", "--axis", "pooling"])


@pytest.mark.parametrize(("first", "second"), [(500, 500), (3, 40)])
def test_mixed_lengths_are_spread_over_doublings(first, second):
    pairs = scoring_speed.mixed([("word " * first, "other " * second)] * 2000, seed=0)
    words = np.array([len(first.split()) + len(second.split()) for first, second in pairs])
    assert words.min() == 2 and 390 < words.max() <= 400
    counts = np.histogram(words, [2, 8, 32, 128, 400])[0] / len(words)
    assert counts.min() > 0.15 and counts.max() < 0.4
    assert scoring_speed.mixed([("alone", "")], seed=0) == [("alone", "")]


def test_a_layout_that_computes_something_else_is_refused(monkeypatch):
    encoder = Encoder.from_decoder(tiny_decoder("llama"), seed=0, verify=False)
    batch = encoder.collate(encoder.tokenize(["a good film", "the river bank"]).input_ids)
    assert training_speed.layouts_agree(encoder, batch) < 1e-4
    stock = encoder.encode_tokens
    wrong = {"packed": 1.0, "padded": -1.0}

    def flipped(*inputs, **options):
        return stock(*inputs, **options) * wrong[encoder.layout]

    monkeypatch.setattr(encoder, "encode_tokens", flipped)
    with pytest.raises(AssertionError, match="layouts disagree"):
        training_speed.layouts_agree(encoder, batch)


def test_scores_that_differ_are_refused():
    scores = np.array([[1.0], [2.0], [3.0]])
    assert cross_encoder.scores_agree(scores, scores, "float32") == 0
    with pytest.raises(AssertionError, match="scores disagree"):
        cross_encoder.scores_agree(scores, scores[::-1], "float32")
    with pytest.raises(AssertionError, match="scores disagree"):
        cross_encoder.scores_agree(scores, scores * torch.nan, "bfloat16")


def test_bfloat16_may_differ_once_by_more_than_everywhere():
    scores = np.linspace(-1, 1, 100)
    spread = scores.std()
    once = scores.copy()
    once[7] += 0.4 * spread
    assert cross_encoder.scores_agree(once, scores, "bfloat16") == pytest.approx(0.4)
    for wrong, dtype in ((once, "float32"), (scores + 0.4 * spread, "bfloat16")):
        with pytest.raises(AssertionError, match="scores disagree"):
            cross_encoder.scores_agree(wrong, scores, dtype)


CORPUS = [
    "a bank",
    "the river is good",
    "money in the bank",
    "a bank",
    "a very bad film",
    "what is it",
    "text",
]
QUERIES = {"q1": "what is a bank", "q2": "a good film", "q3": "money"}


@pytest.fixture
def collection(tmp_path) -> Path:
    """Three queries, seven documents, two of them with the same text, and a run of all for each query."""
    documents = [{"_id": f"d{place}", "text": text} for place, text in enumerate(CORPUS)]
    queries = [{"_id": name, "text": text} for name, text in QUERIES.items()]
    for stem, records in (("corpus", documents), ("queries", queries)):
        (tmp_path / f"{stem}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    lines = [f"{name} Q0 d{rank} {rank} {9 - rank} tag\n" for name in QUERIES for rank in range(len(CORPUS))]
    (tmp_path / "all.trec").write_text("".join(lines))
    return tmp_path


def test_ranking_speed_compares_whole_queries(collection, capsys):
    out = collection / "ranking.json"
    command = ["--collection", str(collection), "--run", str(collection / "all.trec"), "--queries", "2"]
    command += ["--no-compile-layers", "--out", str(out)]
    ranking_speed.main([*TINY, *command], decoder=tiny_decoder("gemma3"))
    result, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert "all.trec; 2 queries, 6 candidates each, 12 pairs" in result["data"]
    assert result["texts repeated in a list, left out"] == 2
    names = [(each["ours"]["name"], each["reference"]["name"]) for each in result["comparisons"][::2]]
    assert names == list(ranking_speed.AGAINST)
    assert [each["dtype"] for each in result["comparisons"]] == ["float32", "bfloat16"] * 3
    assert all(each["ours"]["also"]["% of the limit"] > 0 for each in result["comparisons"])
    tokens = set()
    for each in result["comparisons"]:
        ours, reference, ratio = each["ours"], each["reference"], each["ratio"]
        assert len(ours["all"]) == len(reference["all"]) == 2
        for side in (ours, reference):
            assert side["also"]["ms for 100 candidates"] == pytest.approx(100_000 / median(side["all"]))
            tokens.add(round(side["also"]["tokens/s"] / side["median"], 6))
        cells = [
            each["dtype"],
            f"{ours['median']:,.1f}",
            f"{reference['median']:,.1f}",
            f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})",
            *(f"{ours['also'][unit]:,.0f} / {reference['also'][unit]:,.0f}" for unit in ours["also"]),
        ]
        assert f"| {' | '.join(cells)} |" in printed
    assert len(tokens) == 1, "all contenders score the same pairs"


def test_candidates_are_those_of_bm25_without_a_run(collection):
    options = argparse.Namespace(collection=str(collection), run=None, queries=99, depth=3, seed=0)
    lists, source, repeated = ranking_speed._lists(options)
    assert source.endswith("BM25") and repeated == 1
    found = {each.query_id: set(each.documents) for each in lists}
    assert found == {
        "q1": {"what is it", "a bank"},
        "q2": {"the river is good", "a very bad film"},
        "q3": {"money in the bank"},
    }


@pytest.mark.parametrize("more", [[], ["--center"], ["--attention", "bidirectional", "--pooling", "last_k"]])
def test_a_run_without_training_is_the_cosine_of_each_text_alone(collection, more):
    out = collection / "cosine.trec"
    inputs = ["--collection", str(collection), "--run", str(collection / "all.trec"), "--out", str(out)]
    cosine_ranking.main([*inputs, *more], decoder=tiny_decoder("gemma3"))
    run = read_run(out).run

    attention = "bidirectional" if "bidirectional" in more else "causal"
    pooling = "last_k" if "last_k" in more else "mean"
    encoder = Encoder.from_decoder(tiny_decoder("gemma3"), attention=attention, pooling=pooling)

    def vector(text: str) -> np.ndarray:
        with torch.no_grad():
            pooled = encoder(**encoder.collate(encoder.tokenize([text]).input_ids)).pooled
        return pooled[0].double().numpy()

    documents = np.stack([vector(text) for text in CORPUS])
    distinct = np.stack([documents[CORPUS.index(text)] for text in dict.fromkeys(CORPUS)])
    mean = distinct.mean(axis=0) if "--center" in more else 0.0
    for name, query in QUERIES.items():
        ours, theirs = vector(query) - mean, documents - mean
        cosine = theirs @ ours / (np.linalg.norm(theirs, axis=1) * np.linalg.norm(ours))
        found = [run[name][f"d{place}"] for place in range(len(CORPUS))]
        np.testing.assert_allclose(found, cosine, atol=1e-5)


def test_a_reranker_that_scores_something_else_is_refused(collection, monkeypatch):
    stock = Reranker.rank_many

    def worse(self, queries, documents, **options):
        ranked = stock(self, queries, documents, **options)
        return [[replace(each, score=-each.score) for each in one] for one in ranked]

    monkeypatch.setattr(Reranker, "rank_many", worse)
    command = ["--collection", str(collection), "--run", str(collection / "all.trec"), "--dtypes", "bfloat16"]
    with pytest.raises(AssertionError, match="scores disagree in bfloat16"):
        ranking_speed.main([*TINY, *command, "--no-compile-layers"], decoder=tiny_decoder("llama"))


def test_another_order_is_refused():
    lists = [CandidateList(name, name, ("a", "b"), ("a", "b")) for name in ("q1", "q2")]
    scores = np.array([2.0, 1.0, 1.0, 2.0])
    ranking_speed._same_best(scores, scores + 1e-6, lists)
    with pytest.raises(AssertionError, match="'q2' has other 10 best documents"):
        ranking_speed._same_best(scores, np.array([2.0, 1.0, 2.0, 1.0]), lists)


def test_ranking_speed_says_what_to_give(capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        ranking_speed.main([])
    assert stopped.value.code == 2 and "--collection FOLDER" in capsys.readouterr().err
    status = common.exit_status(lambda: ranking_speed.main(["--collection", str(tmp_path)]))
    error = capsys.readouterr().err
    assert status == 2 and error.startswith("error: there is no corpus") and error.count("\n") == 1


def test_the_order_turns_round():
    order: list[str] = []
    contenders = {"first": lambda: order.append("first"), "second": lambda: order.append("second")}
    taken = [common.interleave(contenders, number, "cpu") for number in range(2)]
    assert order == ["first", "second", "second", "first"]
    assert all(times.keys() == contenders.keys() for times in taken)


DATA = Path(__file__).parent.parent / "datasets" / "glue"


def test_a_trial_of_the_comparison_is_run_once(tmp_path, decoder_folder, capsys):
    results, work = tmp_path / "results.jsonl", tmp_path / "work"
    command = ["--data-dir", str(DATA), "--model", str(decoder_folder), "--tasks", "wnli=4"]
    command += ["--learning-rates", "1e-3", "--results", str(results), "--work", str(work)]
    attention.main([*command, "--arms", "stock classifier", "--seeds", "0"])
    (line,) = results.read_text().splitlines()
    record = json.loads(line)
    assert (record["rows"], record["steps"], record["baseline"]["accuracy"]) == (4, 1, pytest.approx(40 / 71))
    assert not list(work.glob("*/model.safetensors")), "the weights of a finished trial are deleted"
    capsys.readouterr()
    attention.main([*command, "--arms", "stock classifier", "--seeds", "0"])
    assert results.read_text().splitlines() == [line]
    score = 100 * record["metrics"]["accuracy"]
    assert f"| 0.001 | stock classifier | 1 | {score:.1f} |" in capsys.readouterr().out


def test_trained_embeddings_are_measured_beside_the_whole_table(tmp_path, decoder_folder, capsys):
    results = tmp_path / "results.jsonl"
    command = ["--data-dir", str(DATA), "--model", str(decoder_folder), "--task", "wnli", "--rows", "4"]
    command += ["--seeds", "0", "--results", str(results), "--work", str(tmp_path / "work")]
    embeddings.main([*command, "--embeddings", embeddings.ROWS, embeddings.WHOLE])
    rows, whole = map(json.loads, results.read_text().splitlines())
    assert rows["parameters"]["trained"] < whole["parameters"]["trained"]
    assert rows["metrics"] == whole["metrics"] and whole["peak_memory"]["host_bytes"] > 0
    assert f"| whole | 1 | accuracy | {100 * whole['metrics']['accuracy']:.1f} |" in capsys.readouterr().out


def test_a_trial_that_fails_says_where_its_log_is(tmp_path, decoder_folder):
    command = ["--data-dir", str(tmp_path), "--model", str(decoder_folder), "--tasks", "wnli"]
    with pytest.raises(RuntimeError, match=r"exit code 2; see .*\.log"):
        attention.main([*command, "--results", str(tmp_path / "r.jsonl"), "--work", str(tmp_path / "work")])
    assert not (tmp_path / "r.jsonl").exists()


def test_the_table_of_the_comparison():
    trials = [
        attention.Trial("m", "rte", None, arm, 5e-5, seed) for arm in attention.ARMS for seed in range(3)
    ]
    records = [
        {
            "main_metric": "accuracy",
            "metrics": {"accuracy": 0.5 + 0.01 * trial.seed + 0.02 * (trial.arm == "causal + last token")},
            "baseline": {"accuracy": 0.5},
        }
        for trial in trials
    ]
    lines = attention.table(dict(zip(trials, records, strict=True))).splitlines()
    before = "| m | rte | all | 1 | accuracy | 50.0 | 5e-05 |"
    assert lines[2] == f"{before} bidirectional + mean | 3 | 51.0 ± 2.5 |  |"
    assert lines[3] == f"{before} causal + last token | 3 | 53.0 ± 2.5 | +2.0 ± 0.0 |"
    assert len(lines) == 2 + len(attention.ARMS)


@pytest.fixture
def years(tmp_path) -> Path:
    """The folders of four years: own queries, the documents of `CORPUS`, two runs in opposite orders."""
    for number, year in enumerate((ranking_quality.TEST, *ranking_quality.TAUGHT)):
        runs = tmp_path / "ir" / year / "runs"
        runs.mkdir(parents=True)
        names = [f"{number}{letter}" for letter in "abc"]
        queries = [
            {"_id": name, "text": f"{name} {text}"}
            for name, text in zip(names, QUERIES.values(), strict=True)
        ]
        documents = [{"_id": f"d{place}", "text": text} for place, text in enumerate(CORPUS)]
        for stem, records in (("corpus", documents), ("queries", queries)):
            with gzip.open(runs.parent / f"{stem}.jsonl.gz", "wt") as file:
                file.writelines(json.dumps(each) + "\n" for each in records)
        for run, sign in (("bm25", 1), ("spladepp_ed", -1)):
            with gzip.open(runs / f"{run}.trec.gz", "wt") as file:
                places = [(name, place) for name in names for place in range(len(CORPUS))]
                file.writelines(f"{name} Q0 d{place} 1 {sign * place} {run}\n" for name, place in places)
        if year != ranking_quality.TAUGHT[-1]:
            (runs.parent / "qrels.trec").write_text("".join(f"{name} 0 d2 2\n" for name in names))
    return tmp_path / "ir"


@pytest.fixture
def in_this_process(monkeypatch) -> None:
    """Verbs run here instead of in a process each, which takes seconds to start."""

    def gemma_encoder(arguments: list[str], log: Path) -> None:
        if cli.main(arguments):
            raise RuntimeError(arguments[0])

    monkeypatch.setattr(ranking_quality, "gemma_encoder", gemma_encoder)


def test_a_trial_of_ranking_trains_re_ranks_and_is_judged(
    tmp_path, years, decoder_folder, in_this_process, capsys
):
    results, work = tmp_path / "results.jsonl", tmp_path / "work"
    command = ["--data-dir", str(years), "--model", str(decoder_folder), "--list-sizes", "3", "--seeds", "0"]
    command += ["--losses", "softmax", "kl", "--arms", "causal + last token", "--documents", "12"]
    command += ["--step-documents", "6", "--results", str(results), "--work", str(work)]
    ranking_quality.main(command)
    judged, taught = map(json.loads, results.read_text().splitlines())
    for record in (judged, taught):
        assert record["steps"] == 2
        assert record["bm25"]["nDCG@10"] == pytest.approx(1 / np.log2(6)), "d2 is fifth of seven"
        assert len(record["per_query"]) == 3
    assert not list(work.glob("*/model.safetensors")), "the weights of a finished trial are deleted"
    lists = [json.loads(line) for path in work.glob("teachers-*") for line in path.read_text().splitlines()]
    assert len(lists) == 9
    assert {each["documents"][0]["id"] for each in lists} != {each["documents"][-1]["id"] for each in lists}
    for each in lists:
        labels = {document["id"]: document["label"] for document in each["documents"]}
        assert labels["d0"] == max(labels.values()), "the teacher's first, BM25's last"
    capsys.readouterr()
    ranking_quality.main(command)
    assert len(results.read_text().splitlines()) == 2, "finished trials are not run again"
    assert "| causal + last token | kl | 3 | 0 | 0 | 12 |" in capsys.readouterr().out


def test_a_trial_of_ranking_may_begin_with_what_pairs_taught(
    tmp_path, years, decoder_folder, in_this_process, capsys
):
    results, work = tmp_path / "results.jsonl", tmp_path / "work"
    for split in ("train", "validation"):
        rows = [{"sentence1": text, "sentence2": "a plane", "label": n % 6} for n, text in enumerate(CORPUS)]
        path = tmp_path / "glue" / "stsb" / f"{split}_sample.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["--data-dir", str(years), "--model", str(decoder_folder), "--list-sizes", "3", "--seeds", "0"]
    command += ["--losses", "softmax", "poly1", "--arms", "causal + last token", "--documents", "12"]
    command += ["--warm-up-rows", "6", "--results", str(results), "--work", str(work)]
    with pytest.raises(SystemExit):
        ranking_quality.main(command)
    ranking_quality.main([*command, "--glue-dir", str(tmp_path / "glue")])
    assert len(results.read_text().splitlines()) == 2
    (kept,) = work.glob("*/run.json")
    assert kept.parent.name.startswith("stsb-"), "one warm-up for both losses"
    printed = capsys.readouterr()
    assert "| poly1 | 3 | 6 | 0 | 12 |" in printed.out
    assert printed.err.count("its head is kept") == 2

    lists = tmp_path / "lists"
    asked = [(f"what is {text}", text) for text in CORPUS]
    questions.write_lists(lists / "own", [*asked, asked[0]], [*CORPUS, *CORPUS])
    command += ["--glue-dir", str(tmp_path / "glue"), "--question-documents", "32"]
    with pytest.raises(SystemExit):
        ranking_quality.main(command)
    ranking_quality.main([*command, "--question-lists", str(lists / "own.jsonl")])
    assert "| poly1 | 3 | 6 | 32 | 12 |" in capsys.readouterr().out
    kept_now = sorted(path.parent.name.partition("-")[0] for path in work.glob("*/run.json"))
    assert kept_now == ["questions", "stsb"], "one of each for both losses"


def test_lists_of_questions_have_one_answer_each(tmp_path):
    asked = [(f"what is {text}", text) for text in CORPUS[:2]]
    questions.write_lists(tmp_path / "own", asked, CORPUS)
    lists = [json.loads(line) for line in (tmp_path / "own.jsonl").read_text().splitlines()]
    assert [each["query"] for each in lists] == [question for question, _ in asked]
    for each, text in zip(lists, CORPUS, strict=False):
        assert [document["text"] for document in each["documents"] if document["label"]] == [text]


def test_queries_of_the_test_year_never_reach_training(
    tmp_path, years, decoder_folder, in_this_process, capsys
):
    other = years / ranking_quality.JUDGED[0] / "queries.jsonl.gz"
    with gzip.open(other, "rt") as file:
        queries = list(map(json.loads, file))
    with gzip.open(years / ranking_quality.TEST / "queries.jsonl.gz", "rt") as file:
        queries[0]["text"] = json.loads(next(file))["text"].upper()
    with gzip.open(other, "wt") as file:
        file.writelines(json.dumps(each) + "\n" for each in queries)
    work = tmp_path / "work"
    command = ["--data-dir", str(years), "--model", str(decoder_folder), "--seeds", "0"]
    command += ["--arms", "causal + last token"]
    with pytest.raises(RuntimeError, match="^train$"):
        ranking_quality.main([*command, "--results", str(tmp_path / "r.jsonl"), "--work", str(work)])
    assert "1 of the queries would be both trained on and" in capsys.readouterr().err


def test_llama_cpp_pools_the_same(tmp_path, monkeypatch):
    pytest.importorskip("llama_cpp")
    # Ours in bfloat16 alone: with weights it may lay out anew llama.cpp can die where there is AMX.
    monkeypatch.setitem(llama_cpp.FORMATS, "bfloat16", ())
    result = llama_cpp.main(
        [*TINY, "--rows", "5", "--dtypes", "bfloat16", "float32", "--out", str(tmp_path / "pooled.json")],
        decoder=tiny_decoder("gemma3"),
    )
    (comparison,) = result["comparisons"]
    assert (comparison["ours"]["name"], comparison["reference"]["name"]) == ("ours", "llama.cpp F32")
    encoder = Encoder.from_decoder(tiny_decoder("gemma3"), verify=False)
    window = encoder.stock_backbone.config.sliding_window
    ids = [list(range(3, 3 + length)) for length in (1, window + 1, 3 * window)]
    llama_cpp.write_gguf(encoder, tmp_path / "model.gguf", "F32")
    found = llama_cpp.LlamaCpp(tmp_path / "model.gguf", ids)(8)
    # llama.cpp rounds what it attends to to 16 bits.
    np.testing.assert_allclose(found, llama_cpp.pool_ours(encoder, ids, 100), atol=3e-3)


def test_llama_cpp_refuses_what_it_can_not_compare(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no bidirectional llama"):
        llama_cpp.write_gguf(Encoder.from_decoder(tiny_decoder("llama")), tmp_path / "model.gguf", "F32")
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(ConfigError, match="pip install llama-cpp-python"):
        llama_cpp.main(TINY, decoder=tiny_decoder("gemma3"))
