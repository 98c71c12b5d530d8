"""`gemma-encoder report`: a benchmark's tables and figure, made again from its records."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError
from .common import note, print_facts, print_table, quiet_libraries
from .options import ReportOptions


def run(options: ReportOptions) -> None:
    """Collect, write, print."""
    quiet_libraries()
    folder = Path(options.folder)
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder}", fix="name the folder of a benchmark")
    write_and_print(folder, wnli=options.wnli)


def write_and_print(folder: Path, *, wnli: bool) -> None:
    """Write `results.*` of a benchmark into its folder and print the table."""
    from ..benchmark.report import ARM_TITLES, MARK, MARK_MEANS, describe, marked, table, write_report
    from ..benchmark.results import collect

    results = collect(folder, wnli=wnli)
    written = write_report(results, folder)
    print("\n".join(describe(results)))
    shown = ("task", "model", "score", "difference", "p", "seeds", "train rows", "minutes")
    print_table("", [{name: row[name] for name in shown} for row in table(results)])
    if notes := marked(results):
        print_facts(f"{MARK} {MARK_MEANS}", notes)
    for result in results.tasks:
        if result.not_compared:
            note(f"{result.task}, {ARM_TITLES[result.arm]}: no difference, {result.not_compared}")
    note(f"written to {', '.join(map(str, written))}")
    if not any(path.suffix == ".svg" for path in written) and results.tasks:
        note('no figure: pip install "gemma-encoder[figures]"')
