"""Integer products whose sums the host reads: one layer for every byte of the sums, which the host puts together.

- ConvInteger(x, w, x_zero_point) and MatMulInteger(x, w, x_zero_point) with constant weights: a Conv or Gemm of the
  same operands for each byte that the sums can have, their x_zero_point a constant z (128 of uint8, 0 of int8), then
  int32 nodes: the sum of the bytes, plus ``(z - x_zero_point)`` times the weights that each result is a sum over.

So the array multiplies while the zero point, as of DynamicQuantizeLinear, is known at run time only. The last of the
int32 nodes keeps the name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from hwq.ir import Array, Conv, Gemm, Graph, HostNode, Op, Tensor
from hwq.kernels import pad_image, window_taps
from hwq.onnx_constraints import StaysOnHost
from hwq.onnx_values import attribute
from hwq.onnx_windows import Window, read_window
from hwq.passes.edit import fresh_name, rebuilt

REASON = "Its operand is a sum of 32 bits, which leaves the array byte by byte."

_PRODUCTS = ("ConvInteger", "MatMulInteger")


def sums_by_bytes(graph: Graph) -> Graph:
    """Return `graph` with every such node replaced; for arrays that write bytes of sums."""
    ops: list[Op] = []
    made = _Made(graph)
    for op in graph.ops:
        product = _product(graph, made.tensors, op) if isinstance(op, HostNode) else None
        ops += [op] if product is None else made.layers(product)
    if len(ops) == len(graph.ops):
        return graph
    return rebuilt(replace(graph, constants=graph.constants | made.constants), ops, made.tensors)


def product_of(op: Op) -> str:
    """Return the name of the node of whose sums `op` makes a byte; of any other operator, its own."""
    byte = op.byte if isinstance(op, Conv | Gemm) else None
    return op.name if byte is None else op.name.removesuffix(_suffix(byte))


def _suffix(byte: int) -> str:
    return f"/byte{byte}"


@dataclass(frozen=True, eq=False)
class _Product:
    """A product the array can run.

    Members
    -------
    node : HostNode
    x, y : Tensor
        x as the array reads it.
    x_zero_point : str
        The tensor that holds it, or empty: 0.
    weight : int8 or uint8, and its zero points (O,), as `hwq.ir.Conv` and `hwq.ir.Gemm` have them
    window : of a convolution, else None
    groups : int
    """

    node: HostNode
    x: Tensor
    y: Tensor
    x_zero_point: str
    weight: Array
    weight_zero_point: Array
    window: Window | None
    groups: int

    def weights(self) -> Array:
        """Return the weights less their zero points, int64, each result's in a row."""
        if self.window is None:
            return (self.weight.astype(np.int64) - self.weight_zero_point).T
        return self.weight.reshape(len(self.weight), -1).astype(np.int64) - self.weight_zero_point[:, np.newaxis]

    def count(self) -> int:
        """Return how many bytes the sums have, 1 to 4."""
        low, high = self.x.range
        most = int(np.abs(self.weights()).sum(axis=1).max()) * max(high - self.x.zero_point, self.x.zero_point - low)
        return next((count for count in range(1, 4) if most < 1 << (8 * count - 1)), 4)

    def covered(self) -> Array:
        """Return the sum of the weights behind every result, int32, such that it broadcasts to the results."""
        weights = self.weights()
        if self.window is None:
            return weights.sum(axis=1).astype(np.int32)
        window = self.window
        extents = [(size - 1) * step + 1 for size, step in zip(window.kernel, window.dilations, strict=True)]
        size = self.x.shape[2:] if any(window.pads) else extents  # inside, every result is over all weights
        inside = pad_image(np.ones(size, np.int64), window.pads, 0)
        taps = np.stack(list(window_taps(inside, window.kernel, window.strides, window.dilations)))
        by_tap = weights.reshape(len(weights), -1, len(taps)).sum(axis=1)
        return np.einsum("ot,thw->ohw", by_tap, taps).astype(np.int32)


