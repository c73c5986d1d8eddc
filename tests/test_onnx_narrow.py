"""Tensors of 4 and 2 bits, and tensors that Clip narrows (QCDQ): integers by hand, and ONNX Runtime on the original."""

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from hwq import onnx_constraints, reference
from hwq.compiler import load
from hwq.errors import ModelError
from hwq.host import oracle_session
from hwq.ir import Conv, Gemm
from hwq.ladder import verify
from hwq.onnx_constraints import sentence
from hwq.onnx_reader import read
from tests.onnx_models import Builder, assert_exact, kinds, reasons

SEED = 5
NARROW = {
    "int4": (ml_dtypes.int4, TensorProto.INT4, -8, 7),
    "uint4": (ml_dtypes.uint4, TensorProto.UINT4, 0, 15),
}


class Narrow(Builder):
    def params(self, scale, zero_point, dtype="int8"):
        stored = NARROW[dtype][0] if dtype in NARROW else dtype
        return [self.constant(scale, np.float32), self.constant(zero_point, stored)]

    def model(self, *outputs, opset=21, **options):
        model = super().model(*outputs, opset=opset, **options)
        model.ir_version = 10
        return model


def original(model, feed):
    """Return what ONNX Runtime makes of the model as it is."""
    return oracle_session(model).run(None, feed)[0]


def equal_to_the_original(model, x):
    graph = load(model)
    np.testing.assert_array_equal(reference.run(graph, {"x": x})[graph.outputs[0]], original(model, {"x": x}))
    return graph


def halves(shape, seed=SEED, span=24):
    """Return multiples of 1/4, so that every second is a tie of a scale of 1/2."""
    return np.random.default_rng(seed).integers(-span, span + 1, shape).astype(np.float32) / 4


@pytest.mark.parametrize("zero_point", [0, 3])
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("view", [False, True])
def test_narrow_activations_saturate_at_their_bounds(dtype, zero_point, view):
    b = Narrow()
    q = b.quantize(b.input("x", (1, 200)), 0.5, zero_point, dtype)
    if view:  # ONNX Runtime has no kernel for it
        q = b.node("Reshape", [q, b.constant([1, 200])])
    model = b.model(b.dequantize(q, 0.5, zero_point, dtype))
    x = halves((1, 200), span=60)
    graph = load(model) if view else equal_to_the_original(model, x)
    _, _, lo, hi = NARROW[dtype]
    levels = np.clip(np.rint(x * 2) + zero_point, lo, hi)
    got = reference.run(graph, {"x": x})[graph.outputs[0]]
    np.testing.assert_array_equal(got, (levels - zero_point) / 2)


@pytest.mark.parametrize("dtype", NARROW)
def test_network_of_four_bits_runs_on_the_array(dtype):
    """Scales are powers of two, so ONNX Runtime's float sums are exact and the original is the oracle."""
    rng, b = np.random.default_rng(SEED), Narrow()
    stored, _, lo, hi = NARROW[dtype]
    zero = (lo + hi + 1) // 2

    def weight(*shape):
        values = [b.constant(rng.integers(lo, hi + 1, shape).astype(stored)), *b.params(0.125, zero, dtype)]
        return b.node("DequantizeLinear", values)

    x = b.dequantize(b.quantize(b.input("x", (1, 3, 6, 6)), 0.5, zero, dtype), 0.5, zero, dtype)
    x = b.node("Conv", [x, weight(4, 3, 3, 3)], pads=[1, 1, 1, 1])
    x = b.dequantize(b.quantize(x, 1.0, zero, dtype), 1.0, zero, dtype)
    x = b.node("MatMul", [b.node("Flatten", [b.node("MaxPool", [x], kernel_shape=[2, 2])]), weight(4 * 25, 10)])
    model = b.model(b.dequantize(b.quantize(x, 2.0, zero, dtype), 2.0, zero, dtype))
    graph = equal_to_the_original(model, halves((1, 3, 6, 6)))
    assert kinds(graph) == ["QuantizeLinear", "Clip", "Conv", "MaxPool", "Reshape", "Gemm", "DequantizeLinear"]
    for op in graph.ops:
        if isinstance(op, Conv | Gemm):
            assert (op.lo, op.hi) == (lo, hi)
            assert (op.weight.min() >= lo, op.weight.max() <= hi) == (True, True)
            assert op.weight.dtype.name == graph.tensors[op.outputs[0]].dtype == dtype.replace("4", "8")
    assert_exact(graph)
    assert verify(model, "sim-4x4", samples=2, targets=["reference", "machine"]).ok


