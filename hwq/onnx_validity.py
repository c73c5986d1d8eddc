"""What an ONNX model must be beyond what ONNX's checker asks: rules that keep damage from being given a meaning.

`check_model` looks at the file as it is, `check_source` at the graph with its shapes and constants known. Each rule
ends in one `ModelError` that names the model, the node or tensor, and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import defs, helper

from hwq.errors import ModelError

if TYPE_CHECKING:
    from hwq.onnx_load import Source

NODE_LIMIT = 1 << 20
"""Nodes of a model whose functions are written out: ten functions of ten calls each would be ten thousand million."""

DEPTH_LIMIT = 16
"""Control flow within control flow; protobuf itself refuses a file of some thirty levels."""

ELEMENT_LIMIT = 1 << 28
"""Elements of a tensor: a sample must fit in memory a few times over."""

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""Below it float32 loses digits, and processors may take it for 0."""

_AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")

_POOLS = ("MaxPool", "AveragePool", "LpPool")

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


# The file ----------------------------------------------------------------------------------------------------------


def check_model(model: onnx.ModelProto, name: str) -> None:
    """Check versions, types, nesting and functions.

    Raises
    ------
    ModelError
    """
    _check_versions(model, name)
    graph = model.graph
    if not graph.output:
        raise ModelError(f"{name}: the graph has no output")
    outputs = [output.name for output in graph.output]
    if (twice := next((entry for entry in outputs if outputs.count(entry) > 1), None)) is not None:
        raise ModelError(f"{name}: output {twice!r} is stated twice")
    codes = [("input", value.name, value.type.tensor_type.elem_type) for value in graph.input]
    codes += [("initializer", tensor.name, tensor.data_type) for tensor in graph.initializer]
    for kind, label, code in codes:
        if code not in onnx.TensorProto.DataType.values():
            raise ModelError(f"{name}: {kind} {label!r} has element type {code}, which ONNX doesn't know")
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.ref_attr_name:
                label = node.name or node.op_type
                raise ModelError(
                    f"{name}: node {label!r}: attribute {attribute.name!r} refers to a function's, but is in none"
                )
    _check_depth(graph, name)
    _check_functions(model, name)


def _check_versions(model: onnx.ModelProto, name: str) -> None:
    domains = [entry.domain for entry in model.opset_import]
    if (twice := next((entry for entry in domains if domains.count(entry) > 1), None)) is not None:
        raise ModelError(f"{name}: imports operator set {twice or 'ai.onnx'!r} twice")
    version = next((entry.version for entry in model.opset_import if not entry.domain), 1)
    newest = defs.onnx_opset_version()
    if not 1 <= version <= newest:
        raise ModelError(f"{name}: operator set {version} isn't one of 1 to {newest}: export it again with one of them")


def _check_depth(graph: onnx.GraphProto, name: str) -> None:
    level, depth = [graph], 0
    while level := [body for outer in level for node in outer.node for body in subgraphs(node)]:
        depth += 1
        if depth > DEPTH_LIMIT:
            raise ModelError(f"{name}: control flow is nested more than {DEPTH_LIMIT} deep")


def _check_functions(model: onnx.ModelProto, name: str) -> None:
    """Count the nodes that writing out all calls would give."""
    bodies = {(function.domain, function.name): function.node for function in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(call: tuple[str, str], within: tuple[tuple[str, str], ...]) -> int:
        if call in within or len(within) > 1000:
            raise ModelError(f"{name}: function {call[1]!r} calls itself")
        if call not in sizes:
            sizes[call] = sum(
                size((node.domain, node.op_type), (*within, call)) if (node.domain, node.op_type) in bodies else 1
                for node in bodies[call]
            )
        return sizes[call]

    calls = ((node.domain, node.op_type) for node in model.graph.node)
    total = sum(size(call, ()) if call in bodies else 1 for call in calls)
    if total > NODE_LIMIT:
        raise ModelError(f"{name}: its functions written out are {total} nodes: more than {NODE_LIMIT}")


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the bodies of a control-flow node."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


# The graph ---------------------------------------------------------------------------------------------------------


def check_shapes(source: Source) -> None:
    """Check that every tensor known so far has a shape that fits in memory.

    Raises
    ------
    ModelError
    """
    for node in source.nodes:
        for name in node.output:
            shape = source.types[name][0] if name in source.types else ()
            if any(dim < 0 for dim in shape) or (0 in shape and _windows(node)):
                raise source.error(f"its output would have shape {shape}: the window doesn't fit in the input", node)
            if math.prod(shape) > ELEMENT_LIMIT:
                raise source.error(f"its output has shape {shape}: more than {ELEMENT_LIMIT} elements", node)


def _windows(node: onnx.NodeProto) -> bool:
    return "Conv" in node.op_type or "Pool" in node.op_type


def check_source(source: Source) -> None:
    """Check quantizers, windows and factors.

    Raises
    ------
    ModelError
    """
    for node in source.nodes:
        attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        if node.op_type in _QUANTIZERS:
            _check_quantizer(source, node, attributes)
        if (auto := attributes.get("auto_pad", b"NOTSET").decode()) not in _AUTO_PADS:
            raise source.error(f"auto_pad is {auto!r}: it must be one of {', '.join(_AUTO_PADS)}", node)
        if node.op_type in _POOLS and not node.domain:
            _check_pool(source, node, attributes)
        if node.op_type == "Conv" and len(node.input) > 2 and node.input[2]:
            (outputs, *_), shape = (source.types[name][0] for name in node.input[1:3])
            if shape != (outputs,):
                raise source.error(f"its bias has shape {shape}: it must be ({outputs},)", node)
        for name in ("alpha", "beta"):
            if not math.isfinite(value := attributes.get(name, 1.0)):
                raise source.error(f"{name} is {value}: it must be finite", node)


def _check_quantizer(source: Source, node: onnx.NodeProto, attributes: dict[str, object]) -> None:
    """Check the constants of a quantizer; what a graph computes is ONNX Runtime's to judge."""
    scale = source.constants.get(node.input[1])
    if scale is None or attributes.get("block_size"):
        return
    with np.errstate(invalid="ignore"):  # of a NaN that signals
        scales = scale.astype(np.float64).ravel()
    bad = scales[~(np.isfinite(scales) & (scales >= SMALLEST_SCALE))]
    if bad.size:
        raise source.error(f"its scale is {bad[0]:g}: it must be finite and at least {SMALLEST_SCALE:.3g}", node)
    shape = source.types[node.input[0]][0]
    if scale.size != 1:
        axis = attributes.get("axis", 1)
        assert isinstance(axis, int)
        if not -len(shape) <= axis < len(shape):
            raise source.error(f"its axis is {axis}: its input has {len(shape)} dimensions", node)
        if scale.shape != (shape[axis],):
            raise source.error(f"its scale has shape {scale.shape}: axis {axis} of its input has {shape[axis]}", node)
    zero_point = source.constants.get(node.input[2]) if len(node.input) > 2 else None
    if zero_point is not None and zero_point.size != scale.size:
        raise source.error(f"it has {zero_point.size} zero points and {scale.size} scales", node)


def _check_pool(source: Source, node: onnx.NodeProto, attributes: dict[str, object]) -> None:
    """Check that no window lies in the padding alone."""
    kernel, pads = attributes.get("kernel_shape", []), attributes.get("pads", [])
    assert isinstance(kernel, list)
    assert isinstance(pads, list)
    for pad, size in zip(pads, 2 * kernel, strict=False):
        if pad >= size:
            raise source.error(f"its pads are {pads}: each must be smaller than the kernel, {kernel}", node)
