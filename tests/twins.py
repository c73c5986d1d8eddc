"""Quantized networks written twice: as hwq reads them, QDQ or QOperator, and for ONNX Runtime in integer operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import onnx

from tests.onnx_models import Builder

FORMS = ("qdq", "operators")


@dataclass(frozen=True)
class Value:
    """A quantized tensor: its shape with the batch, how it is quantized, and which tensor it is a function of."""

    name: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int
    dtype: str
    root: str

    @property
    def range(self) -> tuple[int, int]:
        info = np.iinfo(self.dtype)
        return int(info.min), int(info.max)

    def like(self, other: Value) -> bool:
        return (self.scale, self.zero_point, self.dtype) == (other.scale, other.zero_point, other.dtype)


class Twins:
    """Adds every layer to both models; names of quantized tensors are the same in both.

    Members
    -------
    read : Builder
        The model that hwq reads, of form ``qdq`` or ``operators``.
    oracle : Builder
        What it means: ONNX Runtime's integer operators, and moves of integers.
    steps : list of str
        Every layer in words.
    """

    def __init__(self, form: str, shared: bool):
        self.form, self._shared = form, shared
        self.read, self.oracle = Builder(), Builder()
        self._both = (self.read, self.oracle)
        self._floats: dict[tuple[int, str], str] = {}
        self.steps: list[str] = []
        self._count = 0

    def value(self, shape: Sequence[int], scale: float, zero_point: int, dtype: str, root: str = "") -> Value:
        """Return a tensor that a layer is about to make."""
        name = f"v{self._count}"
        self._count += 1
        return Value(name, tuple(int(n) for n in shape), float(np.float32(scale)), zero_point, dtype, root or name)

    def say(self, layer: str, inputs: Sequence[Value], y: Value, more: str = "") -> None:
        said = f"{layer}({', '.join(x.name for x in inputs)}) {more}"
        self.steps.append(f"{y.name} {y.dtype} {y.shape} scale {y.scale!r} zero point {y.zero_point} = {said}")

    # Both forms -------------------------------------------------------------------------------------------------------

    def floats(self, builder: Builder, x: Value) -> str:
        """Return what a tensor stands for, behind a DequantizeLinear of its own or one for all its readers."""
        key = (id(builder), x.name)
        known = self._floats.get(key)
        if known is None or not (self._shared or builder is self.oracle or known.startswith("bare")):
            known = self._floats[key] = builder.dequantize(x.name, x.scale, x.zero_point, x.dtype)
        return known

    def quantize(self, builder: Builder, name: str, y: Value) -> None:
        builder.quantize(name, y.scale, y.zero_point, y.dtype, output=y.name)

    def _params(self, builder: Builder, x: Value) -> list[str]:
        return builder.params(x.scale, x.zero_point, x.dtype)

    def _clipped(self, builder: Builder, y: Value, bounds: tuple[int, int] | None) -> str:
        """Return the name of what is written before a Clip of integers, which is added by `_clip`."""
        return y.name if bounds is None else f"{y.name}_whole"

    def _clip(self, builder: Builder, y: Value, bounds: tuple[int, int] | None) -> None:
        if bounds is not None:
            names = [builder.constant(bound, y.dtype) for bound in bounds]
            builder.node("Clip", [f"{y.name}_whole", *names], y.name)

    def _activated(self, name: str, y: Value, bounds: tuple[int, int] | None) -> str:
        """Return float tensor `name` behind the Clip, or Relu, that bounds its quantized twin."""
        if bounds is None:
            return name
        if bounds == (y.zero_point, y.range[1]):
            return self.read.node("Relu", [name])
        ends = [self.read.constant((bound - y.zero_point) * np.float32(y.scale), np.float32) for bound in bounds]
        return self.read.node("Clip", [name, *ends])

    @property
    def _integer(self) -> tuple[Builder, ...]:
        """The models that have integer operators."""
        return (self.oracle,) if self.form == "qdq" else self._both

    # Layers -----------------------------------------------------------------------------------------------------------

    def input(self, shape: Sequence[int], scale: float, zero_point: int, dtype: str, quantized: bool) -> Value:
        """Add the model's input: integers, or floats behind QuantizeLinear."""
        y = self.value(shape, scale, zero_point, dtype)
        for builder in self._both:
            if quantized:
                builder.input(y.name, y.shape, dtype)
            else:
                builder.quantize(builder.input(f"x_{y.name}", y.shape), scale, zero_point, dtype, output=y.name)
        self.say("quantized input" if quantized else "input", [], y)
        return y

    def _weight(self, builder: Builder, values: np.ndarray, scale: np.ndarray, zero_point: int, bits: int, axis: int):
        if bits == 8:
            return builder.weight(values, scale, zero_point, axis)
        narrow = [value.astype(ml_dtypes.int4) for value in (values, np.full(scale.shape, zero_point))]
        names = [builder.constant(value) for value in (narrow[0], scale, narrow[1])]
        return builder.node("DequantizeLinear", names, axis=axis)

    def conv(self, x: Value, y: Value, weight, scale, zero_point, bias, attributes, exact, *, bounds, bits) -> None:
        """Add a convolution; `exact` are its attributes with the pads stated."""
        if self.form == "qdq":
            b = self.read
            inputs = [self.floats(b, x), self._weight(b, weight, scale, zero_point, bits, 0)]
            inputs += self._float_bias(bias, np.float32(x.scale) * scale)
            self.quantize(b, self._activated(b.node("Conv", inputs, **attributes), y, bounds), y)
        for b in self._integer:
            kernel, zero = (weight, zero_point) if b is self.read else self._kernel(x, weight, zero_point)
            inputs = [x.name, *self._params(b, x), b.constant(kernel), b.constant(scale)]
            inputs += [b.constant(np.full(scale.shape, zero, kernel.dtype)), *self._params(b, y)]
            inputs += [] if bias is None else [b.constant(bias)]
            b.node("QLinearConv", inputs, self._clipped(b, y, bounds), **(attributes if b is self.read else exact))
            self._clip(b, y, bounds)
        self.say("conv", [x], y, f"{weight.shape} {weight.dtype} {bits} bits {attributes} clamp {bounds}")

    def _float_bias(self, bias: np.ndarray | None, scale: np.ndarray) -> list[str]:
        if bias is None:
            return []
        names = [self.read.constant(value) for value in (bias, scale, np.zeros(scale.shape, np.int32))]
        return [self.read.node("DequantizeLinear", names, axis=0)]

    @staticmethod
    def _kernel(x: Value, weight: np.ndarray, zero_point: int) -> tuple[np.ndarray, int]:
        """Return weights in a type that ONNX Runtime has a kernel for beside int8 activations."""
        if x.dtype == "int8" and weight.dtype == np.uint8:
            return (weight.astype(np.int16) - 128).astype(np.int8), zero_point - 128
        return weight, zero_point

    def conv_transpose(self, x: Value, y: Value, weight, scale, bias, stride: int, pads: list[int]) -> None:
        """Add a transposed convolution of images, QDQ only; its meaning is a convolution of `x` with zeros between."""
        b, kernel = self.read, weight.shape[2:]
        inputs = [
            self.floats(b, x),
            b.weight(weight, scale, 0, 1),
            *self._float_bias(bias, np.float32(x.scale) * scale),
        ]
        made = b.node("ConvTranspose", inputs, kernel_shape=kernel, strides=[stride] * 2, pads=pads)
        self.quantize(b, made, y)
        o, (n, c, h, w) = self.oracle, x.shape
        spread = o.node("Reshape", [x.name, o.constant([n, c, h, 1, w, 1], np.int64)])
        ends = [0] * 6 + [0, 0, 0, stride - 1, 0, stride - 1]
        spread = o.node("Pad", [spread, o.constant(ends, np.int64), o.constant(x.zero_point, x.dtype)])
        spread = o.node("Reshape", [spread, o.constant([n, c, h * stride, w * stride], np.int64)])
        flipped = np.ascontiguousarray(weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3))
        inputs = [spread, *self._params(o, x), o.constant(flipped), o.constant(scale)]
        inputs += [o.constant(np.zeros(scale.shape, np.int8)), *self._params(o, y)]
        inputs += [] if bias is None else [o.constant(bias)]
        whole = o.node("QLinearConv", inputs, kernel_shape=kernel, pads=[k - 1 for k in (*kernel, *kernel)])
        begin, size = np.array(pads[:2]), np.array(y.shape[2:])
        bounds = [o.constant(value, np.int64) for value in (begin, begin + size, [2, 3])]
        o.node("Slice", [whole, *bounds], y.name)
        self.say("conv transpose", [x], y, f"{weight.shape} stride {stride} pads {pads}")

    def gemm(self, x: Value, y: Value, weight, scale, zero_point, bias, *, style: str, alpha: float, bits: int) -> None:
        """Add a matrix product: `weight` is (K, N); `style` is ``matmul``, ``gemm`` or ``gemm of transposed``."""
        transposed = style == "gemm of transposed"
        stored, axis = (np.ascontiguousarray(weight.T), 0) if transposed else (weight, 1)
        if self.form == "qdq":
            b = self.read
            operand = self._weight(b, stored, scale, zero_point, bits, axis)
            more = self._float_bias(bias, np.float32(alpha) * np.float32(x.scale) * scale)
            if style == "matmul":
                made = b.node("MatMul", [self.floats(b, x), operand])
                made = b.node("Add", [made, *more]) if more else made
            else:
                made = b.node("Gemm", [self.floats(b, x), operand, *more], transB=int(transposed), alpha=alpha)
            self.quantize(b, made, y)
        for b in self._integer:
            matrix, zero = (stored, zero_point) if b is self.read else self._kernel(x, stored, zero_point)
            inputs = [x.name, *self._params(b, x), b.constant(matrix), b.constant(scale)]
            inputs += [b.constant(np.full(scale.shape, zero, matrix.dtype))]
            if style == "matmul" and bias is None:
                b.node("QLinearMatMul", [*inputs, *self._params(b, y)], y.name)
            else:
                inputs += [b.constant(bias) if bias is not None else "", *self._params(b, y)]
                b.node("QGemm", inputs, y.name, "com.microsoft", transB=int(transposed), alpha=alpha)
        self.say(style, [x], y, f"{weight.shape} {weight.dtype} {bits} bits alpha {alpha} bias {bias is not None}")

    def pair(self, op: str, a: Value, b: Value, y: Value) -> None:
        """Add ``Add``, ``Mul`` or ``Sub`` of two tensors; one tensor's functions are multiplied in floats in QDQ."""
        in_floats = op == "Sub" or (op == "Mul" and self.form == "qdq" and a.root == b.root)
        for m in self._both:
            if in_floats or (m is self.read and self.form == "qdq"):
                self.quantize(m, m.node(op, [self.floats(m, a), self.floats(m, b)]), y)
            else:
                inputs = [a.name, *self._params(m, a), b.name, *self._params(m, b), *self._params(m, y)]
                m.node(f"QLinear{op}", inputs, y.name, "com.microsoft")
        self.say(op, [a, b], y)

    def average(self, x: Value, y: Value, attributes: dict[str, list[int]] | None) -> None:
        """Add an average over windows, or over the whole of every channel: the integer sum, requantized once."""
        name = "GlobalAveragePool" if attributes is None else "AveragePool"
        more = {} if attributes is None else attributes
        b = self.read
        if self.form == "qdq":
            self.quantize(b, b.node(name, [self.floats(b, x)], **more), y)
        else:
            inputs = [x.name, *self._params(b, x), *self._params(b, y)]
            b.node(f"QLinear{name}", inputs, y.name, "com.microsoft", **more)
        o = self.oracle
        if attributes is None:
            o.node(
                "QLinearGlobalAveragePool", [x.name, *self._params(o, x), *self._params(o, y)], y.name, "com.microsoft"
            )
        else:
            self._windows_as_images(x, y, attributes)
        self.say(name, [x], y, f"{more}")

    def _windows_as_images(self, x: Value, y: Value, attributes: dict[str, list[int]]) -> None:
        """Add to the oracle a mean over the whole of each window, every window an image of its own."""
        o, name, rank = self.oracle, x.name, len(x.shape) - 2
        for axis in reversed(range(rank)):
            kernel, stride = attributes["kernel_shape"][axis], attributes["strides"][axis]
            places = np.arange(y.shape[2 + axis])[:, None] * stride + np.arange(kernel)
            name = o.node("Gather", [name, o.constant(places, np.int64)], axis=2 + axis)
        outs, kernels = [2 + 2 * axis for axis in range(rank)], [3 + 2 * axis for axis in range(rank)]
        name = o.node("Transpose", [name], perm=[0, *outs, 1, *kernels])
        name = o.node("Reshape", [name, o.constant([-1, x.shape[1], *attributes["kernel_shape"]], np.int64)])
        name = o.node(
            "QLinearGlobalAveragePool", [name, *self._params(o, x), *self._params(o, y)], None, "com.microsoft"
        )
        name = o.node("Reshape", [name, o.constant([y.shape[0], *y.shape[2:], y.shape[1]], np.int64)])
        o.node("Transpose", [name], y.name, perm=[0, rank + 1, *range(1, rank + 1)])

    def table(self, op: str, x: Value, y: Value, **attributes) -> None:
        """Add a function of single elements."""
        for b in self._both:
            if self.form == "operators" and op in ("Sigmoid", "LeakyRelu"):
                inputs = [x.name, *self._params(b, x), *self._params(b, y)]
                b.node(f"QLinear{op}", inputs, y.name, "com.microsoft", **attributes)
            else:
                made = self.floats(b, x)
                if op == "int16":
                    scale = [b.constant(x.scale / 16, np.float32), b.constant(-5, np.int16)]
                    made = b.node("DequantizeLinear", [b.node("QuantizeLinear", [made, *scale]), *scale])
                elif op != "requantize":
                    made = b.node(op, [made], **attributes)
                self.quantize(b, made, y)
        self.say(op, [x], y, f"{attributes}")

    def concat(self, xs: Sequence[Value], y: Value, axis: int) -> None:
        """Add a concatenation, its inputs requantized where they are quantized otherwise."""
        if self.form == "qdq":
            self.quantize(self.read, self.read.node("Concat", [self.floats(self.read, x) for x in xs], axis=axis), y)
        for b in self._integer:
            inputs = [name for x in xs for name in (x.name, *self._params(b, x))]
            b.node("QLinearConcat", [*self._params(b, y), *inputs], y.name, "com.microsoft", axis=axis)
        self.say("concat", xs, y, f"axis {axis}")

    def move(self, op: str, x: Value, shapes: Sequence[tuple[int, ...]], operands=(), bare=False, **attributes):
        """Add a node that carries values along to tensors of `shapes`; `bare`: without QuantizeLinear after it.

        The oracle moves what the integers stand for, which QuantizeLinear gives back exactly.
        """
        ys = [replace(self.value(shape, x.scale, x.zero_point, x.dtype), root="") for shape in shapes]
        ys = [replace(y, root=y.name) for y in ys]
        for b in self._both:
            more = [b.constant(*operand) if operand else "" for operand in operands]
            whole = b is self.read and self.form == "operators"
            more += [b.constant(x.zero_point, x.dtype)] if op == "Pad" and whole else []
            names = [y.name if whole else f"bare_{y.name}" for y in ys]
            b.nodes.append(
                onnx.helper.make_node(
                    op, [x.name if whole else self.floats(b, x), *more], names, name=f"n_{names[0]}", **attributes
                )
            )
            for y, name in zip(ys, names, strict=True):
                if bare and b is self.read and not whole:
                    self._floats[id(b), y.name] = name
                elif not whole:
                    self.quantize(b, name, y)
        for y in ys:
            self.say(op, [x], y, f"{operands} {attributes} {'bare' if bare else ''}")
        return ys

    def models(self, outputs: Sequence[tuple[Value, bool]]) -> tuple[onnx.ModelProto, onnx.ModelProto]:
        """Return both models; of the outputs, those marked are what the integers stand for."""
        out = []
        for b in self._both:
            names = [self._output(b, y, as_float) for y, as_float in outputs]
            types = {
                name: ("float32" if as_float else y.dtype, y.shape)
                for name, (y, as_float) in zip(names, outputs, strict=True)
            }
            out.append(b.model(*names, opset=21, types=types))
            out[-1].ir_version = 10
        return out[0], out[1]

    def _output(self, builder: Builder, y: Value, as_float: bool) -> str:
        known = self._floats.get((id(builder), y.name), "")
        if not as_float and not known.startswith("bare"):
            return y.name
        if not as_float:
            self.quantize(builder, known, y)
            return y.name
        return builder.node("Identity", [self.floats(builder, y)], f"{y.name}_out")
