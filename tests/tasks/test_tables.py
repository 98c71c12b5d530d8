"""Reading tables row by row: what is written is read, and every kind of damage is named with its line."""

from __future__ import annotations

import gzip
import io
import itertools
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from table_files import put, save

from gemma_encoder.errors import ConfigError, DataError
from gemma_encoder.tasks import ReadReport, Row, iter_rows
from gemma_encoder.tasks.tables import iter_records

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
RELAXED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


# Reading


@RELAXED
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8))
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_what_is_written_is_read(tmp_path, suffix, rows):
    records = [{"a": first, "b": second} for first, second in rows]
    path = save(tmp_path / f"rows{suffix}", records)
    found = list(iter_rows(path, "a", "b"))
    assert [row.record for row in found] == records
    assert [(row.text, row.text_pair) for row in found] == rows


@RELAXED
@given(rows=st.lists(TEXT.filter(lambda text: not set("\t\r\n") & set(text)), min_size=1, max_size=8))
def test_tsv_has_no_quoting(tmp_path, rows):
    lines = ["text\tx"] + [f"{text}\t1" for text in rows]
    path = put(tmp_path / "rows.tsv", "\n".join(lines) + "\n")
    assert [row.text for row in iter_rows(path)] == rows


@RELAXED
@given(rows=st.lists(TEXT.filter(lambda text: not set("\r\n") & set(text)), min_size=1, max_size=8))
def test_plain_lines_keep_blank_ones(tmp_path, rows):
    path = put(tmp_path / "rows.txt", "".join(text + "\n" for text in rows))
    report = ReadReport()
    assert [(row.number, row.text) for row in iter_rows(path, report=report)] == list(enumerate(rows, 1))
    assert report.empty_texts == sum(not text.strip() for text in rows)


def test_row_numbers_are_the_lines_where_records_start(tmp_path):
    path = put(
        tmp_path / "a.csv", 'text,label\r\n"two\r\nlines",x\r\n\r\nplain,y\r\n"three\n\n\nmore",z\nlast,w'
    )
    assert [(row.number, row.text) for row in iter_rows(path)] == [
        (2, "two\r\nlines"),
        (5, "plain"),
        (6, "three\n\n\nmore"),
        (10, "last"),
    ]
    path = put(tmp_path / "a.jsonl", '{"text": "a"}\n\n{"text": "b"}')
    assert [row.number for row in iter_rows(path)] == [1, 3]
    path = save(tmp_path / "a.parquet", [{"text": str(n)} for n in range(3000)])
    assert [row.number for row in iter_rows(path)] == list(range(1, 3001))


def test_gzip_byte_order_mark_and_suffixes(tmp_path):
    content = "\ufefftext\ngrüße\n"
    assert [row.text for row in iter_rows(put(tmp_path / "a.CSV", content))] == ["grüße"]
    assert [row.text for row in iter_rows(put(tmp_path / "a.csv.gz", gzip.compress(content.encode())))] == [
        "grüße"
    ]
    assert [row.text for row in iter_rows(put(tmp_path / "a.ndjson", '{"text": "x"}'))] == ["x"]
    assert [row.text for row in iter_rows(put(tmp_path / "noname", content), format="csv")] == ["grüße"]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    ("format", "content"),
    [("csv", "text\nü\nb\n"), ("jsonl", '{"text": "ü"}\n{"text": "b"}\n'), ("lines", "ü\nb\n")],
)
def test_streams(binary, format, content):
    raw = io.BytesIO(content.encode())
    stream = (
        raw if binary else io.TextIOWrapper(raw, encoding="ascii")
    )  # the bytes count, not the terminal's encoding
    assert [row.text for row in iter_rows(stream, format=format)] == ["ü", "b"]
    assert [row.text for row in iter_rows(io.StringIO(content), format=format)] == ["ü", "b"]


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "lines"])
def test_streaming_draws_no_more_than_it_gives(format):
    """An endless source: what is not drawn is not read."""
    drawn = 0

    def endless():
        nonlocal drawn
        if format in ("csv", "tsv"):
            yield b"text\n"
        for number in itertools.count():
            drawn += 1
            yield (json.dumps({"text": f"t{number}"}) if format == "jsonl" else f"t{number}").encode() + b"\n"

    rows = iter_rows(endless(), format=format)  # type: ignore[arg-type]
    assert [next(rows).text for _ in range(1000)] == [f"t{number}" for number in range(1000)]
    assert drawn <= 1001


def test_parquet_is_read_in_parts(tmp_path, monkeypatch):
    path = save(tmp_path / "a.parquet", [{"text": str(n)} for n in range(5000)])
    sizes = []
    batches = pq.ParquetFile.iter_batches

    def watched(self, *args, **options):
        for batch in batches(self, *args, **options):
            sizes.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    next(iter_rows(path))
    assert sum(sizes) <= 1024


