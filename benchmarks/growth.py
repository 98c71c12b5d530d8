"""How time and memory grow with the number of rows and with the length of a text.

    python -m benchmarks.growth --folder TRAINED --rows 1000 10000 100000 --lengths 16 64 256 1024 4096 8192

Rows: `gemma-encoder predict` over a file of that many pairs, and `gemma-encoder rank` over lists of 100
documents with as many pairs in all, each a process of its own; their time and the most memory they had.
Lengths: the same number of tokens in texts of each length, in this process. TRAINED is a folder of pairs with
one score.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from gemma_encoder.errors import ConfigError
from gemma_encoder.json_files import write_json
from gemma_encoder.ranking.collection import Corpus, find_file, read_queries
from gemma_encoder.speed.report import machine
from gemma_encoder.tasks.sources import bundled_folder

from .common import exit_status

LIST = 100
VERBS = ("predict", "rank")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        prog="growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", required=True, help="a trained encoder of pairs with one score")
    parser.add_argument("--rows", nargs="*", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--words", type=int, default=10, help="of each row's document")
    parser.add_argument("--lengths", nargs="*", type=int, default=[16, 64, 256, 1024, 4096, 8192])
    parser.add_argument("--tokens", type=int, default=16_384, help="scored at each length, at least one text")
    parser.add_argument(
        "--repeats", type=int, default=3, help="each length is timed so often; the median counts"
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, help="write the result as JSON to this file")
    parser.add_argument("--plot", type=Path, help="draw all into this file, e.g. growth.svg")
    options = parser.parse_args(argv)
    result = {"benchmark": "growth", **vars(options), "machine": machine("cpu"), "by_rows": []}
    with tempfile.TemporaryDirectory() as scratch:
        for count, verb in itertools.product(options.rows, VERBS):
            result["by_rows"].append(_in_process(verb, options, count, Path(scratch)))
            if options.out:  # a run that is cut off leaves what it measured
                write_json(options.out, result)
    if options.lengths:
        result["by_length"] = _by_length(options)
    if options.out:
        write_json(options.out, result)
    if options.plot:
        _draw(result, options.plot)
    return result


def pairs(words: int) -> Iterator[tuple[str, str]]:
    """Queries of Cranfield with pieces of its abstracts of that many words and a number, without end; a
    query stays for a list of documents.
    """
    data = bundled_folder()
    if data is None:
        raise ConfigError("There is no bundled data here", fix="run it in a clone of the repository")
    folder = data / "ir" / "cranfield"
    queries = list(read_queries(find_file(folder, "queries")).values())
    text = " ".join(text for _, text in Corpus(find_file(folder, "corpus")).items()).split()
    for number in itertools.count():
        start = number * words % (len(text) - words)
        yield queries[number // LIST % len(queries)], f"{number} {' '.join(text[start : start + words])}"


def _in_process(verb: str, options: argparse.Namespace, count: int, scratch: Path) -> dict[str, Any]:
    """Time and memory of a verb over so many pairs."""
    source, output = scratch / f"{count}.jsonl", scratch / f"{verb}-{count}"
    drawn = itertools.islice(pairs(options.words), count)
    with source.open("w", encoding="utf-8") as file:
        if verb == "predict":
            for query, document in drawn:
                file.write(json.dumps({"text": query, "text_pair": document}) + "\n")
        while verb == "rank" and (part := list(itertools.islice(drawn, LIST))):
            documents = [{"id": f"d{place}", "text": text} for place, (_, text) in enumerate(part)]
            file.write(json.dumps({"query": part[0][0], "documents": documents}) + "\n")
    given = ["--input", source, "--output_format", "jsonl"] if verb == "predict" else ["--lists", source]
    command = [sys.executable, "-m", "gemma_encoder", verb, "--model", options.folder, *given]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*map(str, command), "--output", str(output), "--dtype", options.dtype],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        last = (said.strip().splitlines() or ["it said nothing"])[-1]
        raise ConfigError(f"{verb} failed with status {status}: {last}", fix="give a folder of pairs")
    seconds = time.perf_counter() - start
    unit = 2**20 if sys.platform == "darwin" else 2**10
    found = {"verb": verb, "rows": count, "seconds": seconds, "peak_mib": usage.ru_maxrss / unit}
    print(f"{verb}, {count:,} rows: {seconds:,.1f} s, {found['peak_mib']:,.0f} MiB at most", flush=True)
    return found


def _by_length(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Microseconds a token for texts of each length, through the whole model."""
    import torch

    from gemma_encoder.encoder import Encoder
    from gemma_encoder.memory import keep_freed_memory
    from gemma_encoder.scoring import score_token_ids

    keep_freed_memory()
    encoder = Encoder.from_pretrained(options.folder, dtype=getattr(torch, options.dtype))
    vocabulary = encoder.stock_backbone.config.vocab_size
    draw = torch.Generator().manual_seed(0)
    found = []
    for length in options.lengths:
        shape = (max(1, options.tokens // length), length)
        ids = torch.randint(vocabulary, shape, generator=draw).tolist()
        seconds = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            score_token_ids(encoder, ids, max(4096, length))
            seconds.append(time.perf_counter() - start)
        microseconds = 1e6 * median(seconds) / (shape[0] * length)
        found.append({"length": length, "texts": shape[0], "microseconds_a_token": microseconds})
        print(
            f"{shape[0]:,} texts of {length:,} tokens: {microseconds:,.0f} microseconds a token", flush=True
        )
    return found


def _draw(result: dict[str, Any], path: Path) -> None:
    """Seconds and memory by rows, time of a token by length."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    seconds, memory, token = figure.subplots(1, 3)
    for verb in VERBS:
        of_verb = [each for each in result["by_rows"] if each["verb"] == verb]
        counts = [each["rows"] for each in of_verb]
        seconds.plot(counts, [each["seconds"] for each in of_verb], marker="o", label=verb)
        memory.plot(counts, [each["peak_mib"] for each in of_verb], marker="o", label=verb)
    by_length = result.get("by_length", [])
    lengths = [each["length"] for each in by_length]
    token.plot(lengths, [each["microseconds_a_token"] for each in by_length], marker="o", color="C2")
    seconds.set(title="Time", xlabel="rows", ylabel="seconds", xscale="log", yscale="log")
    most = max((each["peak_mib"] for each in result["by_rows"]), default=1)
    memory.set(title="Most memory", xlabel="rows", ylabel="MiB", xscale="log", ylim=(0, 1.2 * most))
    token.set(
        title="Time of a token",
        xlabel="tokens of a text",
        ylabel="microseconds",
        xscale="log",
        ylim=(0, None),
    )
    if result["by_rows"]:
        seconds.legend()
        memory.legend(loc="lower left")
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(exit_status(main))
