"""`evaluate --run`: values, comparison, figure and JSON against ir_measures and sums by hand; bad input."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

ir_measures = pytest.importorskip("ir_measures")

RUN = """\
1 Q0 a 1 3.0 x
1 Q0 b 2 2.0 x
2 Q0 e 1 2.0 x
2 Q0 c 2 1.0 x
2 Q0 c 2 1.0 x
9 Q0 a 1 1.0 x
"""
OTHER = "1 Q0 b 1 3.0 y\n1 Q0 a 2 2.0 y\n2 Q0 c 1 1.0 y\n"
QRELS = "1 0 a 1\n1 0 b 0\n2 0 c 2\n3 0 d 1\n4 0 e 0\n"


@pytest.fixture
def files(tmp_path):
    """A folder with a run, another one, and judgments of four queries."""
    for name, text in (("run.trec", RUN), ("other.trec", OTHER), ("qrels.trec", QRELS)):
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def judge(files, run):
    """Judge `run.trec` and read what was written: stdout, stderr, the JSON."""

    def command(*options):
        out = files / "out.json"
        words = ["evaluate", "--run", files / "run.trec", "--qrels", files / "qrels.trec"]
        status, printed, err = run(*words, "--json_out", out, "--overwrite", *options)
        assert status == 0, err
        return printed, err, json.loads(out.read_text())

    return command


def cells(printed: str, first: str) -> list[list[str]]:
    """The cells of the lines that begin with this word."""
    return [line.split() for line in printed.splitlines() if line.split()[:1] == [first]]


def test_values_worked_out_by_hand(judge):
    """Query 1 is found at once, query 2 second, 3 not at all, and 4 has nothing to find."""
    printed, _, found = judge("--measures", "RR@10,nDCG@10,R@1")
    second = 1 / np.log2(3)  # nDCG of the only relevant document at rank 2, whatever its grade
    wanted = {
        "RR@10": {"1": 1.0, "2": 0.5, "3": 0.0, "4": 0.0},
        "nDCG@10": {"1": 1.0, "2": second, "3": 0.0, "4": 0.0},
        "R@1": {"1": 1.0, "2": 0.0, "3": 0.0, "4": 0.0},
    }
    assert list(found["run"]["measures"]) == list(wanted)
    for name, values in wanted.items():
        measured = found["run"]["measures"][name]
        assert measured["per_query"] == pytest.approx(values)
        assert measured["mean"] == pytest.approx(sum(values.values()) / 4)
        low, high = measured["interval"]
        assert 0 <= low < measured["mean"] < high <= 1
        assert cells(printed, name) == [
            [name, f"{measured['mean']:.4f}", f"{low:.4f}", "to", f"{high:.4f}"],
        ]
    assert "against" not in found and "comparison" not in found


def test_facts_worked_out_by_hand(judge):
    printed, _, found = judge()
    counts = {"queries": 4, "missing": 2, "without_relevant": 1, "not_judged": 1, "depth": 2}
    assert {name: found["run"][name] for name in counts} == counts
    assert found["run"]["judged_at_10"] == pytest.approx((1 + 1 / 2) / 2)
    assert (found["run"]["lines"], found["run"]["repeated_lines"], found["qrels"]["lines"]) == (5, 1, 5)
    facts = dict(line.strip().split("  ", 1) for line in printed.splitlines()[7:])
    assert {name: text.strip() for name, text in facts.items()} == {
        "queries judged": "4; every value is a mean over all of them",
        "missing from the run": "2 (count as 0)",
        "no relevant document": "1 (0 in RR@10, AP, R@100)",
        "queries not judged": "1 (left out)",
        "depth": "2 documents",
        "judged@10": "0.750",
        "relevant": "from grade 1; that doesn't affect nDCG@10",
        "repeated lines": "1 in run (passed over)",
        "interval": "95% percentile bootstrap over queries, 9,999 resamples",
    }


def random_lines(seed: int) -> str:
    draw = random.Random(seed)
    return "".join(
        f"q{query} Q0 d{document} 0 {draw.randrange(40)} x\n"
        for query in range(9)
        for document in draw.sample(range(60), 30)
    )


@pytest.mark.parametrize("packed", [False, True])
def test_a_comparison_is_that_of_ir_measures_and_the_exact_test(files, judge, packed):
    """Ties of scores among them. Nine queries have 512 patterns of signs: all are gone through."""
    draw = random.Random(0)
    qrels = "".join(f"q{query} 0 d{name} {draw.randrange(4)}\n" for query in range(9) for name in range(40))
    (files / "qrels.trec").write_text(qrels)
    (files / "run.trec").write_text(random_lines(1))
    other = files / ("other.trec.gz" if packed else "other.trec")
    other.write_bytes(gzip.compress(random_lines(2).encode()) if packed else random_lines(2).encode())
    (files / "plain.trec").write_text(random_lines(2))

    printed, _, found = judge("--against", other, "--measures", "nDCG@10,AP,R@20", "--min_relevance", 2)
    measures = {"nDCG@10": "nDCG@10", "AP": "AP(rel=2)", "R@20": "R(rel=2)@20"}
    read = list(ir_measures.read_trec_qrels(str(files / "qrels.trec")))
    for name, full in measures.items():
        values = []
        for path, part in (("run.trec", "run"), ("plain.trec", "against")):
            ranked = list(ir_measures.read_trec_run(str(files / path)))
            each = ir_measures.pytrec_eval.iter_calc([ir_measures.parse_measure(full)], read, ranked)
            values.append({value.query_id: value.value for value in each})
            assert found[part]["measures"][name]["per_query"] == pytest.approx(values[-1]), (name, part)
        gains = np.array([values[0][query] - values[1][query] for query in values[0]])
        compared = found["comparison"][name]
        assert compared["per_query"] == pytest.approx(dict(zip(values[0], gains, strict=True)))
        null = np.array(list(product([-1, 1], repeat=9))) @ gains / 9
        p_value = np.mean(np.abs(null) >= abs(gains.mean()) - 1e-12)
        assert (compared["difference"], compared["p_value"]) == pytest.approx((gains.mean(), p_value))
        signs = [str(int(sum(test))) for test in (gains > 1e-9, abs(gains) <= 1e-9, gains < -1e-9)]
        both, difference = cells(printed, name)
        assert both[1] == f"{np.mean(list(values[0].values())):.4f}"
        assert both[5] == f"{np.mean(list(values[1].values())):.4f}"
        assert difference[1] == f"{gains.mean():+.4f}" and difference[5:] == [f"{p_value:.4f}", *signs]
    assert "run against other" in printed and "run less other" in printed
    assert "paired randomisation test over queries, two-sided; not corrected for 3 measures" in printed


def test_facts_of_both_runs(judge, files):
    printed, _, found = judge("--against", files / "other.trec")
    for line in (
        "missing from the run  2; other: 2 (count as 0)",
        "queries not judged    1; other: 0 (left out)",
        "depth                 2 documents; other: 2 documents",
        "judged@10             0.750; other: 1.000",
    ):
        assert line in printed
    assert found["against"]["file"] == str(files / "other.trec")


def test_two_runs_of_one_name_are_called_by_their_paths(run, files):
    (files / "old").mkdir()
    (files / "old" / "run.txt").write_text(OTHER)
    words = ["--against", files / "old" / "run.txt", "--qrels", files / "qrels.trec", "--measures", "AP"]
    _, printed, _ = run("evaluate", "--run", files / "run.trec", *words)
    assert f"{files / 'run.trec'} less {files / 'old' / 'run.txt'}" in printed


def test_each_query_is_printed_when_asked_for(judge, files):
    printed, *_ = judge("--measures", "RR@10", "--against", files / "other.trec")
    assert "RR@10 gain" not in printed
    printed, *_ = judge("--measures", "RR@10", "--against", files / "other.trec", "--per_query")
    lines = printed[printed.index("Each query") :].splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["query", "RR@10", "RR@10", "gain"],
        ["1", "1.0000", "+0.5000"],
        ["2", "0.5000", "-0.5000"],
        ["3", "0.0000", "+0.0000"],
        ["4", "0.0000", "+0.0000"],
    ]
    assert "gain" not in judge("--per_query")[0] and "Each query" in judge("--per_query")[0]


HINT = "in TREC DL from 2 (--min_relevance 2)"


@pytest.mark.parametrize(
    ("options", "qrels", "hinted"),
    [
        ([], QRELS, True),
        (["--measures", "AP"], QRELS, True),
        (["--measures", "nDCG@10"], QRELS, False),  # where it would change nothing
        (["--min_relevance", "1"], QRELS, False),
        (["--min_relevance", "2"], QRELS, False),
        ([], QRELS.replace("c 2", "c 1"), False),
    ],
)
def test_graded_judgments_are_pointed_out(judge, files, options, qrels, hinted):
    (files / "qrels.trec").write_text(qrels)
    assert (HINT in judge(*options)[1]) == hinted


def test_what_a_short_run_can_not_show_is_told(judge, files):
    _, err, _ = judge("--measures", "R@100,P@2,AP")
    assert "run has at most 2 documents for a query: R@100 can't look deeper" in err
    (files / "deep.trec").write_text(OTHER + "1 Q0 c 3 1.0 y\n")
    _, err, _ = judge("--measures", "R@3,AP,P@2", "--against", files / "deep.trec")
    assert "run has at most 2 documents for a query: R@3 can't" in err and "deep has at most" not in err
    assert "the runs differ in depth, which favours the deeper one in AP\n" in err


def test_documents_of_another_collection_are_pointed_out(judge, files):
    (files / "qrels.trec").write_text("1 0 D1 1\n2 0 D2 1\n")
    _, err, _ = judge()
    assert "none of run's first ten documents are judged" in err


def test_one_query_has_no_interval(judge, files):
    (files / "qrels.trec").write_text("1 0 a 1\n")
    printed, _, found = judge("--measures", "RR@10", "--against", files / "other.trec")
    assert cells(printed, "RR@10") == [
        ["RR@10", "1.0000", "-", "0.5000", "-"],
        ["RR@10", "+0.5000", "-", "1.0000", "1", "0", "0"],
    ]
    assert found["comparison"]["RR@10"]["interval"] is None


def test_nothing_is_written_unasked(run, files):
    before = sorted(files.iterdir())
    words = ["evaluate", "--run", files / "run.trec", "--qrels", files / "qrels.trec"]
    assert run(*words, "--against", files / "other.trec")[0] == 0
    outputs = ["--json_out", files / "new" / "out.json", "--plot", files / "gain.svg"]
    status, printed, _ = run(*words, "--against", files / "other.trec", *outputs, "--dry_run")
    assert status == 0
    assert "run.trec: 3 queries (2 with judgments), 5 documents" in printed
    assert "other.trec: 2 queries (2 with judgments), 3 documents" in printed
    assert "qrels.trec: 4 queries, 5 judgments, grades 0 to 2" in printed
    assert "1 in run (passed over)" in printed
    assert sorted(files.iterdir()) == before


def test_results_are_not_replaced_unasked(run, refused, files):
    out, plot = files / "out.json", files / "gain.svg"
    words = ["evaluate", "--run", files / "run.trec", "--qrels", files / "qrels.trec"]
    out.write_text("precious")
    assert "exists" in refused(*words, "--json_out", out)
    plot.write_text("precious")
    plotted = [*words, "--against", files / "other.trec", "--plot", plot]
    pytest.importorskip("matplotlib")
    assert "another --plot, or add --overwrite" in refused(*plotted)
    assert (out.read_text(), plot.read_text()) == ("precious", "precious")
    assert run(*plotted, "--overwrite")[0] == 0
    assert plot.read_text() != "precious"


@pytest.mark.parametrize(
    ("measures", "drawn"),
    [([], "nDCG@10"), (["--measures", "AP,nDCG@10"], "nDCG@10"), (["--measures", "AP,R@1"], "AP")],
)
def test_the_figure_is_of_ndcg_or_the_first_measure(run, files, measures, drawn):
    pytest.importorskip("matplotlib")
    words = ["--run", files / "run.trec", "--qrels", files / "qrels.trec", "--against", files / "other.trec"]
    plot = files / "new" / "gain.svg"
    assert run("evaluate", *words, "--plot", plot, *measures)[0] == 0
    nodes = ElementTree.parse(plot).iter("{http://www.w3.org/2000/svg}text")
    texts = ["".join(node.itertext()).strip() for node in nodes]
    assert f"{drawn}: run less other" in texts
    assert {"1", "2", "3", "4"} <= set(texts)


def test_missing_libraries_are_named(refused, files, monkeypatch):
    words = ["evaluate", "--run", files / "run.trec", "--qrels", files / "qrels.trec"]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = refused(*words, "--against", files / "other.trec", "--plot", files / "gain.svg")
    assert 'pip install "gemma-encoder[figures]"' in line
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    assert 'pip install "gemma-encoder[ranking]"' in refused(*words)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1 Q0 a 1 nan x\n", "score 'nan' is no finite number"),
        (b"1 Q0 a 1 3 x\n1 Q0 a 2 2 x\n", "document 'a' has 2.0 here and 3.0 before"),
        (b"1 0 a 1\n", "the line has 4 columns"),
        (
            b"q1 Q0 a 1 3 x\n",
            "no query of the run has judgments (queries of the run: 'q1'; of the judgments: '1'",
        ),
        (b"", "there are no rows"),
        (b"\n\n", "no line has a document"),
        (b"\x7fELF\x02\xd0\x00\xff\n", "is not UTF-8"),
        (gzip.compress(RUN.encode()), "name it .gz"),
        (None, "there is no such file"),
    ],
)
@pytest.mark.parametrize("dry_run", [[], ["--dry_run"]])
@pytest.mark.parametrize("option", ["--run", "--against"])
def test_bad_runs_are_refused(refused, files, option, content, message, dry_run):
    bad = files / "bad.trec"
    if content is not None:
        bad.write_bytes(content)
    first = ["--run", files / "run.trec"] if option == "--against" else []
    line = refused("evaluate", *first, option, bad, "--qrels", files / "qrels.trec", *dry_run)
    assert message in line and str(bad) in line


@pytest.mark.parametrize("option", ["--run", "--qrels"])
def test_what_is_no_file_is_refused(refused, files, option):
    words = {"--run": files / "run.trec", "--qrels": files / "qrels.trec"}
    text = RUN if option == "--run" else QRELS
    (files / "cut.gz").write_bytes(gzip.compress(text.encode())[:-9])
    for path, message in ((files, "this is a folder"), (files / "cut.gz", "the gzip file is broken")):
        given = [word for pair in (words | {option: path}).items() for word in pair]
        assert message in refused("evaluate", *given)


def test_bad_judgments_are_refused(refused, files):
    for text, message in (
        ("1 0 a 1\n1 0 a 2\n", "has 2 here and 1 before"),
        ("1 0 a 0.5\n", "grade '0.5' is no whole number"),
        (RUN, "the line has 6 columns"),
    ):
        (files / "qrels.trec").write_text(text)
        line = refused("evaluate", "--run", files / "run.trec", "--qrels", files / "qrels.trec")
        assert message in line and "qrels.trec, line" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--measures", "nDGC@10"], "there is no measure 'nDGC@10'"),
        (["--measures", "ndcg@10"], "there is no measure 'ndcg@10', but nDCG@10"),
        (["--measures", ""], "there is no measure to judge by"),
        (["--min_relevance", "0"], "min_relevance is 0"),
        (["--plot", "gain.svg"], "add --against"),
        (["--against", "other.trec", "--plot", "gain.png"], "name it .svg"),
        (["--against", "run.trec"], "--against is the same file as --run"),
        (["--json_out", "qrels.trec", "--overwrite"], "--json_out is the same file as --qrels"),
        (["--json_out", "link.trec", "--overwrite"], "--json_out is the same file as --run"),
        (["--json_out", "."], "A folder is there, not a file"),
        (["--overwrite"], "--overwrite does nothing here"),
        (["--metrics", "f1"], "--metrics does nothing here: a run is judged by --measures"),
        (["--model", "m"], "--model does nothing here"),
        (["--split", "test"], "--split does nothing here"),
        (["--label_column", "x"], "--label_column does nothing here"),
        (["--skip_bad_rows"], "--skip_bad_rows does nothing here"),
        (["--device", "cpu"], "--device does nothing here: a run is judged without a model"),
        (["--task", "sst2"], "Give one of --task, --file and --run"),
        (["--file", "rows.csv"], "Give one of --task, --file and --run"),
    ],
)
def test_options_that_can_not_be_meant_are_refused(refused, files, monkeypatch, options, message):
    monkeypatch.chdir(files)
    (files / "link.trec").symlink_to("run.trec")
    line = refused("evaluate", "--run", "run.trec", "--qrels", "qrels.trec", *options)
    assert message in line
    assert [(files / name).read_text() for name in ("run.trec", "qrels.trec")] == [RUN, QRELS]


@pytest.mark.parametrize(
    "options",
    [
        ["--qrels", "q"],
        ["--against", "r"],
        ["--measures", "AP"],
        ["--min_relevance", "2"],
        ["--per_query"],
        ["--plot", "p"],
    ],
)
def test_options_of_runs_are_for_runs(refused, options):
    line = refused("evaluate", "--model", "m", "--task", "sst2", *options)
    assert f"{options[0]} does nothing here: it is for --run" in line
    assert "--qrels" in refused("evaluate", "--run", "run.trec")


def test_a_run_is_judged_without_heavy_libraries(files):
    """Nor scipy, unless two runs are compared."""
    code = (
        "import sys; from gemma_encoder.cli.main import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "heavy = ('torch', 'transformers', 'datasets', 'pandas', 'sklearn', 'matplotlib', 'scipy')\n"
        "sys.exit(' '.join(name for name in heavy if name in sys.modules))"
    )
    words = ["evaluate", "--run", files / "run.trec", "--qrels", files / "qrels.trec"]
    for more, loaded in (([], ""), (["--against", files / "other.trec"], "scipy")):
        done = subprocess.run([sys.executable, "-c", code, *words, *more], capture_output=True, text=True)
        assert done.stderr.splitlines()[-1:] == [loaded], done.stderr


DATA = os.environ.get("GEMMA_ENCODER_DATA")
BASELINES = {
    "trec-dl-2019-passage": {
        "bm25": 0.5058,
        "bm25_rm3": 0.5216,
        "tasb": 0.7210,
        "ada2": 0.7035,
        "spladepp_ed": 0.7308,
        "repllama": 0.7384,  # by score; by its rank column, which breaks ties otherwise, 0.7439
    },
    "trec-dl-2020-passage": {
        "bm25": 0.4796,
        "bm25_rm3": 0.4896,
        "tasb": 0.6854,
        "ada2": 0.6759,
        "spladepp_ed": 0.7197,
        "repllama": 0.7195,  # by its rank column 0.7205
    },
}


@pytest.mark.skipif(not DATA, reason="GEMMA_ENCODER_DATA names no folder with ir/trec-dl-2019-passage")
@pytest.mark.parametrize("year", BASELINES)
def test_first_stages_of_trec_dl(run, year):
    folder = Path(str(DATA)) / "ir" / year
    for name, wanted in BASELINES[year].items():
        words = ["--run", folder / "runs" / f"{name}.trec.gz", "--qrels", folder / "qrels.trec"]
        _, printed, _ = run("evaluate", *words, "--measures", "nDCG@10")
        assert cells(printed, "nDCG@10")[0][1] == f"{wanted:.4f}", name
