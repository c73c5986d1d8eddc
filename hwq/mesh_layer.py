"""Convolutions and matrix products as CONV descriptors, weights and parameters."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from hwq import ir, isa
from hwq.constraints import add_parameters, truncations
from hwq.images import Images, rounding_params, truncating_params
from hwq.layout import View
from hwq.multipliers import multipliers
from hwq.plan import Plan, Step, stored_zero_point

Fields = dict[str, int]

MAX_SPAN = 0xFFFF


def conv_descriptors(plan: Plan, step: Step, images: Images) -> Iterator[Fields]:
    """Yield one descriptor an image of a Conv or Gemm step."""
    op = step.op
    x, y = plan.view(step.reads[0]), plan.view(step.writes)
    if isinstance(op, ir.Conv):
        weight = op.weight.astype(np.int16) - _column(op.weight_zero_point, 4)
        weight = weight.transpose(2, 3, 1, 0)  # kh, kw, in, out
        strides, dilations, (top, left, _, _) = op.strides, op.dilations, op.pads
    else:
        assert isinstance(op, ir.Gemm)
        weight = (op.weight.astype(np.int16) - op.weight_zero_point.astype(np.int16))[None, None]
        strides, dilations, (top, left) = (1, 1), (1, 1), (0, 0)
        x, y = _as_image(x), _as_image(y)
    taps = _taps(weight, x, dilations)
    matrix = taps.pop("matrix")
    zero_point = stored_zero_point(plan.tensors[op.inputs[0]])
    bias = op.bias.astype(np.int64) - zero_point * matrix.astype(np.int64).sum(0)
    channels = matrix.shape[1]
    blocks = -(-channels // images.config.cols)
    shared = {
        "opcode": isa.Opcode.CONV,
        **taps,
        "weight_base": images.add_weights(matrix, step.name, images.config.cols),
        "param_base": images.add_params(channel_params(plan, op, bias), step.name, images.config.cols),
        "blocks": blocks,
        "last_channels": channels - (blocks - 1) * images.config.cols,
        **output_fields(plan, step),
    }
    second = _second_operand(plan, step, y)
    for image in range(y.shape[0]):
        yield {
            **shared,
            **walk("ifm", x, image, y.shape, strides, (-top, -left)),
            **walk("ofm", y, image, y.shape),
            **(walk("res", second, image, y.shape) if second is not None else {}),
            "row_pixels": y.shape[3],
            "pixels": y.shape[2] * y.shape[3],
        }


def channel_params(plan: Plan, op: ir.Op, bias: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """Return the parameter sets of a mesh layer's channels; `bias` is that of the array's sums."""
    if isinstance(op, ir.Conv | ir.Gemm) and op.floor is not None:
        parameters = truncations(op, plan.graph)
        assert parameters is not None, op.name
        return truncating_params(parameters)
    return rounding_params(bias.astype(np.int32), np.broadcast_to(multipliers(plan.graph, op), bias.shape))


def output_fields(plan: Plan, step: Step) -> Fields:
    """Return the output path's fields: zero point, clamps, and the Add the step carries."""
    op, add = step.op, step.add
    result = plan.tensors[op.outputs[0]]
    label = 128 if result.dtype == "uint8" else 0
    if isinstance(op, ir.Conv | ir.Gemm | ir.AveragePool):
        fields = {"zero_point": result.zero_point - label, "lo": op.lo - label, "hi": op.hi - label}
        if not isinstance(op, ir.AveragePool) and op.floor is not None:
            fields |= {"truncate": 1, "zero_point": fields["lo"]}
    else:
        fields = {"zero_point": 0, "lo": -128, "hi": 127}
    fields |= {"factor_a": 1, "add_lo": -128, "add_hi": 127}
    if add is None:
        return fields
    parameters = add_parameters(add, plan.graph)
    assert parameters is not None, add.name
    factors = parameters.factor_a, parameters.factor_b
    own_first = add.inputs[0] == (op.outputs[0] if op is not add else step.reads[0])
    factor_own, factor_other = factors if own_first else factors[::-1]
    return fields | {
        "residual": 1,
        "factor_a": factor_own,
        "factor_b": factor_other,
        "offset_low": parameters.offset & 0xFFFFFFFF,
        "offset_high": parameters.offset >> 32,
        "add_shift": parameters.shift,
        "add_lo": add.lo - label,
        "add_hi": add.hi - label,
    }


