"""Float nodes between an integer layer and its quantizer, against ONNX Runtime on every sum, and by hand."""

import itertools

import numpy as np
import pytest

from hwq import onnx_constraints, reference
from hwq.compiler import load
from hwq.host import oracle_session
from hwq.ir import Conv, Gemm
from hwq.ladder import verify
from hwq.onnx_constraints import sentence
from hwq.onnx_reader import EDGE
from tests.onnx_models import Builder, assert_exact, kinds, reasons

SEED = 11


def f32(value):
    return np.asarray(value, np.float32)


def low_bit(b, x, scale, lo, hi, dtype="int8", zero_point=0):
    """Return `x` as integers of `lo` to `hi`, `zero_point` added to all three."""
    q = b.quantize(x, scale, zero_point, dtype)
    bounds = [b.constant(bound + zero_point, dtype) for bound in (lo, hi)]
    return b.dequantize(b.node("Clip", [q, *bounds]), scale, zero_point, dtype)


def norm(b, x, rng, channels, sign=0):
    """Return BatchNormalization of `x`, with gains of one sign or of both."""
    gamma = rng.normal(size=channels) * 2
    gamma = gamma if not sign else sign * np.abs(gamma)
    params = [gamma, rng.normal(size=channels), rng.normal(size=channels) * 4, rng.uniform(0.3, 30, channels)]
    return b.node("BatchNormalization", [x, *(b.constant(value, np.float32) for value in params)])


def scaled(b, x, rng, channels):
    x = b.node("Mul", [b.constant(rng.uniform(-2, 2, channels), np.float32), x])
    x = b.node("Sub", [b.constant(rng.normal(size=channels) * 3, np.float32), x])
    x = b.node("Add", [x, b.constant(rng.normal(size=1), np.float32)])
    return b.node("Div", [x, b.constant(rng.uniform(1, 5), np.float32)])


def signed(b, x, rng, channels):
    return b.node("Sign", [b.node("Add", [x, b.constant(rng.normal(size=channels) * 5, np.float32)])])


def leaky(b, x, rng, channels):
    return b.node("LeakyRelu", [norm(b, x, rng, channels)], alpha=0.3)


def capped(b, x, rng, channels):
    bounds = [b.constant(value, np.float32) for value in (-2.4, 1.6)]
    return b.node("Clip", [norm(b, x, rng, channels), *bounds])


def tree(b, x, rng, channels):
    """Not a chain: x + x / 4, and of that the positive part."""
    quarter = b.node("Mul", [x, b.constant(0.25, np.float32)])
    return b.node("Relu", [b.node("Add", [x, quarter])])


FUNCTIONS = [norm, scaled, signed, capped, tree]


def every_input(values, count):
    return f32(list(itertools.product(values, repeat=count)))


def assert_equals_original(model, graph, x):
    session = oracle_session(model)
    want = np.concatenate([session.run(None, {"x": row[np.newaxis]})[0] for row in x])
    np.testing.assert_array_equal(reference.run(graph, {"x": x})[graph.outputs[0]], want)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("seed", range(3))
def test_exact_matrix_products_equal_the_original_for_every_input(function, seed):
    """Four inputs of five values and weights of 3 bits: all 625 inputs, on 32 channels."""
    rng, b = np.random.default_rng((SEED, seed)), Builder()
    x = low_bit(b, b.input("x", (1, 4)), 0.5, -2, 2, zero_point=3 * seed)
    weight = b.weight(rng.integers(-4, 4, (4, 32)).astype(np.int8), 0.25, zero_point=seed)
    model = b.model(low_bit(b, function(b, b.node("MatMul", [x, weight]), rng, 32), 1.0, -3, 3, zero_point=-20 * seed))
    graph = load(model)
    (gemm,) = (op for op in graph.ops if isinstance(op, Gemm))
    assert np.abs(gemm.weight.astype(int)).max() > 0
    assert -3 <= gemm.lo + 20 * seed <= gemm.hi + 20 * seed <= 3
    assert set(reasons(graph).values()) == {EDGE}
    assert any("proved equal for all its sums" in line for line in graph.rewrites)
    assert_equals_original(model, graph, every_input([-1, -0.5, 0, 0.5, 1], 4))
    assert_exact(graph)


