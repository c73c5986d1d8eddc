"""Depthwise convolutions as DEPTHWISE descriptors, weights and parameters."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from hwq import ir, isa
from hwq.images import Images
from hwq.mesh_layer import int8_terms, output_fields, walk
from hwq.multipliers import multipliers
from hwq.plan import Plan, Step, is_depthwise, stored_zero_point

Fields = dict[str, int]


def depthwise_descriptors(plan: Plan, step: Step, images: Images) -> Iterator[Fields]:
    """Yield one descriptor an image of a depthwise Conv step."""
    op = step.op
    assert is_depthwise(op)
    x, y = plan.view(step.reads[0]), plan.view(step.writes)
    weight = op.weight[:, 0].astype(np.int16) - op.weight_zero_point.astype(np.int16)[:, None, None]
    terms = int8_terms(weight.transpose(1, 2, 0))  # term, kh, kw, channel
    runs, inner = _runs(terms, x.strides[3], op.strides[1], op.dilations[1])
    matrix = runs.reshape(-1, runs.shape[-1])
    zero_point = stored_zero_point(plan.tensors[op.inputs[0]])
    bias = (op.bias.astype(np.int64) - zero_point * matrix.astype(np.int64).sum(0)).astype(np.int32)
    width, channels = images.config.depthwise_cols, matrix.shape[1]
    blocks = -(-channels // width)
    by_row = op.dilations[0] * x.strides[2]
    shared = {
        "opcode": isa.Opcode.DEPTHWISE,
        **inner,
        "taps_y": weight.shape[1],
        "tap_y_step": by_row - (inner["taps_x"] - 1) * inner["tap_x_step"],
        "weight_base": images.add_weights(matrix, step.name, width),
        "param_base": images.add_params(bias, multipliers(plan.graph, op), step.name, width),
        "blocks": blocks,
        "last_channels": channels - (blocks - 1) * width,
        "row_pixels": y.shape[3],
        "pixels": y.shape[2] * y.shape[3],
        **output_fields(plan, step),
    }
    for image in range(y.shape[0]):
        yield {
            **shared,
            **walk("ifm", x, image, y.shape, op.strides, (-op.pads[0], -op.pads[1])),
            **walk("ofm", y, image, y.shape),
        }


def _runs(
    terms: npt.NDArray[np.int8], by_column: int, stride: int, dilation: int
) -> tuple[npt.NDArray[np.int8], Fields]:
    """Return the weights (kh, K, channels) in the order of the runs, and the fields that say how runs follow.

    Neighbouring output pixels are `stride` input pixels apart, so one run serves the kernel columns that are: the
    columns of each phase. With dilation every column is a run of its own.
    """
    count, _, columns, _ = terms.shape
    if dilation == 1:
        phases = [range(phase, columns, stride) for phase in range(min(stride, columns))]
        step = by_column
    else:
        phases = [range(column, column + 1) for column in range(columns)]
        step = dilation * by_column
    order = [terms[term, :, column] for phase in phases for term in range(count) for column in phase]
    short = [index for index, phase in enumerate(phases) if len(phase) < len(phases[0])]
    fields = {
        "span": len(phases[0]),
        "taps_x": len(phases),
        "short_from": short[0] if short else 0,
        "repeats": count - 1,
        "tap_x_step": step,
    }
    return np.stack(order, axis=1), fields
