"""From an array part's plan to descriptors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hwq import ir, isa
from hwq.channel_order import channel_order, hand_on, may_reorder
from hwq.config import ArrayConfig
from hwq.depthwise_layer import average_window, depthwise_descriptors, depthwise_fields, depthwise_windows
from hwq.images import Images
from hwq.layout import View
from hwq.mesh_layer import conv_descriptors, conv_runs, cost, run_descriptors
from hwq.overlap import mark_early
from hwq.passes.partition import ArrayPart
from hwq.plan import Plan, Step, aliased, make_plan
from hwq.tables import clamp_bounds, table_entries
from hwq.tiling import allocate
from hwq.timing import cycles
from hwq.vector_layer import copy_descriptors, fill_descriptors, pair_descriptors, pool_descriptors

Fields = dict[str, int]


@dataclass(frozen=True)
class Layer:
    """The descriptors of one step of the plan.

    Members
    -------
    name, op : str
        Operator's name and kind, of those it carries as well.
    first_slot, end_slot : int
        Its descriptors, the end excluded.
    tensor : str
        What it writes.
    view : View
        Where.
    macs : int
        Multiply-accumulates the operator asks for.
    """

    name: str
    op: str
    first_slot: int
    end_slot: int
    tensor: str
    view: View
    macs: int


@dataclass(frozen=True)
class Schedule:
    """An array part's program: `layers` from `slot` on, closed by HALT, and the `plan` behind it."""

    slot: int
    layers: tuple[Layer, ...]
    plan: Plan


def schedule(graph: ir.Graph, parts: Sequence[ArrayPart], config: ArrayConfig, images: Images) -> list[Schedule]:
    """Append the descriptors, weights, parameters and constants of `parts` to `images`.

    Raises
    ------
    CapacityError
        Where a layer exceeds a memory of `config`.
    """
    plans = [make_plan(graph, part, images) for part in parts]
    kept = allocate([plan.buffers for plan in plans], config, reserved_bytes=images.constant_bytes, name=graph.name)
    for buffer in kept:
        assert buffer.fill is not None
        images.constants.append((buffer.address, np.full(buffer.size_bytes, buffer.fill, np.int8)))
    return [_part(plan, images) for plan in plans]


def _part(plan: Plan, images: Images) -> Schedule:
    slot = len(images.descriptors)
    layers = []
    for index, step in enumerate(plan.steps):
        first = len(images.descriptors)
        for fields in _step_descriptors(plan, step, index, images):
            images.add_descriptor(fields, step.name)
        kind = "+".join(op.kind for op in step.ops)
        view = plan.view(step.writes)
        macs = _macs(step.op, plan.tensors[step.writes].size)
        layers.append(Layer(step.name, kind, first, len(images.descriptors), step.writes, view, macs))
    mark_early(images.descriptors[slot:], images.config)
    images.add_descriptor({"opcode": isa.Opcode.HALT}, "")
    return Schedule(slot, tuple(layers), plan)


def _macs(op: ir.Op, size: int) -> int:
    """Return the multiply-accumulates behind `size` results of a convolution or matrix product, 0 for others.

    Those behind several bytes of the same sums count once.
    """
    if isinstance(op, ir.Conv | ir.Gemm) and op.byte:
        return 0
    if isinstance(op, ir.Conv):
        return size * op.weight[0].size
    return size * len(op.weight) if isinstance(op, ir.Gemm) else 0


def _step_descriptors(plan: Plan, step: Step, index: int, images: Images) -> Iterator[Fields]:
    """Yield the step's descriptors, first those that fill the halo of the buffer it begins."""
    hand_on(plan, step)
    buffer = plan.buffer(step.writes)
    if buffer.first == index and buffer.fill is not None and not buffer.kept:
        for rectangle in buffer.halo():
            yield from fill_descriptors(rectangle, buffer.fill, images)
    table = step.op if isinstance(step.op, ir.Table) else step.table
    for fields in _EMITTERS[type(step.op)](plan, step, images):
        yield fields if table is None else fields | _table_fields(plan.graph, table, fields, images)


def _table_fields(graph: ir.Graph, op: ir.Table, fields: Fields, images: Images) -> Fields:
    """Return what a descriptor of the given fields needs to map its output through the table of `op`.

    A table that only clamps takes no place in table memory.
    """
    entries = table_entries(op, graph)
    bounds = clamp_bounds(entries)
    if bounds is None:
        return {"table": images.add_table(entries, op.name)}
    clamps = ("add_lo", "add_hi") if fields.get("residual") else ("lo", "hi")
    return {clamp: min(max(fields[clamp], bounds[0]), bounds[1]) for clamp in clamps}


