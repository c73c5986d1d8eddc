"""ONNX files in: checked, static and constant-folded, ready for `hwq.onnx_reader`.

A file is untrusted input. Whatever is wrong with it ends in one `ModelError` sentence that names the file and the
node or tensor; nothing outside the file is opened unless the caller asks for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwq import onnx_guard
from hwq.errors import ModelError
from hwq.host import first_line
from hwq.ir import Array
from hwq.onnx_external import is_external, read_external
from hwq.onnx_narrow import widen
from hwq.onnx_qonnx import qonnx_nodes, translate, with_domains
from hwq.onnx_validity import ELEMENT_LIMIT, check_model, check_shapes, check_source, subgraphs

MIN_OPSET = 13
"""Older models are converted: per-axis DequantizeLinear and int8 Clip, MaxPool and Pad all exist from here on."""

_FOLD_LIMIT = 1 << 24
"""Elements of the largest tensor folded at load time: a hostile ConstantOfShape can ask for terabytes."""

_NOT_FOLDED = frozenset({"DequantizeLinear", "Multinomial", "Bernoulli", "RandomNormalLike", "RandomUniformLike"})
"""Random operators, and DequantizeLinear, which marks a constant as quantized."""


@dataclass(slots=True)
class Source:
    """An ONNX graph with every tensor's static shape and type known.

    Members
    -------
    name : str
        File stem or the caller's name, for messages.
    nodes : list of onnx.NodeProto
        Topologically ordered; none has only constant inputs, except DequantizeLinear.
    inputs, outputs : list of str
    types : dict of str to (shape, dtype name)
    constants : dict of str to array
        Initializers and folded values.
    opset : dict of str to int
    captured : set of str
        Names the bodies of control-flow nodes read from the enclosing graph.
    rewrites : list of str
        What the dialect's translation changed, one line each.
    """

    name: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    types: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    opset: dict[str, int] = field(default_factory=dict)
    captured: set[str] = field(default_factory=set)
    producers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    rewrites: list[str] = field(default_factory=list)

    def error(self, message: str, node: onnx.NodeProto | None = None) -> ModelError:
        """Return a ModelError naming the model and, where there is one, the node."""
        where = f"{self.name}: " if node is None else f"{self.name}: node {node_label(node)}: "
        return ModelError(where + message)


def node_label(node: onnx.NodeProto) -> str:
    """Return how messages name a node: its name, or its first output's, and its operator."""
    name = node.name or next((output for output in node.output if output), "unnamed")
    return f"{name!r} ({node.op_type})"


def node_inputs(node: onnx.NodeProto) -> list[str]:
    """Return every tensor a node reads, those its subgraphs capture included, each once."""
    names = [name for name in node.input if name]
    names += [name for body in subgraphs(node) for name in _captures(body)]
    return list(dict.fromkeys(names))


def load_model(path: str | Path, *, external_data: bool = False) -> onnx.ModelProto:
    """Read an ONNX file; `open_source` checks what it says.

    Parameters
    ----------
    path : path
    external_data : bool
        Also read the weight files the model names, which must lie beside it.

    Raises
    ------
    ModelError
        The file is missing, isn't a whole ONNX model, or names external data while `external_data` is False.
    """
    path = Path(path)
    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: can't be read: {error.strerror}") from error
    except Exception as error:  # google.protobuf.message.DecodeError, whose class depends on the protobuf backend
        raise ModelError(f"{path}: isn't an ONNX model, or is truncated (protobuf can't parse it)") from error
    if not model.HasField("graph") or not model.opset_import:
        raise ModelError(f"{path}: isn't an ONNX model (it holds no graph or no operator-set version)")
    external = [tensor for tensor in _tensors(model.graph) if is_external(tensor)]
    if external and not external_data:
        raise ModelError(
            f"{path}: tensor {external[0].name!r} lies in another file: save the model with its weights inside, "
            "or load it with external_data=True if you trust the files beside it"
        )
    for tensor in external:
        read_external(tensor, path.parent, str(path))
    return model


