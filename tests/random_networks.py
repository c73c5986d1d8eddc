"""Random networks: one to three layers of any kind and shape that the array has, as quantized ONNX."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx

from tests import blocked_models
from tests.onnx_models import Builder
from tests.windows import windows


@dataclass(frozen=True)
class Value:
    """A quantized tensor behind DequantizeLinear: its name, shape without the batch, scale and zero point."""

    name: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int


class RandomNetwork:
    """A chain of at least `layers` random layers; adds and concatenations bring a second branch.

    The share `int4` of the layers, by chance, has weights that 4 bits hold, the share `codebook` weights of 16 values,
    the same in all channels or others in every `group` of them; the share `blocked` of the matrix products and 1x1
    convolutions has a scale for each block of inputs, and the share `act_int4` activations of 4 bits.

    Members
    -------
    model : onnx.ModelProto
    kinds : list of str
        Its layers.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        layers: int,
        int4: float = 0,
        codebook: float = 0,
        group: int = 1,
        blocked: float = 0,
        act_int4: float = 0,
    ):
        self._rng, self._int4, self._blocked, self._act_int4 = rng, int4, blocked, act_int4
        self._codebook, self._group = codebook, group
        self._builder = Builder()
        self._dtype = str(rng.choice(["int8", "uint8"]))
        self.kinds: list[str] = []
        shape = (int(rng.integers(1, 13)), int(rng.integers(1, 11)), int(rng.integers(1, 11)))
        if blocked and rng.integers(3) == 0:
            shape = (16 * int(rng.integers(1, 9)),)
        x = self._quantized(self._builder.input("x", (1, *shape)), shape, 2.0 ** -int(rng.integers(3, 7)))
        while len(self.kinds) < layers:
            x = self._layer(x)
        self.model: onnx.ModelProto = self._builder.model(x.name, opset=21 if blocked else 17)

    def _layer(self, x: Value) -> Value:
        if len(x.shape) == 1:
            return self._gemm(x)
        makers = [self._conv, self._conv, self._depthwise, self._max_pool, self._average_pool, self._gemm]
        makers += [self._global_pool, self._add, self._concat]
        return makers[self._rng.integers(len(makers))](x)

    def _quantized(self, name: str, shape: tuple[int, ...], scale: float) -> Value:
        if self._act_int4 and self._rng.random() < self._act_int4:
            return self._narrow(name, shape, scale * 16)
        zero_point = int(self._rng.integers(-20, 20)) + (128 if self._dtype == "uint8" else 0)
        q = self._builder.quantize(name, scale, zero_point, self._dtype)
        return Value(self._builder.dequantize(q, scale, zero_point, self._dtype), shape, scale, zero_point)

    def _narrow(self, name: str, shape: tuple[int, ...], scale: float) -> Value:
        """Return tensor `name` quantized to 4 bits."""
        low = 0 if self._dtype == "uint8" else int(self._rng.choice([-8, -8, 0]))
        zero_point = low + int(self._rng.choice([0, 8, self._rng.integers(0, 16)]))
        q = self._builder.quantize(name, scale, zero_point, self._dtype)
        bounds = [self._builder.constant(bound, self._dtype) for bound in (low, low + 15)]
        q = self._builder.node("Clip", [q, *bounds])
        return Value(self._builder.dequantize(q, scale, zero_point, self._dtype), shape, scale, zero_point)

    def _like(self, name: str, x: Value, shape: tuple[int, ...]) -> Value:
        """Return tensor `name` quantized as `x` is."""
        q = self._builder.quantize(name, x.scale, x.zero_point, self._dtype)
        return replace(x, name=self._builder.dequantize(q, x.scale, x.zero_point, self._dtype), shape=shape)

    def _weights(self, shape: tuple[int, ...], x: Value, axis: int = 0) -> tuple[str, np.ndarray]:
        """Return weights behind DequantizeLinear, and the scales of their sums."""
        rng = self._rng
        per_sum = np.prod(shape) // shape[axis]
        scales = rng.uniform(0.5, 2, shape[axis] if rng.integers(2) else ()) / (64 * np.sqrt(per_sum))
        zero_point = 0
        values = rng.integers(-128, 128, shape)
        if self._int4 or self._codebook:
            kind = rng.random()
            if kind < self._int4:
                values, scales = values >> 4, scales * 16
            elif kind < self._int4 + self._codebook:
                values = self._from_books(values % 16, axis)
            values = np.clip(values + zero_point, -128, 127)
        weight = self._builder.weight(values.astype(np.int8), scales, zero_point, axis)
        return weight, np.float32(scales) * np.float32(x.scale)

    def _from_books(self, indices: np.ndarray, axis: int) -> np.ndarray:
        """Return weights out of one random book, or of one for each group of channels."""
        channels = np.moveaxis(indices, axis, 0)
        books = self._rng.integers(-128, 128, (len(channels), 16))
        chosen = np.arange(len(channels)) // self._group if self._rng.integers(2) else np.zeros(len(channels), int)
        values = [book[index] for book, index in zip(books[chosen], channels, strict=True)]
        return np.moveaxis(np.stack(values), 0, axis)

    def _below(self, start: int, end: int) -> int:
        return int(self._rng.integers(start, end))

    def _windows(self, x: Value, pool: str | None = None) -> tuple[dict[str, list[int]], tuple[int, ...]]:
        """Return a sliding window's attributes and the size of what it makes."""
        return windows(self._below, x.shape[1:], pool)

    def _sums(self, x: Value, outputs: int, groups: int, attributes: dict[str, list[int]]) -> str:
        """Return a convolution with random weights, at times with a bias or Relu, not yet quantized."""
        rng, builder = self._rng, self._builder
        weight, scales = self._weights((outputs, x.shape[0] // groups, *attributes["kernel_shape"]), x)
        inputs = [x.name, weight]
        if rng.integers(2):
            bias = rng.integers(-2000, 2000, outputs).astype(np.int32)
            zero = np.zeros(scales.shape, np.int32)
            names = [builder.constant(value) for value in (bias, scales, zero)]
            inputs.append(builder.node("DequantizeLinear", names, axis=0))
        y = builder.node("Conv", inputs, group=groups, **attributes)
        return builder.node("Relu", [y]) if rng.integers(3) == 0 else y

    def _in_blocks(self, x: Value, name: str, inputs: int, form: str) -> Value:
        """Return a layer of random weights in blocks."""
        self.kinds.append(f"{form} in blocks")
        rng, outputs = self._rng, int(self._rng.integers(1, 21))
        size = 16 if form == "bnb4" else int(rng.choice([16, 32, 64]))
        scales = blocked_models.grid(rng, -(-inputs // size), outputs)
        if rng.integers(2):
            scales = rng.uniform(0.01, 0.02, scales.shape).astype(np.float32)
        made = blocked_models.layer(self._builder, form, name, scales, size, inputs, rng)
        scale = x.scale * 2.0 ** np.ceil(np.log2(np.abs(made.weight).sum(0).max() / 2))
        return self._quantized(made.name, (outputs, *x.shape[1:]) if form == "conv" else (outputs,), scale)

    def _conv(self, x: Value) -> Value:
        if self._blocked and self._rng.random() < self._blocked:
            return self._in_blocks(x, x.name, x.shape[0], "conv")
        self.kinds.append("conv")
        attributes, size = self._windows(x)
        outputs = int(self._rng.integers(1, 41 if self._codebook else 21))
        scale = x.scale * 2.0 ** int(self._rng.integers(-1, 2))
        return self._quantized(self._sums(x, outputs, 1, attributes), (outputs, *size), scale)

    def _depthwise(self, x: Value) -> Value:
        self.kinds.append("depthwise")
        attributes, size = self._windows(x)
        if self._rng.integers(2):
            attributes, size = {"kernel_shape": [3, 3], "pads": [1] * 4}, x.shape[1:]
        return self._quantized(self._sums(x, x.shape[0], x.shape[0], attributes), (x.shape[0], *size), x.scale)

    def _max_pool(self, x: Value) -> Value:
        self.kinds.append("max pool")
        attributes, size = self._windows(x, "max")
        return self._like(self._builder.node("MaxPool", [x.name], **attributes), x, (x.shape[0], *size))

    def _average_pool(self, x: Value) -> Value:
        self.kinds.append("average pool")
        attributes, size = self._windows(x, "average")
        y = self._builder.node("AveragePool", [x.name], **attributes)
        return self._quantized(y, (x.shape[0], *size), x.scale)

    def _global_pool(self, x: Value) -> Value:
        self.kinds.append("global pool")
        return self._quantized(self._builder.node("GlobalAveragePool", [x.name]), (x.shape[0], 1, 1), x.scale / 2)

    def _gemm(self, x: Value) -> Value:
        self.kinds.append("gemm")
        inputs, outputs = int(np.prod(x.shape)), int(self._rng.integers(1, 13))
        flat = self._builder.node("Flatten", [x.name]) if len(x.shape) > 1 else x.name
        if self._blocked and self._rng.random() < self._blocked:
            self.kinds.pop()
            others = [form for form in blocked_models.FORMS if form not in ("conv", "bnb4")]
            is_nf4 = inputs % 16 == 0 and self._rng.integers(2) == 0
            return self._in_blocks(x, flat, inputs, "bnb4" if is_nf4 else str(self._rng.choice(others)))
        weight, _ = self._weights((inputs, outputs), x, axis=1)
        return self._quantized(self._builder.node("MatMul", [flat, weight]), (outputs,), x.scale)

    def _same_size(self, x: Value, outputs: int) -> str:
        self.kinds.append("conv")
        kernel = int(self._rng.choice([1, 3]))
        return self._sums(x, outputs, 1, {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4})

    def _add(self, x: Value) -> Value:
        y = self._quantized(self._same_size(x, x.shape[0]), x.shape, x.scale)
        self.kinds.append("add")
        return self._quantized(self._builder.node("Add", [x.name, y.name]), x.shape, x.scale * 2)

    def _concat(self, x: Value) -> Value:
        outputs = int(self._rng.integers(1, 9))
        y = self._like(self._same_size(x, outputs), x, (outputs, *x.shape[1:]))
        self.kinds.append("concat")
        z = self._builder.node("Concat", [x.name, y.name], axis=1)
        return self._like(z, x, (x.shape[0] + outputs, *x.shape[1:]))
