"""The figure of gains: bars in order, with signs, names and labels."""

from __future__ import annotations

import re
import sys
from xml.etree import ElementTree

import pytest

from gemma_encoder.ranking import RunComparison, gain_figure


def comparison(gains: dict[str, float]) -> RunComparison:
    return RunComparison(
        measure="nDCG@10",
        difference=sum(gains.values()) / len(gains),
        interval=(-0.1, 0.3),
        p_value=0.0312,
        wins=sum(gain > 0 for gain in gains.values()),
        ties=sum(gain == 0 for gain in gains.values()),
        losses=sum(gain < 0 for gain in gains.values()),
        per_query=gains,
    )


def drawn(svg: str) -> tuple[list[str], list[float], list[bool]]:
    """The texts, the signed heights of the bars and which are hatched, from left to right."""
    root = ElementTree.fromstring(svg)
    texts = ["".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")]
    bars = []
    for path in root.iter("{http://www.w3.org/2000/svg}path"):
        corners = [float(number) for number in re.findall(r"-?\d+\.?\d*", path.get("d", ""))]
        style = path.get("style", "")
        if len(corners) == 8 and ("url(#" in style or "#999999" in style):
            bars.append((corners[0], corners[1] - corners[5], "url(#" in style))
    bars.sort()
    return texts, [height for _, height, _ in bars], [hatched for _, _, hatched in bars]


def test_bars_are_sorted_and_labelled():
    pytest.importorskip("matplotlib")
    svg = gain_figure(comparison({"q1": 0.2, "q<2>": -0.4, "$q$3": 0.6, "q4": 0.0}), "mine", "BM25")
    texts, heights, hatched = drawn(svg)
    assert [text for text in texts if "q" in text and len(text) < 6] == ["$q$3", "q1", "q4", "q<2>", "query"]
    assert heights == pytest.approx([heights[0], heights[0] / 3, 0, -heights[0] * 2 / 3], abs=1e-3)
    assert heights[0] > 10
    assert hatched == [False, False, False, True]
    assert "nDCG@10: mine less BM25" in texts
    assert any(text.startswith("2 wins, 1 ties, 1 losses") and "p = 0.0312" in text for text in texts)


@pytest.mark.parametrize(("count", "labelled"), [(60, True), (61, False)])
def test_ids_are_written_while_they_can_be_read(count, labelled):
    pytest.importorskip("matplotlib")
    texts, heights, _ = drawn(
        gain_figure(comparison({f"id-{number}": number / 100 for number in range(count)}))
    )
    assert len(heights) == count
    assert ("id-7" in texts) == labelled
    assert ("61 queries by gain" in texts) != labelled


def test_the_same_comparison_gives_the_same_file():
    pytest.importorskip("matplotlib")
    compared = comparison({"a": 0.5, "b": -0.5})
    assert gain_figure(compared) == gain_figure(compared)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert gain_figure(comparison({"a": 0.5})) is None
