"""Layers whose weights have a scale for each block of inputs: MatMulNBits, MatMulBnb4, DequantizeLinear of blocks.

Their scales become integers under one float scale for each output (`hwq.second_level`). Where that changes them, and
where the levels of NF4 become integers, the graph's `rewrites` say by how much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from hwq.ir import Array, BlockScales, Op, Tensor
from hwq.onnx_carriers import node_name
from hwq.onnx_constraints import (
    constraint_block_groups,
    constraint_block_range,
    constraint_block_shape,
    constraint_block_storage,
    constraint_block_sums,
    constraint_constant_weight,
    constraint_plain_gemm,
    constraint_quantized_input,
    present,
    require,
)
from hwq.onnx_operators import Clamp, build_conv, build_gemm, qdq_bias
from hwq.onnx_values import Values, attribute, operand
from hwq.second_level import second_level
from hwq.weights import NF4, SCALE_MAX

_LEAST_SCALE = 2.0**-100
"""Of smaller scales, the products with others may not be float32 numbers."""

_LEAST_FACTORS = 16
"""A scale has at least so many values, even if sums would fit 32 bits only with fewer."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """A weight in blocks: ``values[i, o] * scale[i // size, o]`` for input i of output o.

    Members
    -------
    values : int array (inputs, outputs), or (inputs, outputs, kernel)
    scale : float32 (ceil(inputs / size), outputs)
    size : int
    """

    values: Array
    scale: Array
    size: int


def is_blocked(values: Values, node: onnx.NodeProto) -> bool:
    """Return whether `node` is a layer whose weight has a scale for each block of inputs, or adds the bias of one."""
    return _find(values, node) is not None


def blocked_layer(values: Values, node: onnx.NodeProto, y: Tensor, clamp: Clamp) -> list[Op]:
    """Return the operators of such a layer, whose quantized result is `y`."""
    found = _find(values, node)
    assert found is not None, node
    layer, bias_name = found
    x = present(constraint_quantized_input, values.integer(layer.input[0]))
    weight = _READERS[layer.op_type](values, layer)
    require(constraint_block_range, weight.values)
    scales, level, change = _integers(x, weight)
    if change:
        values.rewrites.append(
            f"{node_name(layer)}: scales of blocks are integers under one scale an output, "
            f"which changes them by at most {100 * change:.2g}%"
        )
    alpha = attribute(layer, "alpha", 1.0) if layer.op_type == "Gemm" else 1.0
    bias = qdq_bias(values, node, bias_name, np.float32(alpha) * np.float32(x.scale) * level)
    matrix, zero_point = weight.values.astype(np.int8), np.zeros(len(level), np.int64)
    if layer.op_type == "Conv":
        kernel = np.ascontiguousarray(matrix.swapaxes(0, 1))
        return build_conv(values, layer, x, kernel, level, zero_point, bias, y, clamp, scales)
    return build_gemm(values, layer, x, matrix, level, zero_point, bias, y, clamp, alpha, scales)


def _find(values: Values, node: onnx.NodeProto) -> tuple[onnx.NodeProto, str] | None:
    """Return the layer that ends in `node`, and the name of its bias."""
    if node.op_type == "Add" and not node.domain:
        for product, bias in (node.input, reversed(node.input)):
            layer = values.producer(product)
            plain = layer is not None and _has_blocks(values, layer) and not _own_bias(layer)
            if layer is not None and plain and values.floats(bias) is not None:
                return layer, bias
        return None
    return (node, _own_bias(node)) if _has_blocks(values, node) else None


def _has_blocks(values: Values, node: onnx.NodeProto) -> bool:
    if node.domain:
        return node.domain == "com.microsoft" and node.op_type in ("MatMulNBits", "MatMulBnb4")
    return node.op_type in ("Conv", "Gemm", "MatMul") and values.block_size(node.input[1]) > 0


def _own_bias(node: onnx.NodeProto) -> str:
    position = {"MatMulNBits": 5, "Conv": 2, "Gemm": 2}.get(node.op_type)
    return "" if position is None else operand(node, position)


def _integers(x: Tensor, weight: Blocked) -> tuple[BlockScales, Array, float]:
    """Return the scales as integers, as large as the layer's sums allow; see `second_level`."""
    sizes = np.abs(weight.values.astype(np.int64)).reshape(*weight.values.shape[:2], -1).sum(axis=2)
    reach = max(x.range[1] - x.zero_point, x.zero_point - x.range[0])
    most = SCALE_MAX
    while True:
        require(constraint_block_sums, most >= _LEAST_FACTORS)
        factors, level, change = second_level(weight.scale, most)
        scales = BlockScales(weight.size, factors)
        parts = zip(scales.blocks(len(sizes)), factors.astype(np.int64), strict=True)
        largest = reach * sum(factor * sizes[part].sum(axis=0) for part, factor in parts).max()
        if largest < 1 << 30:  # the other half is the bias's
            return scales, level, change
        most = min(most - 1, most * ((1 << 30) - 1) // int(largest))


# Weights --------------------------------------------------------------------------------------------------------------


def _n_bits(values: Values, node: onnx.NodeProto) -> Blocked:
    """Return the weight of a MatMulNBits: two codes a byte, the lower one first, blocks along each output."""
    inputs, outputs, size = (int(attribute(node, name, 0)) for name in ("K", "N", "block_size"))
    blocks = -(-inputs // size) if size > 0 else 0
    bits = attribute(node, "bits", 4)
    plain = not operand(node, 4) and not attribute(node, "weight_prepacked", 0)
    require(constraint_block_storage, bits == 4 and size >= 16 and size & (size - 1) == 0 and plain)
    packed, scale = _constant(values, node, 1), _scales(values, node, 2)
    half = size // 2
    shaped = packed.dtype == np.uint8 and packed.size == outputs * blocks * half and scale.size == outputs * blocks
    require(constraint_block_shape, shaped)
    codes = _nibbles(packed.reshape(outputs, blocks, half)).astype(np.int16)
    zero_point = np.full((outputs, blocks), 8, np.int16)
    if operand(node, 3):
        stored = _constant(values, node, 3)
        width = -(-blocks // 2)
        require(constraint_block_storage, stored.dtype == np.uint8)
        require(constraint_block_shape, stored.size == outputs * width)
        zero_point = _nibbles(stored.reshape(outputs, width))[:, :blocks].astype(np.int16)
    weight = (codes - zero_point[:, :, np.newaxis]).reshape(outputs, blocks * size)[:, :inputs]
    return _signed(weight.T, scale.reshape(outputs, blocks).T, size)


def _bnb4(values: Values, node: onnx.NodeProto) -> Blocked:
    """Return the weight of a MatMulBnb4 of NF4: two codes a byte, the upper one first, blocks along each output."""
    inputs, outputs, size = (int(attribute(node, name, 0)) for name in ("K", "N", "block_size"))
    plain = attribute(node, "quant_type", 1) == 1 and attribute(node, "transB", 1) == 1
    require(constraint_block_storage, plain and size > 0 and inputs % size == 0)
    packed, scale = _constant(values, node, 1), _scales(values, node, 2)
    fits = packed.dtype == np.uint8 and 2 * packed.size == inputs * outputs and scale.size * size == inputs * outputs
    require(constraint_block_shape, fits)
    codes = _nibbles(packed.reshape(-1))
    weight = NF4[codes.reshape(-1, 2)[:, ::-1].reshape(outputs, inputs)]
    largest = int(NF4.max())
    values.rewrites.append(f"{node_name(node)}: the levels of NF4 are multiples of 1/{largest}")
    level = (scale.astype(np.float64) / largest).astype(np.float32)
    return _signed(weight.T, level.reshape(outputs, inputs // size).T, size)


def _dequantized(values: Values, node: onnx.NodeProto) -> Blocked:
    """Return the constant that a DequantizeLinear of blocks makes, (inputs, outputs) or (inputs, outputs, kernel)."""
    if node.op_type == "Gemm":
        has_bias = bool(operand(node, 2))
        require(constraint_plain_gemm, attribute(node, "transA", 0), attribute(node, "beta", 1.0), has_bias)
    require(constraint_block_groups, attribute(node, "group", 1))
    name, perms = node.input[1], []
    maker = values.producer(name)
    while maker is not None and maker.op_type in ("Identity", "Transpose"):
        if maker.op_type == "Transpose":
            perms.append(maker)
        name = maker.input[0]
        maker = values.producer(name)
    assert maker is not None
    stored, scale = _constant(values, maker, 0), _scales(values, maker, 1)
    zero_point = _constant(values, maker, 2) if operand(maker, 2) else np.zeros_like(scale, stored.dtype)
    size, axis = int(attribute(maker, "block_size", 0)), int(attribute(maker, "axis", 1)) % max(stored.ndim, 1)
    require(constraint_block_storage, stored.dtype.name in ("int8", "uint8") and size > 0)
    shape = (*stored.shape[:axis], -(-stored.shape[axis] // size), *stored.shape[axis + 1 :])
    require(constraint_block_shape, scale.shape == zero_point.shape == shape)
    places = np.arange(stored.shape[axis]) // size
    weight = stored.astype(np.int16) - zero_point.astype(np.int16).take(places, axis)
    for view in reversed(perms):
        perm = list(attribute(view, "perm", list(reversed(range(weight.ndim)))))
        weight, scale, axis = weight.transpose(perm), scale.transpose(perm), perm.index(axis)
    if node.op_type == "Conv" or attribute(node, "transB", 0):
        require(constraint_block_shape, axis == 1 and weight.ndim >= 2)
        weight, scale = weight.swapaxes(0, 1), scale.swapaxes(0, 1)
    else:
        require(constraint_block_shape, axis == 0 and weight.ndim == 2)
    kernels = scale.reshape(*scale.shape[:2], -1)
    require(constraint_block_shape, bool((kernels == kernels[:, :, :1]).all()))
    return _signed(weight, kernels[:, :, 0], size)


def _constant(values: Values, node: onnx.NodeProto, position: int) -> Array:
    return present(constraint_constant_weight, values.source.constants.get(operand(node, position)))


def _scales(values: Values, node: onnx.NodeProto, position: int) -> Array:
    scale = _constant(values, node, position)
    size = np.abs(scale)
    usable = np.isfinite(size) & ((size == 0) | (size >= _LEAST_SCALE))
    require(constraint_block_storage, scale.dtype == np.float32 and bool(usable.all()))
    return scale


def _nibbles(packed: Array) -> Array:
    """Return the halves of every byte of the last axis, the lower one first."""
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


def _signed(weight: Array, scale: Array, size: int) -> Blocked:
    """Return a weight whose scales aren't negative: a block's sign goes into its values."""
    signs = np.where(scale < 0, -1, 1)[np.arange(len(weight)) // size]
    values = weight.astype(np.int16) * signs.reshape(*signs.shape, *(1,) * (weight.ndim - 2))
    return Blocked(values, np.abs(scale), size)


_READERS: dict[str, Callable[[Values, onnx.NodeProto], Blocked]] = {
    "MatMulNBits": _n_bits,
    "MatMulBnb4": _bnb4,
    "Conv": _dequantized,
    "Gemm": _dequantized,
    "MatMul": _dequantized,
}
