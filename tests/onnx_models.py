"""Small ONNX models for the tests of the reader, the writer and the reference, and the comparison they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwq import reference
from hwq.host import oracle_session
from hwq.ir import Graph, Tensor
from hwq.onnx_load import value_info
from hwq.onnx_writer import write

TYPES = {
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "float32": TensorProto.FLOAT,
}


class Builder:
    """Collects nodes and constants; every method returns the name of the tensor it makes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[int | str | None], dtype: str = "float32") -> str:
        self.inputs.append(helper.make_tensor_value_info(name, TYPES[dtype], shape))
        return name

    def constant(self, value, dtype=None, name: str | None = None) -> str:
        name = name or f"constant_{len(self.constants)}"
        self.constants[name] = np.array(value, dtype)
        return name

    def node(
        self, op_type: str, inputs: Sequence[str], output: str | None = None, domain: str = "", **attributes
    ) -> str:
        output = output or f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=f"n_{output}", domain=domain, **attributes))
        return output

    def params(self, scale: float, zero_point: int, dtype: str = "int8") -> list[str]:
        return [self.constant(scale, np.float32), self.constant(zero_point, dtype)]

    def quantize(self, x: str, scale: float, zero_point: int, dtype: str = "int8", output: str | None = None) -> str:
        return self.node("QuantizeLinear", [x, *self.params(scale, zero_point, dtype)], output)

    def dequantize(self, x: str, scale: float, zero_point: int, dtype: str = "int8", output: str | None = None) -> str:
        return self.node("DequantizeLinear", [x, *self.params(scale, zero_point, dtype)], output)

    def weight(self, values: np.ndarray, scale, zero_point=0, axis: int = 0) -> str:
        """Return a constant behind DequantizeLinear."""
        scale = np.asarray(scale, np.float32)
        zero = np.broadcast_to(np.asarray(zero_point, values.dtype), scale.shape)
        names = [self.constant(values), self.constant(scale), self.constant(zero)]
        return self.node("DequantizeLinear", names, axis=axis)

    def model(self, *outputs: str, opset: int = 17, types: Mapping[str, tuple] = {}) -> onnx.ModelProto:
        infos = [
            helper.make_tensor_value_info(name, TYPES[types[name][0]], types[name][1])
            if name in types
            else helper.make_tensor_value_info(name, self._type(name), None)
            for name in outputs
        ]
        tensors = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "test", self.inputs, infos, tensors)
        imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8)

    def _type(self, name: str) -> int:
        """Guess the type of an output: that of the last zero point of its node, else float."""
        node = next((node for node in self.nodes if name in node.output), None)
        if node is not None and (node.op_type == "QuantizeLinear" or node.op_type.startswith(("QLinear", "QGemm"))):
            names = [entry for entry in node.input if entry in self.constants]
            zero_points = [entry for entry in names if self.constants[entry].dtype in (np.int8, np.uint8)]
            return TYPES[self.constants[zero_points[-1]].dtype.name] if zero_points else TensorProto.UINT8
        return TensorProto.FLOAT


def with_intermediates(graph: Graph) -> onnx.ModelProto:
    """Return the oracle graph with every quantized tensor as an output."""
    model = write(graph)
    known = {output.name for output in model.graph.output}
    for op in graph.ops:
        for name in op.outputs:
            if name not in known and graph.tensors[name].is_quantized:
                known.add(name)
                tensor = graph.tensors[name]
                model.graph.output.append(value_info(name, tensor.shape, tensor.dtype))
    return model


def random_feeds(graph: Graph, samples: int, seed: int) -> dict[str, np.ndarray]:
    """Return inputs over their full range: every integer of a type, floats a little beyond their quantizers' ranges."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for name in graph.inputs:
        tensor = graph.tensors[name]
        shape = (samples * tensor.shape[0], *tensor.shape[1:])
        if tensor.dtype in ("int8", "uint8"):
            low, high = tensor.range
            feeds[name] = rng.integers(low, high + 1, shape).astype(tensor.dtype)
        else:
            feeds[name] = _full_range(graph, name, rng, shape).astype(tensor.dtype)
    return feeds


def _full_range(graph: Graph, name: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return floats a little beyond what the first quantizer of input `name` can hold."""
    for op in graph.consumers(name):
        for output in op.outputs:
            tensor = graph.tensors[output]
            if tensor.scale is not None:
                low, high = ((bound - tensor.zero_point) * tensor.scale for bound in tensor.range)
                margin = 0.05 * (high - low)
                return rng.uniform(low - margin, high + margin, shape)
    return rng.uniform(-3, 3, shape)


def as_input(tensor: Tensor, samples: np.ndarray) -> np.ndarray:
    """Return samples, channels last where they are images, in the layout and type of an input."""
    _, *shape = tensor.shape
    if samples.ndim == 4 and shape[0] == samples.shape[3]:
        samples = samples.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(samples.reshape(-1, *shape)).astype(tensor.dtype)


def count_mismatches(graph: Graph, feeds: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Compare the reference with ONNX Runtime at every output and quantized intermediate: (mismatches, elements)."""
    session = oracle_session(with_intermediates(graph))
    names = [output.name for output in session.get_outputs()]
    results = reference.run(graph, feeds, keep=names)
    batch = {name: graph.tensors[name].shape[0] for name in graph.inputs}
    samples = next((len(feeds[name]) // batch[name] for name in batch), 1)
    mismatches = elements = 0
    for sample in range(samples):
        part = {name: feeds[name][sample * batch[name] : (sample + 1) * batch[name]] for name in feeds}
        for name, expected in zip(names, session.run(names, part), strict=True):
            rows = expected.shape[0]
            actual = results[name][sample * rows : (sample + 1) * rows]
            assert actual.shape == expected.shape, name
            assert actual.dtype == expected.dtype, name
            mismatches += int(np.count_nonzero(actual != expected))
            elements += expected.size
    return mismatches, elements


def assert_exact(graph: Graph, samples: int = 3, seed: int = 0) -> None:
    """Assert that the reference equals ONNX Runtime on random inputs over the full range."""
    mismatches, elements = count_mismatches(graph, random_feeds(graph, samples, seed))
    assert elements > 0
    assert mismatches == 0, f"{mismatches} of {elements} elements differ (seed {seed})"


def kinds(graph: Graph) -> list[str]:
    """Return the operators' kinds, host nodes as their ONNX operator."""
    return [op.node.op_type if op.kind == "HostNode" else op.kind for op in graph.ops]


def reasons(graph: Graph) -> dict[str, str]:
    """Return the reason of each host node by ONNX operator."""
    return {op.node.op_type: op.reason for op in graph.ops if op.kind == "HostNode"}