def test_output_type_may_be_an_attribute():
    b = Narrow()
    scale = b.constant(0.5, np.float32)
    q = b.node("QuantizeLinear", [b.input("x", (1, 64)), scale], output_dtype=TensorProto.INT4)
    equal_to_the_original(b.model(b.node("DequantizeLinear", [q, scale])), halves((1, 64)))


def test_narrow_tensor_that_another_operator_makes_keeps_its_type():
    b = Narrow()
    q = b.node("Cast", [b.node("Round", [b.input("x", (1, 8))])], to=TensorProto.INT4)
    model = b.model(b.dequantize(q, 0.5, 1, "int4"))
    graph = equal_to_the_original(model, np.arange(8, dtype=np.float32).reshape(1, 8))
    assert kinds(graph) == ["Round", "Cast", "DequantizeLinear"]


def test_narrow_tensor_that_another_operator_reads_keeps_its_type():
    b = Narrow()
    q = b.quantize(b.input("x", (1, 64)), 0.5, 1, "int4")
    graph = equal_to_the_original(b.model(b.node("Cast", [q], to=TensorProto.FLOAT)), halves((1, 64)))
    assert kinds(graph) == ["QuantizeLinear", "Cast"]


def test_narrow_tensor_that_a_body_captures_keeps_its_type():
    b = Narrow()
    weight, free = (b.constant(np.arange(-8, 8).astype(ml_dtypes.int4)) for _ in range(2))
    zero = b.constant(0, ml_dtypes.int4)
    bodies = []
    for sign in ("Neg", "Identity"):
        nodes = [helper.make_node("DequantizeLinear", [weight, "scale"], ["d"]), helper.make_node(sign, ["d"], ["e"])]
        bodies.append(
            helper.make_graph(nodes, sign, [], [helper.make_tensor_value_info("e", TensorProto.FLOAT, (16,))])
        )
    b.constant(0.5, np.float32, name="scale")
    x = b.input("x", (1, 16))
    condition = b.node("Greater", [b.node("ReduceSum", [x], keepdims=0), b.constant(0, np.float32)])
    branch = b.node("If", [condition], then_branch=bodies[0], else_branch=bodies[1])
    total = b.node("Add", [branch, b.node("DequantizeLinear", [free, "scale", zero])])
    model = b.model(b.node("Add", [x, total]))
    for sign in (1, -1):
        equal_to_the_original(model, sign * np.arange(16, dtype=np.float32).reshape(1, 16))


@pytest.mark.parametrize("kind", ["input", "output"])
def test_narrow_edge_of_a_model_is_refused(kind):
    b = Narrow()
    if kind == "input":
        b.inputs.append(helper.make_tensor_value_info("x", TensorProto.INT4, (1, 8)))
        model = b.model(b.dequantize("x", 0.5, 0, "int4"))
    else:
        q = b.quantize(b.input("x", (1, 8)), 0.5, 0, "int4", output="y")
        model = b.model(q)
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT4
    with pytest.raises(ModelError, match=rf"^net: {kind} '[xy]' is INT4: quantize inside the model instead$"):
        read(model, "net")


# QCDQ -----------------------------------------------------------------------------------------------------------------


def clipped(b, q, lo, hi, dtype="int8"):
    return b.node("Clip", [q, b.constant(lo, dtype), b.constant(hi, dtype)])


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("stored", ["int8", "float"])
def test_qcdq_layer_has_its_bits_as_bounds(bits, stored):
    """Weights are integers behind DequantizeLinear, or floats that QuantizeLinear and Clip turn into them."""
    rng, b = np.random.default_rng(SEED + bits), Builder()
    lo, hi = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scales = 2.0 ** rng.integers(-3, 2, 5)

    def activation(x, scale):
        return b.dequantize(clipped(b, b.quantize(x, scale, 0), lo, hi), scale, 0)

    integers = rng.integers(lo, hi + 1, (5, 3, 3, 3)).astype(np.int8)
    scale, zero = b.constant(scales, np.float32), b.constant(np.zeros(5), np.int8)
    if stored == "int8":
        weight = b.constant(integers)
    else:
        noise = rng.uniform(-0.4, 0.4, integers.shape)
        beyond = np.where(integers == hi, 300, np.where(integers == lo, -300, integers + noise))
        floats = b.constant(beyond * scales.reshape(5, 1, 1, 1), np.float32)
        weight = clipped(b, b.node("QuantizeLinear", [floats, scale, zero], axis=0), lo, hi)
    weight = b.node("DequantizeLinear", [weight, scale, zero], axis=0)
    x = activation(b.input("x", (1, 3, 6, 6)), 0.5)
    model = b.model(activation(b.node("Relu", [b.node("Conv", [x, weight])]), 2.0**bits))
    graph = equal_to_the_original(model, halves((1, 3, 6, 6), span=2**bits))
    (conv,) = (op for op in graph.ops if isinstance(op, Conv))
    np.testing.assert_array_equal(conv.weight, integers)
    assert (conv.lo, conv.hi) == (0, hi)
    assert kinds(graph) == ["QuantizeLinear", "Clip", "Conv", "DequantizeLinear"]
    assert_exact(graph)


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_clip_after_a_carrier_stays_on_the_array(scale):
    """Of equal parameters the second quantizer is the identity; of others the first ones' Clips go into tables."""
    b = Builder()
    x = b.input("x", (1, 3, 4, 4))
    parts = []
    for outputs in (4, 2):
        weight = b.weight(np.ones((outputs, 3, 1, 1), np.int8), 0.25)
        first = b.dequantize(clipped(b, b.quantize(x, 0.5, 0), -8, 7), 0.5, 0)
        parts.append(b.dequantize(clipped(b, b.quantize(b.node("Conv", [first, weight]), 0.5, 0), -8, 7), 0.5, 0))
    y = b.quantize(b.node("Concat", parts, axis=1), scale, 0)
    graph = equal_to_the_original(b.model(b.dequantize(clipped(b, y, -3, 3), scale, 0)), halves((1, 3, 4, 4)))
    assert kinds(graph).count("Concat") == 1
    assert kinds(graph)[-3:] == ["Concat", "Table", "DequantizeLinear"]