def test_values_that_are_not_texts(tmp_path):
    path = save(
        tmp_path / "a.jsonl",
        [{"text": None}, {"text": 5}, {"text": 2.5}, {"text": float("nan")}, {"text": ["a"]}],
    )
    report = ReadReport(skip_bad_rows=True)
    assert [row.text for row in iter_rows(path, report=report)] == ["", "5", "2.5", ""]
    assert (report.skipped, report.empty_texts) == (1, 2)
    assert "holds a list, not a text [" in str(report.first_errors[0]) and "line 5" in str(
        report.first_errors[0]
    )


def test_nan_is_nothing_but_the_word_is_a_text(tmp_path):
    path = save(tmp_path / "a.parquet", [{"text": 1.5}, {"text": float("nan")}])
    assert [row.text for row in iter_rows(path)] == ["1.5", ""]
    words = put(tmp_path / "words.csv", "text\nnan\n")
    assert [row.text for row in iter_rows(words)] == ["nan"]


def test_the_record_travels_with_the_row(tmp_path):
    path = put(tmp_path / "a.csv", "id,text\n7,hello\n")
    assert list(iter_rows(path)) == [Row(2, "hello", None, {"id": "7", "text": "hello"})]


# Damage. What is read, the line or row named, the reason. Each is one line with a mend.

BAD_ROWS = [
    ("a.csv", b"text,label\na,x\nb\xff,y\nc,x\n", "line 3", "byte 2 of the line, 0xff, is not UTF-8"),
    ("a.csv", b'text,label\na,x\n"b\nc\xff\nd",y\nc,x\n', "line 4", "is not UTF-8"),
    ("a.csv", b"text,label\na,x\nb,y,z\nc,x\n", "line 3", "the row has 3 fields, the header has 2"),
    ("a.csv", b'text,label\n"a\nb",x\n"c\nd"\ne,x\n', "line 4", "the row has 1 fields"),
    ("a.csv", b'text,label\na,x\n"b"c,y\nc,x\n', "line 3", "broken CSV"),
    (
        "a.csv",
        b"text,label\na,x\nb\rb,y\nc,x\n",
        "line 3",
        "broken CSV: it holds a carriage return.*LF or CRLF",
    ),
    ("a.tsv", b"text\tlabel\na\tx\nb\rb\ty\n", "line 3", "broken TSV: it holds a carriage return"),
    ("a.tsv", b"text\tlabel\na\tx\nb\n", "line 3", "the row has 1 fields, the header has 2"),
    ("a.jsonl", b'{"text": "a", "label": "x"}\n{"text": "b", \n', "line 2", "broken JSON: .* at character"),
    ("a.jsonl", b'{"text": "a", "label": "x"}\n\n["b", "y"]\n', "line 3", "a JSON list, not an object"),
    (
        "a.jsonl",
        b'{"text": "a", "label": "x"}\n{"text": "b"}\n',
        "line 2",
        "no column 'label'; the columns are 'text'",
    ),
    ("a.jsonl", b'{"text": "a", "label": "x"}\n{"text": "\xe4"}\n', "line 2", "0xe4, is not UTF-8"),
    (
        "a.jsonl",
        b'{"text": "a", "label": "x"}\n{"text": "b", "text": "c", "label": "x"}\n',
        "line 2",
        "more than once",
    ),
    ("a.jsonl", b'{"text": "a", "label": "x"}\n{"text": "\\ud800", "label": "x"}\n', "line 2", "surrogate"),
    (
        "a.jsonl",
        b'{"text": "a", "label": "x"}\n' + b"[" * 200_000 + b"\n",
        "line 2",
        "nested too deep|recursion",
    ),
    (
        "a.jsonl",
        b'{"text": "a", "label": "x"}\n{"text": ' + b"9" * 5000 + b"}\n",
        "line 2",
        "broken JSON|no column",
    ),
]


@pytest.mark.parametrize(("name", "content", "place", "reason"), BAD_ROWS)
def test_a_bad_row_is_named_or_skipped_and_counted(tmp_path, name, content, place, reason):
    path = put(tmp_path / name, content)
    columns = ["text", "label"]

    def read(report):
        return list(iter_rows(path, *columns, report=report))

    with pytest.raises(DataError, match=reason) as caught:
        read(ReadReport())
    message = str(caught.value)
    assert f"{path}, {place}]" in message and "Mend: " in message and "\n" not in message
    report = ReadReport(skip_bad_rows=True)
    assert len(read(report)) >= 1 and report.skipped == 1
    assert str(report.first_errors[0]) == message


def test_a_first_row_without_a_header_can_be_a_bad_one(tmp_path):
    path = put(tmp_path / "a.tsv", b"a\tb\tc\nd\te\n")
    with pytest.raises(DataError, match=r"3 fields, without a header they are id, text.*line 1\]"):
        list(iter_records(path, header=("id", "text")))
    report = ReadReport(skip_bad_rows=True)
    found = list(iter_records(path, header=("id", "text"), report=report))
    assert found == [(2, {"id": "d", "text": "e"})] and report.skipped == 1


