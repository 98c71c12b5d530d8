"""`fuse`: runs in, one run out, and what a user gets wrong."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import zscore

from gemma_encoder.ranking import read_run, write_run

FIRST = {"q1": {"a": 9.0, "b": 4.0, "c": 2.0}, "q2": {"a": 1.0, "b": 0.0}}
SECOND = {"q1": {"c": 0.9, "b": 0.5, "a": 0.1}}


@pytest.fixture
def command(tmp_path):
    write_run(tmp_path / "first.trec", FIRST, "first")
    write_run(tmp_path / "second.trec.gz", SECOND, "second")
    runs = f"{tmp_path / 'first.trec'},{tmp_path / 'second.trec.gz'}"
    return ["fuse", "--run", runs, "--output", tmp_path / "fused.trec"]


def test_runs_are_fused_by_scores(run, command, tmp_path):
    status, _, err = run(*command, "--weights", "0.25,0.75", "--tag", "both")
    assert status == 0, err
    assert "second.trec.gz lacks 1 of the queries" in err and "2 queries, 5 documents written to" in err
    fused = read_run(tmp_path / "fused.trec").run
    one, two = zscore([9.0, 4.0, 2.0]), zscore([0.1, 0.5, 0.9])
    np.testing.assert_allclose([fused["q1"][name] for name in "abc"], 0.25 * one + 0.75 * two, rtol=1e-6)
    assert list(fused["q2"]) == ["a", "b"]
    assert (tmp_path / "fused.trec").read_text().splitlines()[0].endswith(" both")


def test_runs_are_fused_by_ranks(run, command, tmp_path):
    assert run(*command, "--by", "ranks")[0] == 0
    fused = read_run(tmp_path / "fused.trec").run
    np.testing.assert_allclose(fused["q1"]["b"], 1 / 62 + 1 / 62, rtol=1e-6)
    np.testing.assert_allclose(fused["q2"]["a"], 1 / 61, rtol=1e-6)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--weights", "1"], "1 weights for 2 runs"),
        (["--weights", "1,half"], "--weights are 1, half"),
        (["--weights", "1,-1"], "a weight is -1"),
        (["--tag", "two words"], "two words"),
        (["--by", "magic"], "magic"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(refused, command, tmp_path, more, says):
    assert says in refused(*command, *more)
    assert not (tmp_path / "fused.trec").exists()


def test_one_run_and_an_output_that_is_a_run_are_refused(refused, command, tmp_path):
    first = tmp_path / "first.trec"
    assert "One run is nothing to fuse" in refused("fuse", "--run", first, "--output", tmp_path / "x.trec")
    assert "is one of the runs" in refused(*command[:-1], first, "--overwrite")
    assert read_run(first).run == FIRST
