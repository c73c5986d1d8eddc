"""Functions of one byte: ONNX nodes that read one quantized tensor, element by element, become a `hwq.ir.Table`.

A function is any chain or tree of elementwise nodes with constants of one element, from a quantized tensor to another:
DequantizeLinear, Sigmoid, QuantizeLinear; x * Sigmoid(x); Clip of an int8 tensor; QLinearLeakyRelu; DequantizeLinear
and QuantizeLinear of other parameters. ONNX Runtime runs these very nodes on all 256 values, so the table is exact.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwq.errors import ModelError
from hwq.host import oracle_session
from hwq.ir import Array, Table, Tensor
from hwq.onnx_carriers import node_name
from hwq.onnx_constraints import (
    constraint_known_operator,
    constraint_one_function,
    constraint_one_source,
    require,
)
from hwq.onnx_load import value_info
from hwq.onnx_values import QDTYPES, Values

_STANDARD = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh Cast Ceil Celu Clip Cos Cosh DequantizeLinear Div Elu Equal Erf
    Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity LeakyRelu Less LessOrEqual Log Max Mean
    Min Mish Mod Mul Neg Not Or PRelu Pow QuantizeLinear Reciprocal Relu Round Selu Sigmoid Sign Sin Sinh Softplus
    Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor
"""
_MICROSOFT = "DequantizeLinear Gelu QLinearAdd QLinearLeakyRelu QLinearMul QLinearSigmoid QuantizeLinear QuickGelu"

ELEMENTWISE = {"": frozenset(_STANDARD.split()), "com.microsoft": frozenset(_MICROSOFT.split())}
"""Operators, by domain, each element of whose result depends on one element of every operand."""

_NODE_LIMIT = 64
"""Nodes of the longest function; real ones have a dozen."""


def read_table(
    values: Values, aliases: Mapping[str, str], final: onnx.NodeProto, y: Tensor, *, positions: Mapping[str, int]
) -> Table | None:
    """Return the function of one quantized tensor that ends in the node `final`, which makes `y`.

    Parameters
    ----------
    values : Values
    aliases : mapping of str to str
        Tensors that are others under a second name.
    final : onnx.NodeProto
    y : Tensor
        Quantized.
    positions : mapping of str to int
        Place in the model's order of the node that makes a tensor.

    Returns
    -------
    Table or None
        None where the nodes aren't elementwise.

    Raises
    ------
    StaysOnHost
        The nodes are elementwise, but read several quantized tensors or are no function of the values alone.
    """
    region = _Region(values, aliases, y, positions)
    if not region.take(final):
        return None
    while len(region.sources) > 1:
        require(constraint_one_source, region.expand())
    if not region.sources:
        return None
    (source,) = region.sources
    if values.tensors[source].shape != y.shape:
        return None
    nodes, constants = region.function(source)
    return _table(_name(values, final), values, values.tensors[source], y, nodes, constants)


def requantize(values: Values, name: str, x: Tensor, y: Tensor, *, operator: bool) -> Table:
    """Return the Table that gives the values of `x` the parameters of `y`, which has its shape.

    Parameters
    ----------
    operator : bool
        As QLinearConcat of one input does it, rather than DequantizeLinear and QuantizeLinear.
    """
    constants = {
        "c0": np.array(x.scale, np.float32),
        "c1": np.array(x.zero_point, x.dtype),
        "c2": np.array(y.scale, np.float32),
        "c3": np.array(y.zero_point, y.dtype),
    }
    if operator:
        domain = "com.microsoft"
        nodes = [helper.make_node("QLinearConcat", ["c2", "c3", "x", "c0", "c1"], ["y"], domain=domain, axis=0)]
    else:
        nodes = [
            helper.make_node("DequantizeLinear", ["x", "c0", "c1"], ["t0"]),
            helper.make_node("QuantizeLinear", ["t0", "c2", "c3"], ["y"]),
        ]
    return _table(name, values, x, y, nodes, constants)


def _name(values: Values, final: onnx.NodeProto) -> str:
    """Return the name of the node that ends a function, of the one before where `final` only quantizes its result."""
    inner = values.producer(final.input[0])
    plain = (
        final.op_type == "QuantizeLinear" and inner is not None and inner.op_type in ELEMENTWISE.get(inner.domain, ())
    )
    return node_name(inner if plain and inner is not None and inner.op_type != "DequantizeLinear" else final)


