"""Float models made ready for quantization: static, of operator set 21, constants and batch normalization folded.

ONNX Runtime's own basic optimizations fold; what they leave is brought into one form here, so that everything after
sees a layer as one node with constant weights.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from hwq import onnx_guard
from hwq.errors import ModelError
from hwq.host import first_line, session_options
from hwq.ir import Array
from hwq.onnx_load import open_source

OPSET = 21
"""The first with tensors of 4 bits."""

IR_VERSION = 10
"""The newest that every supported release of ONNX Runtime reads."""

_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul")


def prepare(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return `model` as the quantizer wants it; its inputs and outputs keep their names.

    Every node has a name of its own, every tensor a static shape in ``value_info``; nodes are in topological order, and
    what only constants decide is a constant.

    Raises
    ------
    ModelError
        The model is broken, not of floats, quantized already, or of an operator set that can't be converted.
    """
    source = open_source(model, name)
    quantized = next((node for node in source.nodes if node.op_type in _QUANTIZED), None)
    if quantized is not None:
        raise source.error("is quantized already: start from the float model", quantized)
    for tensor in source.inputs:
        _, dtype = source.types[tensor]
        if dtype != "float32":
            raise source.error(f"input {tensor!r} is of {dtype}: quantization starts from float32")
    graph = helper.make_graph(
        source.nodes,
        name,
        [_info(tensor, source.types[tensor]) for tensor in source.inputs],
        [_info(tensor, source.types[tensor]) for tensor in source.outputs],
        [numpy_helper.from_array(value, tensor) for tensor, value in source.constants.items()],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in source.opset.items()]
    static = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="hwq")
    folded = _fold(_converted(_fold(static, name), name), name)
    _rewrite(folded.graph)
    _name_nodes(folded.graph)
    source = open_source(folded, name)
    del folded.graph.value_info[:]
    made = [output for node in folded.graph.node for output in node.output if output]
    folded.graph.value_info.extend(_info(tensor, source.types[tensor]) for tensor in made)
    return folded


def constants(graph: onnx.GraphProto) -> dict[str, Array]:
    """Return the initializers by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def set_constant(graph: onnx.GraphProto, name: str, value: Array) -> None:
    """Give the initializer `name` another value, or add it."""
    for tensor in graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(value, name))
            return
    graph.initializer.append(numpy_helper.from_array(value, name))


def _info(name: str, kind: tuple[tuple[int, ...], str]) -> onnx.ValueInfoProto:
    shape, dtype = kind
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)


def _converted(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    try:
        converted = onnx_guard.convert(model, OPSET)
    except onnx_guard.GuardError as error:
        raise ModelError(
            f"{name}: can't be converted to operator set {OPSET}: export it with that one ({error})"
        ) from error
    converted.ir_version = IR_VERSION
    return converted


def _fold(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return `model` with ONNX Runtime's basic optimizations: constants, batch normalization, identities folded."""
    options = session_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class below Exception
            raise ModelError(f"{name}: ONNX Runtime can't run the model: {first_line(error)}") from error
        folded = onnx.load(path)
    used = {node.domain for node in folded.graph.node}
    kept = [entry for entry in folded.opset_import if entry.domain in used]
    del folded.opset_import[:]
    folded.opset_import.extend(kept)
    folded.ir_version = IR_VERSION
    return folded


