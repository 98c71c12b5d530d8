"""A study's report: one HTML page that needs no network, and the same as Markdown with figures beside it."""

from __future__ import annotations

import html
import re
from functools import partial
from importlib.resources import files
from pathlib import Path

from ...whole_files import whole_file
from ..findings import Analysis
from .blocks import Block, Cell, Content, Facts, Figures, Table
from .content import content
from .sheet import Figure
from .svg import alone, colour_rules


def write_report(analysis: Analysis, folder: Path) -> list[Path]:
    """Write `report.html`, `report.md` and the figures of the latter, `figures/*.svg`.

    The same analysis gives the same bytes.

    Args:
        analysis: What is reported.
        folder: Where to; made if need be.

    Returns:
        What was written.

    Raises:
        ConfigError: matplotlib is not installed.
        OSError: They can't be written.
    """
    report = content(analysis)
    written = {"report.html": page(report), "report.md": markdown(report)}
    written |= {f"figures/{figure.name}.svg": alone(figure.svg) for figure in report.figures}
    for name, text in written.items():
        with whole_file(folder / name) as file:
            file.write(text.encode())
    return [folder / name for name in written]


def page(report: Content) -> str:
    """The report as one HTML page: styles, script and figures are in it."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(_asset("report.html.jinja")).render(
        report=report,
        safe=Markup,
        style=Markup(colour_rules() + _asset("report.css")),
        script=Markup(_asset("report.js")),
    )


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def markdown(report: Content) -> str:
    """The report as Markdown for GitHub; it links `figures/NAME.svg`."""
    parts = [f"# {_plain(report.title)}", *map(_plain, report.answer)]
    if report.notes:
        parts.append("> [!IMPORTANT]\n" + "\n".join(f"> * {_plain(note)}" for note in report.notes))
    for section in report.sections:
        parts.append(f"## {_plain(section.title)}")
        parts += [_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return f"{_table(block)}\n\n{_plain(block.caption)}"
    if isinstance(block, Figures):
        images = "\n".join(map(_image, block.figures))
        return "\n\n".join(filter(None, [images, _plain(block.caption)]))
    if isinstance(block, Facts):
        rows = [[_plain(name), _plain(value)] for name, value in block.facts.items()]
        table = _rows([["", ""], ["---", "---"], *rows])
        if not block.summary:
            return table
        return f"<details>\n<summary>{html.escape(block.summary)}</summary>\n\n{table}\n\n</details>"
    lines = "\n".join(block.lines)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", lines)), default=0))
    return f"{fence}sh\n{lines}\n{fence}"


def _table(table: Table) -> str:
    grouped = [table.group_head] if table.group_head else []
    heads = grouped + [column.head for column in table.columns]
    lines = ["---"] * len(grouped) + ["---:" if column.numbers else "---" for column in table.columns]
    rows = [
        [_plain(group.title)] * len(grouped) + [_marked(cell) for cell in row]
        for group in table.groups
        for row in group.rows
    ]
    return _rows([[_plain(head) for head in heads], lines, *rows])


def _rows(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _marked(cell: Cell) -> str:
    return f"**{_plain(cell.text)}**" if cell.strong else _plain(cell.text)


# An underscore within a word means nothing, nor do brackets without an address.
_special = partial(re.compile(r"[\\`*~$|]|(?<!\w)_|_(?!\w)|(?<=\])\(").sub, lambda found: "\\" + found[0])


def _plain(text: str) -> str:
    """A text in which nothing is markup, on one line."""
    return html.escape(_special(" ".join(text.split())), quote=False)


def _image(figure: Figure) -> str:
    label = re.sub(r"[\[\]]", lambda found: "\\" + found[0], _plain(figure.label))
    return f"![{label}](figures/{figure.name}.svg)"
