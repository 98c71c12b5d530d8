"""All speed in one run: training, scoring, re-ranking and vectors by llama.cpp, into one JSON file.

    python -m benchmarks --data-dir GLUE --superglue-dir SUPERGLUE --collection FOLDER --run RUN --out FOLDER

Each part is a benchmark of its own (`benchmarks.training_speed` and so on, where its contenders are
explained) in a process of its own. What has no data or isn't installed is left out, and said. A part that
fails doesn't keep the others from running. The options are handed to the parts that have them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gemma_encoder.cli.common import note
from gemma_encoder.json_files import write_json
from gemma_encoder.speed.contenders import CONTENDERS

from .common import DTYPES

TEXTS = ("data_dir", "superglue_dir", "collection", "run")
ALL = ("model", "rounds", "dtypes", "device", "seed")
TAKES = {
    "training": ("benchmarks.training_speed", (*ALL, "data_dir", "steps")),
    "scoring": ("benchmarks.scoring_speed", (*ALL, *TEXTS, "rows")),
    "re-ranking": ("benchmarks.ranking_speed", (*ALL, "collection", "run", "folder", "queries")),
    "llama.cpp": ("benchmarks.llama_cpp", (*ALL, "data_dir", "rows")),
}
"""The module of each part, and the options that are handed to it."""

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts; the exit status is that of the last that failed, else 0."""
    parser = argparse.ArgumentParser(
        prog="benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", help="folder with MRPC (mrpc/train.parquet, mrpc/validation.parquet)")
    parser.add_argument("--superglue-dir", help="folder with MultiRC (multirc/validation.parquet)")
    parser.add_argument("--collection", help="folder with corpus.jsonl and queries.jsonl")
    parser.add_argument("--run", help="a first stage's run over --collection; BM25 re-ranks without one")
    parser.add_argument("--folder", help="a trained re-ranker for re-ranking, instead of a new encoder")
    parser.add_argument("--model", help="decoder: name, folder, .gguf file or hub id")
    parser.add_argument("--rounds", help="timed rounds; each times every contender once")
    parser.add_argument("--steps", help="timed training steps of a contender in a round")
    parser.add_argument("--rows", help="rows scored in a round")
    parser.add_argument("--queries", help="queries re-ranked in a round")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES)
    parser.add_argument("--device")
    parser.add_argument("--seed")
    parser.add_argument(
        "--parts", nargs="+", choices=TAKES, default=list(TAKES), help="some of the benchmarks"
    )
    parser.add_argument(
        "--no-repack", action="store_true", help="llama.cpp's weights as they lie in the file"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/benchmarks"), help="folder of speed.json and the figures"
    )
    options = parser.parse_args(argv)

    status, found = 0, {}
    with tempfile.TemporaryDirectory() as scratch:
        for part in options.parts:
            if obstacle := why_left_out(part, options):
                note(f"{part} is left out: {obstacle}")
                continue
            print(f"\n{part}", flush=True)
            result = Path(scratch) / f"{part}.json"
            ended = run([*command(part, options), "--out", str(result)])
            if result.is_file():  # also of a part that was cut off
                found[part] = json.loads(result.read_text(encoding="utf-8"))
                write_json(options.out / "speed.json", found)
            if ended:
                note(f"{part} failed: {f'signal {-ended}' if ended < 0 else f'exit status {ended}'}")
                status = abs(ended)
            if ended == INTERRUPTED:
                break
    if found:
        print(f"\nwritten to {options.out / 'speed.json'}")
    return status


def run(words: Sequence[str]) -> int:
    """Run a part to its end. Ctrl+C reaches it too, and it still writes what it measured."""
    process = subprocess.Popen(words)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        return INTERRUPTED


def why_left_out(part: str, options: argparse.Namespace) -> str | None:
    """What keeps a part from running; None if nothing does."""
    if part == "re-ranking" and not options.collection:
        return "give --collection"
    if part == "llama.cpp" and importlib.util.find_spec("llama_cpp") is None:
        return "pip install llama-cpp-python"
    return None


def command(part: str, options: argparse.Namespace) -> list[str]:
    """The command of a part."""
    module, takes = TAKES[part]
    given: dict[str, Any] = {name: getattr(options, name) for name in takes if getattr(options, name)}
    if part == "scoring":
        if not options.run:  # it takes candidates from a run only
            given.pop("collection", None)
        given |= {"contenders": list(CONTENDERS), "plot": options.out / "scoring_speed.svg"}
    words = [sys.executable, "-m", module]
    for name, value in given.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return [*words, "--no-repack"] if part == "llama.cpp" and options.no_repack else words


if __name__ == "__main__":
    sys.exit(main())
