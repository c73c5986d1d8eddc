"""Integer operators to ONNX: the graph ONNX Runtime runs as the oracle, and the models of host parts.

Each operator becomes the QOperator node whose meaning its class states, a Table the nodes it was computed from. Where
ONNX Runtime has no kernel for a mix of types, weights are relabelled (the same integers under another zero point); no
result changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import singledispatchmethod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwq.ir import (
    Add,
    Array,
    AveragePool,
    BlockScales,
    Concat,
    Conv,
    Expand,
    Floor,
    Gemm,
    Graph,
    HostNode,
    MaxPool,
    Mul,
    Op,
    Pad,
    Pair,
    Reshape,
    Slice,
    Sub,
    Table,
    Tensor,
    Transpose,
)
from hwq.multipliers import multipliers
from hwq.onnx_load import value_info

IR_VERSION = 10
"""The newest that every supported ONNX Runtime reads."""

_MICROSOFT = "com.microsoft"

_ABOVE_SUMS = 1 << 60
"""More than the magnitude of a Floor's dividends, and a multiple of its divisors."""


def write(graph: Graph) -> onnx.ModelProto:
    """Return `graph` as one ONNX model, host nodes included verbatim: the oracle of `hwq verify`."""
    return _Writer(graph).model(graph.ops, graph.inputs, graph.outputs)


def write_subgraph(graph: Graph, ops: Sequence[Op], outputs: Sequence[str] | None = None) -> onnx.ModelProto:
    """Return some operators of `graph`, in its order, as a model of their own.

    Its inputs are what `ops` read and don't make, constants excluded; its outputs, unless given, are what the rest of
    the graph, or the user, reads of what they make.
    """
    inputs, crossing = boundary(graph, ops)
    return _Writer(graph).model(ops, inputs, crossing if outputs is None else outputs)


