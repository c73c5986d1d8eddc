"""Let a convolution of several copies of one image read the image once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from hwq.ir import Concat, Conv, Graph, Op
from hwq.passes.edit import rebuilt


def merge_copies(graph: Graph, on_array: Callable[[Op], bool]) -> Graph:
    """Return the graph with ``Conv(Concat(x, x, ...))`` as a Conv of x whose weights are the sums over the copies.

    The sums may exceed 8 bits: such a Conv's weight is int16 and its zero points are 0. The array splits it into terms
    again, without the copies; ONNX has no such operator, so only a Conv that runs `on_array` is changed.
    """
    writers = {op.outputs[0]: op for op in graph.ops}
    ops = []
    for op in graph.ops:
        source = writers.get(op.inputs[0]) if isinstance(op, Conv) else None
        if (
            isinstance(op, Conv)
            and isinstance(source, Concat)
            and _is_copies(source)
            and op.groups == 1
            and on_array(op)
        ):
            zero_point = op.weight_zero_point.astype(np.int16)[:, None, None, None]
            weight = op.weight.astype(np.int16) - zero_point
            outputs, inputs, *kernel = weight.shape
            copies = len(source.inputs)
            total = weight.reshape(outputs, copies, inputs // copies, *kernel).sum(1, dtype=np.int64)
            assert np.abs(total).max(initial=0) < 1 << 15
            op = replace(
                op,
                inputs=(source.inputs[0],),
                weight=total.astype(np.int16),
                weight_zero_point=np.zeros_like(op.weight_zero_point),
            )
        ops.append(op)
    return rebuilt(graph, ops)


def _is_copies(op: Concat) -> bool:
    return op.axis == 1 and len(set(op.inputs)) == 1 and len(op.inputs) > 1
