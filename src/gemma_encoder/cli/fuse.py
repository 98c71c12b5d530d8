"""`gemma-encoder fuse`: several TREC runs to one. Imports no torch."""

from __future__ import annotations

import os
import shlex

from ..errors import ConfigError
from ..ranking.fusion import reciprocal_rank_fusion, standard_score_fusion
from ..ranking.runs import check_tag, write_run
from .collections import read_runs
from .common import check_writable, counted, note, refuse_existing
from .options import FuseOptions


def run(options: FuseOptions) -> None:
    """Read, fuse, write.

    Raises:
        ConfigError: Options are not as they must be.
        DataError: A run can't be read.
    """
    if len(options.run) < 2:
        raise ConfigError("One run is nothing to fuse", fix="give two or more, as in --run a.trec,b.trec")
    check_writable(options.output)
    if os.path.realpath(options.output) in map(os.path.realpath, options.run):
        raise ConfigError(f"--output is one of the runs: {options.output}", fix="choose another")
    refuse_existing(options.output, options.overwrite)
    check_tag(options.tag)
    weights = _weights(options.weights)
    fuse = standard_score_fusion if options.by == "scores" else reciprocal_rank_fusion
    runs = read_runs(options.run)
    fused = fuse(runs, weights)
    write_run(options.output, fused, options.tag)
    for path, read in zip(options.run, runs, strict=True):
        lacking = sum(not read.get(query) for query in fused)
        if lacking:
            note(f"{path} lacks {lacking:,} of the queries; the other runs decide there")
    documents = sum(map(len, fused.values()))
    note(f"{len(fused):,} queries, {counted(documents, 'document')} written to {options.output}")
    note(f"Next: {shlex.join(['gemma-encoder', 'evaluate', '--run', options.output, '--qrels', 'FILE'])}")


def _weights(given: list[str]) -> list[float] | None:
    try:
        return [float(weight) for weight in given] or None
    except ValueError:
        raise ConfigError(
            f"--weights are {', '.join(given)}", fix="give a number for each run, as in --weights 0.3,0.7"
        ) from None
