"""QONNX's Quant and BipolarQuant nodes as standard ONNX: QuantizeLinear, Clip to the bits, DequantizeLinear.

``Quant(x, scale, zp, bits)`` is ``(q - zp) * scale`` with ``q = round(clamp(fl(fl(x / scale) + zp)))``: the zero point
is added before rounding, where QuantizeLinear adds it after. So a node that rounds half to even with zero point 0
becomes QuantizeLinear; any other takes the same steps one by one, down to a Cast. Both leave q in an int8 or uint8
tensor before DequantizeLinear, which is what `hwq.onnx_reader` reads. What has no such tensor (more than 8 bits, a
fractional zero point, scales along several axes) takes the steps in floats from end to end, and so stays on the host.

ONNX Runtime knows none of these nodes; the translation is what it runs in their place. Source: the QONNX operator
definitions (qonnx.custom_op.general), whose executor gives the same results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwq.errors import ModelError
from hwq.ir import Array

DOMAINS = ("qonnx.custom_op.general", "finn.custom_op.general", "onnx.brevitas")
"""The domain of the nodes, and the two it had before."""

_QUANT = ("Quant", "IntQuant")
_STEPS: dict[str, tuple[str, float | None]] = {
    "ROUND": ("Round", None),
    "HALF_EVEN": ("Round", None),
    "CEIL": ("Ceil", None),
    "FLOOR": ("Floor", None),
    "UP": ("Ceil", 0.0),
    "DOWN": ("Floor", 0.0),
    "HALF_UP": ("Floor", 0.5),
    "HALF_DOWN": ("Ceil", -0.5),
}
"""Rounding modes: a node; or, with a number, ``sign(x) * node(|x| + number)``."""

_TINY = float(np.finfo(np.float32).tiny)


def qonnx_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes of QONNX in `model`, which ONNX Runtime doesn't know."""
    return [node for node in model.graph.node if node.domain in DOMAINS]


