"""Depthwise convolutions and average pools as DEPTHWISE descriptors, weights and parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwq import ir, isa, pipeline
from hwq.config import ArrayConfig
from hwq.images import Images
from hwq.layout import View
from hwq.mesh_layer import channel_params, int8_terms, output_fields, walk_base, walk_steps
from hwq.plan import Plan, Step, stored_zero_point
from hwq.timing import cycles

Array = npt.NDArray[np.int8]
Fields = dict[str, int]


@dataclass(frozen=True)
class Window:
    """What a depthwise layer does to every channel.

    Members
    -------
    terms : int8 (n, kh, kw, channels)
        The weights, as a sum.
    bias : int32 (channels,)
        Without the share of the input's zero point.
    strides, dilations : (y, x)
    pads : (top, left)
    order : int array (channels,)
        The layer's output channel that each is.
    first : int
        Where the first of them lies in a pixel of the output.
    """

    terms: Array
    bias: npt.NDArray[np.int32]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int]
    order: npt.NDArray[np.intp]
    first: int = 0

    def written(self, y: View) -> View:
        """Return the window's share of the layer's output `y` (N, C, H, W)."""
        return y.slice(1, self.first, len(self.order))


def depthwise_windows(op: ir.Conv, order: npt.NDArray[np.intp]) -> list[Window]:
    """Return the windows of a convolution whose groups have one input each: as many as a group has outputs.

    Parameters
    ----------
    order : int array (C,)
        The input channel that lies at each place of a pixel; with several windows, all in order.
    """
    count = len(op.weight) // op.groups
    weight = op.weight[:, 0].astype(np.int16) - op.weight_zero_point.astype(np.int16)[:, None, None]
    windows = []
    for index in range(count):
        chosen = order * count + index
        terms = int8_terms(weight[chosen].transpose(1, 2, 0))
        bias, first = op.bias[chosen], index * op.groups
        windows.append(Window(terms, bias, op.strides, op.dilations, op.pads[:2], chosen, first))
    return windows


def average_window(op: ir.AveragePool, channels: int) -> Window:
    """Return the window of an average pool: a kernel of ones."""
    ones = np.ones((1, *op.kernel, channels), np.int8)
    return Window(ones, np.zeros(channels, np.int32), op.strides, (1, 1), op.pads[:2], np.arange(channels))


def depthwise_fields(plan: Plan, step: Step, window: Window, config: ArrayConfig) -> tuple[Fields, Array]:
    """Return the fields of the fastest way to run `window`, less bases, and the weights in its order.

    The way is in strips of two rows or in tiles along rows.
    """
    x, y = plan.view(step.reads[0]), window.written(plan.view(step.writes))
    rows, channels = window.terms.shape[1], window.terms.shape[3]
    width = config.depthwise_cols
    shape = {"opcode": isa.Opcode.DEPTHWISE, "taps_y": rows, **output_fields(plan, step)}
    shape |= {"blocks": -(-channels // width), "last_channels": (channels - 1) % width + 1}
    ways = [_along_rows(window, x, y)]
    if _fits_strips(window, config):
        ways.append(_in_strips(window, x, y))
    fields, runs = min(ways, key=lambda way: cycles({**shape, **way[0]}, config))
    return {**shape, **fields}, runs.reshape(-1, channels)


def depthwise_descriptors(plan: Plan, step: Step, window: Window, images: Images) -> Iterator[Fields]:
    """Yield one descriptor an image of a step that moves `window` over its input."""
    x, y = plan.view(step.reads[0]), window.written(plan.view(step.writes))
    fields, matrix = depthwise_fields(plan, step, window, images.config)
    zero_point = stored_zero_point(plan.tensors[step.op.inputs[0]])
    bias = window.bias.astype(np.int64) - zero_point * matrix.astype(np.int64).sum(0)
    width = images.config.depthwise_cols
    form = images.forms(step.op.name, matrix, depthwise=True)[0]
    fields |= {
        **form.fields(),
        "weight_base": images.add_weights(matrix, step.name, width, form),
        "param_base": images.add_params(channel_params(plan, step.op, bias, window.order), step.name, width),
    }
    for image in range(y.shape[0]):
        start = walk_base(x, image, (-window.pads[0], -window.pads[1]))
        yield {**fields, "ifm_base": start, "ofm_base": walk_base(y, image)}


def _along_rows(window: Window, x: View, y: View) -> tuple[Fields, Array]:
    """Return the fields and the weights of tiles of neighbouring pixels of one row."""
    runs, inner = _runs(window.terms, x.strides[3], window.strides[1], window.dilations[1])
    fields = {
        **inner,
        "tap_y_step": window.dilations[0] * x.strides[2] - (inner["taps_x"] - 1) * inner["tap_x_step"],
        "row_pixels": y.shape[3],
        "pixels": y.shape[2] * y.shape[3],
        **walk_steps("ifm", x, y.shape, window.strides),
        **walk_steps("ofm", y, y.shape),
    }
    return fields, runs


def _fits_strips(window: Window, config: ArrayConfig) -> bool:
    count, rows, columns, _ = window.terms.shape
    small = rows < pipeline.STRIP_STEPS and columns <= config.strip_columns
    return small and count == 1 and window.strides == (1, 1) and window.dilations == (1, 1)


def _in_strips(window: Window, x: View, y: View) -> tuple[Fields, Array]:
    """Return the fields and the weights of strips of two rows, walked column by column."""
    _, _, rows, columns = y.shape
    pitch, column_step = y.strides[2], y.strides[3]
    fields = {
        "span": window.terms.shape[2],
        "taps_x": 1,
        "tap_y_step": x.strides[2],
        "row_pixels": 2,
        "pixels": 2 * columns,
        "strips": -(-rows // 2),
        "short_strip": rows % 2,
        "ifm_x_step": x.strides[3],
        "ofm_x_step": pitch,
        "ofm_y_step": column_step - pitch,
        "res_x_step": 2 * pitch,
    }
    return fields, window.terms[0].transpose(1, 0, 2)


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