def _product(graph: Graph, tensors: dict[str, Tensor], op: HostNode) -> _Product | None:
    """Return the product that `op` is, or None."""
    node = op.node
    if node.op_type not in _PRODUCTS or node.domain:
        return None
    names = [*node.input, "", ""]
    x, y, weight = graph.tensors[names[0]], graph.tensors[op.outputs[0]], graph.constants.get(names[1])
    x = tensors.get(x.name, x)
    if weight is None or x.name in graph.constants or (names[2] and graph.tensors[names[2]].size != 1):
        return None
    zero_point = graph.constants.get(names[3]) if names[3] else np.zeros(1, np.int64)
    outputs = weight.shape[0 if node.op_type == "ConvInteger" else -1]
    if zero_point is None or zero_point.size not in (1, outputs) or weight.ndim < 2:
        return None
    if not x.is_quantized:
        x = replace(x, scale=1.0, zero_point=128 if x.dtype == "uint8" else 0)
    window = None
    if node.op_type == "ConvInteger":
        try:
            window = read_window(node, x, y, weight.shape[2:])
        except StaysOnHost:
            return None
        if len(x.shape) != 4 or any(window.overhang):
            return None
    elif weight.ndim != 2 or len(x.shape) < 2:
        return None
    zero_points = np.broadcast_to(zero_point.reshape(-1).astype(np.int64), (outputs,))
    return _Product(op, x, y, names[2], weight, zero_points, window, attribute(node, "group", 1))


@dataclass
class _Made:
    """What the new operators read and write."""

    graph: Graph
    tensors: dict[str, Tensor] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)

    def layers(self, product: _Product) -> list[Op]:
        """Return the layers and nodes that make the product's result."""
        count, x, y, name = product.count(), product.x, product.y, product.node.name
        self.tensors[x.name] = x
        parts = [self._tensor(f"{y.name}{_suffix(byte)}", y.shape, "uint8", x.scale, 128) for byte in range(count)]
        ops: list[Op] = [_layer(product, part, byte, count) for byte, part in enumerate(parts)]
        integers = {"to": TensorProto.INT32}
        total = ""
        for part in reversed(parts):
            value = self._node(ops, "Cast", [part], f"{part}/integer", y.shape, **integers)
            if total:
                raised = self._node(ops, "Mul", [total, self._constant(f"{y.name}/256", 256)], f"{part}/above", y.shape)
                total = self._node(ops, "Add", [raised, value], f"{part}/sum", y.shape)
            else:
                middle = self._constant(f"{y.name}/middle", 128)
                total = self._node(ops, "Sub", [value, middle], f"{part}/sum", y.shape)
        offset = self._constant(f"{y.name}/zero_point", x.zero_point)
        if product.x_zero_point:
            wide = self._node(ops, "Cast", [product.x_zero_point], f"{offset}/given", (), **integers)
            shape = self.graph.tensors[product.x_zero_point].shape
            offset = self._node(ops, "Sub", [offset, wide], f"{offset}/less", shape)
        covered = self._constant(f"{y.name}/covered", product.covered())
        moved = self._node(ops, "Mul", [offset, covered], f"{y.name}/moved", self.constants[covered].shape)
        last = helper.make_node("Add", [total, moved], [y.name], name=name)
        return [*ops, HostNode(name=name, inputs=(total, moved), outputs=(y.name,), node=last, reason=REASON)]

    def _tensor(
        self, base: str, shape: Sequence[int], dtype: str, scale: float | None = None, zero_point: int = 0
    ) -> str:
        name = fresh_name(self.graph, self.tensors, base)
        self.tensors[name] = Tensor(name, tuple(shape), dtype, scale, zero_point)
        return name

    def _constant(self, base: str, value: Any) -> str:
        array = np.asarray(value, np.int32)
        name = self._tensor(base, array.shape, "int32")
        self.constants[name] = array
        return name

    def _node(
        self, ops: list[Op], op_type: str, inputs: list[str], base: str, shape: Sequence[int], **attributes: Any
    ) -> str:
        output = self._tensor(base, shape, "int32")
        node = helper.make_node(op_type, inputs, [output], name=output, **attributes)
        ops.append(HostNode(name=output, inputs=tuple(inputs), outputs=(output,), node=node, reason=REASON))
        return output


def _layer(product: _Product, output: str, byte: int, count: int) -> Op:
    """Return the layer that makes one byte of the sums, raised by half their range so that the bytes have no sign."""
    outputs = len(product.weight_zero_point)
    middle = np.array([1 << (8 * count - 1)], np.int64).astype(np.uint32).view(np.int32)
    common: dict[str, Any] = {
        "name": f"{product.node.name}{_suffix(byte)}",
        "inputs": (product.x.name,),
        "outputs": (output,),
        "weight": product.weight,
        "weight_zero_point": product.weight_zero_point,
        "weight_scale": np.ones(outputs, np.float32),
        "bias": np.full(outputs, middle, np.int32),
        "lo": 0,
        "hi": 255,
        "byte": byte,
    }
    window = product.window
    if window is None:
        return Gemm(**common)
    strides, pads, dilations = window.strides, window.pads, window.dilations
    return Conv(**common, strides=strides, pads=pads, dilations=dilations, groups=product.groups)
