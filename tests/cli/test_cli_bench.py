"""`gemma-encoder bench` end to end, with a tiny encoder."""

import json

import pytest

FEW = ["--rounds", "1", "--rows", "4", "--dtypes", "float32", "--alone", "false", "--compile_layers", "false"]


def test_a_table_a_file_and_a_figure(run, encoder_folder, tmp_path):
    result, plot = tmp_path / "speed.json", tmp_path / "speed.svg"
    status, out, err = run(
        *("bench", "--model", encoder_folder, *FEW, "--contenders", "padded"),
        *("--json_out", result, "--plot", plot),
    )
    assert status == 0, err
    assert "of the limit" in out and "padded" in out and "CrossEncoder" not in out
    assert "bundled sst2; give your own with --input" in out and "round 1 of 1" in err
    found = json.loads(result.read_text())
    assert [row["contender"] for row in found["table"]] == ["gemma-encoder", "padded"]
    assert found["measured"]["rows"] == 4
    if "no figure" not in err:
        assert plot.read_text().count("<svg") == 1


def test_pairs_of_a_file(run, pair_folder, tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("one,two\nthe river,the bank\na film,good\n")
    columns = ["--text_column", "one", "--text_pair_column", "two"]
    status, out, err = run("bench", "--model", pair_folder, *FEW, "--input", path, *columns)
    assert status == 0, err
    assert "pairs.csv" in out and "CrossEncoder" in out
    assert run("bench", "--model", pair_folder, *FEW, "--contenders", "padded")[0] == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--rows", "0"], "rows is 0"),
        (["--contenders", "vllm"], "There is no contender 'vllm'"),
        (["--dtypes", "float8"], "float8"),
        (["--input", "missing.csv"], "missing.csv"),
        (["--plot", "/dev/null/speed.svg"], "is a file, not a folder"),
    ],
)
def test_mistakes_end_in_one_line(run, encoder_folder, options, says):
    status, _, err = run("bench", "--model", encoder_folder, *FEW, *options)
    assert status == 2 and says in err and "Traceback" not in err, err


def test_a_file_is_not_replaced_unasked(run, encoder_folder, tmp_path):
    path = tmp_path / "speed.json"
    path.write_text("{}")
    status, _, err = run("bench", "--model", encoder_folder, *FEW, "--json_out", path)
    assert status == 2 and "speed.json" in err and path.read_text() == "{}"
