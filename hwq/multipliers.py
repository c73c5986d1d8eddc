"""The float32 multipliers of requantizing operators: the only place where scales are multiplied and divided."""

from __future__ import annotations

from functools import singledispatch

import numpy as np
import numpy.typing as npt

from hwq.ir import AveragePool, Conv, Gemm, Graph, Op

Multipliers = npt.NDArray[np.float32]


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


@singledispatch
def _multipliers(op: Op, x_scale: np.float32, y_scale: np.float32) -> Multipliers:
    raise TypeError(f"{op.kind} has no multiplier")


@_multipliers.register
def _(op: Conv, x_scale: np.float32, y_scale: np.float32) -> Multipliers:
    return x_scale * op.weight_scale / y_scale


@_multipliers.register
def _(op: Gemm, x_scale: np.float32, y_scale: np.float32) -> Multipliers:
    return np.float32(op.alpha) * x_scale * op.weight_scale / y_scale


@_multipliers.register
def _(op: AveragePool, x_scale: np.float32, y_scale: np.float32) -> Multipliers:
    count = np.float32(op.kernel[0] * op.kernel[1])
    return np.array([x_scale / (y_scale * count)], np.float32)
