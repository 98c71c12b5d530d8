"""`gemma-encoder evaluate --run`: what a TREC run is worth by judgments, and whether it is better than
another. Imports no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from ..extras import library
from ..json_files import write_json
from ..ranking.measures import (
    DEFAULT_MEASURES,
    Judgement,
    Measured,
    RunComparison,
    by_relevance,
    check_measures,
    check_queries,
    compare_runs,
    cut_off,
    judge,
)
from ..ranking.plots import gain_figure
from ..ranking.runs import QrelsFile, RunFile, read_qrels, read_run
from ..whole_files import whole_file
from .common import check_writable, counted, note, print_facts, print_table, refuse_changed, refuse_existing
from .options import ComputeOptions, EvaluateOptions, RunEvaluationOptions

RESAMPLES = 9999
INTERVAL = f"95% percentile bootstrap over queries, {RESAMPLES:,} resamples"
TEST = "paired randomisation test over queries, two-sided"
PLOTTED = "nDCG@10"


@dataclass(frozen=True)
class _Run:
    """A run that was read, and how tables call it."""

    path: str
    name: str
    file: RunFile


def evaluate_run(
    path: str, options: EvaluateOptions, of_runs: RunEvaluationOptions, compute: ComputeOptions
) -> None:
    """Read, judge, print, write what was asked for.

    Raises:
        ConfigError: Options contradict each other, a measure is not known, or a library is missing.
        DataError: A file can't be read, or a run shares no query with the judgments.
    """
    qrels_path = _check(path, options, of_runs, compute)
    measures = DEFAULT_MEASURES if of_runs.measures is None else tuple(dict.fromkeys(of_runs.measures))
    check_measures(measures, of_runs.min_relevance)
    if of_runs.plot:
        library("matplotlib", extra="figures")
    qrels = read_qrels(qrels_path)
    runs = _read(path, of_runs.against)
    for run in runs:
        _check_queries(run, qrels, qrels_path)
    if options.dry_run:
        _print_plan(runs, qrels, qrels_path, measures, options, of_runs)
        return
    judged = [
        judge(run.file.run, qrels.qrels, measures, of_runs.min_relevance, resamples=RESAMPLES) for run in runs
    ]
    compared = {}
    if len(judged) == 2:
        compared = {name: compare_runs(judged[0], judged[1], name, resamples=RESAMPLES) for name in measures}
    _print(runs, judged, compared, qrels, qrels_path)
    _print_remarks(runs, judged, qrels, hint="min_relevance" not in of_runs.given)
    if of_runs.per_query:
        _print_queries(judged[0], compared)
    if options.json_out:
        found = _to_dict(runs, judged, compared, qrels, qrels_path)
        write_json(os.path.realpath(options.json_out), found)
        note(f"written to {options.json_out}")
    if of_runs.plot:
        measure = PLOTTED if PLOTTED in compared else measures[0]
        svg = gain_figure(compared[measure], *(run.name for run in runs))
        assert svg is not None  # matplotlib was there before
        with whole_file(os.path.realpath(of_runs.plot)) as file:
            file.write(svg.encode())
        note(f"drawn to {of_runs.plot}")


def _check(
    path: str, options: EvaluateOptions, of_runs: RunEvaluationOptions, compute: ComputeOptions
) -> str:
    """Refuse options that do nothing or would do harm; returns where the judgments are."""
    refuse_changed(options, ("metrics",), "a run is judged by --measures")
    others = [each.name for each in fields(options) if each.name not in ("json_out", "overwrite", "dry_run")]
    refuse_changed(options, others, "it is for --task and --file, not for --run")
    refuse_changed(compute, [each.name for each in fields(compute)], "a run is judged without a model")
    if of_runs.qrels is None:
        raise ConfigError("Nothing says which documents are relevant", fix="add --qrels FILE")
    inputs = {"--run": path, "--qrels": of_runs.qrels, "--against": of_runs.against}
    outputs = {"--json_out": options.json_out, "--plot": of_runs.plot}
    if not any(outputs.values()):
        refuse_changed(options, ("overwrite",), "nothing is written without --json_out or --plot")
    if of_runs.plot and of_runs.against is None:
        raise ConfigError("--plot draws the gain over another run", fix="add --against RUN")
    if of_runs.plot and Path(of_runs.plot).suffix.lower() != ".svg":
        raise ConfigError(f"--plot draws SVG, not {Path(of_runs.plot).name!r}", fix="name it .svg")
    taken: dict[str, str] = {}
    for option, name in (inputs | outputs).items():
        if not name:
            continue
        place = os.path.realpath(name)
        if place in taken:
            raise ConfigError(
                f"{option} is the same file as {taken[place]}", where=name, fix="choose another"
            )
        taken[place] = option
        if option in outputs:
            check_writable(name, option)
            refuse_existing(name, options.overwrite, option)
    return of_runs.qrels


def _read(path: str, against: str | None) -> list[_Run]:
    paths = [path] if against is None else [path, against]
    names = [_name(each) for each in paths]
    if len(set(names)) < len(names):
        names = paths
    return [_Run(each, name, read_run(each)) for each, name in zip(paths, names, strict=True)]


def _name(path: str) -> str:
    """What to call a run: its file without usual endings."""
    return re.sub(r"(?i)(\.(trec|run|res|txt|tsv))?(\.gz)?$", "", Path(path).name) or path


def _check_queries(run: _Run, qrels: QrelsFile, qrels_path: str) -> None:
    try:
        check_queries(run.file.run, qrels.qrels)
    except DataError as error:
        raise DataError(error.what, where=f"{run.path}, {qrels_path}", fix=error.fix) from None


def _print_plan(
    runs: Sequence[_Run],
    qrels: QrelsFile,
    qrels_path: str,
    measures: Sequence[str],
    options: EvaluateOptions,
    of_runs: RunEvaluationOptions,
) -> None:
    grades = _grades(qrels)
    facts: dict[str, Any] = {}
    for option, run in zip(("run", "against"), runs, strict=False):
        shared = sum(query in qrels.qrels for query in run.file.run)
        facts[option] = (
            f"{run.path}: {len(run.file.run):,} queries ({shared:,} with judgments), "
            f"{counted(run.file.lines, 'document')}"
        )
    facts["qrels"] = (
        f"{qrels_path}: {len(qrels.qrels):,} queries, {counted(qrels.lines, 'judgment')}, "
        f"grades {grades[0]} to {grades[1]}"
    )
    facts |= _repeated(runs, qrels)
    facts["measures"] = measures
    facts["relevant"] = f"from grade {of_runs.min_relevance}"
    facts["output"] = [each for each in (options.json_out, of_runs.plot) if each] or "none"
    print_facts("Would judge (dry run, nothing written):", facts)


def _print(
    runs: Sequence[_Run],
    judged: Sequence[Judgement],
    compared: Mapping[str, RunComparison],
    qrels: QrelsFile,
    qrels_path: str,
) -> None:
    names = [run.name for run in runs]
    rows = []
    for name, measured in judged[0].measures.items():
        rows.append({"measure": name, **_shown("value", measured, "95% interval")})
        for other in judged[1:]:
            rows[-1] |= _shown("against", other.measures[name], "its 95% interval")
    print_table(f"{' against '.join(names)}, judged by {qrels_path}", rows)
    if compared:
        print()
        print_table(
            " less ".join(names),
            [
                {
                    "measure": name,
                    "difference": f"{found.difference:+.4f}",
                    "95% interval": _interval(found.interval, "+"),
                    "p": f"{found.p_value:.4f}",
                    "wins": found.wins,
                    "ties": found.ties,
                    "losses": found.losses,
                }
                for name, found in compared.items()
            ],
        )

    def each(values: Sequence[str]) -> str:
        """The run's value, and beside it that of the other one."""
        return "; ".join([values[0], *(f"{runs[1].name}: {value}" for value in values[1:])])

    first = judged[0]
    relevance = [name for name in first.measures if by_relevance(name)]
    others = [name for name in first.measures if name not in relevance]
    zero = f" (0 in {', '.join(relevance)})" if relevance and first.without_relevant else ""
    facts: dict[str, Any] = {
        "queries judged": f"{first.queries:,}; every value is a mean over all of them",
        "missing from the run": f"{each([f'{one.missing:,}' for one in judged])} (count as 0)",
        "no relevant document": f"{first.without_relevant:,}{zero}",
        "queries not judged": f"{each([f'{one.not_judged:,}' for one in judged])} (left out)",
        "depth": f"{each([counted(one.depth, 'document') for one in judged])}",
        "judged@10": each([f"{one.judged_at_10:.3f}" for one in judged]),
        "relevant": f"from grade {first.min_relevance}"
        + (f"; that doesn't affect {', '.join(others)}" if others else ""),
        **_repeated(runs, qrels),
        "interval": INTERVAL,
    }
    if compared:
        several = f"; not corrected for {len(compared)} measures" if len(compared) > 1 else ""
        facts["p"] = f"{TEST}{several}"
    print_facts("", facts)


