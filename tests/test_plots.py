"""Plots: every datum is where its axis says, and what would be markup is escaped."""

import itertools
import re
import sys
from xml.etree import ElementTree

import pytest

from hwq import plots
from hwq.errors import MissingToolError
from hwq.plots import Plot, Series, svg, ticks


def shapes(drawn, tag):
    return [entry for entry in ElementTree.fromstring(drawn).iter() if entry.tag.endswith(f"}}{tag}")]


def axis(drawn, which):
    """Tick labels and where they are."""
    texts = [(entry.get(which), entry.get("text-anchor"), entry.text) for entry in shapes(drawn, "text")]
    return [(float(at), text) for at, anchor, text in texts if anchor == {"x": "middle", "y": "end"}[which] and at]


@pytest.mark.parametrize("log_y", [False, True])
def test_dots_lie_between_the_ticks_they_belong_between(log_y):
    drawn = svg(Plot("t", "x", "y", [Series("s", [0, 5, 10], [1, 10, 100], "dots")], log_y=log_y))
    dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in shapes(drawn, "circle")]
    x_at = dict((text, at) for at, text in axis(drawn, "x"))
    assert [x for x, _ in dots] == [x_at["0"], pytest.approx((x_at["4"] + x_at["6"]) / 2, abs=0.02), x_at["10"]]
    heights = [y for _, y in dots]
    middle = (heights[0] - heights[1]) / (heights[0] - heights[2])
    assert middle == pytest.approx(0.5 if log_y else 9 / 99, abs=1e-3)
    y_at = {text: at - 4 for at, text in axis(drawn, "y")}
    assert heights[2] == pytest.approx(y_at["1e+02" if log_y else "100"], abs=0.02)


def test_bars_are_as_high_as_their_values_and_side_by_side():
    series = [Series("a", [0, 1], [1.0, 2.0], "bars"), Series("b", [0, 1], [3.0, 4.0], "bars")]
    bars = shapes(svg(Plot("t", "x", "y", series, ["first", "second"])), "rect")[3:]
    heights = [float(bar.get("height")) for bar in bars]
    assert [height / heights[0] for height in heights] == pytest.approx([1, 2, 3, 4], abs=0.01)
    begins = sorted(float(bar.get("x")) for bar in bars)
    width = float(bars[0].get("width"))
    assert all(b - a >= width - 0.02 for a, b in itertools.pairwise(begins))


def test_bars_on_a_logarithmic_axis_differ_by_ratios():
    series = [Series("a", [0, 1, 2], [1.0, 10.0, 100.0], "bars")]
    bars = shapes(svg(Plot("t", "x", "y", series, ["a", "b", "c"], log_y=True)), "rect")[2:]
    heights = [float(bar.get("height")) for bar in bars]
    assert heights[0] > 0
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.02)
    assert {float(bar.get("y")) + float(bar.get("height")) for bar in bars} == {336.0}


def test_lines_join_their_points_in_order():
    (line,) = [
        entry for entry in shapes(svg(Plot("t", "x", "y", [Series("", [0, 1], [0, 1], dashed=True)])), "path")
        if entry.get("stroke-dasharray")
    ]  # fmt: skip
    numbers = list(map(float, re.findall(r"[\d.]+", line.get("d"))))
    assert numbers == [72, 336, 624, 56]


def test_names_are_escaped():
    drawn = svg(Plot("<b>&", "x", "y", [Series('"<i>', [0], [0])], ["<script>"]))
    assert "<script>" not in drawn
    assert shapes(drawn, "text")[0].text == "<b>&"


@pytest.mark.parametrize("values", [[], [1.0], [0.0, 0.0], [-3.0, -1.0], [1e-9, 1e9]])
def test_any_data_can_be_drawn(values):
    for log_y in (False, True):
        for mark in ("line", "bars"):
            assert svg(Plot("t", "x", "y", [Series("s", list(range(len(values))), values, mark)], log_y=log_y))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (0.1, 0.11), (5, 5e6)])
def test_ticks_are_round_and_few(low, high):
    found = ticks(low, high)
    assert 3 <= len(found) <= 8
    assert low <= found[0] < found[-1] <= high


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    plots._environment.cache_clear()
    with pytest.raises(MissingToolError, match=r"pip install 'hwq\[report\]'"):
        svg(Plot("t", "x", "y", []))