def _column(values: npt.NDArray[np.integer], rank: int) -> npt.NDArray[np.int16]:
    return values.astype(np.int16).reshape(-1, *[1] * (rank - 1))


def _as_image(view: View) -> View:
    """Return a matrix view (..., K) as (1, K, 1, M)."""
    matrix = view.reshape((-1, view.shape[-1]))
    assert matrix is not None, view
    rows, channels = matrix.shape
    return View(view.address, (1, channels, 1, rows), (0, matrix.strides[1], 0, matrix.strides[0]))


def _second_operand(plan: Plan, step: Step, y: View) -> View | None:
    if step.add is None:
        return None
    other = plan.view(step.reads[1]).broadcast(plan.tensors[step.writes].shape)
    return _as_image(other) if isinstance(step.op, ir.Gemm) else other


def walk(
    which: str,
    view: View,
    image: int,
    grid: tuple[int, ...],
    strides: tuple[int, int] = (1, 1),
    start: tuple[int, int] = (0, 0),
) -> Fields:
    """Return base and steps of the pixel walk over an (N, C, H, W) view, for the output's `grid` of that shape."""
    by_image, _, by_row, by_column = view.strides
    x_step = strides[1] * by_column
    return {
        f"{which}_base": view.address + image * by_image + start[0] * by_row + start[1] * by_column,
        f"{which}_x_step": x_step,
        f"{which}_y_step": strides[0] * by_row - (grid[3] - 1) * x_step,
    }


def _taps(weight: npt.NDArray[np.int16], x: View, dilations: tuple[int, int]) -> dict:
    """Return the tap fields and the (K, channels) int8 matrix in the order the taps are read.

    A kernel row whose bytes are consecutive is one tap. Weights beyond int8, which a zero point away from the middle
    makes, become a sum of int8 terms: the tap is read once for each.
    """
    rows, columns, inputs, channels = weight.shape
    by_row, by_column = x.strides[2] * dilations[0], x.strides[3] * dilations[1]
    terms = int8_terms(weight)
    if len(terms) > 1 and columns > 1 and by_column != inputs:
        # one tap a kernel row all the same: the bytes between two columns get weight zero
        stretched = np.zeros((len(terms), rows, (columns - 1) * by_column + inputs, channels), np.int8)
        for column in range(columns):
            stretched[:, :, column * by_column : column * by_column + inputs] = terms[:, :, column]
        span = stretched.shape[2]
        terms = stretched[:, :, None]
        columns = 1
    elif columns == 1 or by_column == inputs:
        span = columns * inputs
        terms = terms.reshape(len(terms), rows, 1, span, channels)
        columns = 1
        if len(terms) == 1 and (rows == 1 or by_row == span) and rows * span <= MAX_SPAN:
            span, terms, rows = rows * span, terms.reshape(1, 1, 1, rows * span, channels), 1
    else:
        span = inputs
    if len(terms) > 1:
        taps_x, tap_x_step = len(terms), 0
        terms = terms.transpose(1, 2, 0, 3, 4)
    else:
        taps_x, tap_x_step = columns, by_column
        terms = terms[0]
    assert span <= MAX_SPAN, span
    return {
        "taps_y": rows,
        "taps_x": taps_x,
        "span": span,
        "tap_x_step": tap_x_step,
        "tap_y_step": by_row - (taps_x - 1) * tap_x_step,
        "matrix": terms.reshape(-1, channels),
    }


def int8_terms(weight: npt.NDArray[np.int16]) -> npt.NDArray[np.int8]:
    """Return int8 arrays, stacked, that add up to `weight` (-255..255): one where it fits, up to three."""
    terms: list[npt.NDArray[np.int8]] = []
    left = weight
    while not terms or left.any():
        term = np.clip(left, -128, 127)
        terms.append(term.astype(np.int8))
        left = left - term
    return np.stack(terms)
