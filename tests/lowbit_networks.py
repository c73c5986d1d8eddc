"""Networks of 4-bit weights and activations."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np

from hwq import ir
from tests.test_onnx_narrow import Narrow


def narrowed(graph: ir.Graph) -> ir.Graph:
    """Return `graph` with the weights of every convolution and matrix product rounded to 4 bits."""
    return dataclasses.replace(
        graph, ops=[_narrowed(op) if isinstance(op, ir.Conv | ir.Gemm) else op for op in graph.ops]
    )


def _narrowed(op: ir.Conv | ir.Gemm) -> ir.Op:
    axis = 0 if isinstance(op, ir.Conv) else op.weight.ndim - 1
    shape = [-1 if dim == axis else 1 for dim in range(op.weight.ndim)]
    weight = op.weight.astype(np.float64) - op.weight_zero_point.reshape(shape)
    others = tuple(dim for dim in range(weight.ndim) if dim != axis)
    step = np.maximum(np.abs(weight).max(others), 1) / 7.5
    return dataclasses.replace(
        op,
        weight=np.clip(np.rint(weight / step.reshape(shape)), -8, 7).astype(np.int8),
        weight_zero_point=np.zeros_like(op.weight_zero_point),
        weight_scale=(op.weight_scale * step).astype(np.float32),
        bias=np.rint(op.bias / step).astype(np.int32),
    )


class Resnet8:
    """A network like MLPerf Tiny's ResNet-8, its weights INT4 and its activations UINT4 but for the 8-bit images.

    Members
    -------
    model : onnx.ModelProto
    """

    def __init__(self, rng: np.random.Generator, size: int = 32):
        self._rng, self._builder = rng, Narrow()
        images = self._builder.input("x", (1, 3, size, size))
        x = self._builder.dequantize(self._builder.quantize(images, 1 / 64, 128, "uint8"), 1 / 64, 128, "uint8")
        x, channels = self._quantized(self._conv(x, 3, 16)), 16
        for outputs, stride in ((16, 1), (32, 2), (64, 2)):
            y = self._quantized(self._conv(x, channels, outputs, 3, stride))
            y = self._quantized(self._conv(y, outputs, outputs), 0.5, 8)
            if stride > 1:
                x = self._quantized(self._conv(x, channels, outputs, 1, stride), 0.5, 8)
            x, channels = self._quantized(self._builder.node("Relu", [self._builder.node("Add", [x, y])])), outputs
        x = self._quantized(self._builder.node("GlobalAveragePool", [x]), 0.25)
        weight = self._weight((64, 10), 1)
        x = self._builder.node("MatMul", [self._builder.node("Flatten", [x]), weight])
        y = self._builder.quantize(x, 1 / 32, 128, "uint8")
        self.model = self._builder.model(self._builder.dequantize(y, 1 / 32, 128, "uint8"))

    def _quantized(self, name: str, scale: float = 0.5, zero_point: int = 0) -> str:
        q = self._builder.quantize(name, scale, zero_point, "uint4")
        return self._builder.dequantize(q, scale, zero_point, "uint4")

    def _weight(self, shape: tuple[int, ...], axis: int) -> str:
        values = self._rng.integers(-8, 8, shape).astype(ml_dtypes.int4)
        depth = values.size // shape[axis]
        scales = (self._rng.uniform(0.25, 0.5, shape[axis]) / np.sqrt(depth)).astype(np.float32)
        names = [self._builder.constant(value) for value in (values, scales, np.zeros(shape[axis], ml_dtypes.int4))]
        return self._builder.node("DequantizeLinear", names, axis=axis)

    def _conv(self, x: str, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> str:
        weight = self._weight((outputs, inputs, kernel, kernel), 0)
        pads = [kernel // 2] * 4
        return self._builder.node("Conv", [x, weight], kernel_shape=[kernel] * 2, pads=pads, strides=[stride] * 2)
