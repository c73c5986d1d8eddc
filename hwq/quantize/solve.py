"""A calibrated network's integers, layer after layer: each is fitted to what the quantized layers before it give it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from hwq.errors import ModelError
from hwq.quantize import rounding
from hwq.quantize.calibrate import Histogram, measure
from hwq.quantize.codebook import kmeans
from hwq.quantize.emit import Grid, Weights, dequantized, emit
from hwq.quantize.equalize import equalize
from hwq.quantize.lattice import weight_scales
from hwq.quantize.network import Layer, Network, analyse
from hwq.quantize.nf4 import block_factors, spread_factors
from hwq.quantize.prepare import prepare
from hwq.quantize.recipe import BITS, Progress, Recipe
from hwq.quantize.samples import Data, Feeds, Replay, feeds_of
from hwq.quantize.scales import activations, widths
from hwq.quantize.statistics import Moments, measurable, moments
from hwq.weights import NF4

_REFITTED = ("int4", "codebook", "nf4")
"""Whose weights are moved before they are rounded; with more levels, there is nothing to make up for."""


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A float model, ready, with what was measured on it.

    Members
    -------
    model : onnx.ModelProto
        Prepared.
    feeds : list of dict of str to array
        The calibration samples.
    histograms : dict of str to Histogram
        Of every quantized tensor.
    recipe : Recipe
    """

    model: onnx.ModelProto
    feeds: Feeds
    histograms: Mapping[str, Histogram]
    recipe: Recipe

    def network(self, keep_float: Collection[str] = ()) -> Network:
        """Return what is quantized where, besides the recipe's, the nodes `keep_float` stay in floats."""
        return analyse(self.model, {*self.recipe.keep_float, *keep_float})

    def parts(self) -> Iterator[bytes | str]:
        """Yield what its results depend on, for `hwq.quantize.journal.digest`."""
        yield self.model.SerializeToString(deterministic=True)
        yield repr(self.recipe)
        for feed in self.feeds:
            for name in sorted(feed):
                yield name
                yield feed[name].tobytes()


def calibrate(model: onnx.ModelProto, name: str, data: Data, recipe: Recipe, progress: Progress) -> Calibrated:
    """Return `model` prepared and measured.

    Raises
    ------
    ModelError, InputError
        As `prepare`, `analyse` and `feeds_of` raise them.
    """
    progress(f"Preparing {name}", 0, 0)
    ready = prepare(model, name)
    feeds = feeds_of(ready, data)
    if recipe.equalize:
        ready = equalize(ready, feeds)
    layers = analyse(ready).layers.values()
    unknown = set(recipe.keep_float) - {label for layer in layers for label in (layer.name, layer.output)}
    if unknown:
        raise ModelError(f"{name}: there is no layer {min(unknown)!r} to keep in floats")
    network = analyse(ready, recipe.keep_float)
    progress(f"Measuring {len(feeds)} samples", 0, 0)
    return Calibrated(ready, feeds, measure(ready, feeds, network.tensors), recipe)


Solved = dict[tuple[str, ...], Weights]
"""A layer's integers by its kind of weights and those of all layers before it, which it makes up for."""


def solve(
    calibrated: Calibrated,
    network: Network,
    weights: Mapping[str, str],
    progress: Progress,
    solved: Solved | None = None,
) -> Grid:
    """Return the integers of `network`, its layers with `weights` by name, ``int8`` where they aren't in it.

    Layers that `solved` holds are taken from there, all others added; it is of this network.
    """
    solved = {} if solved is None else solved
    kinds = tuple(weights.get(name, "int8") for name in network.layers)
    recipe = calibrated.recipe
    grid = Grid(activations(network, calibrated.histograms, recipe), bits=widths(network, recipe.activations))
    simulated, wanted = Replay(calibrated.feeds), Replay(calibrated.feeds)
    for index, layer in enumerate(network.layers.values()):
        progress("Rounding weights", index, len(network.layers))
        if (same := solved.get(kinds[: index + 1])) is not None:
            grid.weights[layer.name] = same
            continue
        known = None
        if measurable(layer) and (calibrated.recipe.fit or calibrated.recipe.correct_bias):
            read = dequantized(layer.input)
            inputs, sums = simulated.run(emit(network, grid), read), wanted.run(network.model, layer.output)
            known = moments(layer, zip(inputs, sums, strict=True))
        found = _solve_layer(calibrated.recipe, network, grid, layer, kinds[index], known)
        grid.weights[layer.name] = solved[kinds[: index + 1]] = found
    return grid


def _solve_layer(
    recipe: Recipe, network: Network, grid: Grid, layer: Layer, kind: str, known: Moments | None
) -> Weights:
    """Return the integers of a layer, by its moments between its inputs on `grid` and its sums in floats."""
    x_scale, y_scale = grid.tensors[layer.input][0], grid.tensors[network.quantized(layer.output)][0]
    kernels = layer.kernels.astype(np.float64)
    weight = kernels.reshape(layer.groups, -1, kernels.shape[-1])
    fit, bits = (known if recipe.fit else None), BITS[kind]
    if fit is not None and kind in _REFITTED:
        weight = rounding.refit(weight, fit)
    factors = block_factors(layer, weight.reshape(kernels.shape)) if kind == "nf4" else None
    if factors is not None:
        least = np.abs(weight).max(axis=-1) / (NF4.max() * factors.max(axis=1).reshape(weight.shape[:2]))
    elif fit is None or kind == "nf4":  # whose levels reach from end to end
        least = rounding.plain_scales(weight, bits)
    else:
        least = rounding.best_scales(weight, bits, fit.xx)
    stored = weight_scales(x_scale, y_scale, least.reshape(-1))
    scale = rounding.spread(stored.astype(np.float64).reshape(weight.shape[:2]), weight)
    if factors is not None:
        scale = scale * spread_factors(layer, factors).reshape(weight.shape)
    allowed = rounding.levels(bits)
    if kind == "nf4":
        allowed = NF4
    elif kind == "codebook":
        allowed = kmeans(weight / scale, bounds=(int(allowed[0]), int(allowed[-1])))
    if fit is None:
        values = rounding.nearest(weight, scale, allowed)
    else:
        values = rounding.fitted(weight, scale, allowed, fit.xx)
    bias = layer.bias
    if known is not None and recipe.correct_bias:
        made = (values * scale * known.x[:, np.newaxis]).sum(axis=-1)
        bias = (known.y - made.reshape(-1)).astype(np.float32)
    return Weights(values.reshape(kernels.shape).astype(np.int8), stored, bits, bias, factors)
