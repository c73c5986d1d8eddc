"""Affine functions between an integer layer and its quantizer, folded into the weight's scale and the bias."""

from __future__ import annotations

import numpy as np
import onnx

from hwq.ir import Array, Op
from hwq.onnx_carriers import node_name
from hwq.onnx_constraints import constraint_affine_function, require
from hwq.onnx_sums import Quantizer, Sum, build_layer
from hwq.onnx_values import Params, Values, attribute, operand


def fold(values: Values, layer: Sum, quantizer: Quantizer) -> list[Op]:
    """Return the layer that includes the affine nodes after it; its bias is rounded to a multiple of the sum's unit.

    A channel whose gain is negative has its weights negated. Relu and Clip become bounds of the result.

    Raises
    ------
    StaysOnHost
        The nodes aren't a chain of scales and offsets, then clamps, down to a QuantizeLinear.
    """
    y = quantizer.y
    require(constraint_affine_function, quantizer.node.op_type == "QuantizeLinear" and y.scale is not None)
    assert y.scale is not None
    params = Params(y.scale, y.zero_point, y.dtype)
    outputs = len(layer.scale)
    factor, offset = np.ones(outputs), np.zeros(outputs)
    if layer.bias is not None:
        offset += layer.bias
    (lo, hi), clamped, source = quantizer.clamp, False, layer.node.output[0]
    for node in layer.nodes:
        require(constraint_affine_function, source in node.input)
        if node.op_type in ("Relu", "Clip"):
            require(constraint_affine_function, node.input[0] == source)
            low = 0.0 if node.op_type == "Relu" else values.number(operand(node, 1))
            high = values.number(operand(node, 2)) if node.op_type == "Clip" else None
            lo = lo if low is None else max(lo, params.quantize(low))
            hi = hi if high is None else min(hi, params.quantize(high))
            clamped = True
        else:
            require(constraint_affine_function, not clamped)
            factor, offset = _affine(values, node, source, factor, offset)
        source = node.output[0]
    require(
        constraint_affine_function, source == quantizer.node.input[0] and lo <= hi and bool(np.all(np.abs(factor) > 0))
    )
    negative = factor < 0
    weight, zero_point = layer.negated(negative)
    scale = (layer.scale * np.abs(factor)).astype(np.float32)
    unit = np.float32(layer.x.scale) * scale
    usable = np.isfinite(scale) & (unit >= np.finfo(np.float32).tiny)
    require(constraint_affine_function, bool(np.all(usable)))
    bias = np.rint(offset / unit)
    made = build_layer(values, layer, weight, scale, zero_point, bias, y, (lo, hi))
    folded = ", ".join(node_name(node) for node in layer.nodes if node.op_type not in ("Relu", "Clip"))
    values.rewrites.append(f"{node_name(layer.node)}: {folded} folded into its scale and bias, the bias rounded")
    return made


def _affine(values: Values, node: onnx.NodeProto, source: str, factor: Array, offset: Array) -> tuple[Array, Array]:
    """Return ``node(factor * sum + offset)`` as another factor and offset, in float64."""

    def constant(position: int) -> Array:
        value = values.floats(node.input[position])
        require(constraint_affine_function, value is not None)
        assert value is not None
        return value.astype(np.float64).reshape(-1)

    if node.op_type == "BatchNormalization":
        gamma, beta, mean, variance = (constant(position) for position in range(1, 5))
        gain = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        return factor * gain, (offset - mean) * gain + beta
    if node.op_type == "Identity":
        return factor, offset
    if node.op_type == "Neg":
        return -factor, -offset
    first = node.input[0] == source
    require(constraint_affine_function, node.op_type in ("Mul", "Add", "Sub", "Div") and len(set(node.input)) == 2)
    other = constant(1 if first else 0)
    if node.op_type == "Add":
        return factor, offset + other
    if node.op_type == "Sub":
        return (factor, offset - other) if first else (-factor, other - offset)
    require(constraint_affine_function, node.op_type == "Mul" or (first and bool(np.all(other != 0))))
    return (factor * other, offset * other) if node.op_type == "Mul" else (factor / other, offset / other)
