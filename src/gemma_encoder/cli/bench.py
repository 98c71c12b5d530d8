"""`gemma-encoder bench`: how fast a trained encoder scores texts, other programs beside it, and the limit."""

from __future__ import annotations

import random
from dataclasses import asdict
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..json_files import write_json
from .common import (
    check_writable,
    note,
    pick_device,
    print_facts,
    print_table,
    quiet_libraries,
    refuse_existing,
)
from .options import BenchOptions

if TYPE_CHECKING:
    from ..scoring import Row
    from ..speed.measuring import Speed

OF_PAIRS, OF_TEXTS = "wnli", "sst2"
"""Bundled tasks whose texts are taken without --input."""


def run(options: BenchOptions) -> None:
    """Measure, print, write."""
    for path, option in ((options.json_out, "--json_out"), (options.plot, "--plot")):
        if path:
            check_writable(path, option)
            refuse_existing(path, options.overwrite, option)
    quiet_libraries()
    from ..speed.contenders import USUAL, Settings
    from ..speed.measuring import measure
    from ..speed.report import facts, table, write_figure

    device = str(pick_device(options.device))
    settings = Settings(
        device=device,
        max_tokens=options.max_tokens,
        batch_size=options.batch_size,
        compile_layers=options.compile_layers,
    )
    rows, source = _rows(options)

    def show(speed: Speed) -> None:
        said = {"model": options.model, "texts": source, **facts(speed, settings)}
        print_facts("Speed of scoring, tokenisation included", said)
        print_table("Medians of the rounds", table(speed.table()))
        if options.json_out:
            write_json(options.json_out, {**said, "table": speed.table(), "measured": asdict(speed)})
        if options.plot and not write_figure(speed, options.plot):
            note('no figure: pip install "gemma-encoder[figures]"')

    kept: list[Speed] = []
    try:
        measure(
            options.model,
            rows,
            dtypes=options.dtypes,
            names=options.contenders or USUAL,
            rounds=options.rounds,
            settings=settings,
            alone=options.alone,
            tell=note,
            keep=kept.append,
        )
    finally:  # whatever ended it, precisions that have been measured are not lost
        if kept:
            show(kept[-1])


def _rows(options: BenchOptions) -> tuple[list[Row], str]:
    """Texts or pairs as the model takes them, and where they are from."""
    from ..checkpoint import saved_config
    from ..tasks import load_task
    from ..tasks.tables import iter_rows

    if options.rows < 1:
        raise ConfigError(f"rows is {options.rows}", fix="give a number of rows of at least 1")
    pairs = saved_config(options.model).text.is_pair
    found: list[Row]
    if options.input:
        columns = (options.text_column, options.text_pair_column if pairs else None)
        read = iter_rows(options.input, *columns)
        found = [row.text if row.text_pair is None else (row.text, row.text_pair) for row in read]
        source = options.input
    else:
        task = OF_PAIRS if pairs else OF_TEXTS
        split = load_task(task, source="bundled").validation
        found = list(zip(split["text"], split["text_pair"], strict=True)) if pairs else list(split["text"])
        source = f"bundled {task}; give your own with --input"
    return random.Random(options.seed).sample(found, min(options.rows, len(found))), source
