"""Split becomes one Slice an output, so that every node that carries values makes one tensor."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from hwq.onnx_load import Source
from hwq.onnx_values import attribute

_SLICE_TAKES_INPUTS = 10
"""Operator set from which on Slice reads its bounds from tensors."""


def replace_splits(source: Source) -> None:
    """Replace every Split of `source`, in place."""
    if source.opset.get("", 0) < _SLICE_TAKES_INPUTS:
        return
    nodes: list[onnx.NodeProto] = []
    for node in source.nodes:
        nodes += _slices(source, node) if node.op_type == "Split" and not node.domain else [node]
    source.nodes[:] = nodes
    source.producers.update({name: node for node in nodes for name in node.output if name})


def _slices(source: Source, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    axis = attribute(node, "axis", 0)
    slices: list[onnx.NodeProto] = []
    start = 0
    for output in node.output:
        if not output:  # its size is unknown, and so is where the next one begins
            return [node]
        end = start + source.types[output][0][axis]
        bounds = {"start": start, "end": end, "axis": axis}
        names = {key: f"{output}/{key}" for key in bounds}
        if any(name in source.types for name in names.values()):
            return [node]
        for key, name in names.items():
            source.constants[name] = np.array([bounds[key]], np.int64)
            source.types[name] = ((1,), "int64")
        name = node.name and f"{node.name}/{len(slices)}"
        slices.append(helper.make_node("Slice", [node.input[0], *names.values()], [output], name=name))
        start = end
    return slices