def boundary(graph: Graph, ops: Sequence[Op]) -> tuple[list[str], list[str]]:
    """Return the tensors that enter and leave the subgraph `ops`, in order of first use and of making."""
    chosen = {id(op) for op in ops}
    made = [name for op in ops for name in op.outputs]
    read = dict.fromkeys(name for op in ops for name in op.inputs)
    wanted = {name for op in graph.ops if id(op) not in chosen for name in op.inputs} | set(graph.outputs)
    inputs = [name for name in read if name not in graph.constants and name not in set(made)]
    return inputs, [name for name in made if name in wanted]


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.node_names: set[str] = set()
        self.initializers: dict[str, Array] = {}
        self.taken = set(graph.tensors)

    def model(self, ops: Iterable[Op], inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
        for op in ops:
            self._use_constants(op.inputs)
            self._write(op)
        self._use_constants(outputs)
        graph = helper.make_graph(
            self.nodes,
            self.graph.name or "graph",
            [self._info(name) for name in inputs],
            [self._info(name) for name in outputs],
            [numpy_helper.from_array(np.asarray(value, order="C"), name) for name, value in self.initializers.items()],
        )
        opset = {"": 13, **self.graph.opset, _MICROSOFT: 1}
        imports = [helper.make_opsetid(domain, version) for domain, version in opset.items()]
        return helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION, producer_name="hwq")

    def _info(self, name: str) -> onnx.ValueInfoProto:
        tensor = self.graph.tensors[name]
        return value_info(name, tensor.shape, tensor.dtype)

    def _use_constants(self, names: Iterable[str]) -> None:
        constants = self.graph.constants
        self.initializers |= {name: constants[name] for name in names if name in constants}

    def _name(self, base: str) -> str:
        name, count = base, 1
        while name in self.taken:
            count += 1
            name = f"{base}_{count}"
        self.taken.add(name)
        return name

    def _constant(self, base: str, value: Array) -> str:
        name = self._name(base)
        self.initializers[name] = value
        return name

    def _params(self, tensor: Tensor) -> list[str]:
        scale = self._constant(f"{tensor.name}/scale", np.array(tensor.scale, np.float32))
        return [scale, self._constant(f"{tensor.name}/zero_point", np.array(tensor.zero_point, tensor.dtype))]

    def _ends(self, op: Op) -> tuple[Tensor, Tensor]:
        return self.graph.tensors[op.inputs[0]], self.graph.tensors[op.outputs[0]]

    def _node(
        self, name: str, op_type: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any
    ) -> None:
        self._append(helper.make_node(op_type, inputs, [output], name=name, domain=domain, **attributes))

    def _append(self, node: onnx.NodeProto) -> None:
        """Add a node under a name of its own: a node whose floats and whose integers are both read becomes two."""
        if node.name in self.node_names:
            named, count = onnx.NodeProto(), 2
            named.CopyFrom(node)
            while (name := f"{node.name}_{count}") in self.node_names:
                count += 1
            named.name = name
            node = named
        if node.name:
            self.node_names.add(node.name)
        self.nodes.append(node)

    def _clamp(self, op: Conv | Gemm | Pair | AveragePool) -> str:
        """Return the tensor the operator's node writes, after which `_clip` makes the output."""
        y = self._ends(op)[1]
        return y.name if (op.lo, op.hi) == y.range else self._name(f"{y.name}/unclamped")

    def _clip(self, op: Conv | Gemm | Pair | AveragePool, raw: str) -> None:
        y = self._ends(op)[1]
        if raw != y.name:
            lo = self._constant(f"{y.name}/lo", np.array(op.lo, y.dtype))
            hi = self._constant(f"{y.name}/hi", np.array(op.hi, y.dtype))
            self._node(f"{op.name}/clamp", "Clip", [raw, lo, hi], y.name)

    @singledispatchmethod
    def _write(self, op: Op) -> None:
        raise TypeError(f"{op.kind} has no ONNX form")

    @_write.register
    def _(self, op: HostNode) -> None:
        self._append(op.node)

    @_write.register
    def _(self, op: Conv) -> None:
        x, y = self._ends(op)
        weight, zero_point = _kernel_type(x, *_common_zero_point(op))
        if op.floor is not None:
            self._floor(op, op.floor, "ConvInteger", weight, zero_point, **_window_attributes(op))
            return
        if op.byte is not None:
            self._byte(op, op.byte, "ConvInteger", weight, zero_point, **_window_attributes(op))
            return
        if op.block_scales is not None:
            self._blocks(op, op.block_scales, "ConvInteger", **_window_attributes(op))
            return
        inputs = [
            x.name,
            *self._params(x),
            self._constant(f"{op.name}/weight", weight),
            self._constant(f"{op.name}/weight_scale", op.weight_scale),
            self._constant(f"{op.name}/weight_zero_point", zero_point[0] if zero_point.size == 1 else zero_point),
            *self._params(y),
            self._constant(f"{op.name}/bias", op.bias),
        ]
        raw = self._clamp(op)
        self._node(op.name, "QLinearConv", inputs, raw, **_window_attributes(op))
        self._clip(op, raw)

    @_write.register
    def _(self, op: Gemm) -> None:
        x, y = self._ends(op)
        weight, zero_point = _kernel_type(x, op.weight, op.weight_zero_point)
        if op.floor is not None:
            self._floor(op, op.floor, "MatMulInteger", weight, zero_point)
            return
        if op.byte is not None:
            self._byte(op, op.byte, "MatMulInteger", weight, zero_point)
            return
        if op.block_scales is not None:
            self._blocks(op, op.block_scales, "MatMulInteger")
            return
        left, result, raw = x.name, y.name, self._clamp(op)
        if len(x.shape) != 2:  # QGemm takes matrices only
            left, result = self._name(f"{x.name}/matrix"), self._name(f"{y.name}/matrix")
            self._node(f"{op.name}/to_matrix", "Reshape", [x.name, self._shape(op, (-1, weight.shape[0]))], left)
        inputs = [
            left,
            *self._params(x),
            self._constant(f"{op.name}/weight", weight),
            self._constant(f"{op.name}/weight_scale", op.weight_scale),
            self._constant(f"{op.name}/weight_zero_point", zero_point),
            self._constant(f"{op.name}/bias", op.bias),
            *self._params(y),
        ]
        self._node(op.name, "QGemm", inputs, raw if left == x.name else result, _MICROSOFT, alpha=op.alpha)
        if left != x.name:
            self._node(f"{op.name}/from_matrix", "Reshape", [result, self._shape(op, y.shape)], raw)
        self._clip(op, raw)

    def _floor(
        self, op: Conv | Gemm, floor: Floor, op_type: str, weight: Array, zero_point: Array, **attributes: Any
    ) -> None:
        """Write a product and its Floor with 64-bit integers: dividing rounds down once all dividends are positive.

        The clamp is done on doubles: ONNX Runtime's Max of int64 compares their low halves only (1.31, AVX-512).
        """
        y = self._ends(op)[1]
        raised = np.full_like(floor.offset, _ABOVE_SUMS)
        steps: list[tuple[str, str, Any]] = [
            ("Add", "bias", op.bias.astype(np.int32)),
            ("Cast", "wide", TensorProto.INT64),
            ("Mul", "multiplier", floor.multiplier),
            ("Add", "offset", floor.offset + raised),
            ("Div", "divisor", np.int64(1) << floor.shift),
            ("Sub", "raised", (raised >> floor.shift) - y.zero_point),
            ("Cast", "double", TensorProto.DOUBLE),
            ("Max", "lo", np.array(op.lo, np.float64)),
            ("Min", "hi", np.array(op.hi, np.float64)),
            ("Cast", "narrow", helper.np_dtype_to_tensor_dtype(np.dtype(y.dtype))),
        ]
        self._sums(op, op_type, weight, zero_point, steps, **attributes)

    def _byte(
        self, op: Conv | Gemm, byte: int, op_type: str, weight: Array, zero_point: Array, **attributes: Any
    ) -> None:
        """Write a product, its bias and a shift of its 32 bits, of which uint8 keeps the lowest."""
        steps: list[tuple[str, str, Any]] = [
            ("Add", "bias", op.bias.astype(np.int32)),
            ("Cast", "bits", TensorProto.UINT32),
            ("BitShift", "shift", np.array([8 * byte], np.uint32)),
            ("Cast", "byte", TensorProto.UINT8),
        ]
        self._sums(op, op_type, weight, zero_point, steps, **attributes)

    def _sums(
        self,
        op: Conv | Gemm,
        op_type: str,
        weight: Array,
        zero_point: Array,
        steps: Sequence[tuple[str, str, Any]],
        **attributes: Any,
    ) -> None:
        """Write a product and steps (operator, label, type or second operand) that make the result of its sums."""
        x, y = self._ends(op)
        inputs = [
            x.name,
            self._constant(f"{op.name}/weight", weight),
            self._constant(f"{x.name}/zero_point", np.array(x.zero_point, x.dtype)),
            self._constant(f"{op.name}/weight_zero_point", zero_point[0] if zero_point.size == 1 else zero_point),
        ]
        rank = len(y.shape) - 1 if op_type == "ConvInteger" else 1
        name = self._name(f"{op.name}/sum")
        self._node(op.name, op_type, inputs, name, **attributes)
        for position, (step, label, value) in enumerate(steps):
            output = self._name(f"{op.name}/after_{label}") if position < len(steps) - 1 else y.name
            if step == "Cast":
                self._node(f"{op.name}/{label}", step, [name], output, to=value)
            else:
                direction = {"direction": "RIGHT"} if step == "BitShift" else {}
                constant = self._constant(f"{op.name}/{label}", value.reshape(-1, *(1,) * (rank - 1)))
                self._node(f"{op.name}/{label}", step, [name, constant], output, **direction)
            name = output

    def _blocks(self, op: Conv | Gemm, scales: BlockScales, op_type: str, **attributes: Any) -> None:
        """Write the sums of all blocks, times their scales, added and requantized by operators of one rounding each."""
        x, y = self._ends(op)
        is_conv = op_type == "ConvInteger"
        axis, inputs = (1, op.weight.shape[1]) if is_conv else (len(x.shape) - 1, len(op.weight))

        def values(vector: Array) -> Array:
            return vector.reshape(1, -1, *(1,) * (len(y.shape) - 2)) if is_conv else vector

        zero_points = [
            self._constant(f"{x.name}/zero_point", np.array(x.zero_point, x.dtype)),
            self._constant(f"{op.name}/weight_zero_point", np.array(0, np.int8)),
        ]
        total = self._constant(f"{op.name}/bias", values(op.bias.astype(np.int32)))
        axes = self._constant(f"{op.name}/axes", np.array([axis], np.int64))

        def step(op_type: str, label: str, *operands: str | Array, output: str = "", **attributes: Any) -> str:
            names = [
                value if isinstance(value, str) else self._constant(f"{op.name}/{label}_operand", value)
                for value in operands
            ]
            made = output or self._name(f"{op.name}/{label}")
            self._node(made, op_type, names, made, **attributes)
            return made

        for index, (part, scale) in enumerate(zip(scales.blocks(inputs), scales.scale, strict=True)):
            bounds = (np.array([bound], np.int64) for bound in (part.start, part.stop))
            own = step("Slice", f"inputs_{index}", x.name, *bounds, axes)
            weight = op.weight[:, part] if is_conv else op.weight[part]
            term = step(op_type, f"sum_{index}", own, weight, *zero_points, **attributes)
            scaled = step("Mul", f"scaled_{index}", term, values(scale.astype(np.int32)))
            total = step("Add", f"total_{index}", total, scaled)
        raw = self._clamp(op)
        floats = step("Cast", "float", total, to=TensorProto.FLOAT)
        product = step("Mul", "product", floats, values(multipliers(self.graph, op)))
        zero_point = self._constant(f"{y.name}/zero_point", np.array(y.zero_point, y.dtype))
        step("QuantizeLinear", "quantized", product, np.array(1, np.float32), zero_point, output=raw)
        self._clip(op, raw)

    @_write.register
    def _(self, op: Add) -> None:
        a, b, y = (self.graph.tensors[name] for name in (*op.inputs, *op.outputs))
        if y.size == 1:  # of two scalars, ONNX Runtime takes the first as b
            a, b = b, a
        inputs = [a.name, *self._params(a), b.name, *self._params(b), *self._params(y)]
        raw = self._clamp(op)
        self._node(op.name, "QLinearAdd", inputs, raw, _MICROSOFT)
        self._clip(op, raw)

    @_write.register
    def _(self, op: Mul) -> None:
        a, b, y = (self.graph.tensors[name] for name in (*op.inputs, *op.outputs))
        raw = self._clamp(op)
        inputs = [a.name, *self._params(a), b.name, *self._params(b), *self._params(y)]
        self._node(op.name, "QLinearMul", inputs, raw, _MICROSOFT)
        self._clip(op, raw)

    @_write.register
    def _(self, op: Sub) -> None:
        y = self.graph.tensors[op.outputs[0]]
        raw = self._clamp(op)
        floats = [self._name(f"{op.name}/operand") for _ in op.inputs]
        for name, value in zip(op.inputs, floats, strict=True):
            self._node(value, "DequantizeLinear", [name, *self._params(self.graph.tensors[name])], value)
        difference = self._name(f"{op.name}/difference")
        self._node(op.name, "Sub", floats, difference)
        self._node(f"{op.name}/quantize", "QuantizeLinear", [difference, *self._params(y)], raw)
        self._clip(op, raw)

    @_write.register
    def _(self, op: AveragePool) -> None:
        x, y = self._ends(op)
        raw = self._clamp(op)
        if op.kernel == x.shape[2:] and not any(op.pads):
            inputs = [x.name, *self._params(x), *self._params(y)]
            self._node(op.name, "QLinearGlobalAveragePool", inputs, raw, _MICROSOFT)
        else:
            self._node(op.name, "QLinearConv", self._sum_operands(op, x, y), raw, **_sum_attributes(op, x))
        self._clip(op, raw)

    def _sum_operands(self, op: AveragePool, x: Tensor, y: Tensor) -> list[str]:
        """Return the operands of a depthwise convolution of ones whose scales make ONNX Runtime's multiplier m."""
        one = np.array(1, np.float32)
        return [
            x.name,
            self._constant(f"{op.name}/multiplier", multipliers(self.graph, op)[0]),
            self._constant(f"{x.name}/zero_point", np.array(x.zero_point, x.dtype)),
            self._constant(f"{op.name}/ones", np.ones((x.shape[1], 1, *op.kernel), np.int8)),
            self._constant(f"{op.name}/weight_scale", one),
            self._constant(f"{op.name}/weight_zero_point", np.array(0, np.int8)),
            self._constant(f"{op.name}/output_scale", one),
            self._constant(f"{y.name}/zero_point", np.array(y.zero_point, y.dtype)),
        ]

    @_write.register
    def _(self, op: MaxPool) -> None:
        self._node(
            op.name,
            "MaxPool",
            op.inputs,
            op.outputs[0],
            dilations=op.dilations,
            kernel_shape=op.kernel,
            pads=op.pads,
            strides=op.strides,
        )

    @_write.register
    def _(self, op: Table) -> None:
        names = {"x": op.inputs[0], "y": op.outputs[0]}
        names |= {name: self._constant(f"{op.name}/{name}", value) for name, value in op.constants.items()}
        for position, node in enumerate(op.nodes):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"{op.name}/{position}"
            for made in node.output:
                names.setdefault(made, self._name(f"{op.name}/{made}"))
            for field in (copy.input, copy.output):
                for index, name in enumerate(field):
                    field[index] = names[name] if name else ""
            self._append(copy)

    @_write.register
    def _(self, op: Concat) -> None:
        self._node(op.name, "Concat", op.inputs, op.outputs[0], axis=op.axis)

    @_write.register
    def _(self, op: Pad) -> None:
        x, _ = self._ends(op)
        amounts = self._constant(f"{op.name}/pads", np.array([*op.begin, *op.end], np.int64))
        value = self._constant(f"{op.name}/value", np.array(op.value, x.dtype))
        self._node(op.name, "Pad", [x.name, amounts, value], op.outputs[0])

    @_write.register
    def _(self, op: Slice) -> None:
        _, y = self._ends(op)
        ends = [begin + step * size for begin, step, size in zip(op.begin, op.steps, y.shape, strict=True)]
        before_all = np.iinfo(np.int64).min + 1  # a negative end would count from the back
        bounds = [op.begin, [end if end >= 0 else before_all for end in ends], range(len(y.shape)), op.steps]
        names = ("starts", "ends", "axes", "steps")
        operands = [
            self._constant(f"{op.name}/{name}", np.array(value, np.int64))
            for name, value in zip(names, bounds, strict=True)
        ]
        self._node(op.name, "Slice", [op.inputs[0], *operands], y.name)

    @_write.register
    def _(self, op: Expand) -> None:
        _, y = self._ends(op)
        self._node(op.name, "Expand", [op.inputs[0], self._shape(op, y.shape)], y.name)

    @_write.register
    def _(self, op: Reshape) -> None:
        _, y = self._ends(op)
        self._node(op.name, "Reshape", [op.inputs[0], self._shape(op, y.shape)], y.name)

    @_write.register
    def _(self, op: Transpose) -> None:
        self._node(op.name, "Transpose", op.inputs, op.outputs[0], perm=op.perm)

    def _shape(self, op: Op, shape: tuple[int, ...]) -> str:
        return self._constant(f"{op.name}/shape", np.array(shape, np.int64))