def _copy(plan: Plan, step: Step, images: Images) -> Iterator[Fields]:
    source, target = plan.view(step.reads[0]), plan.view(step.writes)
    if isinstance(step.op, ir.Slice | ir.Expand):
        part = aliased(step.op, source, target.shape)
        assert part is not None, step
        source = part
    if isinstance(step.op, ir.Reshape):  # the target was chosen so that it can take the source's shape
        reshaped = target.reshape(source.shape)
        assert reshaped is not None, step
        target = reshaped
    return copy_descriptors(source, target, images)


def _conv(plan: Plan, step: Step, images: Images) -> Iterator[Fields]:
    """Convolve as DEPTHWISE, where that can be, or as CONV, whichever is faster."""
    op, config = step.op, images.config
    assert isinstance(op, ir.Conv)
    outputs = len(op.weight) // op.groups
    may_be_depthwise = op.groups > 1 and op.weight.shape[1] == 1 and step.add is None
    may_be_depthwise &= outputs == 1 or op.groups % config.grain == 0  # where each pass begins to write
    if not may_be_depthwise or (outputs > 1 and not may_reorder(plan, step.writes)):
        return conv_descriptors(plan, step, images)
    windows = depthwise_windows(op, channel_order(plan, step.reads[0]))
    passes = cost([depthwise_fields(plan, step, window, config)[0] for window in windows], images)
    in_order = plan.buffer(step.reads[0]).multiplier == 1
    tiles = -(-plan.view(step.writes).size // len(op.weight) // config.rows)
    steps = tiles * op.groups * op.weight.shape[2]  # CONV takes a step for every channel and kernel row at least
    if in_order and (images.compact or steps < passes):
        runs = conv_runs(plan, step, images)
        if cost([run.fields for run in runs], images) < passes:
            return run_descriptors(runs, plan, step, images)
    if outputs > 1:
        plan.buffer(step.writes).multiplier = outputs
    return itertools.chain.from_iterable(depthwise_descriptors(plan, step, window, images) for window in windows)


def _average(plan: Plan, step: Step, images: Images) -> Iterator[Fields]:
    """Average on the mesh or on the vector path, whichever is faster."""
    op, config = step.op, images.config
    assert isinstance(op, ir.AveragePool)
    window = average_window(op, plan.view(step.writes).shape[1])
    if not config.vector:
        return depthwise_descriptors(plan, step, window, images)
    on_mesh = cycles(depthwise_fields(plan, step, window, config)[0], config)
    reads = int(np.prod(plan.view(step.writes).shape[2:])) * op.kernel[0] * op.kernel[1]
    if on_mesh < reads * -(-window.terms.shape[3] // config.lanes):
        return depthwise_descriptors(plan, step, window, images)
    return pool_descriptors(plan, step, images)


def _concat(plan: Plan, step: Step, images: Images) -> Iterator[Fields]:
    assert isinstance(step.op, ir.Concat)
    target = plan.view(step.writes)
    axis, start = step.op.axis % len(target.shape), 0
    for name in step.reads:
        source = plan.view(name)
        place = target.slice(axis, start, source.shape[axis])
        if source != place:
            yield from copy_descriptors(source, place, images)
        start += source.shape[axis]


def _pad(plan: Plan, step: Step, images: Images) -> Iterator[Fields]:
    op = step.op
    assert isinstance(op, ir.Pad)
    source = plan.view(step.reads[0])
    rest = plan.view(step.writes)
    value = op.value - (128 if plan.tensors[step.writes].dtype == "uint8" else 0)
    for axis, (begin, size) in enumerate(zip(op.begin, source.shape, strict=True)):
        for start, count in ((0, begin), (begin + size, op.end[axis])):
            if count:
                yield from fill_descriptors(rest.slice(axis, start, count), value, images)
        rest = rest.slice(axis, begin, size)
    yield from copy_descriptors(source, rest, images)


_EMITTERS: dict[type[ir.Op], Callable[[Plan, Step, Images], Iterator[Fields]]] = {
    ir.Conv: _conv,
    ir.Gemm: conv_descriptors,
    ir.MaxPool: pool_descriptors,
    ir.AveragePool: _average,
    ir.Add: pair_descriptors,
    ir.Sub: pair_descriptors,
    ir.Mul: pair_descriptors,
    ir.Table: _copy,
    ir.Concat: _concat,
    ir.Pad: _pad,
    ir.Reshape: _copy,
    ir.Transpose: _copy,
    ir.Slice: _copy,
    ir.Expand: _copy,
    ir.Copy: _copy,
}
