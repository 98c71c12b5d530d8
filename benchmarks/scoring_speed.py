"""Scoring rows/s on real texts of several lengths: what `gemma-encoder bench` measures, workload by workload.

    python -m benchmarks.scoring_speed --data-dir GLUE --superglue-dir SUPERGLUE --collection FOLDER --run RUN

Workloads: `mrpc` (pairs of sentences), `queries` (a query with a candidate passage), `multirc` (a question
with a paragraph) and `mixed` (parts of these texts, from a few words to all). Those whose folder isn't given
are left out; without any, the bundled WNLI is taken and the output says so. All contenders have the same new
encoder in one folder, or the one of `--folder`.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gemma_encoder.cli.common import print_facts, print_table, quiet_libraries
from gemma_encoder.decoders import Decoder
from gemma_encoder.encoder import Encoder
from gemma_encoder.json_files import write_json
from gemma_encoder.ranking import read_run
from gemma_encoder.ranking.collection import Corpus, find_file, read_queries
from gemma_encoder.ranking.run_lists import RunLists
from gemma_encoder.speed.contenders import CONTENDERS, USUAL, Settings
from gemma_encoder.speed.measuring import Speed, measure
from gemma_encoder.speed.report import facts, table, write_figure
from gemma_encoder.tasks import load_task
from gemma_encoder.text import TextConfig

from .common import add_alone, add_common_options, add_data_dir, exit_status, pair_data, parse

Pairs = list[tuple[str, str]]
TEMPLATE = "Query: {text} Document: {text_pair}"


def main(argv: Sequence[str] | None = None, *, decoder: Decoder | None = None) -> dict[str, Any]:
    """Run the benchmark; `decoder` replaces `--model`."""
    parser = argparse.ArgumentParser(
        prog="scoring_speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_options(parser)
    add_data_dir(parser)
    parser.add_argument("--superglue-dir", help="folder with MultiRC (multirc/validation.parquet)")
    parser.add_argument(
        "--collection", help="folder with corpus.jsonl and queries.jsonl, as BEIR lays it out"
    )
    parser.add_argument("--run", help="a first stage's run over --collection, in TREC's columns")
    parser.add_argument("--folder", help="score with this trained folder of pairs instead of a new encoder")
    parser.add_argument("--rows", type=int, default=128, help="pairs scored in a round")
    parser.add_argument(
        "--contenders", nargs="+", default=list(USUAL), help=f"some of {', '.join(CONTENDERS)}"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="rows of a batch of the padded ones")
    parser.add_argument("--max-tokens", type=int, default=4096, help="our token budget for a pass")
    parser.add_argument(
        "--compile-layers", action=argparse.BooleanOptionalAction, default=True, help="compile our layers"
    )
    add_alone(parser)
    parser.add_argument(
        "--plot", type=Path, help="draw the rates into files of this name and a workload's, .svg"
    )
    options = parse(parser, argv)
    if bool(options.collection) != bool(options.run):
        parser.error("--collection and --run go together")

    quiet_libraries()
    result: dict[str, Any] = {"benchmark": "scoring speed", "model": options.folder or options.model}
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(
            device=options.device,
            max_tokens=options.max_tokens,
            batch_size=options.batch_size,
            compile_layers=options.compile_layers,
            exports=scratch,
        )
        folder = options.folder or _new_encoder(decoder or options.model, options.seed, scratch)
        for name, pairs in workloads(options).items():
            chosen = random.Random(options.seed).sample(pairs, min(options.rows, len(pairs)))
            kept: list[Speed] = []
            try:
                measure(
                    folder,
                    chosen,
                    dtypes=options.dtypes,
                    names=options.contenders,
                    rounds=options.rounds,
                    settings=settings,
                    alone=options.alone,
                    tell=lambda line, name=name: print(f"{name}, {line}", file=sys.stderr, flush=True),
                    keep=kept.append,
                )
            finally:  # a run that is cut off leaves what it measured
                if kept:
                    result[name] = _shown(name, kept[-1], settings, options.plot)
                if kept and options.out:
                    write_json(options.out, result)
    return result


def workloads(options: argparse.Namespace) -> dict[str, Pairs]:
    """Pairs of texts by the name of the workload."""
    found: dict[str, Pairs] = {}
    if options.data_dir:
        found["mrpc"] = _pairs(pair_data(options.data_dir)[0].validation)
    if options.collection:
        corpus = Corpus(find_file(options.collection, "corpus"))
        queries = read_queries(find_file(options.collection, "queries"))
        lists = RunLists(read_run(options.run).run, queries, corpus, depth=100)
        found["queries"] = [(each.query, document) for each in lists for document in each.documents]
    if options.superglue_dir:
        found["multirc"] = _pairs(load_task("multirc", options.superglue_dir).validation)
    if found:
        found["mixed"] = mixed([pair for pairs in found.values() for pair in pairs], options.seed)
        return found
    data, source = pair_data(None)
    return {source: _pairs(data.validation)}


def mixed(pairs: Pairs, seed: int) -> Pairs:
    """Pairs of 2 to 400 words, every doubling of the length equally frequent.

    Longer texts are cut. Where a pair is too short, what the next ones say follows its second text.
    """
    draw = random.Random(seed)
    order = draw.sample(pairs, min(2000, len(pairs)))
    continues = any(second.split() for _, second in order)
    drawn = []
    for place, (first, second) in enumerate(order):
        words = round(2 * 200 ** draw.random())
        begins, goes_on = first.split()[: max(1, words // 2)], second.split()
        following = place
        while len(begins) + len(goes_on) < words and continues:
            following = (following + 1) % len(order)
            goes_on += order[following][1].split()
        drawn.append((" ".join(begins), " ".join(goes_on[: max(1, words - len(begins))])))
    return drawn


def _pairs(rows: Any) -> Pairs:
    return list(zip(rows["text"], rows["text_pair"], strict=True))


def _new_encoder(decoder: str | Decoder, seed: int, scratch: str) -> str:
    """A folder with a new encoder of pairs and one score."""
    folder = str(Path(scratch) / "encoder")
    text = TextConfig(template=TEMPLATE)
    Encoder.from_decoder(
        decoder, verify=False, seed=seed, text=text, problem_type="ranking", labels=("relevance",)
    ).save_pretrained(folder)
    return folder


def _shown(name: str, speed: Speed, settings: Settings, plot: Path | None) -> dict[str, Any]:
    """Print a workload's table, draw its figure, and give all for the JSON file."""
    said = facts(speed, settings)
    print_facts(f"\n{name}", said)
    print_table("", table(speed.table()))
    if plot:
        write_figure(speed, plot.with_name(f"{plot.stem}-{name}.svg"))
    return {**said, "table": speed.table(), "measured": asdict(speed)}


if __name__ == "__main__":
    sys.exit(exit_status(main))