def _window_attributes(op: Conv) -> dict[str, Any]:
    return {
        "dilations": op.dilations,
        "group": op.groups,
        "kernel_shape": op.weight.shape[2:],
        "pads": op.pads,
        "strides": op.strides,
    }


def _sum_attributes(op: AveragePool, x: Tensor) -> dict[str, Any]:
    return {"group": x.shape[1], "kernel_shape": op.kernel, "pads": op.pads, "strides": op.strides}


def _common_zero_point(op: Conv) -> tuple[Array, Array]:
    """Return weight and zero points, relabelled to one zero point for all channels where one fits.

    ONNX asks QLinearConv's zero points to be equal; ONNX Runtime 1.31 computes different ones exactly all the same,
    which is what is left where the centred weights of all channels span more than 8 bits.
    """
    zero_point = op.weight_zero_point.astype(np.int64)
    if np.all(zero_point == zero_point[0]):
        return op.weight, zero_point[:1]
    centred = op.weight.astype(np.int64) - zero_point.reshape(-1, 1, 1, 1)
    info = np.iinfo(op.weight.dtype)
    shared = min(max(info.min - int(centred.min()), info.min), info.max)
    if int(centred.min()) + shared < info.min or int(centred.max()) + shared > info.max:
        return op.weight, zero_point
    return (centred + shared).astype(op.weight.dtype), np.array([shared])


def _kernel_type(x: Tensor, weight: Array, zero_point: Array) -> tuple[Array, Array]:
    """Return weight and zero points in a type ONNX Runtime multiplies by `x`: int8 activations take int8 weights."""
    if x.dtype == "int8" and weight.dtype == np.uint8:
        return (weight.astype(np.int16) - 128).astype(np.int8), (zero_point - 128).astype(np.int8)
    return weight, zero_point.astype(weight.dtype)
