"""What the tensors of an ONNX graph hold, seen as integers.

A float tensor that is DequantizeLinear of an int8 or uint8 tensor has that tensor as its integer *twin*; so has one
computed from twins by nodes that only carry values along (`hwq.onnx_carriers`). Constants have quantized views too:
weights behind DequantizeLinear, biases, clamp bounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from hwq.ir import Array, Floor, Tensor
from hwq.onnx_load import Source

QDTYPES = ("int8", "uint8")
_NARROW = {"int4": "int8", "uint4": "uint8", "int2": "int8", "uint2": "uint8"}

_SLOTS: dict[str, tuple[tuple[int, ...], int | None]] = {
    "QuantizeLinear": ((), 1),
    "DequantizeLinear": ((0,), None),
    "QLinearConv": ((0,), 6),
    "QLinearMatMul": ((0, 3), 6),
    "QGemm": ((0,), 7),
    "QLinearAdd": ((0, 3), 6),
    "QLinearMul": ((0, 3), 6),
    "QLinearAveragePool": ((0,), 3),
    "QLinearGlobalAveragePool": ((0,), 3),
    "QLinearSigmoid": ((0,), 3),
    "QLinearLeakyRelu": ((0,), 3),
    "QLinearReduceMean": ((0,), 3),
    "QLinearSoftmax": ((0,), 3),
}
"""Where nodes keep quantization parameters: (positions of inputs followed by scale and zero point, position of the
output's scale)."""


@dataclass(frozen=True, slots=True)
class Params:
    """Per-tensor quantization: ``value = (q - zero_point) * scale``."""

    scale: float
    zero_point: int
    dtype: str

    def quantize(self, value: float) -> int:
        """Return ``saturate(RNE(fl(value / scale)) + zero_point)``, the QuantizeLinear rule."""
        info = np.iinfo(self.dtype)
        with np.errstate(over="ignore"):
            ratio = np.rint(np.float32(value) / np.float32(self.scale))
        return int(np.clip(float(ratio) + self.zero_point, info.min, info.max))

    def dequantize(self, value: int) -> np.float32:
        """Return ``fl((value - zero_point) * scale)``."""
        return np.float32(value - self.zero_point) * np.float32(self.scale)


@dataclass(frozen=True, slots=True)
class Quantized:
    """A constant behind DequantizeLinear; `axis` is that of `scale` and `zero_point` where they aren't scalars."""

    values: Array
    scale: Array
    zero_point: Array
    axis: int | None

    def floats(self) -> Array:
        """Return ``fl((values - zero_point) * scale)``."""
        shape = [1] * self.values.ndim
        if self.axis is not None:
            shape[self.axis] = -1
        zero_point = self.zero_point.astype(np.int64).reshape(shape)
        return (self.values.astype(np.int64) - zero_point).astype(np.float32) * self.scale.reshape(shape)


class Values:
    """Integer views of a `Source`'s tensors.

    Members
    -------
    source : Source
    tensors : dict of str to Tensor
        Every tensor, with quantization parameters where the graph states them; grows by `fresh`.
    twins : dict of str to str
        Float tensor to the integer tensor that holds its value.
    floors : dict of str to (Floor, (int, int))
        Integer tensor to what rounds in its operator, and its bounds, where it is rounded down.
    rewrites : list of str
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.twins: dict[str, str] = {}
        self.floors: dict[str, tuple[Floor, tuple[int, int]]] = {}
        self.rewrites: list[str] = []
        self.tensors: dict[str, Tensor] = {}
        for name, (shape, dtype) in source.types.items():
            self.tensors[name] = Tensor(name, shape, dtype)

    def producer(self, name: str) -> onnx.NodeProto | None:
        """Return the node that writes `name`."""
        return self.source.producers.get(name)

    def fresh(self, base: str, like: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
        """Add a tensor with an unused name that starts with `base`, typed as `like`."""
        name, count = base, 1
        while name in self.tensors:
            count += 1
            name = f"{base}_{count}"
        self.tensors[name] = replace(like, name=name, shape=like.shape if shape is None else shape)
        return self.tensors[name]

    def set_params(self, name: str, params: Params) -> bool:
        """State the quantization of an 8-bit tensor where it isn't known yet; return whether it wasn't."""
        tensor = self.tensors[name]
        if tensor.is_quantized or tensor.dtype != params.dtype:
            return False
        self.tensors[name] = replace(tensor, scale=params.scale, zero_point=params.zero_point)
        return True

    def params(self, scale: str, zero_point: str, dtype: str) -> Params | None:
        """Return per-tensor parameters held in two constants, or None if they aren't usable.

        Usable is one positive, normal float32 scale and an int8 or uint8 zero point of type `dtype` (0 if absent).
        """
        constants = self.source.constants
        scale_value = constants.get(scale)
        if scale_value is None or scale_value.dtype != np.float32 or scale_value.size != 1 or dtype not in QDTYPES:
            return None
        value = float(scale_value.reshape(()))
        if not np.isfinite(value) or value < float(np.finfo(np.float32).tiny):
            return None
        zero = 0
        if zero_point:
            zero_value = constants.get(zero_point)
            if zero_value is None or zero_value.dtype.name != dtype or zero_value.size != 1:
                return None
            zero = int(zero_value.reshape(()))
        return Params(value, zero, dtype)

    def read_params(self, node: onnx.NodeProto) -> Iterator[tuple[str, Params | None]]:
        """Yield each integer input of a quantized node with the parameters the node reads it under."""
        if node.op_type == "QLinearConcat":
            positions: tuple[int, ...] = tuple(range(2, len(node.input), 3))
        else:
            positions = _SLOTS.get(node.op_type, ((), None))[0]
        for position in positions:
            name = node.input[position]
            dtype = self.tensors[name].dtype
            yield name, self.params(operand(node, position + 1), operand(node, position + 2), dtype)

    def write_params(self, node: onnx.NodeProto) -> Params | None:
        """Return the parameters of a quantized node's output."""
        position = 0 if node.op_type == "QLinearConcat" else _SLOTS.get(node.op_type, ((), None))[1]
        if position is None or position >= len(node.input):
            return None
        return self.params(operand(node, position), operand(node, position + 1), self.tensors[node.output[0]].dtype)

    def integer(self, name: str) -> Tensor | None:
        """Return the quantized tensor that holds the value of `name`: itself, or its twin."""
        tensor = self.tensors[self.twins.get(name, name)]
        return tensor if tensor.is_quantized else None

    def quantized_constant(self, name: str) -> Quantized | None:
        """Return the constant behind DequantizeLinear that `name` is, through transpositions; None if it isn't one."""
        node = self.producer(name)
        if node is None or node.domain not in ("", "com.microsoft"):
            return None
        if node.op_type == "Identity":
            return self.quantized_constant(node.input[0])
        if node.op_type == "Transpose":
            inner = self.quantized_constant(node.input[0])
            if inner is None:
                return None
            perm = attribute(node, "perm", list(reversed(range(inner.values.ndim))))
            axis = None if inner.axis is None else list(perm).index(inner.axis)
            return replace(inner, values=inner.values.transpose(perm), axis=axis)
        if node.op_type != "DequantizeLinear" or attribute(node, "block_size", 0):
            return None
        constants = self.source.constants
        values, scale = constants.get(node.input[0]), constants.get(node.input[1])
        if values is None or scale is None or scale.dtype != np.float32 or scale.ndim > 1:
            return None
        if values.dtype.kind not in "iu" and values.dtype.name not in _NARROW:
            return None
        zero_name = operand(node, 2)
        zero_point = constants.get(zero_name) if zero_name else np.zeros(scale.shape, values.dtype)
        if zero_point is None or zero_point.size != scale.size:
            return None
        if not np.all(np.isfinite(scale) & (scale > 0)):
            return None
        axis = attribute(node, "axis", 1) % max(values.ndim, 1) if scale.size > 1 else None
        if axis is not None and values.shape[axis] != scale.size:
            return None
        narrow = _NARROW.get(values.dtype.name, values.dtype.name)
        return Quantized(values.astype(narrow), scale.reshape(-1), zero_point.astype(narrow).reshape(-1), axis)

    def number(self, name: str) -> float | None:
        """Return the value of a float32 constant of one element; None if `name` isn't one."""
        value = self.floats(name)
        return float(value.reshape(())) if value is not None and value.size == 1 else None

    def floats(self, name: str) -> Array | None:
        """Return the float32 value of a constant, quantized or not; None if `name` isn't one."""
        value = self.source.constants.get(name)
        if value is not None:
            return value if value.dtype == np.float32 else None
        constant = self.quantized_constant(name)
        return None if constant is None else constant.floats()


def operand(node: onnx.NodeProto, position: int) -> str:
    """Return the name of an input, or "" if it is absent."""
    return str(node.input[position]) if position < len(node.input) else ""


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return the value of an attribute, or `default`; strings as str."""
    for entry in node.attribute:
        if entry.name == name:
            value = helper.get_attribute_value(entry)
            return value.decode() if isinstance(value, bytes) else value
    return default
