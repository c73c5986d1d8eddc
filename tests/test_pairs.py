"""Mul and Sub of two tensors: tables against ONNX Runtime, the adder's parameters against the tables, networks."""

import numpy as np
import pytest

from hwq import compile, fixed, reference
from hwq.constraints import constraint_pairs
from hwq.difference import fit_sub, quantized_sub_table
from hwq.host import oracle_session
from hwq.ladder import verify
from hwq.onnx_reader import read
from hwq.pairs import pair_parameters
from hwq.product import fit_mul, qlinear_mul_table
from hwq.runtime import InferenceSession
from tests.onnx_models import Builder, assert_exact, kinds, random_feeds
from tests.programs import tiny

SEED = 20261121
OPERAND = np.arange(-128, 128)
TABLES = {"Mul": qlinear_mul_table, "Sub": quantized_sub_table}
FITS = {"Mul": fit_mul, "Sub": fit_sub}
ENDS = [(a, b, c) for a in (-128, 127) for b in (-128, 127) for c in (-128, 127)]


def random_parameters(rng, kind):
    a_scale, b_scale = np.exp(rng.uniform(np.log(0.003), 0, 2)).astype(np.float32)
    reach = np.exp(rng.uniform(np.log(8), np.log(400)))
    c_scale = np.float32(a_scale * b_scale * reach if kind == "Mul" else max(a_scale, b_scale) * reach / 40)
    a_zero, b_zero, c_zero = rng.integers(-128, 128, 3).tolist()
    return a_scale, a_zero, b_scale, b_zero, c_scale, c_zero


def between(scales, zero_points):
    return tuple(x for pair in zip(map(np.float32, scales), zero_points, strict=True) for x in pair)


def onnxruntime_table(kind, a_scale, a_zero, b_scale, b_zero, c_scale, c_zero, *, unsigned):
    """All pairs through ONNX Runtime's QLinearMul, or DequantizeLinear, Sub and QuantizeLinear."""
    dtype, label = ("uint8", 128) if unsigned else ("int8", 0)
    b = Builder()
    params = [b.params(*p, dtype) for p in ((a_scale, a_zero + label), (b_scale, b_zero + label))]
    out = b.params(c_scale, c_zero + label, dtype)
    x, z = b.input("x", (65536,), dtype), b.input("z", (65536,), dtype)
    if kind == "Mul":
        y = b.node("QLinearMul", [x, *params[0], z, *params[1], *out], "y", "com.microsoft")
    else:
        floats = [b.node("DequantizeLinear", [name, *p]) for name, p in zip((x, z), params, strict=True)]
        y = b.node("QuantizeLinear", [b.node("Sub", floats), *out], "y")
    feeds = {"x": np.repeat(OPERAND, 256) + label, "z": np.tile(OPERAND, 256) + label}
    (c,) = oracle_session(b.model(y)).run(None, {name: value.astype(dtype) for name, value in feeds.items()})
    return (c.astype(np.int64) - label).reshape(256, 256)


def adder(kind, case, p, lo=-128, hi=127):
    """Every pair through the hardware's arithmetic."""
    a, b = OPERAND[:, None], OPERAND
    if kind == "Mul":
        assert p.factor_a == 0
        b = (a - case[1]) * (b - case[3])
    return fixed.requantize_add(a, b, p.factor_a, p.factor_b, p.offset, p.shift, lo, hi)


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("kind", TABLES)
def test_table_equals_onnxruntime(kind, unsigned):
    rng = np.random.default_rng(SEED)
    cases = [random_parameters(rng, kind) for _ in range(60)]
    cases += [between((0.02, 0.05, 0.1), zero_points) for zero_points in ENDS]  # every half is a tie but for float32
    cases += [between((0.5, 0.25, 1), (3, -7, zero_point)) for zero_point in (0, 1)]
    cases += [between((1, 1, 1e-30), (3, -7, 0)), between((1e-30, 1e-30, 1), (3, -7, 5))]
    for case in cases:
        expected = onnxruntime_table(kind, *case, unsigned=unsigned)
        np.testing.assert_array_equal(TABLES[kind](*case, unsigned=unsigned), expected, err_msg=str(case))


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("kind", TABLES)
def test_fit_equals_table_on_every_pair(kind, unsigned):
    rng = np.random.default_rng(SEED)
    for _ in range(60):
        case = random_parameters(rng, kind)
        p = FITS[kind](*case, unsigned=unsigned)
        assert p is not None, case
        np.testing.assert_array_equal(adder(kind, case, p), TABLES[kind](*case, unsigned=unsigned))
        assert abs(p.factor_b) < 2**25
        assert -(2**39) <= p.offset < 2**39


