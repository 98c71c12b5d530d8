"""Options of `evaluate`, `predict`, `bench` and `inspect`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class EvaluateOptions:
    """What to judge, on what.

    Attributes:
        model: Folder of a trained encoder, for --task and --file.
        task: A built-in task, any of GLUE or SuperGLUE: sst2, boolq, ...
        split: The split of --task; its official validation split if not given.
        data_dir: Folder with the task's files; the bundled sets or the Hugging Face hub if not given.
        data_source: Where built-in tasks are looked for when there is no --data_dir.
        file: Or a labelled file: CSV, TSV, JSONL or parquet, also with .gz.
        text_column: Column of the text in --file.
        text_pair_column: Column of the second text in --file, for a model of pairs.
        label_column: Column of the label in --file.
        label_separator: In --file, what stands between the labels of a row (multi-label).
        metrics: Instead of the task's own (--metrics accuracy,f1_macro).
        skip_bad_rows: Leave out and count rows that can't be read, instead of stopping at the first.
        json_out: Where to write the result; if not given, evaluation-NAME.json in the model's folder, NAME
            being the task or the file without its ending, which replaces one of that name. The result of a
            run is written only where this says.
        overwrite: Replace a --json_out or --plot that exists.
        dry_run: Read the rows or the run, print what would happen, write nothing.
    """

    model: str | None = None
    task: str | None = None
    split: str | None = None
    data_dir: str | None = None
    data_source: Literal["auto", "bundled", "hub"] = "auto"
    file: str | None = None
    text_column: str = "text"
    text_pair_column: str = "text_pair"
    label_column: str = "label"
    label_separator: str | None = None
    metrics: list[str] | None = None
    skip_bad_rows: bool = False
    json_out: str | None = None
    overwrite: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class RunEvaluationOptions:
    """Which run to judge, by what.

    Attributes:
        run: Or a ranking to judge, without a model: a TREC run, also with .gz.
        qrels: Judgments for --run: TREC's four columns or BEIR's three, also with .gz.
        against: Another run to compare --run with, query by query.
        measures: By what to judge --run, in names of ir_measures; RR@10,nDCG@10,AP,R@100 if not given.
        min_relevance: The grade from which a document counts as relevant in RR, AP, R and others; nDCG is not
            affected.
        per_query: Print what each query has, too; --json_out always has it.
        plot: Where to draw each query's gain over --against, .svg; of nDCG@10 if that is among --measures,
            else of the first.
    """

    run: str | None = None
    qrels: str | None = None
    against: str | None = None
    measures: list[str] | None = None
    min_relevance: int = 1
    per_query: bool = False
    plot: str | None = None
    # No option itself: names of those that were given, be it at their default.
    given: frozenset[str] = field(default=frozenset(), compare=False)


@dataclass(frozen=True)
class PredictOptions:
    """What to score and where to put it.

    Attributes:
        model: Folder of a trained encoder.
        input: CSV, TSV, JSONL, parquet or plain lines (.txt), also with .gz; - reads standard input.
        text: A text to score, for quick use; repeatable.
        text_pair: The second text of each --text, for a model of pairs; repeatable.
        output: Where to write, .jsonl or .csv; - is standard output.
        input_format: csv, tsv, jsonl, lines or parquet; from the file's name if not given, lines for -.
        output_format: jsonl or csv; from the file's name if not given, jsonl for -.
        text_column: Column of the text.
        text_pair_column: Column of the second text, for a model of pairs.
        keep: Input columns to copy into the output, such as an id (--keep id,title), or all.
        resume: Go on after the rows that the output already has.
        overwrite: Replace an output that exists.
        skip_bad_rows: Leave out and count rows that can't be read, instead of stopping at the first.
        buffer_rows: Rows scored together and written at once; a kill loses this many at most.
        dry_run: Read and tokenise the input, print what would happen, write nothing.
    """

    model: str
    input: str | None = None
    text: list[str] = field(default_factory=list)
    text_pair: list[str] = field(default_factory=list)
    output: str = "-"
    input_format: Literal["csv", "tsv", "jsonl", "lines", "parquet"] | None = None
    output_format: Literal["jsonl", "csv"] | None = None
    text_column: str = "text"
    text_pair_column: str = "text_pair"
    keep: list[str] = field(default_factory=list)
    resume: bool = False
    overwrite: bool = False
    skip_bad_rows: bool = False
    buffer_rows: int = 512
    dry_run: bool = False


@dataclass(frozen=True)
class BenchOptions:
    """What to time, on which texts.

    Attributes:
        model: Folder of a trained encoder.
        input: Texts to score: CSV, TSV, JSONL, parquet or plain lines, also with .gz; those of a bundled
            task if not given.
        text_column: Column of the text.
        text_pair_column: Column of the second text, for a model of pairs.
        rows: How many texts a round scores, drawn from the input.
        seed: Decides which.
        rounds: How often each contender scores them; medians are shown.
        dtypes: Types of the backbone's weights, of float32 and bfloat16.
        contenders: Some of gemma-encoder, not compiled (the same with stock layers), padded (the stock model,
            rows as they come), CrossEncoder (of sentence-transformers, which sorts by length) and
            CrossEncoder tuned (with the batch size that is fastest for these rows); all these if not given.
            Only when named: ONNX Runtime and OpenVINO, for which the model is exported first.
        max_tokens: Our token budget for a pass.
        batch_size: Rows of a batch of the others.
        compile_layers: Compile our layers where that is possible, as it is done in a long stream.
        device: auto (the GPU if there is one), cpu, cuda or cuda:N.
        alone: Also run each in a process of its own, for its memory and the time until its first score.
        json_out: Where to write all that was measured.
        plot: Where to draw the rates as bars, .svg.
        overwrite: Replace a --json_out or --plot that exists.
    """

    model: str
    input: str | None = None
    text_column: str = "text"
    text_pair_column: str = "text_pair"
    rows: int = 128
    seed: int = 0
    rounds: int = 5
    dtypes: list[str] = field(default_factory=lambda: ["float32", "bfloat16"])
    contenders: list[str] | None = None
    max_tokens: int = 4096
    batch_size: int = 32
    compile_layers: bool = True
    device: str = "auto"
    alone: bool = True
    json_out: str | None = None
    plot: str | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class InspectOptions:
    """Which folder, and how to say it.

    Attributes:
        model: Folder of an encoder.
        json: Print JSON instead of text.
    """

    model: str
    json: bool = False
