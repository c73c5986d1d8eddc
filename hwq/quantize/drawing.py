"""Sensitivities as a plot."""

from __future__ import annotations

from collections.abc import Sequence

from hwq.plots import Plot, Series, svg
from hwq.quantize.sensitivities import Sensitivity


def drawing(model: str, found: Sequence[Sensitivity], names: Sequence[str]) -> str:
    """Return an SVG of each layer's noise, a bar for each kind of weights, the most sensitive layer first.

    Parameters
    ----------
    model : str
    found : sequence of Sensitivity
        As `hwq.quantize.sensitivity` returns it.
    names : sequence of str
        Of their layers, as they are to be shown.
    """
    layers = list(dict.fromkeys(entry.layer for entry in found))
    shown = {entry.layer: name for entry, name in zip(found, names, strict=True)}
    drawn = []
    for kind in dict.fromkeys(entry.weights for entry in found):
        own = [entry for entry in found if entry.weights == kind]
        noise = [10 ** (-entry.sqnr_db / 10) for entry in own]
        drawn.append(Series(kind, [layers.index(entry.layer) for entry in own], noise, "bars"))
    title = f"What each layer of {model} costs alone"
    return svg(
        Plot(title, "layer", "noise, share of the signal", drawn, [shown[layer] for layer in layers], log_y=True)
    )
