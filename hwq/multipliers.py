"""The float32 multipliers of requantizing operators: the only place where scales are multiplied and divided."""

from __future__ import annotations

from functools import singledispatch

import numpy as np
import numpy.typing as npt

from hwq.ir import AveragePool, Conv, Gemm, Graph, Op

Multipliers = npt.NDArray[np.float32]

LATTICE_SHIFT = 16
"""Greatest S of a multiplier ``M * 2**-S``, M whole, that one product and one rounding shift apply exactly."""


def multipliers(graph: Graph, op: Op) -> Multipliers:
    """Return the multipliers ``m`` of ``R(acc) = clamp(RNE(fl(fl(acc) * m)) + y_zp, lo, hi)``.

    There is one for each output channel; an AveragePool has a single one. Every operation is rounded to float32, in
    the order ONNX Runtime has.

    Returns
    -------
    float32 array (O,)
        Finite; infinite quotients are cut to the largest float32, which saturates every result as they would.
    """
    x_scale = np.float32(graph.tensors[op.inputs[0]].scale)
    y_scale = np.float32(graph.tensors[op.outputs[0]].scale)
    with np.errstate(over="ignore"):
        return np.minimum(_multipliers(op, x_scale, y_scale), np.finfo(np.float32).max)


def on_lattice(multiplier: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return which multipliers are whole multiples of ``2**-LATTICE_SHIFT``.

    With these ``RNE(acc * M / 2**S)`` equals R for every int32 accumulator and 8-bit result: below 2**8 both of R's
    float32 operations are exact, and above everything saturates.
    """
    scaled = np.ldexp(np.asarray(multiplier, np.float32).astype(np.float64), LATTICE_SHIFT)
    return (scaled == np.rint(scaled)) & (scaled > 0)


def layer_multiplier(x_scale: np.float32, weight_scale: npt.ArrayLike, y_scale: np.float32) -> Multipliers:
    """Return ``fl(fl(x * w) / y)``, a convolution's and a matrix product's."""
    return x_scale * np.asarray(weight_scale, np.float32) / y_scale


def average_multiplier(x_scale: np.float32, y_scale: np.float32, count: int) -> np.float32:
    """Return ``fl(x / fl(y * count))``, an average's over `count` values."""
    return np.float32(x_scale / (y_scale * np.float32(count)))


@singledispatch
def _multipliers(op: Op, x_scale: np.float32, y_scale: np.float32) -> Multipliers:
    raise TypeError(f"{op.kind} has no multiplier")


@_multipliers.register
def _(op: Conv, x_scale: np.float32, y_scale: np.float32) -> Multipliers:
    return layer_multiplier(x_scale, op.weight_scale, y_scale)


@_multipliers.register
def _(op: Gemm, x_scale: np.float32, y_scale: np.float32) -> Multipliers:
    return layer_multiplier(np.float32(op.alpha) * x_scale, op.weight_scale, y_scale)


@_multipliers.register
def _(op: AveragePool, x_scale: np.float32, y_scale: np.float32) -> Multipliers:
    return np.array([average_multiplier(x_scale, y_scale, op.kernel[0] * op.kernel[1])], np.float32)