def with_domains(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` importing the QONNX domains it uses, which older exporters leave out."""
    known = {entry.domain for entry in model.opset_import}
    missing = {node.domain for node in qonnx_nodes(model)} - known
    if not missing:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.opset_import.extend(helper.make_opsetid(domain, 1) for domain in sorted(missing))
    return result


def translate(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return `model`, of operator set 13 or newer, with standard nodes in place of QONNX's.

    Raises
    ------
    ModelError
        A node is none of Quant, IntQuant and BipolarQuant, or one of them is malformed.
    """
    if not qonnx_nodes(model):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _Translation(result.graph, name).run()
    kept = [entry for entry in model.opset_import if entry.domain not in DOMAINS]
    del result.opset_import[:]
    result.opset_import.extend(kept)
    return result


class _Translation:
    def __init__(self, graph: onnx.GraphProto, model_name: str) -> None:
        self.graph, self.model_name = graph, model_name
        self.nodes: list[onnx.NodeProto] = []
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and not node.domain and len(node.attribute) == 1:
                value = helper.get_attribute_value(node.attribute[0])
                if isinstance(value, onnx.TensorProto):
                    self.constants[node.output[0]] = value
                elif isinstance(value, int | float):
                    self.constants[node.output[0]] = numpy_helper.from_array(np.array(value))
        self.taken = {*self.constants, *(value.name for value in graph.input)}
        self.taken |= {output for node in graph.node for output in node.output}
        self.mixed = self._mixes_signs()

    def run(self) -> None:
        for node in self.graph.node:
            if node.domain not in DOMAINS:
                self.nodes.append(node)
            elif node.op_type in _QUANT:
                self._quant(node)
            elif node.op_type == "BipolarQuant":
                self._bipolar(node)
            else:
                raise self._error(node, "isn't supported: of QONNX's operators, use Quant or BipolarQuant")
        nodes = list(self.nodes)
        del self.graph.node[:]
        self.graph.node.extend(nodes)

    def _mixes_signs(self) -> bool:
        """Whether the quantized values that depend on an input are signed in one place and unsigned in another."""
        fixed = set(self.constants)
        signs = set()
        for node in self.graph.node:
            if node.input and all(entry in fixed for entry in node.input if entry):
                fixed.update(node.output)
            elif node.domain in DOMAINS:
                signs.add(node.op_type not in _QUANT or bool(self._attributes(node).get("signed", 1)))
        return len(signs) == 2

    # One node ---------------------------------------------------------------------------------------------------------

    def _quant(self, node: onnx.NodeProto) -> None:
        scale, zero_point, bits = self._operands(node, 4)
        attributes = self._attributes(node)
        mode = attributes.get("rounding_mode", b"ROUND").decode().upper()
        if mode not in _STEPS:
            raise self._error(node, f"has rounding mode {mode!r}: use one of {', '.join(_STEPS)}")
        if bits.size != 1 or not 1 <= bits.item() <= 32 or bits.item() != int(bits.item()):
            raise self._error(node, f"has bit width {bits.tolist()}: it must be an integer of 1 to 32")
        signed, narrow = (bool(attributes.get(key, default)) for key, default in (("signed", 1), ("narrow", 0)))
        width = int(bits.item())
        if width == 1 and signed:
            ratio = self._node(node, "Div", [node.input[0], self._constant(node, scale)])
            ratio = self._node(node, "Add", [ratio, self._constant(node, zero_point)])
            self._two_levels(node, ratio, scale, zero_point)
            return
        lo = (narrow - (1 << (width - 1))) if signed else 0
        hi = (1 << (width - signed)) - 1 - (narrow and not signed)
        axis = _axis(scale, zero_point)
        fits = width <= 8 and axis is not None and _is_plain(scale, zero_point, lo, hi)
        if not fits or axis is None:
            self._in_floats(node, scale, zero_point, lo, hi, mode)
            return
        dtype = "int8" if signed or self.mixed else "uint8"
        offset = 128 if dtype == "int8" and hi > 127 else 0  # 8 unsigned bits among signed tensors
        scale, zero_point = _spread(scale, zero_point, axis)
        params = [self._constant(node, scale), self._constant(node, (zero_point - offset).astype(dtype))]
        if mode in ("ROUND", "HALF_EVEN") and not zero_point.any():
            q = self._node(node, "QuantizeLinear", [node.input[0], *params], **axis)
        else:
            operands = [self._constant(node, value) for value in self._operands(node, 4)[:2]]
            value = self._levels(node, operands, lo, hi, mode)
            if offset:
                value = self._node(node, "Sub", [value, self._constant(node, np.float32(offset))])
            q = self._node(node, "Cast", [value], to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        q = self._clip(node, q, lo - offset, hi - offset, dtype)
        self._last(node, "DequantizeLinear", [q, *params], **axis)

    def _bipolar(self, node: onnx.NodeProto) -> None:
        (scale,) = self._operands(node, 2)
        self._two_levels(node, node.input[0], scale, np.zeros((), np.float32))

    def _two_levels(self, node: onnx.NodeProto, x: str, scale: Array, zero_point: Array) -> None:
        """End in ``(q - zero_point) * scale`` with q = 1 where ``x >= 0``, else -1."""
        constants = [self._constant(node, np.float32(value)) for value in (0, 1, -1)]
        positive = self._node(node, "GreaterOrEqual", [x, constants[0]])
        levels = self._node(node, "Where", [positive, *constants[1:]])
        axis = _axis(scale, zero_point)
        if axis is None or not _is_plain(scale, zero_point, -128, 127):
            self._scaled(node, levels, [self._constant(node, value) for value in (scale, zero_point)])
            return
        scale, zero_point = _spread(scale, zero_point, axis)
        q = self._node(node, "Cast", [levels], to=TensorProto.INT8)
        q = self._clip(node, q, -1, 1, "int8")
        params = [self._constant(node, scale), self._constant(node, zero_point.astype(np.int8))]
        self._last(node, "DequantizeLinear", [q, *params], **axis)

    def _in_floats(self, node: onnx.NodeProto, scale: Array, zero_point: Array, lo: int, hi: int, mode: str) -> None:
        operands = [self._constant(node, scale), self._constant(node, zero_point)]
        self._scaled(node, self._levels(node, operands, lo, hi, mode), operands)

    def _levels(self, node: onnx.NodeProto, operands: Sequence[str], lo: int, hi: int, mode: str) -> str:
        """Return ``round(clamp(x / scale + zero_point))`` in floats."""
        value = self._node(node, "Div", [node.input[0], operands[0]])
        value = self._node(node, "Add", [value, operands[1]])
        bounds = [self._constant(node, np.float32(bound)) for bound in (lo, hi)]
        value = self._node(node, "Clip", [value, *bounds])
        step, shift = _STEPS[mode]
        if shift is None:
            return self._node(node, step, [value])
        magnitude = self._node(node, "Abs", [value])
        if shift:
            magnitude = self._node(node, "Add", [magnitude, self._constant(node, np.float32(shift))])
        rounded = self._node(node, step, [magnitude])
        return self._node(node, "Mul", [self._node(node, "Sign", [value]), rounded])

    def _scaled(self, node: onnx.NodeProto, levels: str, operands: Sequence[str]) -> None:
        self._last(node, "Mul", [self._node(node, "Sub", [levels, operands[1]]), operands[0]])

    def _clip(self, node: onnx.NodeProto, q: str, lo: int, hi: int, dtype: str) -> str:
        info = np.iinfo(dtype)
        if (lo, hi) == (info.min, info.max):
            return q
        return self._node(node, "Clip", [q, *(self._constant(node, np.array(bound, dtype)) for bound in (lo, hi))])

    # Reading and writing ----------------------------------------------------------------------------------------------

    def _operands(self, node: onnx.NodeProto, count: int) -> list[Array]:
        if len(node.input) != count or len(node.output) != 1:
            raise self._error(node, f"must have {count} inputs and one output")
        values = []
        for entry in node.input[1:]:
            if entry not in self.constants:
                raise self._error(node, f"reads {entry!r}, which isn't an initializer: fold the model's constants")
            try:
                values.append(np.asarray(numpy_helper.to_array(self.constants[entry]), np.float32))
            except Exception as error:  # to_array raises ValueError, TypeError or KeyError on damaged data
                raise self._error(node, f"reads {entry!r}, which is damaged") from error
        return values

    @staticmethod
    def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
        return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}

    def _error(self, node: onnx.NodeProto, message: str) -> ModelError:
        label = node.name or next(iter(node.output), "unnamed")
        return ModelError(f"{self.model_name}: node {label!r} ({node.op_type}): {message}")

    def _name(self, node: onnx.NodeProto, step: str) -> str:
        base = name = f"{node.output[0]}/{step}"
        count = 1
        while name in self.taken:
            count += 1
            name = f"{base}_{count}"
        self.taken.add(name)
        return name

    def _constant(self, node: onnx.NodeProto, value: Any) -> str:
        name = self._name(node, "constant")
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _node(self, node: onnx.NodeProto, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        output = self._name(node, op_type)
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output

    def _last(self, node: onnx.NodeProto, op_type: str, inputs: Sequence[str], **attributes: Any) -> None:
        name = node.name or node.output[0]
        self.nodes.append(helper.make_node(op_type, inputs, [node.output[0]], name=name, **attributes))


def _axis(scale: Array, zero_point: Array) -> dict[str, int] | None:
    """Return the attribute that names the axis of the parameters, counted from the last; None for several axes."""
    shape = np.broadcast_shapes(scale.shape, zero_point.shape)
    wide = [index - len(shape) for index, size in enumerate(shape) if size > 1]
    if len(wide) > 1:
        return None
    return {"axis": wide[0]} if wide else {}


def _is_plain(scale: Array, zero_point: Array, lo: int, hi: int) -> bool:
    """Whether DequantizeLinear takes the parameters: positive scales, whole zero points in range."""
    whole = np.all((zero_point == np.rint(zero_point)) & (zero_point >= lo) & (zero_point <= hi))
    return bool(whole and np.all(np.isfinite(scale) & (scale >= _TINY)))


def _spread(scale: Array, zero_point: Array, axis: dict[str, int]) -> tuple[Array, Array]:
    """Return scale and zero point as the scalars or vectors of one length that DequantizeLinear takes."""
    pair = (part.reshape(-1) for part in np.broadcast_arrays(scale, zero_point))
    first, second = pair if axis else (part.reshape(()) for part in pair)
    return first, second
