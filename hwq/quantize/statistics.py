"""What a layer's inputs and outputs have to do with one another, summed over samples: the data that rounding fits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hwq.ir import Array, Tensor
from hwq.kernels import columns, pad_image
from hwq.onnx_windows import read_window
from hwq.quantize.network import Layer

_NOISE = 1e-12
"""Of second moments, what a difference of two of them doesn't tell from 0."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Means and covariances over all positions of all samples; the G groups of a convolution apart.

    Members
    -------
    x : float64 (G, K)
        Means of the inputs of the sums.
    y : float64 (O,)
        Means of what the sums should be.
    xx : float64 (G, K, K)
        Covariances of the inputs.
    yx : float64 (G, O / G, K)
        Covariances of wanted sums and inputs.
    """

    x: Array
    y: Array
    xx: Array
    yx: Array


def moments(layer: Layer, pairs: Iterable[tuple[Array, Array]]) -> Moments:
    """Return the moments of `layer` over `pairs` of what it reads and what it should make of it."""
    count = 0
    x_sum, y_sum, xx, yx = (np.zeros(()) for _ in range(4))
    for x, y in pairs:
        rows = positions(layer, x, y).astype(np.float64)
        wanted = channels(layer, y).astype(np.float64)
        grouped = wanted.reshape(layer.groups, -1, wanted.shape[-1])
        count += rows.shape[-1]
        x_sum, y_sum = x_sum + rows.sum(axis=-1), y_sum + wanted.sum(axis=-1)
        xx, yx = xx + rows @ rows.swapaxes(1, 2), yx + grouped @ rows.swapaxes(1, 2)
    x_mean, y_mean = x_sum / count, y_sum / count
    outer = x_mean[:, :, np.newaxis] * x_mean[:, np.newaxis]
    cross = y_mean.reshape(layer.groups, -1, 1) * x_mean[:, np.newaxis]
    covariance = xx / count - outer
    spread = np.sqrt(np.diagonal(xx, axis1=1, axis2=2) / count)
    noise = _NOISE * spread[:, :, np.newaxis] * spread[:, np.newaxis]
    return Moments(x_mean, y_mean, np.where(np.abs(covariance) > noise, covariance, 0), yx / count - cross)


def measurable(layer: Layer) -> bool:
    """Return whether all sums of a layer multiply the same number of values, as `moments` wants it."""
    return layer.node.op_type != "ConvTranspose" and layer.weight.ndim <= 4


def positions(layer: Layer, x: Array, y: Array) -> Array:
    """Return what the sums `y` of a layer multiply, (G, K, positions)."""
    if layer.node.op_type != "Conv":
        return x.reshape(-1, x.shape[-1]).T[np.newaxis]
    tensors = (Tensor("x", x.shape, "float32"), Tensor("y", y.shape, "float32"))
    window = read_window(layer.node, *tensors, layer.weight.shape[2:])
    image = x if x.ndim == 4 else x[:, :, np.newaxis]
    rows = columns(pad_image(image, window.pads, 0), window.kernel, window.strides, window.dilations)
    return rows.reshape(layer.groups, -1, rows.shape[-1])


def channels(layer: Layer, y: Array) -> Array:
    """Return a layer's result with its channels first, (O, positions)."""
    if layer.node.op_type != "Conv":
        return y.reshape(-1, y.shape[-1]).T
    return y.swapaxes(0, 1).reshape(y.shape[1], -1)
