"""A study's report: whole, escaped, self-contained, the same twice, and the same in HTML and Markdown."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from analyses import minimal, rich

from gemma_encoder.errors import ConfigError
from gemma_encoder.study.findings import Analysis, ArmResult, AxisResult, Curve, Effect, Interval
from gemma_encoder.study.report.content import content
from gemma_encoder.study.report.svg import COLOURS
from gemma_encoder.study.report.writing import _plain, write_report

VOID = {"meta", "br", "hr", "img", "input", "link"}
ALONE = {"path", "use", "rect"}  # of SVG, closed by />


class Page(HTMLParser):
    """Tags balanced, ids unique, references to what is there; texts by tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.wanted: list[str] = []
        self.addresses: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert not self.open, "left open"

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        if tag not in VOID:
            self.open.append(tag)
        self.note(attrs)

    def handle_startendtag(self, tag, attrs):
        assert tag in ALONE
        self.tags[tag] += 1
        self.note(attrs)

    def note(self, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name == "aria-labelledby":
                self.wanted.append(value)
            if name in ("href", "src", "srcset", "action", "poster", "data") or name.startswith("xlink"):
                assert name == "href"
                self.addresses.append(value)
                self.wanted.append(value.removeprefix("#"))
            self.wanted += re.findall(r"url\(#([^)]+)\)", value or "")

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}>"

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("report")
    write_report(rich(), folder)
    return folder