def runnable(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return `model` in operators that ONNX Runtime has, of operator set `MIN_OPSET` or newer.

    Raises
    ------
    ModelError
        The operator set can't be converted, or a QONNX node can't be translated.
    """
    return translate(_modern(with_domains(model), name), name)


def open_source(model: onnx.ModelProto, name: str) -> Source:
    """Make `model` static and foldable: one `Source` with nodes in order, every shape known, constants evaluated.

    The first dimension of an input, where it is symbolic or missing, is the batch and becomes 1.

    Raises
    ------
    ModelError
        The model breaks the ONNX specification, has a shape that isn't static, or an operator set that can't be
        converted.
    """
    model = with_domains(model)
    check_model(model, name)
    _check(model, name)
    model = _inlined(model, name)
    rewrites = [f"{len(nodes)} nodes of QONNX taken as standard operators"] if (nodes := qonnx_nodes(model)) else []
    model = widen(runnable(model, name), name)
    source = Source(name, outputs=[output.name for output in model.graph.output], rewrites=rewrites)
    _read_constants(source, model.graph)
    _fix_inputs(source, model.graph)
    source.opset = {entry.domain: entry.version for entry in model.opset_import}
    _order_nodes(source, list(model.graph.node))
    _infer_types(source, model)
    check_source(source)
    _fold(source)
    for node in source.nodes:
        source.producers |= {output: node for output in node.output if output}
        source.captured |= {capture for body in subgraphs(node) for capture in _captures(body)}
    return source


def value_infos(source: Source, names: list[str]) -> list[onnx.ValueInfoProto]:
    """Return the typed declarations of tensors."""
    return [value_info(name, *source.types[name]) for name in names]


def value_info(name: str, shape: Sequence[int | str], dtype: str) -> onnx.ValueInfoProto:
    """Return the declaration of a tensor whose dtype is given by its numpy name."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)


def _check(model: onnx.ModelProto, name: str) -> None:
    _check_tensors(model.graph, name)
    checked = onnx.ModelProto()
    checked.CopyFrom(model)
    for value in [*checked.graph.input, *checked.graph.output]:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()  # a shape nobody states may still be inferred
    try:
        onnx_guard.check(checked)
    except onnx_guard.GuardError as error:
        if "topologically sorted" in str(error):  # order is our own business: _order_nodes says what is missing
            return
        refused = "breaks the ONNX specification" if error.kind == "ValidationError" else "can't be checked"
        raise ModelError(f"{name}: {refused}: {error}") from error


def _check_tensors(graph: onnx.GraphProto, name: str) -> None:
    if graph.sparse_initializer:
        raise ModelError(f"{name}: sparse initializers aren't supported: save the weights as dense tensors")
    for tensor in graph.initializer:
        dims = list(tensor.dims)
        if any(dim < 0 for dim in dims) or (0 in dims and len(dims) > 1):
            raise ModelError(
                f"{name}: initializer {tensor.name!r} has shape {dims}: every dimension must be at least 1"
            )


def _inlined(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    if not model.functions:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return copy
    try:
        return onnx_guard.inline(model)
    except onnx_guard.GuardError as error:
        raise ModelError(f"{name}: its local functions can't be inlined: {error}") from error


def _read_constants(source: Source, graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        source.constants[tensor.name] = _to_array(source.name, tensor.name, tensor)
    for node in list(graph.node):
        if node.op_type == "Constant" and not node.domain:
            source.constants[node.output[0]] = _constant_value(source, node)
            graph.initializer.append(numpy_helper.from_array(source.constants[node.output[0]], node.output[0]))
            graph.node.remove(node)
    for name, value in source.constants.items():
        source.types[name] = (value.shape, value.dtype.name)


def _constant_value(source: Source, node: onnx.NodeProto) -> Array:
    if len(node.attribute) != 1 or len(node.output) != 1:
        raise source.error("a constant must have one attribute and one output", node)
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return _to_array(source.name, node.output[0], value)
    if attribute.name in ("value_float", "value_floats"):
        return np.array(value, np.float32)
    if attribute.name in ("value_int", "value_ints"):
        return np.array(value, np.int64)
    raise source.error(f"a constant of kind {attribute.name!r} isn't supported: use a dense tensor", node)


def _to_array(model_name: str, tensor_name: str, tensor: onnx.TensorProto) -> Array:
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except Exception as error:  # to_array raises ValueError, TypeError or KeyError on damaged data
        raise ModelError(f"{model_name}: initializer {tensor_name!r} is damaged: {first_line(error)}") from error


def _fix_inputs(source: Source, graph: onnx.GraphProto) -> None:
    for value in list(graph.input):
        if value.name in source.constants:
            graph.input.remove(value)
            continue
        tensor_type = value.type.tensor_type
        if not value.type.HasField("tensor_type") or not tensor_type.elem_type:
            raise source.error(f"input {value.name!r} isn't a tensor")
        if not tensor_type.HasField("shape"):
            raise source.error(f"input {value.name!r} has no shape: give it one with onnx.tools.update_model_dims")
        shape = tuple(_fixed_dim(source, value.name, axis, dim) for axis, dim in enumerate(tensor_type.shape.dim))
        if math.prod(shape) > ELEMENT_LIMIT:
            raise source.error(f"input {value.name!r} has shape {shape}: more than {ELEMENT_LIMIT} elements")
        value.CopyFrom(helper.make_tensor_value_info(value.name, tensor_type.elem_type, shape))
        source.inputs.append(value.name)
        source.types[value.name] = (shape, helper.tensor_dtype_to_np_dtype(tensor_type.elem_type).name)
    # Declared shapes of everything else may still hold the symbols just replaced.
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")


def _fixed_dim(source: Source, name: str, axis: int, dim: onnx.TensorShapeProto.Dimension) -> int:
    if dim.HasField("dim_value"):
        if dim.dim_value < 1:
            raise source.error(f"input {name!r} has size {dim.dim_value} on axis {axis}: it must be at least 1")
        return int(dim.dim_value)
    if axis == 0:
        return 1
    symbol = dim.dim_param or "?"
    raise source.error(
        f"input {name!r} has symbolic size {symbol!r} on axis {axis}: fix it with "
        "python -m onnxruntime.tools.make_dynamic_shape_fixed"
    )


def _modern(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    version = next((entry.version for entry in model.opset_import if not entry.domain), MIN_OPSET)
    if version >= MIN_OPSET:
        return model
    try:
        return onnx_guard.convert(model, MIN_OPSET)
    except onnx_guard.GuardError as error:
        raise ModelError(
            f"{name}: operator set {version} can't be converted to {MIN_OPSET}: export it again "
            f"with opset {MIN_OPSET} or newer ({error})"
        ) from error


def _order_nodes(source: Source, nodes: list[onnx.NodeProto]) -> None:
    """Sort topologically, keeping the file's order where it is one already."""
    made_by = {output: index for index, node in enumerate(nodes) for output in node.output if output}
    known = set(source.inputs) | set(source.constants)
    for node in nodes:
        missing = next((name for name in node_inputs(node) if name not in made_by and name not in known), None)
        if missing is not None:
            raise source.error(f"reads {missing!r}, which no node, input or initializer provides", node)
    for name in source.outputs:
        if name not in made_by and name not in known:
            raise source.error(f"output {name!r} is provided by no node, input or initializer")
    placed: set[int] = set()
    waiting = list(range(len(nodes)))
    while waiting:
        later = []
        for index in waiting:
            if all(made_by.get(name, -1) in placed or name not in made_by for name in node_inputs(nodes[index])):
                placed.add(index)
                source.nodes.append(nodes[index])
            else:
                later.append(index)
        if len(later) == len(waiting):
            raise source.error("is part of a cycle", nodes[later[0]])
        waiting = later


def _infer_types(source: Source, model: onnx.ModelProto) -> None:
    del model.graph.node[:]
    model.graph.node.extend(source.nodes)
    model.ir_version = min(model.ir_version, 10)
    try:
        inferred = onnx_guard.infer(model)
    except onnx_guard.GuardError as error:
        raise source.error(_inference_message(str(error))) from error
    for value in [*inferred.graph.value_info, *inferred.graph.output]:
        tensor_type = value.type.tensor_type
        dims = tensor_type.shape.dim
        if tensor_type.elem_type and tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            dtype = helper.tensor_dtype_to_np_dtype(tensor_type.elem_type).name
            source.types[value.name] = (tuple(int(dim.dim_value) for dim in dims), dtype)
    check_shapes(source)
    unknown = [name for node in source.nodes for name in node.output if name and name not in source.types]
    if unknown:
        _measure_types(source, model, unknown)


def _inference_message(text: str) -> str:
    """Return what shape inference says, as our own messages say it."""
    text = re.sub(r"\[\w*Error\] |Inference error\(s\): ", "", text)
    found = re.fullmatch(r"\(op_type:(\w+)(?:, node name: (.*?))?\): (.*)", text)
    return f"node {found[2] or 'unnamed'!r} ({found[1]}): {found[3]}" if found else f"shapes are inconsistent: {text}"


def _measure_types(source: Source, model: onnx.ModelProto, names: list[str]) -> None:
    """Learn what onnx can't infer (operators of com.microsoft, shapes computed from values) from one run on ones."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    types = {name: source.types[name] for name in source.inputs}
    feeds = {name: np.ones(shape, np.dtype(dtype)) for name, (shape, dtype) in types.items()}
    try:
        found = onnx_guard.types(probe, feeds, names)
    except onnx_guard.GuardError as error:
        node = next(node for node in source.nodes if names[0] in node.output)
        raise source.error(f"its output's shape is unknown, and {error}", node) from error
    for name, found_type in found.items():
        if found_type is None:
            raise source.error(f"tensor {name!r} is a sequence or optional, which isn't supported")
        source.types[name] = (tuple(found_type[0]), found_type[1])


def _fold(source: Source) -> None:
    """Evaluate every node whose inputs are all constants, and Shape, whose result is static."""
    folded: list[onnx.NodeProto] = []
    values: set[str] = set()
    kept: list[onnx.NodeProto] = []
    for node in source.nodes:
        if node.op_type == "Shape" and not node.domain:
            first, last = (_int_attribute(node, "start"), _int_attribute(node, "end"))
            shape = source.types[node.input[0]][0][first or 0 : last]
            source.constants[node.output[0]] = np.array(shape, np.int64)
        elif _is_foldable(source, node, values):
            folded.append(node)
            values.update(output for output in node.output if output)
        else:
            kept.append(node)
    if folded:
        reads = {name for node in folded for name in node_inputs(node)}
        graph = helper.make_graph(folded, "constants", [], value_infos(source, sorted(values)))
        constants = {name: source.constants[name] for name in sorted(reads - values)}
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
        opsets = [helper.make_opsetid(domain, version) for domain, version in source.opset.items()]
        try:
            source.constants |= onnx_guard.run(helper.make_model(graph, opset_imports=opsets, ir_version=10), {})
        except onnx_guard.GuardError as error:
            raise source.error(f"its constants can't be computed: {error}") from error
    source.nodes = kept


def _is_foldable(source: Source, node: onnx.NodeProto, folded: set[str]) -> bool:
    reads = node_inputs(node)
    return (
        bool(reads)
        and node.op_type not in _NOT_FOLDED
        and not any(True for _ in subgraphs(node))
        and all(name in source.constants or name in folded for name in reads)
        and not any(name in source.outputs for name in node.output)
        and all(math.prod(source.types[name][0]) <= _FOLD_LIMIT for name in node.output if name)
    )


def _int_attribute(node: onnx.NodeProto, name: str) -> int | None:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), None)


def _captures(graph: onnx.GraphProto) -> list[str]:
    """Return the names a control-flow body reads from outside itself."""
    local = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    local |= {output for node in graph.node for output in node.output}
    reads = [name for node in graph.node for name in node_inputs(node)]
    reads += [output.name for output in graph.output]
    return [name for name in dict.fromkeys(reads) if name not in local]


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
        for body in subgraphs(node):
            yield from _tensors(body)