def _rewrite(graph: onnx.GraphProto) -> None:
    """Give layers their one form: Gemm without factors and transposition, biases of their own, no lone batch norm.

    A mean over an image, as PyTorch exports a global average, becomes one.
    """
    values = constants(graph)
    for node in list(graph.node):
        if node.op_type == "Gemm":
            _plain_gemm(graph, node, values)
        elif node.op_type == "MatMul":
            _with_bias(graph, node, values)
        elif node.op_type == "BatchNormalization":
            _as_convolution(graph, node, values)
        elif node.op_type == "ReduceMean":
            _as_global_average(graph, node, values)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _plain_gemm(graph: onnx.GraphProto, node: onnx.NodeProto, values: dict[str, Array]) -> None:
    attributes = _attributes(node)
    if node.input[1] not in values or attributes.get("transA") or any(name not in values for name in node.input[2:]):
        return
    weight = values[node.input[1]] * np.float32(attributes.get("alpha", 1.0))
    weight = weight if attributes.get("transB") else weight.T
    bias = np.zeros(1, np.float32)
    if len(node.input) > 2:
        bias = values[node.input[2]] * np.float32(attributes.get("beta", 1.0))
    if bias.ndim > 1 and bias.shape[0] != 1:
        return
    names = [f"{node.output[0]}.weight", f"{node.output[0]}.bias"]
    set_constant(graph, names[0], np.ascontiguousarray(weight, np.float32))
    set_constant(graph, names[1], np.broadcast_to(bias.reshape(-1), (len(weight),)).astype(np.float32))
    node.CopyFrom(helper.make_node("Gemm", [node.input[0], *names], list(node.output), name=node.name, transB=1))


def _with_bias(graph: onnx.GraphProto, node: onnx.NodeProto, values: dict[str, Array]) -> None:
    """Add a bias of zeros to a MatMul that has none: rounded weights will need one."""
    output, weight = node.output[0], values.get(node.input[1])
    if weight is None or weight.ndim != 2:
        return
    shape = weight.shape[1:]
    readers = [after for after in graph.node if output in after.input]
    operands = readers[0].input if len(readers) == 1 and readers[0].op_type == "Add" else ()
    if any(name in values and values[name].shape == shape for name in operands):
        return
    node.output[0] = f"{output}_product"
    set_constant(graph, f"{output}_bias", np.zeros(shape, np.float32))
    place = next(index for index, other in enumerate(graph.node) if other.output[0] == node.output[0])
    graph.node.insert(place + 1, helper.make_node("Add", [node.output[0], f"{output}_bias"], [output], name=output))


def _as_convolution(graph: onnx.GraphProto, node: onnx.NodeProto, values: dict[str, Array]) -> None:
    """Turn a batch normalization that no layer could take in into a depthwise convolution of one tap."""
    if _ranks(graph).get(node.input[0]) != 4 or any(name not in values for name in node.input[1:]):
        return
    scale, bias, mean, variance = (values[name] for name in node.input[1:])
    factor = scale / np.sqrt(variance + np.float32(_attributes(node).get("epsilon", 1e-5)))
    names = [f"{node.output[0]}.weight", f"{node.output[0]}.bias"]
    set_constant(graph, names[0], factor.astype(np.float32).reshape(-1, 1, 1, 1))
    set_constant(graph, names[1], (bias - mean * factor).astype(np.float32))
    inputs = [node.input[0], *names]
    node.CopyFrom(helper.make_node("Conv", inputs, list(node.output)[:1], name=node.name, group=len(scale)))


def _as_global_average(graph: onnx.GraphProto, node: onnx.NodeProto, values: dict[str, Array]) -> None:
    rank, axes = _ranks(graph).get(node.input[0], 0), values.get("".join(node.input[1:]))
    if rank != 4 or axes is None or sorted(int(axis) % rank for axis in axes) != [2, 3]:
        return
    output = node.output[0]
    pooled = helper.make_node("GlobalAveragePool", node.input[:1], [output], name=node.name)
    if not _attributes(node).get("keepdims", 1):
        pooled.output[0] = f"{output}_pooled"
        place = next(index for index, other in enumerate(graph.node) if other.output[0] == output)
        graph.node.insert(place + 1, helper.make_node("Flatten", [pooled.output[0]], [output], name=output))
    node.CopyFrom(pooled)


def _ranks(graph: onnx.GraphProto) -> dict[str, int]:
    return {info.name: len(info.type.tensor_type.shape.dim) for info in [*graph.value_info, *graph.input]}


def _name_nodes(graph: onnx.GraphProto) -> None:
    taken: Counter[str] = Counter(node.name for node in graph.node)
    for node in graph.node:
        if not node.name or taken[node.name] > 1:
            node.name = node.output[0]
