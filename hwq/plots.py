"""Plots as SVG: lines, dots and bars over one pair of axes; equal data give equal bytes."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwq.errors import MissingToolError

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Distinct to colour-blind eyes as well (Okabe and Ito, 2008)."""

_WIDTH, _LEFT, _TOP, _HEIGHT = 640, 72, 56, 280
_SLANTED = 110
"""Room for category labels [pixel]."""


@dataclass(frozen=True)
class Series:
    """Some data, and how to draw it.

    Members
    -------
    name : str
        In the legend, unless it is empty.
    x, y : sequences of float
        Equally many. With categories, `x` counts them from 0.
    mark : str
        ``line``, ``dots``, ``both`` or ``bars``.
    dashed : bool
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    mark: str = "line"
    dashed: bool = False


@dataclass(frozen=True)
class Plot:
    """What `svg` draws.

    Members
    -------
    title, x_label, y_label : str
    series : sequence of Series
    categories : sequence of str
        Names along x; empty: numbers.
    y_range : (float, float) or None
        What y covers at least; None: the data, and 0 where there are bars.
    log_y : bool
        Values of 0 and less are drawn at the least positive one.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    categories: Sequence[str] = field(default=())
    y_range: tuple[float, float] | None = None
    log_y: bool = False


def svg(plot: Plot) -> str:
    """Return `plot` as an SVG document, which is also valid within HTML.

    Raises
    ------
    MissingToolError
        Jinja2 isn't installed.
    """
    right, bottom = _WIDTH - 16, _TOP + _HEIGHT
    bars = [series for series in plot.series if series.mark == "bars"]
    y_values = [value for series in plot.series for value in series.y] + list(plot.y_range or ()) + [0.0] * bool(bars)
    least = min((value for value in y_values if value > 0), default=1.0)

    def height(value: float) -> float:
        return math.log10(max(value, least)) if plot.log_y else value

    y_low, y_high = _span([height(value) for value in y_values])
    if plot.log_y and bars:
        y_low -= (y_high - y_low) / 10  # the least bar is seen as well
    if plot.categories:
        x_low, x_high = -0.5, len(plot.categories) - 0.5
        x_ticks = [(float(index), name) for index, name in enumerate(plot.categories)]
    else:
        x_low, x_high = _span([value for series in plot.series for value in series.x])
        x_ticks = [(tick, _number(tick)) for tick in ticks(x_low, x_high)]

    def x_at(value: float) -> float:
        return round(_LEFT + (value - x_low) / (x_high - x_low) * (right - _LEFT), 2)

    def y_at(value: float) -> float:
        return round(bottom - (height(value) - y_low) / (y_high - y_low) * _HEIGHT, 2)

    names = [series.name for series in plot.series if series.name]
    shapes: dict[str, list[dict[str, Any]]] = {"bars": [], "lines": [], "dots": []}
    for index, series in enumerate(plot.series):
        places = [(x_at(x), y_at(y)) for x, y in zip(series.x, series.y, strict=True)]
        colour = _COLOURS[index % len(_COLOURS)]
        if series.mark == "bars":
            width = round(0.8 * (x_at(1) - x_at(0)) / len(bars), 2)
            base = bottom if plot.log_y else y_at(0)
            for x, y in places:
                begin = round(x + (bars.index(series) - len(bars) / 2) * width, 2)
                shape = {"x": begin, "y": min(y, base), "width": width, "height": round(abs(base - y), 2)}
                shapes["bars"].append(shape | {"colour": colour})
        if series.mark in ("line", "both") and places:
            path = "M" + "L".join(f"{x} {y}" for x, y in places)
            shapes["lines"].append({"path": path, "colour": colour, "dashed": series.dashed})
        if series.mark in ("dots", "both"):
            shapes["dots"] += [{"x": x, "y": y, "colour": colour} for x, y in places]
    offsets = [sum(24 + 7 * len(name) for name in names[:index]) for index in range(len(names))]
    colours = [_COLOURS[i % len(_COLOURS)] for i, series in enumerate(plot.series) if series.name]
    y_ticks = [(10**tick, f"{10**tick:.2g}") if plot.log_y else (tick, _number(tick)) for tick in ticks(y_low, y_high)]
    slanted = sum(len(text) for _, text in x_ticks) > 75
    return render(
        "plot.svg",
        **shapes,
        title=plot.title,
        x_label=plot.x_label,
        y_label=plot.y_label,
        width=_WIDTH,
        height=bottom + 44 + _SLANTED * slanted,
        left=_LEFT,
        right=right,
        top=_TOP,
        bottom=bottom,
        slanted=slanted,
        legend=[{"name": n, "offset": o, "colour": c} for n, o, c in zip(names, offsets, colours, strict=True)],
        x_ticks=[{"at": x_at(value), "text": text} for value, text in x_ticks],
        y_ticks=[{"at": y_at(value), "text": text} for value, text in y_ticks],
    )


def ticks(low: float, high: float) -> list[float]:
    """Return some four to eight round numbers from `low` to `high`.

    >>> ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> ticks(56824, 98362)
    [60000.0, 70000.0, 80000.0, 90000.0]
    """
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _span(values: list[float]) -> tuple[float, float]:
    """Return the range of `values`, never empty."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def render(template: str, **values: Any) -> str:
    """Return a template of hwq's filled in, all values escaped.

    Raises
    ------
    MissingToolError
        Jinja2 isn't installed.
    """
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> Any:
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise MissingToolError("plots need jinja2; install it with: pip install 'hwq[report]'") from error
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