def test_function_with_a_bend_stays_on_the_host():
    rng, b = np.random.default_rng(SEED), Builder()
    x = low_bit(b, b.input("x", (1, 4)), 0.5, -2, 2)
    acc = b.node("MatMul", [x, b.weight(rng.integers(-4, 4, (4, 32)).astype(np.int8), 0.25)])
    model = b.model(low_bit(b, leaky(b, acc, rng, 32), 0.25, -8, 7))
    graph = load(model)
    assert reasons(graph)["LeakyRelu"] == sentence(onnx_constraints.constraint_steps_fit)
    assert_equals_original(model, graph, every_input([-1, -0.5, 0, 0.5, 1], 4))


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("groups", [1, 4])
def test_exact_convolutions_equal_the_original(rank, groups):
    rng, b = np.random.default_rng(SEED), Builder()
    space = (7, 6)[: rank - 2]
    x = low_bit(b, b.input("x", (1, 4, *space)), 0.25, -8, 7)
    weight = b.weight(rng.integers(-1, 2, (12, 4 // groups, *(3,) * (rank - 2))).astype(np.int8), [0.5, 0.25, 2] * 4)
    bias = b.constant(rng.normal(size=12), np.float32)
    acc = b.node("Conv", [x, weight, bias], pads=[1] * 2 * (rank - 2), group=groups)
    model = b.model(low_bit(b, norm(b, acc, rng, 12), 2.0, -2, 1))
    graph = load(model)
    assert [kind for kind in kinds(graph) if kind != "Reshape"] == [
        "QuantizeLinear",
        "Clip",
        "Conv",
        "DequantizeLinear",
    ]
    samples = f32(rng.integers(-40, 41, (20, 4, *space))) / 8
    samples[0], samples[1] = 9, -9
    assert_equals_original(model, graph, samples)
    assert_exact(graph)
    assert verify(model, "sim-4x4", samples=2, targets=["reference", "machine"]).ok


@pytest.mark.parametrize("carrier", ["Pad", "Concat", "MaxPool"])
def test_carried_values_count_with_all_their_range(carrier):
    """Padding with 4 and an operand of 8 bits exceed the bounds that a quantizer gave the first operand."""
    rng, b = np.random.default_rng(SEED), Builder()
    x = b.input("x", (1, 2, 4, 4))
    narrow = low_bit(b, x, 0.5, -1, 1)
    if carrier == "Pad":
        value = b.node("Pad", [narrow, b.constant([0, 0, 1, 1, 0, 0, 1, 1]), b.constant(4, np.float32)])
    elif carrier == "Concat":
        value = b.node("Concat", [narrow, low_bit(b, x, 0.5, -8, 7)], axis=2)
    else:
        value = b.node("MaxPool", [narrow], kernel_shape=[2, 2])
    acc = b.node("Conv", [value, b.weight(rng.integers(-1, 2, (16, 2, 1, 1)).astype(np.int8), 0.5)])
    model = b.model(low_bit(b, norm(b, acc, rng, 16), 0.5, -2, 1))
    graph = load(model)
    assert any("proved equal" in line for line in graph.rewrites)
    assert_equals_original(model, graph, f32(rng.integers(-20, 21, (30, 2, 4, 4))) / 4)


def test_channel_that_never_changes_is_a_constant():
    b = Builder()
    x = low_bit(b, b.input("x", (1, 2)), 1.0, -2, 2)
    acc = b.node("MatMul", [x, b.weight(np.array([[1, 1], [1, 1]], np.int8), 1.0)])
    y = b.node("Add", [b.node("Mul", [acc, b.constant([1, 0], np.float32)]), b.constant([0, 2], np.float32)])
    model = b.model(low_bit(b, y, 1.0, -2, 3))
    graph = load(model)
    (gemm,) = (op for op in graph.ops if isinstance(op, Gemm))
    assert gemm.floor.multiplier[0] > 0
    assert gemm.floor.multiplier[1] == 0
    assert_equals_original(model, graph, every_input([-2, -1, 0, 1, 2], 2))


# Folding --------------------------------------------------------------------------------------------------------------


def folded(weights, zero_point=0, gamma=(0.5, -2.0), x_dtype="int8"):
    b = Builder()
    x = b.dequantize(b.quantize(b.input("x", (1, 2)), 0.3, 0, x_dtype), 0.3, 0, x_dtype)
    acc = b.node("MatMul", [x, b.weight(weights, [0.1, 0.2], zero_point, axis=1)])
    params = [f32(gamma), f32([1, 2]), f32([0.5, -1]), f32([4, 9])]
    y = b.node("BatchNormalization", [acc, *map(b.constant, params)], epsilon=0.0)
    return b.model(b.dequantize(b.quantize(y, 0.7, 0, x_dtype), 0.7, 0, x_dtype))


def test_folded_layer_by_hand():
    """Gains 1/4 and -2/3, offsets 1 - 1/8 and 2 - 2/3: scales 0.1/4 and 0.2 * 2/3, biases in units of 0.3 of them."""
    graph = load(folded(np.array([[3, -128], [-5, 127]], np.int8)))
    (gemm,) = (op for op in graph.ops if isinstance(op, Gemm))
    np.testing.assert_array_equal(gemm.weight, [[3, 127], [-5, -128]])
    np.testing.assert_array_equal(gemm.weight_zero_point, [0, -1])
    np.testing.assert_array_equal(gemm.weight_scale, f32([0.1 * 0.25, f32(0.2) * (2 / 3)]))
    np.testing.assert_array_equal(gemm.bias, [np.rint(0.875 / 0.0075), np.rint(4 / 3 / 0.04)])
    assert graph.rewrites == ["n_matmul_3: n_batchnormalization_4 folded into its scale and bias, the bias rounded"]
    assert_exact(graph)


@pytest.mark.parametrize(
    ("weights", "zero_point", "x_dtype"),
    [
        (np.array([[3, -127], [-5, 100]], np.int8), 0, "int8"),
        (np.array([[3, 100], [250, 7]], np.uint8), 130, "uint8"),
        (np.array([[3, 0], [250, 255]], np.uint8), 0, "uint8"),
        (np.array([[3, -128], [-5, 100]], np.int8), 7, "int8"),
    ],
)
def test_negative_gain_negates_the_weights(weights, zero_point, x_dtype):
    graph = load(folded(weights, zero_point, x_dtype=x_dtype))
    (gemm,) = (op for op in graph.ops if isinstance(op, Gemm))
    centred = gemm.weight.astype(int) - gemm.weight_zero_point
    np.testing.assert_array_equal(centred, (weights.astype(int) - zero_point) * [1, -1])
    assert gemm.weight.dtype == weights.dtype
    assert_exact(graph)


def test_folded_layer_is_near_the_original():
    rng, b = np.random.default_rng(SEED), Builder()
    x = b.dequantize(b.quantize(b.input("x", (1, 8, 9, 9)), 0.021, 3), 0.021, 3)
    weight = b.weight(rng.integers(-127, 128, (16, 8, 3, 3)).astype(np.int8), rng.uniform(0.001, 0.02, 16))
    acc = b.node("Conv", [x, weight, b.constant(rng.normal(size=16), np.float32)], pads=[1, 1, 1, 1])
    y = b.node("Relu", [norm(b, acc, rng, 16)])
    model = b.model(b.dequantize(b.quantize(y, 0.06, -5, output="y"), 0.06, -5))
    graph = load(model)
    (conv,) = (op for op in graph.ops if isinstance(op, Conv))
    assert (conv.lo, conv.hi) == (-5, 127)
    samples = rng.uniform(-3, 3, (10, 8, 9, 9)).astype(np.float32)
    session = oracle_session(model)
    want = np.concatenate([session.run(None, {"x": row[np.newaxis]})[0] for row in samples])
    steps = np.rint((reference.run(graph, {"x": samples})[graph.outputs[0]] - want) / 0.06)
    assert np.abs(steps).max() <= 1
    assert np.mean(steps != 0) < 0.002
    assert_exact(graph)
    assert verify(model, "sim-4x4", samples=2, targets=["reference", "machine"]).ok


# Sums without a quantizer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_sums_of_eight_bits_need_no_quantizer(dtype):
    """Inputs of -2..2 (0..2 unsigned) and weights of -4..3: at most 16 * 2 * 4 = 128 below zero, 96 above."""
    rng, b = np.random.default_rng(SEED), Builder()
    x = low_bit(b, b.input("x", (1, 16)), 0.5, -2 if dtype == "int8" else 0, 2, dtype)
    weight = rng.integers(-4, 4, (16, 3)).astype(np.int8)
    weight[:, 0] = -4 if dtype == "uint8" else 3
    acc = b.node("MatMul", [x, b.weight(weight, 0.25)])
    model = b.model(b.node("Softmax", [acc]))
    graph = load(model)
    assert kinds(graph) == ["QuantizeLinear", "Clip", "Gemm", "DequantizeLinear", "Softmax"]
    (gemm,) = (op for op in graph.ops if isinstance(op, Gemm))
    y = graph.tensors[gemm.outputs[0]]
    assert (y.dtype, y.scale, y.zero_point) == (dtype, 0.125, 128 if dtype == "uint8" else 0)
    samples = f32(rng.integers(-4, 5, (60, 16))) / 4
    samples[0], samples[1] = 1, -1
    assert_equals_original(model, graph, samples)


@pytest.mark.parametrize(("scale", "bias"), [(0.3, 0.0), (0.25, 0.1), ([0.25, 0.5], 0.0)])
def test_sums_that_need_rounding_stay_on_the_host(scale, bias):
    b = Builder()
    x = low_bit(b, b.input("x", (1, 3)), 0.5, -2, 2)
    weight = b.weight(np.array([[1, 2], [0, 1], [1, 1]], np.int8), scale, axis=1)
    graph = load(b.model(b.node("Gemm", [x, weight, b.constant([bias, bias], np.float32)])))
    assert "Gemm" in reasons(graph)


def test_sums_beyond_eight_bits_stay_on_the_host():
    b = Builder()
    x = low_bit(b, b.input("x", (1, 16)), 0.5, -2, 2)
    graph = load(b.model(b.node("MatMul", [x, b.weight(np.full((16, 2), 4, np.int8), 0.25)])))
    assert "MatMul" in reasons(graph)


# Rules ----------------------------------------------------------------------------------------------------------------


def bump(b, x):
    return b.node("Abs", [x])


def bend(b, x):
    return b.node("LeakyRelu", [x], alpha=0.3)


@pytest.mark.parametrize(
    ("build", "scale", "constraint"),
    [(bump, 1.0, "monotone_function"), (bump, 0.3, "monotone_function"), (bend, 0.3, "steps_fit")],
    ids=["exact bump", "bump", "bend"],
)
def test_function_without_integers_stays_on_the_host(build, scale, constraint):
    rng, b = np.random.default_rng(SEED), Builder()
    x = b.dequantize(b.quantize(b.input("x", (1, 6)), 0.5, 0), 0.5, 0)
    acc = b.node("MatMul", [x, b.weight(rng.integers(-100, 100, (6, 4)).astype(np.int8), scale)])
    y = build(b, acc)
    graph = load(b.model(b.dequantize(b.quantize(y, 1.0, 0), 1.0, 0)))
    op_type = "Abs" if build is bump else "LeakyRelu"
    assert reasons(graph)[op_type] == sentence(getattr(onnx_constraints, f"constraint_{constraint}"))
    assert_exact(graph)


def many_sums(function):
    b = Builder()
    x = b.dequantize(b.quantize(b.input("x", (1, 2000)), 0.5, 0), 0.5, 0)
    acc = b.node("MatMul", [x, b.weight(np.full((2000, 1), 127, np.int8), 0.3)])
    return load(b.model(b.dequantize(b.quantize(function(b, acc), 1.0, 0), 1.0, 0)))


def test_too_many_sums_of_a_function_without_known_shape_stay_on_the_host():
    reason = sentence(onnx_constraints.constraint_countable_sums)
    assert reasons(many_sums(lambda b, x: b.node("Abs", [x])))["Abs"] == reason


def test_any_number_of_sums_of_a_monotone_function_is_read():
    assert kinds(many_sums(lambda b, x: b.node("Sign", [x]))) == ["QuantizeLinear", "Gemm", "DequantizeLinear"]


@pytest.mark.parametrize("shape", [(1, 4, 5, 5), (1, 1, 5, 1)])
def test_function_of_an_elements_place_stays_on_the_host(shape):
    rng, b = np.random.default_rng(SEED), Builder()
    x = b.dequantize(b.quantize(b.input("x", (1, 3, 5, 5)), 0.5, 0), 0.5, 0)
    acc = b.node("Conv", [x, b.weight(np.ones((4, 3, 1, 1), np.int8), 0.3)])
    y = b.node("Mul", [acc, b.constant(rng.uniform(size=shape), np.float32)])
    graph = load(b.model(b.dequantize(b.quantize(y, 1.0, 0), 1.0, 0)))
    assert {"Conv", "Mul"} <= set(reasons(graph))
    assert_exact(graph)
