"""What a report is made of, for whatever it is written as: HTML and Markdown show the same blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from .sheet import Figure

MOST_LETTERS = 26  # of a line in a table


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What stands in it.
        order: What its column is sorted by, if not by the text.
        strong: Whether it matters more than others.
    """

    text: str
    order: float | None = None
    strong: bool = False


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        head: Its head.
        numbers: Whether it has numbers, or words.
    """

    head: str
    numbers: bool = True


@dataclass(frozen=True)
class Group:
    """Rows under a common head; the first cell of each is the row's own head."""

    title: str
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: What it has, and what its numbers mean.
        columns: Its columns.
        groups: Its rows.
        group_head: What the groups' titles are; empty if there is one group without a title.
        sortable: Whether a reader may sort it.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: list[Column]
    groups: list[Group]
    group_head: str = ""
    sortable: bool = False

    def width(self, column: int) -> int:
        """How many letters a column of words needs, within reason."""
        cells = (row[column].text for group in self.groups for row in group.rows)
        return min(MOST_LETTERS, max(map(len, cells), default=0))


@dataclass(frozen=True)
class Figures:
    """Figures with a common caption: panels beside one another, or one with the caption beside it."""

    kind: ClassVar[str] = "figures"
    caption: str
    figures: list[Figure]
    panels: bool = True


@dataclass(frozen=True)
class Facts:
    """Names with what they are, folded under a summary if there is one."""

    kind: ClassVar[str] = "facts"
    facts: Mapping[str, str]
    summary: str = ""


@dataclass(frozen=True)
class Commands:
    """Lines for a shell."""

    kind: ClassVar[str] = "commands"
    lines: list[str]


Block = Table | Figures | Facts | Commands


@dataclass(frozen=True)
class Section:
    """A section: its head, a name unique in the report, and what stands in it."""

    title: str
    name: str
    blocks: list[Block]


@dataclass(frozen=True)
class Content:
    """A whole report.

    Attributes:
        title: The question.
        answer: What was found, a paragraph each.
        notes: What a reader must know first.
        sections: The rest.
    """

    title: str
    answer: list[str]
    notes: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)

    @property
    def figures(self) -> list[Figure]:
        """All of them, in order."""
        blocks = (block for section in self.sections for block in section.blocks)
        return [figure for block in blocks if isinstance(block, Figures) for figure in block.figures]
