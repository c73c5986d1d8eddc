"""Models whose weights have a scale for each block of inputs, in every form that is read, and what they mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from tests.onnx_models import Builder

FORMS = ("n_bits", "n_bits with zero points", "bnb4", "matmul", "gemm", "int4", "uint8", "conv")

NF4 = [-1, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0,
       0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1]  # fmt: skip
"""The levels of MatMulBnb4's NF4 (bitsandbytes)."""


@dataclass(frozen=True)
class Layer:
    """A layer of random weights.

    Members
    -------
    name : str
        Of its float result.
    weight : float64 (inputs, outputs)
        What the model says they are.
    """

    name: str
    weight: np.ndarray


def packed(codes: np.ndarray, upper_first: bool = False) -> np.ndarray:
    """Return neighbours of the last axis as the halves of a byte."""
    first, second = codes[..., 0::2].astype(np.uint8), codes[..., 1::2].astype(np.uint8)
    return (first << 4 | second) if upper_first else (first | second << 4)


def grid(rng: np.random.Generator, blocks: int, outputs: int) -> np.ndarray:
    """Return scales (blocks, outputs) that are small multiples of a power of two."""
    return (rng.integers(1, 64, (blocks, outputs)) * 2.0 ** -rng.integers(8, 12, outputs)).astype(np.float32)


def layer(
    model: Builder, form: str, x: str, scale: np.ndarray, size: int, inputs: int, rng: np.random.Generator
) -> Layer:
    """Add a layer of `form` that reads `x`, float (..., inputs) or of a convolution (1, inputs, H, W).

    `scale` is float32 (blocks, outputs); only a MatMulBnb4 and a MatMulNBits limit `size`.
    """
    blocks, outputs = scale.shape
    places = np.arange(inputs) // size
    if form.startswith("n_bits"):
        codes = rng.integers(0, 16, (outputs, blocks * size))
        zero = np.full((outputs, blocks), 8)
        names = [x, model.constant(packed(codes.reshape(outputs, blocks, size))), model.constant(scale.T.reshape(-1))]
        if form != "n_bits":
            zero = rng.integers(0, 16, (outputs, blocks))
            names.append(model.constant(packed(np.pad(zero, [(0, 0), (0, blocks % 2)])).reshape(-1)))
        attributes = {"K": inputs, "N": outputs, "bits": 4, "block_size": size}
        y = model.node("MatMulNBits", names, domain="com.microsoft", **attributes)
        weight = codes[:, :inputs] - zero[:, places]
        return Layer(y, (weight * scale.T[:, places].astype(np.float64)).T)
    if form == "bnb4":
        codes = rng.integers(0, 16, (outputs, inputs))
        names = [x, model.constant(packed(codes, upper_first=True).reshape(-1)), model.constant(scale.T.reshape(-1))]
        attributes = {"K": inputs, "N": outputs, "quant_type": 1, "block_size": size}
        y = model.node("MatMulBnb4", names, domain="com.microsoft", **attributes)
        return Layer(y, (np.array(NF4)[codes] * scale.T[:, places]).T)
    low, high, zeros = {"uint8": (100, 156, (110, 146)), "int4": (-8, 8, (0, 1))}.get(form, (-20, 21, (-3, 4)))
    dtype = np.uint8 if form == "uint8" else np.int8
    values = rng.integers(low, high, (inputs, outputs)).astype(dtype)
    zero = rng.integers(*zeros, (blocks, outputs)).astype(dtype)
    weight = (values.astype(float) - zero[places]) * scale[places]
    stored, axis = (values, scale, zero), 0
    if form in ("gemm", "conv"):
        stored, axis = tuple(np.ascontiguousarray(value.T) for value in stored), 1
    if form == "conv":
        stored = tuple(value[:, :, np.newaxis, np.newaxis] for value in stored)
    names = [model.constant(value) for value in stored]
    if form == "int4":
        names = names[:2]
        weight = values.astype(float) * scale[places]
    w = model.node("DequantizeLinear", names, axis=axis, block_size=size)
    if form == "gemm":
        bias = model.constant(np.round(rng.normal(0, 3, outputs), 1), np.float32)
        return Layer(model.node("Gemm", [x, w, bias], transB=1), weight)
    return Layer(model.node("Conv" if form == "conv" else "MatMul", [x, w]), weight)


def single(
    form: str, scale: np.ndarray, size: int, inputs: int, seed: int, dtype: str = "int8", shape: tuple = (1, 3)
) -> tuple[onnx.ModelProto, Layer]:
    """Return a model of one such layer between quantizers, its input's leading dimensions `shape`, and the layer."""
    rng, model = np.random.default_rng(seed), Builder()
    zero_point = 5 if dtype == "int8" else 130
    dims = (1, inputs, *shape) if form == "conv" else ((shape[-1], inputs) if form == "gemm" else (*shape, inputs))
    x = model.quantize(model.input("x", dims), 1 / 32, zero_point, dtype)
    made = layer(model, form, model.dequantize(x, 1 / 32, zero_point, dtype), scale, size, inputs, rng)
    step = float(np.float32(np.abs(made.weight).sum(0).max() / 128))
    y = model.quantize(made.name, step, zero_point, dtype)
    return model.model(model.dequantize(y, step, zero_point, dtype), opset=21), made
