"""Tensors of 4 and 2 bits (INT4, UINT4, INT2, UINT2) as int8 and uint8 tensors that Clip keeps in their range.

Saturating to 8 bits and then to 4 is saturating to 4. So QuantizeLinear to a narrow type becomes QuantizeLinear to the
wide one and a Clip, which is how exporters without narrow types write low-bit tensors anyway (QCDQ); stored tensors
keep their values. Narrow tensors that any node but QuantizeLinear, DequantizeLinear and views touches stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwq.errors import ModelError

_RANGES = {
    name: (wide, lo, hi)
    for name, wide, lo, hi in (
        ("INT4", TensorProto.INT8, -8, 7),
        ("UINT4", TensorProto.UINT8, 0, 15),
        ("INT2", TensorProto.INT8, -2, 1),
        ("UINT2", TensorProto.UINT8, 0, 3),
    )
}
NARROW = {TensorProto.DataType.Value(name): entry for name, entry in _RANGES.items() if hasattr(TensorProto, name)}
"""Narrow element types: the type that carries them, and their range."""

_VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Transpose")
_LINEAR = ("QuantizeLinear", "DequantizeLinear")
_DOMAINS = ("", "com.microsoft")


def widen(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return `model` with its narrow tensors in 8-bit types, in place where there are any.

    Raises
    ------
    ModelError
        An input or output of the model has a narrow type, which ONNX Runtime's callers can't feed or read as numpy.
    """
    for kind, values in (("input", model.graph.input), ("output", model.graph.output)):
        stored = {tensor.name for tensor in model.graph.initializer}
        for value in values:
            if value.type.tensor_type.elem_type in NARROW and value.name not in stored:
                element = TensorProto.DataType.Name(value.type.tensor_type.elem_type)
                raise ModelError(f"{name}: {kind} {value.name!r} is {element}: quantize inside the model instead")
    types = _narrow_types(model.graph)
    if types:
        for kept in _touched_elsewhere(model.graph, types):
            del types[kept]
        _rewrite(model.graph, types)
    return model


def _stored(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        if node.op_type == "Constant" and not node.domain:
            for attribute in node.attribute:
                if attribute.name == "value":
                    yield node.output[0], attribute.t


def _is_linear(node: onnx.NodeProto, op_type: str) -> bool:
    return node.op_type == op_type and node.domain in _DOMAINS


def _is_view(node: onnx.NodeProto) -> bool:
    return node.op_type in _VIEWS and not node.domain


def _output_type(node: onnx.NodeProto, types: dict[str, int]) -> int:
    """Return the element type that a QuantizeLinear writes, 0 if it isn't known to be narrow."""
    if len(node.input) > 2 and node.input[2]:
        return types.get(node.input[2], 0)
    stated = next((int(entry.i) for entry in node.attribute if entry.name == "output_dtype"), 0)
    return stated if stated in NARROW else 0


def _narrow_types(graph: onnx.GraphProto) -> dict[str, int]:
    """Return the narrow tensors that are known to be: stored ones, quantizers' results and views of either."""
    types = {name: tensor.data_type for name, tensor in _stored(graph) if tensor.data_type in NARROW}
    known = -1
    while known != len(types):
        known = len(types)
        for node in graph.node:
            if _is_linear(node, "QuantizeLinear") and _output_type(node, types):
                types[node.output[0]] = _output_type(node, types)
            elif _is_view(node) and node.input[0] in types:
                types[node.output[0]] = types[node.input[0]]
    return types


def _touched_elsewhere(graph: onnx.GraphProto, types: dict[str, int]) -> set[str]:
    """Return the narrow tensors that must keep their type, and all that share a node with them."""
    kept: set[str] = set()
    links: list[set[str]] = []
    made = set(types)
    for node in graph.node:
        names = {entry for entry in [*node.input, *node.output] if entry in types}
        if _is_linear(node, "DequantizeLinear"):
            whole = {entry for entry in (node.input[0], *node.input[2:3]) if entry}
            links.append(names)
            if names and not whole <= made:
                kept |= names
        elif _is_linear(node, "QuantizeLinear") or _is_view(node):
            links.append(names)
        elif node.op_type != "Constant" or node.domain:
            kept |= names
        kept |= _read_in_bodies(node) & made
    count = -1
    while count != len(kept):
        count = len(kept)
        for names in links:
            if names & kept:
                kept |= names
    return kept


def _read_in_bodies(node: onnx.NodeProto) -> set[str]:
    """Return every name that the nodes in a control-flow node's bodies read."""
    bodies = [body for entry in node.attribute for body in ([entry.g] if entry.HasField("g") else entry.graphs)]
    inner = [step for body in bodies for step in body.node]
    results = {output.name for body in bodies for output in body.output}
    return results.union(*({*step.input} | _read_in_bodies(step) for step in inner))


def _rewrite(graph: onnx.GraphProto, types: dict[str, int]) -> None:
    for name, tensor in _stored(graph):
        if name in types:
            wide = helper.tensor_dtype_to_np_dtype(NARROW[types[name]][0])
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(wide), tensor.name))
    taken = {name for node in graph.node for name in [*node.input, *node.output]}
    nodes = []
    for node in graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        nodes.append(copy)
        if _is_linear(node, "QuantizeLinear") and node.output[0] in types:
            nodes.append(_clip(graph, copy, types[node.output[0]], taken))
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]


def _clip(graph: onnx.GraphProto, quantizer: onnx.NodeProto, narrow: int, taken: set[str]) -> onnx.NodeProto:
    """Make `quantizer` write the wide type under another name; return the Clip that writes its result."""
    wide, lo, hi = NARROW[narrow]
    output = quantizer.output[0]

    def constant(step: str, value: np.ndarray) -> str:
        name = fresh(step)
        graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def fresh(step: str) -> str:
        name = f"{output}/{step}"
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    dtype = helper.tensor_dtype_to_np_dtype(wide)
    attributes = [entry for entry in quantizer.attribute if entry.name != "output_dtype"]
    del quantizer.attribute[:]
    quantizer.attribute.extend(attributes)
    if len(quantizer.input) < 3 or not quantizer.input[2]:
        quantizer.attribute.append(helper.make_attribute("output_dtype", wide))
    quantizer.output[0] = fresh("wide")
    bounds = [constant(step, np.array(bound, dtype)) for step, bound in (("lo", lo), ("hi", hi))]
    return helper.make_node("Clip", [quantizer.output[0], *bounds], [output], name=output)