@pytest.mark.parametrize("c_zero", [-128, -1, 0, 1, 127])
def test_product_of_power_of_two_scales_rounds_ties_after_its_zero_point(c_zero):
    case = between((0.25, 0.5, 8), (5, -6, c_zero))
    p = fit_mul(*case)
    assert p.factor_b == 2 ** (p.shift - 6)
    np.testing.assert_array_equal(adder("Mul", case, p), qlinear_mul_table(*case))


@pytest.mark.parametrize("kind", TABLES)
def test_fit_narrow_bounds(kind):
    case = between((0.4, 0.3, 7.7), (5, -6, 3))
    p = FITS[kind](*case, lo=3, hi=40)
    np.testing.assert_array_equal(adder(kind, case, p, 3, 40), np.clip(TABLES[kind](*case), 3, 40))


@pytest.mark.parametrize("kind", TABLES)
def test_fit_gives_up_beyond_the_factors(kind):
    assert FITS[kind](*between((2.0**30, 1, 1), (0, 0, 0))) is None
    assert FITS[kind](*between((1e30, 1, 1e-30), (0, 0, 0))) is None


def test_difference_with_ties_and_an_odd_zero_point_has_no_fit():
    assert fit_sub(*between((0.25, 0.5, 1), (5, -6, 2))) is not None
    assert fit_sub(*between((0.25, 0.5, 1), (5, -6, 3))) is None


# Reading --------------------------------------------------------------------------------------------------------------


def pair_model(kind, a, b, dtype, *, clip=False, constant=False, y=(0.043, -3)):
    builder = Builder()
    zero = 128 if dtype == "uint8" else 0
    first = builder.dequantize(builder.input("x", a, dtype), 0.021, 5 + zero, dtype)
    if constant:
        values = np.random.default_rng(1).integers(zero - 128, zero + 128, b).astype(dtype)
        second = builder.weight(values, np.float32(0.017), zero - 20)
    else:
        second = builder.dequantize(builder.input("z", b, dtype), 0.017, zero - 20, dtype)
    result = builder.node(kind, [first, second])
    if clip:
        result = builder.node("Relu", [result])
    scale = y[0] / 20 if kind == "Mul" else y[0]
    return builder.model(builder.quantize(result, scale, y[1] + zero, dtype, "y"))


SHAPES = [
    ((1, 6, 4, 5), (1, 6, 4, 5)),
    ((1, 6, 4, 5), (1, 6, 1, 1)),
    ((1, 6, 1, 1), (1, 6, 4, 5)),
    ((2, 6, 4, 5), (6, 1, 1)),
    ((1, 6, 4, 5), (1, 1, 4, 5)),
    ((1, 6, 4, 5), (1, 1, 1, 1)),
    ((3, 20), (20,)),
    ((7,), (7,)),
]


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("kind", ["Mul", "Sub", "Add"])
@pytest.mark.parametrize(("a", "b"), SHAPES, ids=str)
def test_pair_is_exact_and_runs_on_the_array(kind, a, b, dtype):
    for changes in ({}, {"clip": True}, {"constant": True}):
        if changes.get("constant") and np.prod(b) == 1:
            continue  # a function of one tensor
        graph = read(pair_model(kind, a, b, dtype, **changes), "net")
        assert kinds(graph) == [kind]
        assert_exact(graph)
        program = compile(graph, tiny(3, 6, 8, 2))
        assert [layer.op for step in program.array_steps for layer in step.layers] == [kind]
        feeds = random_feeds(graph, 3, 5)
        assert np.array_equal(InferenceSession(program).run(None, feeds)[0], reference.run(graph, feeds)["y"])


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_qlinear_mul_node(dtype):
    zero = 128 if dtype == "uint8" else 0
    b = Builder()
    inputs = [b.input("x", (1, 8, 3, 3), dtype), *b.params(0.02, zero + 4, dtype)]
    inputs += [b.input("z", (1, 8, 1, 1), dtype), *b.params(1 / 256, zero - 128, dtype)]
    y = b.node("QLinearMul", [*inputs, *b.params(0.018, zero - 9, dtype)], "y", "com.microsoft")
    graph = read(b.model(y), "net")
    assert kinds(graph) == ["Mul"]
    assert_exact(graph, samples=20)