def test_quantizer_read_before_and_after_its_clip():
    b = Builder()
    q = b.quantize(b.input("x", (1, 64)), 0.5, 1)
    narrow = b.dequantize(clipped(b, q, -3, 3), 0.5, 1)
    model = b.model(b.node("Add", [narrow, b.dequantize(q, 0.5, 1)]))
    assert kinds(equal_to_the_original(model, halves((1, 64)))).count("Table") == 1


def test_empty_clip_is_left_to_onnx_runtime():
    b = Builder()
    q = clipped(b, b.quantize(b.input("x", (1, 64)), 0.5, 1), 3, -3)
    equal_to_the_original(b.model(b.dequantize(q, 0.5, 1)), halves((1, 64)))


# Rules ----------------------------------------------------------------------------------------------------------------


def test_sixteen_bits_stay_on_the_host_with_their_rule():
    b = Narrow()
    x, params = b.input("x", (1, 8)), [b.constant(0.5, np.float32), b.constant(0, np.int16)]
    q = b.node("QuantizeLinear", [x, *params])
    graph = equal_to_the_original(b.model(b.node("DequantizeLinear", [q, *params])), halves((1, 8)))
    assert reasons(graph)["QuantizeLinear"] == sentence(onnx_constraints.constraint_eight_bits)


def test_quantized_float_weight_is_folded():
    b = Narrow()
    params = b.params(0.5, -1, "int4")
    floats = b.constant([[-9.0, 0.74], [0.75, 9.0]], np.float32)
    weight = b.node("DequantizeLinear", [b.node("QuantizeLinear", [floats, *params]), *params])
    x = b.dequantize(b.quantize(b.input("x", (1, 2)), 0.5, 0), 0.5, 0)
    y = b.dequantize(b.quantize(b.node("MatMul", [x, weight]), 1.0, 0), 1.0, 0)
    graph = equal_to_the_original(b.model(y), halves((1, 2)))
    (gemm,) = (op for op in graph.ops if isinstance(op, Gemm))
    np.testing.assert_array_equal(gemm.weight, [[-8, 0], [1, 7]])


@pytest.mark.parametrize("transposed", [False, True])
def test_blocked_weight_keeps_its_stored_values(transposed):
    rng, b = np.random.default_rng(SEED), Narrow()
    stored = rng.integers(-8, 8, (16, 4))
    values = b.constant(stored.astype(ml_dtypes.int4))
    factors = rng.integers(1, 16, (4, 4))
    scale = b.constant(factors / 16, np.float32)
    weight = b.node("DequantizeLinear", [values, scale], axis=0, block_size=4)
    if transposed:
        weight = b.node("Transpose", [b.node("Transpose", [weight], perm=[1, 0])], perm=[1, 0])
    x = b.dequantize(b.quantize(b.input("x", (1, 16)), 0.5, 0), 0.5, 0)
    y = b.dequantize(b.quantize(b.node("MatMul", [x, weight]), 1.0, 0), 1.0, 0)
    graph = equal_to_the_original(b.model(y), halves((1, 16)))
    gemm = next(op for op in graph.ops if op.kind == "Gemm")
    assert gemm.weight.tolist() == stored.tolist()
    assert np.array_equal(gemm.block_scales.scale * gemm.weight_scale, factors / 16)
