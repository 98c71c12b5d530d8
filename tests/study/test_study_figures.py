"""Numbers in words, places of labels, and figures that follow a page's colours."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from gemma_encoder.study.findings import ArmResult, Interval
from gemma_encoder.study.report import wording
from gemma_encoder.study.report.figures import front
from gemma_encoder.study.report.labels import Box, place, spread
from gemma_encoder.study.report.svg import alone, themed


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (wording.difference(-0.0004), "0.0"),
        (wording.difference(0.012), "+1.2"),
        (wording.difference(-0.012), "−1.2"),
        (wording.p_value(0.00099), "< 0.001"),
        (wording.p_value(0.001), "0.001"),
        (wording.p_value(None), "–"),
        (wording.rate(2e-5), "2e-5"),
        (wording.rate(0.001), "0.001"),
        (wording.rate(1.5e-10), "1.5e-10"),
        (wording.memory(812), "812 MiB"),
        (wording.memory(5300), "5.2 GiB"),
        (wording.interval(Interval(0.01, -0.001, 0.021)), "+1.0 [−0.1, +2.1]"),
        (wording.trial_value("selection metric", 0.8768, {}), "87.7"),
        (wording.trial_value("f1", 0.8768, {"mrpc": "f1"}), "87.7"),
        (wording.trial_value("learning_rate", 5e-5, {}), "5e-5"),
        (wording.trial_value("seed", 1000, {}), "1000"),
        (wording.trial_value("pruned", True, {}), "yes"),
    ],
)
def test_numbers_in_words(shown, said):
    assert shown == said


def test_front_has_what_nothing_beats():
    def arm(name, minutes, mean):
        return ArmResult(name, name, "t", None, [mean], mean, None, minutes=minutes)

    arms = [
        arm("slow, best", 9, 0.9),
        arm("slow, bad", 8, 0.5),
        arm("quick", 1, 0.6),
        arm("as quick", 1, 0.4),
    ]
    assert [each.arm for each in front([*arms, arm("same", 5, 0.6)])] == ["quick", "slow, best"]
    assert [each.arm for each in front(arms, higher=False)] == ["as quick"]


def test_labels_are_spread_in_order():
    assert spread([5, 5, 50], gap=10, low=0, high=100) == [5, 15, 50]
    assert spread([99, 98, 97], gap=10, low=0, high=100) == [100, 90, 80]
    assert spread([1, 2, 3], gap=80, low=0, high=100) == [0, 50, 100]
    assert spread([], gap=1, low=0, high=1) == []


def test_a_label_goes_where_nothing_is():
    frame = Box(0, 0, 100, 100)
    first = place((50, 50), (30, 10), [], frame)
    assert (first.left, first.top) == (59, 45), "to the right, if it is free"
    second = place((50, 50), (30, 10), [first], frame)
    assert second.overlap(first) == 0
    line = Box(70, 0, 71, 100)
    assert place((50, 50), (30, 10), [line], frame).right == 41, "nothing is crossed if it needn't be"
    assert place((95, 50), (30, 10), [], frame).right <= 100


def test_a_figure_names_its_parts_after_itself():
    drawn = (
        '<?xml version="1.0"?>\n<svg width="9pt" height="9pt" viewBox="0 0 9 9" xmlns="http://x"><metadata>m'
        '</metadata><defs><style type="text/css">*{a: b}</style></defs><!-- c --><g id="tip-0"><path id="p" '
        'd="M 1.23456 2" style="fill: #1d2025"/></g><use xlink:href="#p" clip-path="url(#q)"/></svg>'
    )
    small = themed(drawn, name="f", label='a "b"', tips=["x < y"])
    assert small == (
        '<svg viewBox="0 0 9 9" width="9" height="9" role="img" aria-label="a &quot;b&quot;"><g>'
        '<title>x &lt; y</title><path id="f-p" d="M 1.23 2" style="fill: var(--ink)"/></g><use href="#f-p" '
        'clip-path="url(#f-q)"/></svg>'
    )
    assert ElementTree.fromstring(alone(small)).find(".//{http://www.w3.org/2000/svg}rect") is not None