def test_a_header_of_other_known_names_is_no_row(tmp_path):
    path = put(tmp_path / "a.tsv", b"docid\tbody\nd\te\n")
    found = list(iter_records(path, header=("id", "text"), known=("docid",)))
    assert found == [(2, {"docid": "d", "body": "e"})]


def test_rows_after_a_bad_one_are_whole(tmp_path):
    path = put(tmp_path / "a.csv", b'text,n\n"a\nb\xff",1\nc,2\n"d"e,3\nf,4\ng\nh,5\n')
    report = ReadReport(skip_bad_rows=True)
    assert [(row.number, row.text, row.record["n"]) for row in iter_rows(path, report=report)] == [
        (4, "c", "2"),
        (6, "f", "4"),
        (8, "h", "5"),
    ]
    assert report.skipped == 3


def test_a_quote_never_closed_is_not_skipped(tmp_path):
    """Skipping it would lose all rows after it while counting one."""
    path = put(tmp_path / "a.csv", 'text,n\na,1\n"b,2\nc,3\nd,4\n')
    with pytest.raises(DataError, match=r"never closed.*line 3\]"):
        list(iter_rows(path, report=ReadReport(skip_bad_rows=True)))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", b"", "there are no rows"),
        ("a.jsonl", b"\n\n", "there are no rows"),
        ("a.txt", b"", "there are no rows"),
        ("a.csv", b"text,label\n", "there are no rows"),
        ("a.csv", b"title,body\na,b\n", "no column 'text'; the columns are 'title', 'body'"),
        ("a.csv", b"text,label,text\na,b,c\n", "column names occur more than once: 'text'"),
        ("a.csv", b"text,label\ra,b\r", "holds a carriage return"),
        ("a.csv", b"te\xffxt\na\n", "not UTF-8"),
        ("a.xlsx", b"PK", r"can't tell the format of a file named 'a.xlsx'"),
        ("a", b"text\n", "can't tell the format"),
        ("a.parquet", b"text,label\na,b\n", "no readable parquet file"),
        ("a.parquet", b"", "no readable parquet file"),
        ("a.csv.gz", b"text\na\n", "gzip file is broken"),
        ("a.csv.gz", gzip.compress(b"text\n" + bytes(range(32, 127)) * 50)[:40], "gzip file is broken"),
    ],
)
def test_a_bad_file_is_refused_even_when_bad_rows_are_skipped(tmp_path, name, content, reason):
    path = put(tmp_path / name, content)
    with pytest.raises(DataError, match=reason) as caught:
        list(iter_rows(path, report=ReadReport(skip_bad_rows=True)))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(DataError, match=r"no such file \[.*gone.csv\]"):
        list(iter_rows(tmp_path / "gone.csv"))
    for name in ("a.csv", "a.parquet"):
        (tmp_path / name).mkdir()
        with pytest.raises(DataError, match="a folder, not a file"):
            list(iter_rows(tmp_path / name))


def test_parquet_without_the_column_or_with_one_twice(tmp_path):
    path = save(tmp_path / "a.parquet", [{"title": "x"}])
    with pytest.raises(DataError, match="no column 'text'; the columns are 'title'"):
        list(iter_rows(path))
    pq.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), path)
    with pytest.raises(DataError, match="more than once: 'text'"):
        list(iter_rows(path))


@pytest.mark.parametrize(
    "other",
    [
        pa.array([2**62], pa.timestamp("us")),
        pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]),
    ],
    ids=["a date beyond Python's", "a struct with a name twice"],
)
def test_parquet_values_that_python_has_not(tmp_path, other):
    pq.write_table(pa.table({"text": ["x"], "other": other}), path := tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a value can't be read: .*a.parquet, rows 1 to 1\]"):
        list(iter_rows(path))


def test_streams_that_cannot_be_read():
    with pytest.raises(ConfigError, match="format"):
        list(iter_rows(io.BytesIO(b"a\n")))
    with pytest.raises(ConfigError, match="parquet can't be read from a stream"):
        list(iter_rows(io.BytesIO(b"a\n"), format="parquet"))
    with pytest.raises(ConfigError, match="no second text"):
        list(iter_rows(io.BytesIO(b"a\n"), "text", "other", format="lines"))
    with pytest.raises(ConfigError, match="csv, tsv, jsonl"):
        list(iter_rows(io.BytesIO(b"a\n"), format="xml"))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"\[standard input, line 2\]"):
        list(iter_rows(io.BytesIO(b'{"text": "a"}\noops\n'), format="jsonl"))


def test_a_long_field_is_read(tmp_path):
    path = save(tmp_path / "a.csv", [{"text": "x" * 500_000}])  # the standard library stops at 131,072
    assert len(next(iter_rows(path)).text) == 500_000


def test_all_rows_bad_says_why(tmp_path):
    path = put(tmp_path / "a.jsonl", "oops\nno\n")
    with pytest.raises(DataError, match=r"no rows; 2 bad rows were skipped, first: .*line 1"):
        list(iter_records(path, report=ReadReport(skip_bad_rows=True)))
