"""Functions of one byte, from ONNX nodes to tables on the array: exact against ONNX Runtime on all 256 values."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from hwq import isa, onnx_constraints, onnx_tables, reference, timing
from hwq.compiler import compile
from hwq.errors import CapacityError, ProgramError
from hwq.host import oracle_session
from hwq.images import Images
from hwq.ir import Concat, Table
from hwq.ladder import verify
from hwq.onnx_reader import read
from hwq.onnx_writer import write
from hwq.program import Program
from hwq.runtime import InferenceSession
from tests.onnx_models import Builder, assert_exact, kinds, random_feeds, reasons
from tests.programs import tiny

ARCH = tiny(2, 4, 4, 2, act_bytes=8192, param_words=256, slots=64, tables=3)
X, Y = (0.05, 3), (0.02, -5)


def zero(point, dtype):
    return point + (128 if dtype == "uint8" else 0)


def requantized(b, x, scale, zero_point, dtype="int8"):
    zero_point = zero(zero_point, dtype)
    return b.dequantize(b.quantize(x, scale, zero_point, dtype), scale, zero_point, dtype)


def model_of(function, dtype="int8", y_dtype=None, shape=(1, 4, 8, 8), opset=20):
    """Return a model of one function from an integer input to an integer output."""
    b, y_dtype = Builder(), y_dtype or dtype
    x = b.dequantize(b.input("x", shape, dtype), X[0], zero(X[1], dtype), dtype)
    result = function(b, x)
    return b.model(b.quantize(result, Y[0], zero(Y[1], y_dtype), y_dtype, "y"), opset=opset)


def unary(op_type, *operands, **attributes):
    return lambda b, x: b.node(op_type, [x, *(b.constant(value, np.float32) for value in operands)], **attributes)


def gelu(b, x):
    scaled = b.node("Div", [x, b.constant([1.4142135], np.float32)])
    halves = b.node("Mul", [x, b.node("Add", [b.node("Erf", [scaled]), b.constant(1, np.float32)])])
    return b.node("Mul", [b.constant(0.5, np.float32), halves])


def hard_swish(b, x):
    shifted = b.node("Add", [x, b.constant(3, np.float32)])
    clipped = b.node("Clip", [shifted, b.constant(0, np.float32), b.constant(6, np.float32)])
    return b.node("Div", [b.node("Mul", [x, clipped]), b.constant(6, np.float32)])


def swish_of_quantized_sigmoid(b, x):
    return b.node("Mul", [x, requantized(b, b.node("Sigmoid", [x]), 1 / 256, -128)])


def half_precision(b, x):
    return b.node("Cast", [b.node("Cast", [x], to=TensorProto.FLOAT16)], to=TensorProto.FLOAT)


FUNCTIONS = {
    "Sigmoid": unary("Sigmoid"),
    "Tanh": unary("Tanh"),
    "HardSigmoid": unary("HardSigmoid", alpha=0.3),
    "HardSwish": unary("HardSwish"),
    "LeakyRelu": unary("LeakyRelu", alpha=0.1),
    "Elu": unary("Elu"),
    "Relu": unary("Relu"),
    "Clip": unary("Clip", -0.5, 1.25),
    "Neg": unary("Neg"),
    "Abs": unary("Abs"),
    "Exp": unary("Exp"),
    "Sqrt": unary("Sqrt"),
    "Log": unary("Log"),
    "Erf": unary("Erf"),
    "Gelu": unary("Gelu"),
    "Softplus": unary("Softplus"),
    "Mul": unary("Mul", 0.3),
    "Pow": unary("Pow", 2.0),
    "Div of a constant": lambda b, x: b.node("Div", [b.constant(0.5, np.float32), x]),
    "Sub of a quantized constant": lambda b, x: b.node("Sub", [x, b.weight(np.array(7, np.int8), 0.1)]),
    "square": lambda b, x: b.node("Mul", [x, x]),
    "decomposed Gelu": gelu,
    "decomposed HardSwish": hard_swish,
    "x * Sigmoid(x)": lambda b, x: b.node("Mul", [x, b.node("Sigmoid", [x])]),
    "x * Q(Sigmoid(x))": swish_of_quantized_sigmoid,
    "float16": half_precision,
    "other parameters": lambda b, x: x,
}


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_function_is_onnx_runtimes_on_every_value(function, dtype):
    model = model_of(function, dtype)
    graph = read(model, "net")
    assert kinds(graph) == ["Table"]
    every = np.arange(256).reshape(1, 4, 8, 8) + np.iinfo(dtype).min
    feeds = {"x": every.astype(dtype)}
    (expected,) = oracle_session(model).run(None, feeds)
    assert np.array_equal(reference.run(graph, feeds)["y"], expected)
    assert np.array_equal(InferenceSession(graph, ARCH).run(None, feeds)[0], expected)
    assert_exact(graph)


@pytest.mark.parametrize(("dtype", "y_dtype"), [("int8", "uint8"), ("uint8", "int8")])
@pytest.mark.parametrize("shape", [(1, 3, 5, 7), (1, 1), (7,), (2, 3, 4, 5, 1)])
def test_types_and_shapes(dtype, y_dtype, shape):
    graph = read(model_of(unary("Sigmoid"), dtype, y_dtype, shape), "net")
    assert kinds(graph) == ["Table"]
    assert_exact(graph)
    feeds = random_feeds(graph, 2, 1)
    if len(shape) < 5:
        (y,) = InferenceSession(graph, ARCH).run(None, feeds)
        assert np.array_equal(y, reference.run(graph, feeds)["y"])


def test_leaky_relu_by_hand():
    b = Builder()
    x = b.dequantize(b.input("x", (1, 8), "int8"), 0.5, 1)
    graph = read(b.model(b.quantize(b.node("LeakyRelu", [x], alpha=0.5), 0.5, -2, output="y"), opset=17), "net")
    values = np.array([[-128, -2, 0, 1, 2, 3, 126, 127]], np.int8)
    # x - 1, halved below 0 and rounded to even, less 2
    assert reference.run(graph, {"x": values})["y"].tolist() == [[-66, -4, -2, -2, -1, 0, 123, 124]]


def operator(op_type, b, x, scale, zero_point, *others, **attributes):
    return b.node(
        op_type, [x, *b.params(*X), *others, *b.params(scale, zero_point)], domain="com.microsoft", **attributes
    )


def qlinear_sigmoid(b, x):
    return operator("QLinearSigmoid", b, x, 1 / 256, -128)


def qlinear_leaky_relu(b, x):
    return operator("QLinearLeakyRelu", b, x, 0.03, 7, alpha=0.2)


def qlinear_swish(b, x):
    return operator("QLinearMul", b, x, 0.04, -9, qlinear_sigmoid(b, x), *b.params(1 / 256, -128))


@pytest.mark.parametrize(
    "build", [qlinear_sigmoid, qlinear_leaky_relu, qlinear_swish], ids=lambda build: build.__name__
)
def test_qoperator_node_is_its_own_table(build):
    b = Builder()
    model = b.model(build(b, b.input("x", (1, 256), "int8")))
    graph = read(model, "net")
    assert kinds(graph) == ["Table"]
    feeds = {"x": np.arange(-128, 128, dtype=np.int8).reshape(1, 256)}
    (expected,) = oracle_session(model).run(None, feeds)
    assert np.array_equal(reference.run(graph, feeds)[graph.outputs[0]], expected)
    assert_exact(graph)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_clip_of_integers_only_clamps(dtype):
    b = Builder()
    x = b.quantize(b.input("x", (1, 6)), 0.5, zero(1, dtype), dtype)
    bounds = [b.constant(zero(bound, dtype), dtype) for bound in (-100, 60)]
    y = b.node("Clip", [x, *bounds], "y")
    graph = read(b.model(b.dequantize(y, 0.5, zero(1, dtype), dtype)), "net")
    assert kinds(graph) == ["QuantizeLinear", "Table", "DequantizeLinear"]
    assert_exact(graph)
    without = tiny(2, 4, 4, 2, tables=0)
    program = compile(graph, without)
    assert program.array_steps
    assert not len(program.tables)
    feeds = random_feeds(graph, 3, 2)
    expected = reference.run(graph, feeds)
    assert np.array_equal(InferenceSession(program).run(None, feeds)[0], expected[graph.outputs[0]])


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_concat_gives_each_input_the_results_parameters(form):
    b = Builder()
    names = [b.input("a", (1, 3, 4, 4), "int8"), b.input("b", (1, 5, 4, 4), "int8"), b.input("c", (1, 2, 4, 4), "int8")]
    params = [(0.05, 3), (0.04, -7), (0.02, 0)]
    if form == "QDQ":
        floats = [b.dequantize(name, *param) for name, param in zip(names, params, strict=True)]
        y = b.quantize(b.node("Concat", floats, axis=1), 0.04, -7, output="y")
    else:
        operands = [part for name, param in zip(names, params, strict=True) for part in (name, *b.params(*param))]
        y = b.node("QLinearConcat", [*b.params(0.04, -7), *operands], "y", "com.microsoft", axis=1)
    model = b.model(y, types={"y": ("int8", None)})
    graph = read(model, "net")
    assert kinds(graph) == ["Table", "Table", "Concat"]
    feeds = random_feeds(graph, 1, 5)
    expected = oracle_session(model).run(None, feeds)[0]
    assert np.array_equal(reference.run(graph, feeds)["y"], expected)
    assert np.array_equal(InferenceSession(graph, ARCH).run(None, feeds)[0], expected)
    assert_exact(graph)
    assert next(op for op in graph.ops if isinstance(op, Concat)).inputs[1] == "b"


# What stays on the host


@pytest.mark.parametrize(
    "function",
    [
        unary("Softmax"),
        lambda b, x: b.node("Mul", [x, b.constant(np.linspace(0.1, 1, 8), np.float32)]),
        lambda b, x: b.node("Mul", [x, b.input("f", (1, 4, 8, 8))]),
        lambda b, x: b.node("Mul", [x, b.node("Softmax", [x])]),
        lambda b, x: b.node("CumSum", [x, b.constant(1, np.int64)]),
        lambda b, x: b.node("Sigmoid", [b.node("ReduceMax", [x], keepdims=0)]),
    ],
)
def test_what_mixes_elements_stays_on_the_host(function):
    assert "Table" not in kinds(read(model_of(function), "net"))


def test_quotient_of_two_tensors_stays_on_the_host():
    def quotient(b, x):
        return b.node("Div", [b.node("Tanh", [x]), b.dequantize(b.input("z", (1, 4, 8, 8), "int8"), 0.1, 0)])

    graph = read(model_of(quotient), "net")
    assert reasons(graph)["Div"] == onnx_constraints.sentence(onnx_constraints.constraint_one_source)


def test_long_chain_stays_on_the_host():
    def chain(b, x):
        for _ in range(100):
            x = b.node("Neg", [x])
        return x

    assert "Table" not in kinds(read(model_of(chain), "net"))


def test_function_that_depends_on_the_place_stays_on_the_host(monkeypatch):
    monkeypatch.setattr(onnx_tables, "_evaluate", lambda model, dtype: (bytes(256), bytes(255) + b"\1"))
    graph = read(model_of(unary("Sigmoid")), "net")
    assert reasons(graph)["Sigmoid"] == onnx_constraints.sentence(onnx_constraints.constraint_one_function)


# On the array


def network(dtype="int8"):
    """Convolutions, an Add, pooling and a matrix product, each followed by a function of its result."""
    rng = np.random.default_rng(3)
    b = Builder()

    def weight(*shape):
        return b.weight(rng.integers(-128, 128, shape).astype(np.int8), rng.uniform(0.002, 0.01, shape[0]))

    x = requantized(b, b.input("x", (1, 4, 6, 6)), 0.05, 3, dtype)
    conv = requantized(b, b.node("Conv", [x, weight(8, 4, 3, 3)], pads=[1, 1, 1, 1]), 0.1, 0, dtype)
    sigmoid = requantized(b, b.node("Sigmoid", [conv]), 1 / 256, -128, dtype)
    swish = requantized(b, b.node("Mul", [conv, sigmoid]), 0.07, -5, dtype)
    spread = requantized(b, b.node("Conv", [swish, weight(8, 1, 3, 3)], group=8, pads=[1, 1, 1, 1]), 0.05, 2, dtype)
    hard = requantized(b, b.node("Relu", [spread]), 0.05, 2, dtype)
    total = requantized(b, b.node("Add", [hard, swish]), 0.08, 0, dtype)
    tanh = requantized(b, b.node("Tanh", [total]), 1 / 128, 0, dtype)
    negative = requantized(b, b.node("Neg", [tanh]), 1 / 128, 0, dtype)
    pooled = requantized(b, b.node("GlobalAveragePool", [negative]), 0.01, 0, dtype)
    matrix = b.weight(rng.integers(-128, 128, (8, 6)).astype(np.int8), 0.01)
    product = requantized(b, b.node("MatMul", [b.node("Flatten", [pooled]), matrix]), 0.02, 0, dtype)
    last = b.node("Reshape", [product, b.constant([3, 2], np.int64)])
    return read(b.model(b.quantize(b.node("Sigmoid", [last]), 1 / 256, zero(-128, dtype), dtype, "y")), "net")


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("shape", [(2, 4, 4, 2), (3, 6, 8, 2), (8, 16, 16, 8)])
def test_functions_ride_in_the_layers_that_feed_them(dtype, shape):
    graph = network(dtype)
    config = tiny(*shape, act_bytes=8192, param_words=256, slots=64)
    program = compile(graph, config)
    layers = [layer.op for step in program.array_steps for layer in step.layers]
    assert layers == ["Conv+Table", "Conv+Table", "Add+Table", "AveragePool", "Gemm+Table"]
    assert len(program.tables) == 3  # Relu is a clamp
    feeds = random_feeds(graph, 4, 9)
    assert np.array_equal(InferenceSession(program).run(None, feeds)[0], reference.run(graph, feeds)["y"])
    assert_exact(graph)


def test_table_in_a_layer_costs_no_cycle():
    config = tiny(2, 4, 4, 2)

    def cycles(function):
        b = Builder()
        x = b.dequantize(b.input("x", (1, 4, 6, 6), "int8"), *X)
        values = np.random.default_rng(1).integers(-128, 128, (8, 4, 3, 3)).astype(np.int8)
        result = requantized(b, b.node("Conv", [x, b.weight(values, 0.01)]), 0.1, 0)
        program = compile(b.model(b.quantize(function(b, result), *Y)), config)
        return timing.predict(program.descriptors(0), config).total

    assert cycles(unary("Tanh")) == cycles(lambda b, x: requantized(b, x, *Y))


def test_table_that_others_read_before_it_is_a_layer_of_its_own():
    b = Builder()
    x = b.dequantize(b.input("x", (1, 4, 6, 6), "int8"), *X)
    values = np.random.default_rng(1).integers(-128, 128, (4, 4, 3, 3)).astype(np.int8)
    q = b.quantize(b.node("Conv", [x, b.weight(values, 0.01)]), 0.1, 0, output="q")
    y = b.quantize(b.node("Tanh", [b.dequantize(q, 0.1, 0)]), *Y, output="y")
    graph = read(b.model("q", y, types={"q": ("int8", None), "y": ("int8", None)}), "net")
    program = compile(graph, ARCH)
    assert [layer.op for layer in program.array_steps[0].layers] == ["Conv", "Table"]
    feeds = random_feeds(graph, 2, 1)
    expected = reference.run(graph, feeds)
    for name, value in zip(("q", "y"), InferenceSession(program).run(["q", "y"], feeds), strict=True):
        assert np.array_equal(value, expected[name])


def test_table_is_not_in_a_layer_that_feeds_others():
    b = Builder()
    x = b.dequantize(b.input("x", (1, 4, 6, 6), "int8"), *X)
    values = np.random.default_rng(1).integers(-128, 128, (4, 4, 3, 3)).astype(np.int8)
    result = requantized(b, b.node("Conv", [x, b.weight(values, 0.01)]), 1 / 8, 0)
    tanh = requantized(b, b.node("Tanh", [result]), 1 / 128, 0)
    graph = read(b.model(b.quantize(b.node("Add", [result, tanh]), 1 / 8, 0, output="y")), "net")
    program = compile(graph, ARCH)
    assert [layer.op for layer in program.array_steps[0].layers] == ["Conv", "Table", "Add"]
    feeds = random_feeds(graph, 2, 1)
    assert np.array_equal(InferenceSession(program).run(None, feeds)[0], reference.run(graph, feeds)["y"])


def many(count):
    """Functions of one input, each with an output of its own; the last one is used twice."""
    b = Builder()
    x = b.dequantize(b.input("x", (1, 8), "int8"), *X)
    outputs = []
    for index in range(count):
        outputs.append(b.quantize(b.node("Mul", [x, b.constant(-0.5 - index / 4, np.float32)]), *Y))
    outputs.append(b.quantize(b.node("Mul", [x, b.constant(-0.5 - (count - 1) / 4, np.float32)]), *Y))
    return read(b.model(*outputs), "net")


def test_functions_beyond_the_tables_run_on_the_host():
    graph = many(5)
    program = compile(graph, ARCH)
    assert len(program.tables) == ARCH.tables
    assert Counter(node.reason for node in program.host_nodes) == {
        "Other functions take every table of the architecture; choose one with more (tables).": 2
    }
    assert sum(len(step.layers) for step in program.array_steps) == 4  # the function used twice is among them
    feeds = random_feeds(graph, 2, 1)
    expected = reference.run(graph, feeds)
    results = InferenceSession(program).run(None, feeds)
    assert all(np.array_equal(expected[name], value) for name, value in zip(graph.outputs, results, strict=True))


def test_images_hold_every_table_once_and_no_more_than_there_are():
    images = Images(ARCH)
    tables = np.random.default_rng(0).integers(-128, 128, (4, isa.TABLE_ENTRIES)).astype(np.int8)
    assert [images.add_table(tables[index], "f") for index in (0, 1, 0, 2, 1)] == [1, 2, 1, 3, 2]
    with pytest.raises(CapacityError, match=r"Layer 'f' doesn't fit: table memory would need 4, .* has 3 \(tables\)"):
        images.add_table(tables[3], "f")


def test_program_file_keeps_tables_and_refuses_others(tmp_path):
    program = compile(network(), ARCH)
    path = tmp_path / "p.hwq"
    program.save(path)
    assert np.array_equal(Program.load(path).tables, program.tables)
    for tables in (np.zeros((4, 256), np.int8), np.zeros((3, 255), np.int8), np.zeros((3, 256), np.uint8)):
        object.__setattr__(program, "tables", tables)
        program.save(path)
        with pytest.raises(ProgramError, match="table"):
            Program.load(path)


def test_oracle_holds_the_models_own_nodes():
    graph = read(model_of(swish_of_quantized_sigmoid), "net")
    model = write(graph)
    onnx.checker.check_model(model)
    types = ["DequantizeLinear", "Sigmoid", "QuantizeLinear", "DequantizeLinear", "Mul", "QuantizeLinear"]
    assert [node.op_type for node in model.graph.node] == types
    assert kinds(read(model, "again")) == ["Table"]
    again = next(op for op in read(model, "again").ops if isinstance(op, Table))
    assert np.array_equal(again.table, graph.ops[0].table)


@pytest.mark.rtl
def test_simulated_gateware_agrees():
    report = verify(network(), ARCH, samples=1, targets=["machine", "amaranth"])
    assert report.ok
    assert report.cycles_measured == report.cycles_predicted