class _Region:
    """Elementwise nodes above a quantized tensor, down to the quantized tensors they read, the `sources`."""

    def __init__(self, values: Values, aliases: Mapping[str, str], y: Tensor, positions: Mapping[str, int]) -> None:
        self._values = values
        self._aliases = aliases
        self._y = y
        self._positions = positions
        self._nodes: dict[str, onnx.NodeProto] = {}
        self._constants: dict[str, Array] = {}
        self.sources: dict[str, None] = {}

    def take(self, node: onnx.NodeProto) -> bool:
        """Add `node` and the float nodes it reads from; False where one isn't elementwise."""
        output = node.output[0]
        if output in self._nodes:
            return True
        if node.op_type not in ELEMENTWISE.get(node.domain, ()) or len(self._nodes) == _NODE_LIMIT:
            return False
        known = self._values.tensors.get(output, self._y)
        if known.shape != self._y.shape and known.size != 1:
            return False
        self._nodes[output] = node
        return all(self._operand(name) for name in node.input if name)

    def _operand(self, name: str) -> bool:
        values = self._values
        constant = values.source.constants.get(name)
        if constant is not None:
            self._constants[name] = constant
            return constant.size == 1
        if values.tensors[name].dtype in QDTYPES:
            name = self._aliases.get(name, name)
            self.sources[name] = None
            return values.tensors[name].is_quantized
        producer = values.producer(name)
        if name not in values.twins or _is_constant(values, producer):
            return producer is not None and self.take(producer)
        if name not in self._nodes:
            self._nodes[name] = self._dequantizer(values.tensors[values.twins[name]], name)
            self.sources[values.twins[name]] = None
        return True

    def _dequantizer(self, twin: Tensor, name: str) -> onnx.NodeProto:
        """Return the node that makes the float tensor `name` from its integer twin."""
        scale, zero_point = f"{name}/scale of twin", f"{name}/zero point of twin"
        self._constants[scale] = np.array(twin.scale, np.float32)
        self._constants[zero_point] = np.array(twin.zero_point, twin.dtype)
        return helper.make_node("DequantizeLinear", [twin.name, scale, zero_point], [name])

    def expand(self) -> bool:
        """Replace the source that is made last by the elementwise nodes that make it."""
        last = max(self.sources, key=lambda name: self._positions.get(name, -1))
        producer = self._values.producer(last)
        del self.sources[last]
        return producer is not None and self.take(producer)

    def function(self, source: str) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
        """Return the nodes in order, from ``x`` to ``y``, with names of their own, and the constants they read."""
        final = next(iter(self._nodes))
        order = sorted(self._nodes, key=lambda name: (name == final, self._positions.get(name, -1)))
        names = {source: "x", final: "y"}
        for index, name in enumerate(order[:-1]):
            names[name] = f"t{index}"
        constants: dict[str, Array] = {}
        nodes = []
        for output in order:
            node = onnx.NodeProto()
            node.CopyFrom(self._nodes[output])
            node.ClearField("name")
            node.ClearField("doc_string")
            for index, name in enumerate(node.input):
                if name in self._constants and name not in names:
                    names[name] = f"c{len(constants)}"
                    constants[names[name]] = self._constants[name].reshape(())
                node.input[index] = names[self._aliases.get(name, name)] if name else ""
            node.output[0] = names[output]
            nodes.append(node)
        return nodes, constants


def _is_constant(values: Values, node: onnx.NodeProto | None) -> bool:
    """Whether `node` dequantizes a constant of one element."""
    if node is None or node.op_type != "DequantizeLinear":
        return False
    constants = [values.source.constants.get(name) for name in node.input if name]
    return all(constant is not None and constant.size == 1 for constant in constants)


def _table(
    name: str, values: Values, x: Tensor, y: Tensor, nodes: Sequence[onnx.NodeProto], constants: dict[str, Array]
) -> Table:
    graph = helper.make_graph(
        nodes,
        "function",
        [value_info("x", ("n",), x.dtype)],
        [value_info("y", ("n",), y.dtype)],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    opset = {"": 13, **values.source.opset, "com.microsoft": 1}
    imports = [helper.make_opsetid(domain, version) for domain, version in opset.items()]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    data = _evaluate(model.SerializeToString(deterministic=True), x.dtype)
    require(constraint_known_operator, data is not None)
    assert data is not None
    together, apart = (np.frombuffer(part, y.dtype) for part in data)
    require(constraint_one_function, bool(np.array_equal(together, apart)))
    return Table(
        name=name, inputs=(x.name,), outputs=(y.name,), table=together, nodes=tuple(nodes), constants=constants
    )


@functools.lru_cache(maxsize=256)
def _evaluate(model: bytes, dtype: str) -> tuple[bytes, bytes] | None:
    """Return the images of all values of `dtype`, computed together and one by one; None where ONNX Runtime can't.

    ONNX Runtime's vector kernels leave the last elements to scalar code, which may round otherwise.
    """
    info = np.iinfo(dtype)
    every = np.arange(info.min, info.max + 1).astype(dtype)
    try:
        session = oracle_session(model)
        (together,) = session.run(None, {"x": every})
        apart = [session.run(None, {"x": every[index : index + 1]})[0] for index in range(len(every))]
    except ModelError:
        return None
    except Exception:  # ONNX Runtime's exceptions share no base class below Exception
        return None
    return together.tobytes(), np.concatenate(apart).tobytes()