def test_product_that_is_a_function_of_one_tensor_is_a_table():
    b = Builder()
    x = b.dequantize(b.input("x", (1, 4, 3, 3), "int8"), 0.05, 3)
    sigmoid = b.dequantize(b.quantize(b.node("Sigmoid", [x]), 1 / 256, -128), 1 / 256, -128)
    product = b.node("Mul", [x, sigmoid])
    graph = read(b.model(b.quantize(product, 0.05, 0, output="y")), "net")
    assert kinds(graph) == ["Table"]
    assert_exact(graph)


def test_activation_between_product_and_quantizer_is_kept():
    b = Builder()
    x = b.dequantize(b.input("x", (1, 4, 3, 3), "int8"), 0.05, 3)
    flat = b.node("Reshape", [b.node("Mul", [x, x]), b.constant([1, 36])])
    clipped = b.node("Clip", [flat, b.constant(0.5, np.float32), b.constant(1.5, np.float32)])
    model = b.model(b.quantize(clipped, 0.02, -100, output="y"))
    graph, session = read(model, "net"), oracle_session(model)
    for seed in range(20):
        feeds = random_feeds(graph, 1, seed)
        assert np.array_equal(reference.run(graph, feeds)["y"], session.run(None, feeds)[0])


def test_pair_without_parameters_runs_on_the_host_by_name():
    graph = read(pair_model("Sub", (4, 20), (4, 20), "int8"), "net")
    (op,) = graph.ops
    assert pair_parameters(op, graph) is not None
    b = Builder()
    x, z = (b.dequantize(b.input(name, (4, 20), "int8"), scale, 3) for name, scale in (("x", 0.25), ("z", 0.5)))
    graph = read(b.model(b.quantize(b.node("Sub", [x, z]), 1.0, 3, output="y")), "net")
    program = compile(graph, tiny(3, 6, 8, 2))
    assert not program.array_steps
    assert [node.reason for node in program.host_nodes] == [constraint_pairs.__doc__.splitlines()[0]]
    feeds = random_feeds(graph, 3, 5)
    assert np.array_equal(InferenceSession(program).run(None, feeds)[0], reference.run(graph, feeds)["y"])


def test_difference_rides_in_the_convolution_that_feeds_it():
    b = Builder()
    rng = np.random.default_rng(4)
    x = b.dequantize(b.input("x", (1, 6, 5, 5), "int8"), 0.03, -7)
    weight = b.weight(rng.integers(-128, 128, (6, 6, 1, 1)).astype(np.int8), rng.uniform(0.002, 0.01, 6))
    conv = b.dequantize(b.quantize(b.node("Conv", [x, weight]), 0.05, 4), 0.05, 4)
    for operands in ([conv, x], [x, conv]):
        graph = read(b.model(b.quantize(b.node("Sub", operands), 0.0613, 9, output="y")), "net")
        program = compile(graph, tiny(3, 6, 8, 2))
        assert [layer.op for layer in program.array_steps[0].layers] == ["Conv+Sub"]
        assert_exact(graph)
        feeds = random_feeds(graph, 3, 5)
        assert np.array_equal(InferenceSession(program).run(None, feeds)[0], reference.run(graph, feeds)["y"])
        b.nodes = b.nodes[:-2]


@pytest.mark.system
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_pairs_are_equal_on_every_rung(dtype):
    for kind in ("Mul", "Sub", "Add"):
        report = verify(read(pair_model(kind, (1, 6, 4, 5), (1, 6, 1, 1), dtype), "net"), "sim-4x4", samples=3)
        assert [(rung.name, rung.mismatches) for rung in report.rungs][-1] == ("verilator", 0)
        assert report.ok
        assert report.cycles_measured == report.cycles_predicted
