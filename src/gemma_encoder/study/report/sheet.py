"""What figures are drawn on: matplotlib with our settings, sizes in CSS pixels."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ...extras import library
from .svg import FONT, light, themed

SIZE, SMALL = 11.0, 10.0


@dataclass(frozen=True)
class Figure:
    """A figure for a page.

    Attributes:
        name: Unique in a report; that of its file.
        label: What it shows, in words.
        svg: As `svg.themed` makes it.
    """

    name: str
    label: str
    svg: str


@dataclass(frozen=True)
class Style:
    """Of a line: the name of its colour, and matplotlib's dashes."""

    colour: str
    dashes: Any


@dataclass(frozen=True)
class Sheet:
    """A figure with one pair of axes at a known place, so that texts can be placed by pixel.

    Attributes:
        drawing: matplotlib's figure.
        axes: Its axes.
        width: Of the whole, as all else in pixels.
        height: Of the whole.
        left: Margin.
        top: Margin.
        tips: Words that artists show when they are pointed at.
    """

    drawing: Any
    axes: Any
    width: float
    height: float
    left: float
    top: float
    tips: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, **options: Any) -> None:
        """A text at a place counted from the top left corner."""
        options = {"color": light("ink"), "fontsize": SIZE, "va": "center"} | options
        self.drawing.text(x / self.width, 1 - y / self.height, words, **options)

    def sample(self, x: float, y: float, style: Style, *, long: float) -> None:
        """A piece of a line, from this place on."""
        line = library("matplotlib.lines", extra="study").Line2D(
            [x / self.width, (x + long) / self.width],
            [1 - y / self.height] * 2,
            color=light(style.colour),
            linewidth=1.8,
            linestyle=style.dashes,
            transform=self.drawing.transFigure,
        )
        self.drawing.add_artist(line)

    def tip(self, words: str) -> str:
        """The gid of an artist that shows these words when it is pointed at."""
        self.tips.append(words)
        return f"tip-{len(self.tips) - 1}"

    def figure(self, name: str, label: str) -> Figure:
        """What was drawn, the same for the same."""
        with io.StringIO() as text:
            self.drawing.savefig(text, format="svg", metadata={"Date": None})
            drawn = text.getvalue()
        return Figure(name, label, themed(drawn, name=name, label=label, tips=self.tips))


@contextmanager
def settings() -> Iterator[None]:
    """matplotlib's defaults, whatever the user's own are, and ours on top."""
    ours = {
        "svg.fonttype": "none",
        "svg.hashsalt": "gemma-encoder",
        "text.parse_math": False,
        "font.family": "sans-serif",
        "font.sans-serif": [FONT.split("'")[1]],
        "font.size": SIZE,
        "figure.dpi": 72,
        "figure.facecolor": "none",
        "savefig.facecolor": "none",
        "axes.facecolor": "none",
        "axes.edgecolor": light("line"),
        "axes.labelcolor": light("muted"),
        "axes.labelsize": SMALL,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.axisbelow": True,
        "axes.unicode_minus": True,
        "grid.color": light("line"),
        "grid.linewidth": 0.8,
        "xtick.color": light("line"),
        "ytick.color": light("line"),
        "xtick.labelcolor": light("muted"),
        "ytick.labelcolor": light("muted"),
        "xtick.labelsize": SMALL,
        "ytick.labelsize": SMALL,
        "xtick.major.size": 3,
        "ytick.major.size": 0,
        "lines.solid_capstyle": "round",
    }
    style = library("matplotlib.style", extra="study")
    with warnings.catch_warnings(), style.context(["default", ours]):
        # Texts are measured here and drawn by the reader's browser, which has fonts for other scripts.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def sheet_of(width: float, height: float, *, left: float, right: float, top: float, bottom: float) -> Sheet:
    """Axes with margins in pixels."""
    drawing = library("matplotlib.figure", extra="study").Figure(figsize=(width / 72, height / 72))
    axes = drawing.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    )
    return Sheet(drawing, axes, width, height, left, top)


def short(words: str, letters: int = 46) -> str:
    """Cut, if need be."""
    return words if len(words) <= letters else words[: letters - 1] + "…"


def text_width(words: str, size: float = SIZE) -> float:
    """In pixels, in matplotlib's own font."""
    if not words:
        return 0.0
    make = library("matplotlib.textpath", extra="study").TextPath
    return float(make((0, 0), words, size=size).get_extents().width)
