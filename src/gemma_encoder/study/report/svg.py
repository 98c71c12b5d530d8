"""Figures that follow a page's colours: what matplotlib draws, made small and themable."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

# Name: in light and in dark surroundings. Any two of ink and c1 to c5 are at least 24 apart in Lab as people
# with normal sight, protanopia, deuteranopia and tritanopia see them, and at least 3.4 : 1 from the paper.
COLOURS: dict[str, tuple[str, str]] = {
    "paper": ("#fdfdfc", "#15181c"),
    "ink": ("#1d2025", "#e7e9ec"),
    "muted": ("#5a616b", "#a2aab5"),
    "line": ("#d8dbe0", "#363c45"),
    "accent": ("#0b57d0", "#82b4ff"),
    "warning": ("#b45309", "#f0a850"),
    "c1": ("#1353e6", "#6363ff"),
    "c2": ("#a08600", "#ecaa19"),
    "c3": ("#089d6a", "#028a53"),
    "c4": ("#b41fae", "#a85bc4"),
    "c5": ("#7c420c", "#c06215"),
}
FONT = "'DejaVu Sans', sans-serif"
"""matplotlib's own, which it measures texts with; readers see theirs, which is narrower."""
READERS_FONT = "system-ui, sans-serif"
EDGE = 10  # of paper around a figure that stands alone

_NAME_OF = {light: name for name, (light, _) in COLOURS.items()}
_TAG = re.compile(r"<[^>]*>")


def light(name: str) -> str:
    """A colour's name to what matplotlib is given."""
    return COLOURS[name][0]


def colour_rules(*, printed_light: bool = True) -> str:
    """CSS that defines the colours, e.g. `--ink`, for light and dark surroundings."""
    plain, dark = (
        ";".join(f"--{name}:{shades[number]}" for name, shades in COLOURS.items()) for number in (0, 1)
    )
    media = "screen and (prefers-color-scheme: dark)" if printed_light else "(prefers-color-scheme: dark)"
    return f":root{{{plain}}}\n@media {media}{{:root{{{dark}}}}}\n"


def themed(drawn: str, *, name: str, label: str, tips: Sequence[str] = ()) -> str:
    """An SVG to stand in an HTML page.

    Its ids begin with its name, so that figures don't draw each other's parts; its colours are the page's; it
    names no address.

    Args:
        drawn: As matplotlib writes it, with the light colours.
        name: Unique in the page.
        label: What it shows, for readers who can't see it.
        tips: Shown where the pointer rests on the artists with the gids `tip-0`, `tip-1` and so on.
    """
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn)
    body = drawn[drawn.index(">", drawn.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|<g[^>]*/>", "", body, flags=re.S)
    body = re.sub(r"<defs>\s*</defs>|>\s+(?=<)", lambda match: ">" if match[0][0] == ">" else "", body)
    for number, tip in enumerate(tips):
        begin = f'<g id="tip-{number}">'
        body = body.replace(begin, f"{begin}<title>{html.escape(tip)}</title>")
    used = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', body))
    body = _TAG.sub(lambda tag: _tidy(tag[0], name, used), body)
    width, height = found.groups() if found else ("100", "100")
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{html.escape(label)}">{body}'.strip()
    )


def _tidy(tag: str, name: str, used: set[str]) -> str:
    """A tag with short numbers, colours by name, and ids only where they are used."""
    tag = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", tag)
    tag = re.sub(r'xlink:href="#', f'href="#{name}-', tag)
    tag = tag.replace("url(#", f"url(#{name}-").replace(FONT, READERS_FONT)
    tag = re.sub(r"\d+\.\d{2,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), tag)
    tag = re.sub(r' transform="rotate\(-?0 [^"]*"', "", tag).replace("\n", "")
    return re.sub(r"#[0-9a-f]{6}", lambda shade: _by_name(shade[0]), tag)


def _by_name(shade: str) -> str:
    return f"var(--{_NAME_OF[shade]})" if shade in _NAME_OF else shade


def alone(figure: str) -> str:
    """A themed figure as a file of its own: on its own paper, since who shows it may be light or dark.

    Programs that don't know CSS variables see the light colours.
    """
    both = re.sub(
        r"(fill|stroke): var\(--(\w+)\)",
        lambda found: f"{found[1]}: {light(found[2])}; {found[0]}",
        figure,
    )
    head, body = both.split(">", 1)
    width, height = (float(size) + 2 * EDGE for size in re.findall(r' (?:width|height)="([\d.]+)"', head))
    label = head[head.index(" role=") :]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-{EDGE} -{EDGE} {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}"{label}><style>{colour_rules(printed_light=False)}</style>'
        f'<rect x="-{EDGE}" y="-{EDGE}" width="100%" height="100%" '
        f'style="fill: {light("paper")}; fill: var(--paper)"/>{body}\n'
    )