def _print_remarks(
    runs: Sequence[_Run], judged: Sequence[Judgement], qrels: QrelsFile, *, hint: bool
) -> None:
    """What a reader of the values should know."""
    measures = list(judged[0].measures)
    for run, one in zip(runs, judged, strict=True):
        deeper = [name for name in measures if (cut_off(name) or 0) > one.depth]
        if deeper:
            note(
                f"{run.name} has at most {counted(one.depth, 'document')} for a query: "
                f"{', '.join(deeper)} can't look deeper"
            )
        if not one.judged_at_10:
            note(
                f"none of {run.name}'s first ten documents are judged for any query: "
                "are its document ids those of the judgments?"
            )
    whole = [name for name in measures if cut_off(name) is None]
    if whole and len({one.depth for one in judged}) > 1:
        note(f"the runs differ in depth, which favours the deeper one in {', '.join(whole)}")
    affected = [name for name in measures if by_relevance(name)]
    top = _grades(qrels)[1]
    if hint and top > 1 and affected:
        note(
            f"grades go up to {top}; a document counts in {', '.join(affected)} from grade 1, "
            "in TREC DL from 2 (--min_relevance 2)"
        )


def _print_queries(judgement: Judgement, compared: Mapping[str, RunComparison]) -> None:
    queries = next(iter(judgement.measures.values())).per_query
    rows = []
    for query in queries:
        row = {"query": query}
        for name, measured in judgement.measures.items():
            row[name] = f"{measured.per_query[query]:.4f}"
            if name in compared:
                row[f"{name} gain"] = f"{compared[name].per_query[query]:+.4f}"
        rows.append(row)
    print()
    print_table("Each query", rows)


