"""Entry point: find the verb, read its options, run it, and turn a user's mistake into one line.

Nothing here or in the option classes imports torch or transformers, so that `--help` answers at once; a verb
imports them when it runs.
"""

from __future__ import annotations

import argparse
import atexit
import difflib
import errno
import gc
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile

from ..errors import GemmaEncoderError
from ..memory import keep_freed_memory
from .common import note

PROGRAM = "gemma-encoder"
VERBS = {
    "adapt": "Turn a decoder into an encoder, verified, with a new head; --objective learns text first.",
    "train": "Train an encoder, or a decoder adapted on the way, on a task or on your own file.",
    "evaluate": "Judge an encoder on a task or a labelled file, or a TREC run: metrics, baseline, intervals.",
    "predict": "Classify or score texts: CSV, TSV, JSONL, parquet or lines in; JSONL or CSV out; resumable.",
    "rank": "Re-rank queries' candidates (a TREC run, BM25 or lists) with a trained encoder: a TREC run out.",
    "fuse": "Make one TREC run of several, such as a re-ranker's and its first stage's.",
    "candidates": "Write lists to train on: candidates of a run or BM25, with judgments or teachers' scores.",
    "bench": "Time a trained encoder on your texts: rows/s, share of the limit, other programs beside it.",
    "inspect": "Say what a folder is: backbone, policies, measured receptive field, pooler, head, training.",
    "benchmark": "Run GLUE or SuperGLUE: tasks, seeds and baselines as one plan that can be stopped.",
    "report": "Make a benchmark's tables and figure again from its records.",
    "study": "Compare ways to make and train an encoder: axes, seeds, statistics, a report; resumable.",
}
POSITIONAL = {"benchmark": ("suite",), "report": ("folder",), "study": ("action", "output")}
"""Verbs whose first words are the values of options."""
EXAMPLES = """\
  gemma-encoder train --model gemma-3-270m --task sst2 --max_train_rows 1600 --output sst2
  gemma-encoder evaluate --model sst2 --task sst2
  gemma-encoder predict --model sst2 --text "a gripping, funny film"
  gemma-encoder predict --model sst2 --input reviews.csv --keep id --output scores.jsonl
  gemma-encoder benchmark glue --model gemma-3-270m --seeds 3"""

USER_ERROR = 2
INTERRUPTED = 130
BROKEN_PIPE = 141

# System errors that are about the user's paths or disk, not about this program.
_PATH_ERRORS = {
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.ELOOP,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: Arguments after the program's name, `sys.argv[1:]` if None.

    Returns:
        0 on success, 2 on a user's mistake (one line on stderr), 130 when interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # on a terminal that isn't UTF-8 a letter is no error
            stream.reconfigure(errors="backslashreplace")
    try:
        _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return 0
    except SystemExit as leaving:  # --help and --print_config
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except (argparse.ArgumentError, GemmaEncoderError) as error:
        return _fail(str(error))
    except BrokenPipeError:
        # The reader (`| head`) has all it wanted. Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        if error.errno not in _PATH_ERRORS:
            raise
        return _fail(f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror))
    except UnicodeDecodeError as error:
        return _fail(f"Input is not UTF-8: {error}. Mend: convert it, e.g. with iconv -t utf-8.")
    except KeyboardInterrupt:
        note("interrupted")
        return INTERRUPTED


def _run(argv: list[str]) -> None:
    verb = argv[0] if argv else "--help"
    if verb in ("-h", "--help", "help"):
        print(_help())
    elif verb == "--version":
        print(f"{PROGRAM} {_version()}")
    elif verb in VERBS:
        from . import options
        from .parsing import parse

        words = options_of(verb, argv[1:])
        parsed = parse(f"{PROGRAM} {verb}", VERBS[verb], options.OPTIONS[verb], words)
        keep_freed_memory()
        atexit.register(gc.freeze)  # or Python looks through all that is there once more, for a second
        import_module(f".{verb}", __package__).run(*parsed)
    else:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        meant = f"did you mean {near[0]}?" if near else f"the verbs are {', '.join(VERBS)}."
        raise argparse.ArgumentError(None, f"There is no verb {verb!r}; {meant} See {PROGRAM} --help.")


def options_of(verb: str, words: list[str]) -> list[str]:
    """The words behind a verb, all as options: `benchmark glue` is `benchmark --suite=glue`."""
    first = list(takewhile(lambda word: not word.startswith("-"), words))
    named = zip(POSITIONAL.get(verb, ()), first, strict=False)
    options = [f"--{name}={word}" for name, word in named]
    return [*options, *words[len(options) :]]


def _help() -> str:
    verbs = "\n".join(f"  {name:<11}{description}" for name, description in VERBS.items())
    return (
        f"usage: {PROGRAM} VERB [options]\n\n"
        "Turn decoder language models into encoders for classification, regression and ranking.\n\n"
        f"verbs:\n{verbs}\n\nexamples:\n{EXAMPLES}\n\n"
        f"{PROGRAM} VERB --help shows a verb's options with their defaults; {PROGRAM} --version the version."
    )


def _version() -> str:
    try:
        return version(PROGRAM)
    except PackageNotFoundError:
        return "(not installed)"


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return USER_ERROR
