"""Pooling, element-wise functions of two tensors, copies and fills as VECTOR descriptors.

Without a vector unit copies and fills are DEPTHWISE ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from hwq import ir, isa
from hwq.images import Images, rounding_params
from hwq.layout import Nest, View, nests
from hwq.mesh_copy import mesh_fields, mesh_parts
from hwq.mesh_layer import output_fields, walk
from hwq.multipliers import multipliers
from hwq.plan import Plan, Step, stored_zero_point

Fields = dict[str, int]

_SINGLE_TAP = {"taps_y": 1, "taps_x": 1, "span": 1}


def pool_descriptors(plan: Plan, step: Step, images: Images) -> Iterator[Fields]:
    """Yield one descriptor an image of a MaxPool or AveragePool step."""
    op = step.op
    assert isinstance(op, ir.MaxPool | ir.AveragePool)
    x, y = plan.view(step.reads[0]), plan.view(step.writes)
    average = isinstance(op, ir.AveragePool)
    dilations = op.dilations if isinstance(op, ir.MaxPool) else (1, 1)
    start = (-op.pads[0], -op.pads[1])
    kernel_rows, kernel_columns = op.kernel
    _, _, by_row, by_column = x.strides
    param = 0
    if average:
        count = kernel_rows * kernel_columns
        bias = np.full(images.config.lanes, -stored_zero_point(plan.tensors[op.inputs[0]]) * count, np.int32)
        multiplier = np.broadcast_to(multipliers(plan.graph, op), bias.shape)
        param = images.add_lane_params(rounding_params(bias, multiplier), step.name)
    tap_x_step = dilations[1] * by_column
    columns, rows = y.shape[3], y.shape[2]
    for image in range(y.shape[0]):
        yield {
            "opcode": isa.Opcode.VECTOR,
            "reduce": isa.Reduce.SUM if average else isa.Reduce.MAX,
            **walk("ifm", x, image, y.shape, op.strides, start),
            "row_pixels": columns,
            "pixels": rows * columns,
            "taps_y": kernel_rows,
            "taps_x": kernel_columns,
            "span": 1,
            "tap_x_step": tap_x_step,
            "tap_y_step": dilations[0] * by_row - (kernel_columns - 1) * tap_x_step,
            "param_base": param,
            **walk("ofm", y, image, y.shape),
            **_groups(y.shape[1], images),
            **output_fields(plan, step),
        }


def pair_descriptors(plan: Plan, step: Step, images: Images) -> Iterator[Fields]:
    """Yield the descriptors of an Add, Sub or Mul step."""
    assert isinstance(step.op, ir.Pair)
    y = plan.view(step.writes)
    operands = [plan.view(name).broadcast(y.shape) for name in step.reads]
    fields = output_fields(plan, Step(step.op, step.reads, step.writes, step.op))
    if isinstance(step.op, ir.Mul):
        zero_points = [stored_zero_point(plan.tensors[name]) for name in step.reads]
        fields |= {"product": 1, "ifm_zero_point": zero_points[0], "res_zero_point": zero_points[1]}
    for nest in _nests([*operands, y], images):
        yield {**_elementwise(nest, ("ifm", "res", "ofm"), images), **fields}


def copy_descriptors(source: View, target: View, images: Images) -> Iterator[Fields]:
    """Yield the descriptors that copy `source` to `target`, both of one shape."""
    for nest in _copies([source, target], images):
        yield {**_elementwise(nest, ("ifm", "ofm"), images), **_CONSTANT_FREE}


def fill_descriptors(target: View, value: int, images: Images) -> Iterator[Fields]:
    """Yield the descriptors that set every byte of `target` to the signed byte `value`."""
    for nest in _copies([target, target], images):
        yield {
            **_elementwise(nest, ("ifm", "ofm"), images),
            **_CONSTANT_FREE,
            "lo": value,
            "hi": value,
        }


_CONSTANT_FREE = {"zero_point": 0, "lo": -128, "hi": 127}


def _nests(views: Sequence[View], images: Images) -> Iterator[Nest]:
    """Yield loop nests over `views`."""
    for nest in nests(views):
        yield from _cut(nest, images)


def _copies(views: Sequence[View], images: Images) -> Iterator[Nest]:
    """Yield the loop nests of a copy."""
    for nest in nests(views):
        for part in [nest] if images.config.vector else mesh_parts(nest, images.config):
            yield from _cut(part, images)


def _cut(nest: Nest, images: Images) -> Iterator[Nest]:
    """Yield `nest` in parts, none with more columns or blocks of channels than a descriptor counts."""
    most = images.config.most_counted
    for channel in range(0, nest.channels, most * images.config.lanes):
        channels = min(nest.channels - channel, most * images.config.lanes)
        for column in range(0, nest.columns, most):
            columns = min(nest.columns - column, most)
            steps = zip(nest.addresses, nest.column_strides, strict=True)
            addresses = tuple(address + channel + column * step for address, step in steps)
            yield replace(nest, columns=columns, channels=channels, addresses=addresses)


def _groups(channels: int, images: Images) -> Fields:
    lanes = images.config.lanes
    blocks = -(-channels // lanes)
    return {"blocks": blocks, "last_channels": channels - (blocks - 1) * lanes}


def _elementwise(nest: Nest, maps: Sequence[str], images: Images) -> Fields:
    """Return the walk of `nest` over the feature maps `maps`, one tap each."""
    fields: Fields = {"opcode": isa.Opcode.VECTOR, **_SINGLE_TAP, **_groups(nest.channels, images)}
    if not images.config.vector:
        fields |= mesh_fields(nest, images)
    fields |= {"row_pixels": nest.columns, "pixels": nest.rows * nest.columns}
    for which, address, by_row, by_column in zip(
        maps, nest.addresses, nest.row_strides, nest.column_strides, strict=True
    ):
        fields |= {
            f"{which}_base": address,
            f"{which}_x_step": by_column,
            f"{which}_y_step": by_row - (nest.columns - 1) * by_column,
        }
    return fields
