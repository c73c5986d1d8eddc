"""The search for mixed precision as a plot."""

from __future__ import annotations

from hwq.plots import Plot, Series, svg
from hwq.quantize.search.mixed import Found
from hwq.quantize.search.problem import Point

_AXES = {"cycles": "cycles of one inference", "weight_bytes": "bytes of weights"}


def drawing(found: Found) -> str:
    """Return an SVG of the front, the uniform assignments and all others that were measured, by divergence."""
    uniform = [point for point in found.points if len(set(point.weights)) == 1]
    others = [point for point in found.points if point not in uniform and point not in found.front]

    def series(name: str, points: list[Point], mark: str) -> Series:
        return Series(name, [getattr(p, found.axis) for p in points], [p.kl for p in points], mark)

    drawn = [series("front", list(found.front), "both"), series("uniform", uniform, "dots")]
    drawn += [series("measured", others, "dots")] * bool(others) + [series("chosen", [found.chosen], "dots")]
    title = f"Mixed precision of {found.model} on {found.arch}"
    return svg(Plot(title, _AXES[found.axis], "KL divergence [nat]", drawn, log_y=True))
