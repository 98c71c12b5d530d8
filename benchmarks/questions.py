"""Lists of questions with the passage that each was asked about, to learn from before a collection's own.

    python -m benchmarks.questions --glue-dir GLUE --superglue-dir SUPERGLUE --out runs/questions

QNLI's development rows with label `entailment` are a question and the sentence of a Wikipedia article that
answers it; BoolQ's are a question and an article's paragraph, of which the first 60 words are taken. BM25's
best 30 among the other sentences (paragraphs) compete with it. The training rows of both would serve as well;
who reports scores on the development rows of these tasks must not train on them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from gemma_encoder.cli.main import main as gemma_encoder
from gemma_encoder.tasks import get_task, load_split

from .common import exit_status

WORDS = 60
DEPTH = 30


def main(argv: Sequence[str] | None = None) -> None:
    """Write `qnli.jsonl` and `boolq.jsonl`."""
    parser = argparse.ArgumentParser(
        prog="questions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--glue-dir", required=True, help="folder with QNLI")
    parser.add_argument("--superglue-dir", required=True, help="folder with BoolQ")
    parser.add_argument("--out", type=Path, required=True, help="folder for the lists")
    options = parser.parse_args(argv)
    qnli = load_split(get_task("qnli"), "validation", options.glue_dir).rows
    of_qnli = list(zip(qnli["text"], qnli["text_pair"], qnli["label"], strict=True))
    write_lists(
        options.out / "qnli",
        [(question, sentence) for question, sentence, label in of_qnli if label == 0],
        [sentence for _, sentence, _ in of_qnli],
    )
    boolq = load_split(get_task("boolq"), "validation", options.superglue_dir).rows
    asked = [
        (question, " ".join(passage.split()[:WORDS]))
        for question, passage in zip(boolq["text"], boolq["text_pair"], strict=True)
    ]
    write_lists(options.out / "boolq", asked, [passage for _, passage in asked])


def write_lists(folder: Path, asked: Sequence[tuple[str, str]], passages: Sequence[str]) -> None:
    """Write a collection as BEIR lays it out, and beside it (`FOLDER.jsonl`) its lists.

    Args:
        folder: The collection's.
        asked: Questions, each with its passage.
        passages: What can be found; repeated ones count once.
    """
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    documents = {text: f"d{number}" for number, text in enumerate(dict.fromkeys(passages))}
    queries = {text: f"q{number}" for number, text in enumerate(dict.fromkeys(each for each, _ in asked))}
    for name, texts in (("corpus", documents), ("queries", queries)):
        lines = [json.dumps({"_id": key, "text": text}) for text, key in texts.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    judged = sorted({(queries[question], documents[passage]) for question, passage in asked})
    rows = ["query-id\tcorpus-id\tscore", *(f"{query}\t{document}\t1" for query, document in judged)]
    (folder / "qrels" / "train.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    command = ["candidates", "--collection", str(folder), "--qrels", "train", "--first_stage", "bm25"]
    command += ["--depth", str(DEPTH), "--output", f"{folder}.jsonl", "--overwrite"]
    if status := gemma_encoder(command):
        sys.exit(status)


if __name__ == "__main__":
    sys.exit(exit_status(main))