def _to_dict(
    runs: Sequence[_Run],
    judged: Sequence[Judgement],
    compared: Mapping[str, RunComparison],
    qrels: QrelsFile,
    qrels_path: str,
) -> dict[str, Any]:
    """Everything, as plain data for JSON."""
    described = [
        {"file": run.path, "lines": run.file.lines, "repeated_lines": run.file.repeated, **asdict(one)}
        for run, one in zip(runs, judged, strict=True)
    ]
    found: dict[str, Any] = {
        "run": described[0],
        "qrels": {"file": qrels_path, "lines": qrels.lines, "repeated_lines": qrels.repeated},
        "interval": INTERVAL,
    }
    if compared:
        found["against"] = described[1]
        found["test"] = f"{TEST}, at most {RESAMPLES:,} sign patterns"
        found["comparison"] = {name: asdict(each) for name, each in compared.items()}
    return found


def _shown(name: str, measured: Measured, interval_name: str) -> dict[str, str]:
    return {name: f"{measured.mean:.4f}", interval_name: _interval(measured.interval, "")}


def _interval(interval: tuple[float, float] | None, sign: str) -> str:
    return "-" if interval is None else f"{interval[0]:{sign}.4f} to {interval[1]:{sign}.4f}"


def _grades(qrels: QrelsFile) -> tuple[int, int]:
    """The lowest and the highest grade."""
    grades = {grade for of_query in qrels.qrels.values() for grade in of_query.values()}
    return min(grades), max(grades)


def _repeated(runs: Sequence[_Run], qrels: QrelsFile) -> dict[str, str]:
    """Lines that said something again, if there are any."""
    counts = {run.name: run.file.repeated for run in runs} | {"qrels": qrels.repeated}
    told = [f"{count:,} in {name}" for name, count in counts.items() if count]
    return {"repeated lines": f"{', '.join(told)} (passed over)"} if told else {}