def read(folder: Path) -> tuple[str, str]:
    return tuple((folder / f"report.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))


def cells(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line)) - 1


def tables(markdown: str) -> list[list[str]]:
    blocks = re.findall(r"(?:^\|.*\n)+", markdown, flags=re.M)
    return [block.splitlines() for block in blocks]


def test_page_is_valid_and_needs_nothing_else(written):
    text, _ = read(written)
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert set(page.wanted) <= set(page.ids)
    assert page.addresses and all(address.startswith("#") for address in page.addresses)
    assert "http" not in text and "@import" not in text and not page.tags["link"] + page.tags["img"]
    assert re.findall(r"url\((?!#)", text) == []
    assert text.startswith('<!doctype html>\n<html lang="en">') and 'name="viewport"' in text
    assert page.tags["h1"] == 1 and page.tags["svg"] == len(list((written / "figures").iterdir())) == 18


def test_page_has_every_section_in_order(written):
    text, markdown = read(written)
    titles = [title for title in Page(text).texts["h2"] if title.strip()]
    assert titles == [
        "Know before you read on",
        "Set-up",
        "Axis: attention",
        "Axis: pooling",
        "Main effects",
        "Interactions",
        "Importance of the axes",
        "Learning curves",
        "Cost beside quality",
        "Trials",
        "Held fixed",
        "Versions and hardware",
        "To repeat it",
    ]
    assert re.findall(r"^## (.*)", markdown, flags=re.M) == titles[1:]
    assert text.index("1 trial of 60 failed") < text.index('id="set-up"')


def test_both_formats_show_the_same_cells(written):
    text, markdown = read(written)
    rows = [line for lines in tables(markdown) for line in lines if "---" not in line]
    in_markdown = {
        cell.strip().strip("*").replace("\\", "").replace("&lt;", "<")
        for line in rows
        for cell in re.split(r"(?<!\\)\|", line)[1:-1]
    }
    texts = Page(text).texts
    in_page = {word for tag in ("td", "strong", "th", "dt", "dd", "span") for word in texts[tag]}
    assert in_markdown - {""} <= in_page
    assert {word for word in in_page if word.strip()} <= in_markdown


def test_markdown_tables_have_as_many_cells_as_heads(written):
    _, markdown = read(written)
    found = tables(markdown)
    assert len(found) == 9
    for lines in found:
        assert {cells(line) for line in lines} == {cells(lines[0])}
        assert re.fullmatch(r"\|( (---:?) \|)+", lines[1])


def test_markdown_links_the_figures_that_are_there(written):
    _, markdown = read(written)
    linked = re.findall(r"!\[[^\n]*?\]\((figures/[^)]+)\)", markdown)
    there = {f"figures/{path.name}" for path in (written / "figures").iterdir()}
    assert len(linked) == len(set(linked)) and set(linked) == there
    for name in linked:
        root = ElementTree.parse(written / name).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("aria-label")
        assert root.find(".//{http://www.w3.org/2000/svg}text").text, "text stays text"


def test_figures_have_no_colours_but_the_page_s(written):
    text, _ = read(written)
    figures = re.findall(r"<svg.*?</svg>", text, flags=re.S)
    assert not re.findall(r"#[0-9a-fA-F]{6}\b", "".join(figures))
    used = set(re.findall(r"var\(--(\w+)\)", "".join(figures)))
    assert {"ink", "muted", "line", "accent", "c1"} <= used <= COLOURS.keys()
    for _, dark in COLOURS.values():
        assert text.count(dark) == 1, "its dark shade is defined once"
    alone = (written / "figures/forest-1.svg").read_text(encoding="utf-8")
    assert f"stroke: {COLOURS['accent'][0]}; stroke: var(--accent)" in alone


def test_numbers_are_those_of_the_analysis(written):
    text, _ = read(written)
    rows = {row.level: row for row in rich().axes[0].rows if row.task == "sst2"}
    row = rows["causal"]
    line = next(line for line in text.splitlines() if ">causal</th>" in line)
    shown = re.sub(r"<[^>]+>", "|", line)
    assert f"|{100 * row.mean:.1f} ± {100 * row.half_width:.1f}|" in shown
    ends = (row.difference.estimate, row.difference.low, row.difference.high)
    estimate, low, high = (f"{100 * end:+.1f}".replace("-", "−") for end in ends)
    assert f"|{estimate} [{low}, {high}]|" in shown


def test_same_analysis_same_bytes(tmp_path):
    """Whatever the user's own settings of matplotlib are."""
    matplotlib = pytest.importorskip("matplotlib")
    whole = rich()
    analysis = replace(whole, axes=whole.axes[:1], curves=whole.curves[:6], main_effects=[], interactions=[])
    paths = write_report(analysis, tmp_path / "first")
    with matplotlib.rc_context({"axes.grid": True, "font.size": 20, "svg.fonttype": "path"}):
        again = write_report(analysis, tmp_path / "second")
    assert len(paths) == len(again) == 12
    for first, second in zip(paths, again, strict=True):
        assert first.relative_to(tmp_path / "first") == second.relative_to(tmp_path / "second")
        assert first.read_bytes() == second.read_bytes()


def test_captions_say_which_way_is_better():
    pytest.importorskip("matplotlib")
    whole = rich()

    def caption(*lower: str) -> str:
        sections = content(replace(whole, lower_is_better=frozenset(lower))).sections
        (found,) = [each.blocks[0].caption for each in sections if each.title == "Axis: attention"]
        return found

    assert "to the right of the line is better. " in caption()
    assert "to the left of the line is better. " in caption(*whole.metrics, "mean of tasks")
    assert "to the right of the line is better, on rte to the left. " in caption("rte")


EVIL = "<script>alert(1)</script> \"&' |$x$ `*_] ]]> -->"


def test_names_are_escaped(tmp_path):
    pytest.importorskip("matplotlib")
    row = ArmResult("baseline", EVIL, EVIL, None, [0.5], 0.5, None, minutes=1)
    other = replace(
        row, arm=EVIL, level="x" + EVIL, difference=Interval(0.1, 0, 0.2), verdict=EVIL, minutes=2, mean=0.6
    )
    analysis = Analysis(
        question=EVIL,
        answer=[EVIL],
        metrics={EVIL: EVIL},
        set_up={EVIL: EVIL},
        held_fixed={EVIL: [EVIL]},
        axes=[AxisResult(EVIL, EVIL, [row, other])],
        main_effects=[Effect(EVIL, EVIL, Interval(0, -1, 1), 0.5, EVIL)],
        importance={EVIL: {EVIL: 1.0}},
        curves=[Curve(EVIL, EVIL, 0, [(1, 1.0), (2, 0.5)], []), Curve(EVIL, "b", 0, [(1, 1.0)], [])],
        trials=[{EVIL: EVIL, "state": f"failed: {EVIL}"}],
        notes=[EVIL],
        commands=[EVIL],
        environment={EVIL: EVIL},
    )
    write_report(analysis, tmp_path)
    text, markdown = read(tmp_path)
    page = Page(text)
    assert page.tags["script"] == 1 and "<script>alert" not in text
    assert len(page.ids) == len(set(page.ids))
    outside = re.sub(r"```+sh\n.*?\n```", "", markdown, flags=re.S)
    assert "<script" not in outside
    for lines in tables(markdown):
        assert {cells(line) for line in lines} == {cells(lines[0])}
    for path in (tmp_path / "figures").iterdir():
        ElementTree.parse(path)


def test_markdown_is_plain():
    assert _plain("a|b *c* _d_ last_k\n<e> [f](g)") == r"a\|b \*c\* \_d\_ last_k &lt;e&gt; [f]\(g)"


@pytest.mark.parametrize(
    ("difference", "figures"),
    [
        (None, []),
        (Interval(-0.02, -0.03, -0.01), ["forest-1"]),
        (Interval(-0.02, math.nan, math.nan), ["forest-1"]),
    ],
    ids=["none", "interval", "estimate only"],
)
def test_one_task_and_one_seed(tmp_path, difference, figures):
    if figures:
        pytest.importorskip("matplotlib")
    paths = write_report(minimal(difference), tmp_path)
    assert [path.stem for path in paths[2:]] == figures
    text, markdown = read(tmp_path)
    page = Page(text)
    assert page.texts["h1"] == ["What difference does pooling make?"]
    assert "±" not in text and "nan" not in markdown and "Know before" not in text
    heads = [
        "task",
        "level",
        "points",
        *(["difference [95 %]"] if difference else []),
        "seeds",
        "learning rate",
    ]
    (table,) = tables(markdown)
    assert table[0] == f"| {' | '.join(heads)} |", "columns without a number are left out"


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    with pytest.raises(ConfigError, match=r'pip install "gemma-encoder\[study\]"'):
        write_report(rich(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_importing_it_takes_no_torch_and_no_matplotlib():
    code = (
        "import sys, gemma_encoder.study.report as r; "
        "print([name for name in ('torch', 'matplotlib', 'jinja2', 'numpy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
