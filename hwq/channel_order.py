"""Tensors whose channels lie in another order, as a depthwise layer with several outputs a channel writes them.

Such a layer makes output j of all channels at once: channel c * multiplier + j of C * multiplier comes to lie at
j * C + c. Whoever reads the tensor takes its weights in that order, or hands the order on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hwq import ir
from hwq.layout import ViewChain
from hwq.nibbles import channel_axis
from hwq.plan import Plan, Step, is_depthwise


def channel_order(plan: Plan, name: str) -> npt.NDArray[np.intp]:
    """Return the channel of tensor `name` that lies at each place of a pixel."""
    shape = plan.tensors[name].shape
    return np.arange(shape[channel_axis(shape)]).reshape(-1, plan.buffer(name).multiplier).T.reshape(-1)


def order_chain(plan: Plan, name: str) -> ViewChain:
    """Return the views that lead from the stored tensor `name` to the tensor itself."""
    multiplier, shape = plan.buffer(name).multiplier, plan.tensors[name].shape
    if multiplier == 1:
        return ()
    axis = channel_axis(shape)
    perm = [*range(axis), axis + 1, axis, *range(axis + 2, len(shape) + 1)]
    split = (*shape[:axis], multiplier, shape[axis] // multiplier, *shape[axis + 1 :])
    return ("reshape", split), ("transpose", tuple(perm)), ("reshape", shape)


def may_reorder(plan: Plan, name: str) -> bool:
    """Whether everything that reads tensor `name` can do so in any order of channels."""
    buffer = plan.buffer(name)
    writers = [step for step in plan.steps if plan.buffer(step.writes) is buffer]
    if len(writers) != 1 or any(plan.buffer(port.stored) is buffer for port in plan.outputs):
        return False
    readers = [(step, read) for step in plan.steps for read in step.reads if plan.buffer(read) is buffer]
    return all(_takes_any_order(plan, step, read) for step, read in readers)


def hand_on(plan: Plan, step: Step) -> None:
    """Give what `step` writes the order of what it reads, if it keeps channels apart."""
    if _keeps_channels(step.op):
        plan.buffer(step.writes).multiplier = plan.buffer(step.reads[0]).multiplier


def _takes_any_order(plan: Plan, step: Step, read: str) -> bool:
    shape, view = plan.tensors[read].shape, plan.view(read)
    channels, axis = plan.buffer(read).shape[3], channel_axis(plan.tensors[read].shape)
    if read != step.reads[0] or read in step.reads[1:] or (shape[axis], view.strides[axis]) != (channels, 1):
        return False
    if _keeps_channels(step.op):
        same = plan.buffer(step.writes).shape[3] == channels
        return same and step.add is None and may_reorder(plan, step.writes)
    if isinstance(step.op, ir.Conv | ir.Gemm) and step.op.block_scales is not None:
        return False
    return isinstance(step.op, ir.Gemm) or (isinstance(step.op, ir.Conv) and step.op.groups == 1)


def _keeps_channels(op: ir.Op) -> bool:
    return isinstance(op, ir.AveragePool | ir.MaxPool | ir.Table | ir.Copy) or is_depthwise(op)
