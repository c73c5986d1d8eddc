"""QONNX's Quant and BipolarQuant: every rounding mode, width and parameter form, against their definition in numpy."""

import importlib.util

import numpy as np
import onnx
import pytest
from onnx import helper

from hwq import reference
from hwq.compiler import load
from hwq.errors import ModelError
from hwq.ir import Gemm
from hwq.ladder import verify
from hwq.onnx_qonnx import DOMAINS
from hwq.onnx_reader import EDGE
from tests.onnx_models import Builder, assert_exact, kinds, reasons

SEED = 3
MODES = {
    "ROUND": np.rint,
    "HALF_EVEN": np.rint,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": lambda x: np.copysign(np.ceil(np.abs(x)), x),
    "DOWN": np.trunc,
    "HALF_UP": lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x),
    "HALF_DOWN": lambda x: np.copysign(np.ceil(np.abs(x) - 0.5), x),
}


def f32(value):
    return np.asarray(value, np.float32)


def quant(x, scale, zero_point, bits, *, signed=1, narrow=0, mode="ROUND"):
    """Return Quant's result by its definition: ``x / scale + zp``, clamp, round."""
    lo = -(2 ** (bits - 1)) + narrow if signed else 0
    hi = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
    q = x / f32(scale) + f32(zero_point)
    levels = MODES[mode](np.clip(q, f32(lo), f32(hi)))
    q = np.where(q >= 0, f32(1), f32(-1)) if signed and bits == 1 else levels
    return (q - f32(zero_point)) * f32(scale)


class Quants(Builder):
    domain = DOMAINS[0]

    def quant(self, x, scale, zero_point, bits, *, signed=1, narrow=0, mode="ROUND", output=None):
        constants = [self.constant(value, np.float32) for value in (scale, zero_point, bits)]
        return self.node(
            "Quant", [x, *constants], output, self.domain, signed=signed, narrow=narrow, rounding_mode=mode
        )

    def bipolar(self, x, scale, output=None):
        return self.node("BipolarQuant", [x, self.constant(scale, np.float32)], output, self.domain)

    def model(self, *outputs, opset=17, declared=True, **options):
        model = super().model(*outputs, opset=opset, **options)
        if declared:
            model.opset_import.append(helper.make_opsetid(self.domain, 1))
        return model


def ties(scale, count=97):
    """Return multiples of half the scale on both sides of 0, and their float32 neighbours."""
    middle = (np.arange(count, dtype=np.float32) - count // 2) * f32(scale / 2)
    return np.concatenate(
        [middle, np.nextafter(middle, f32(np.inf)), np.nextafter(middle, f32(-np.inf)), f32([0, -0.0])]
    )


def run(model, **feeds):
    graph = load(model)
    return reference.run(graph, feeds)[graph.outputs[0]]


@pytest.mark.parametrize("zero_point", [0, 3])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("signed", "narrow"), [(1, 0), (1, 1), (0, 0), (0, 1)])
def test_quant_is_its_definition(signed, narrow, mode, zero_point):
    for bits, scale in ((1, 0.5), (2, 0.25), (3, 0.3), (4, 1.0), (7, 0.0625), (8, 0.11)):
        x = ties(scale, 2 ** (bits + 2) + 9)
        b = Quants()
        y = b.quant(b.input("x", (1, x.size)), scale, zero_point, bits, signed=signed, narrow=narrow, mode=mode)
        expected = quant(x, scale, zero_point, bits, signed=signed, narrow=narrow, mode=mode)
        np.testing.assert_array_equal(run(b.model(y), x=x[np.newaxis])[0], expected, err_msg=f"{bits} bits")


@pytest.mark.parametrize(
    ("scale", "zero_point", "bits"),
    [
        (np.array([0.5, 0.3, 0.1]).reshape(1, 3, 1), 0, 4),
        (np.array([0.5, 0.3, 0.1]).reshape(3, 1), 2, 4),
        (np.array([0.5, 0.3]), [1, -1], 4),
        (np.array([[0.5, 0.3], [0.1, 0.2], [0.7, 0.4]]), 0, 4),
        (0.25, 0.5, 4),
        (0.01, 0, 12),
        (0.25, 40, 4),
        (-0.25, 0, 4),
    ],
    ids=[
        "axis 1",
        "axis 1 of 2",
        "last axis",
        "two axes",
        "fraction",
        "12 bits",
        "zero point out of range",
        "negative",
    ],
)
def test_every_form_of_parameters_means_the_same(scale, zero_point, bits):
    x = np.random.default_rng(SEED).uniform(-4, 4, (2, 3, 2)).astype(np.float32)
    b = Quants()
    y = b.quant(b.input("x", x.shape), scale, zero_point, bits)
    np.testing.assert_array_equal(run(b.model(y), x=x), quant(x, scale, zero_point, bits))


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_bipolar_quant_is_plus_or_minus_its_scale(scale):
    x = f32([-2.5, -1e-45, -0.0, 0.0, 1e-45, 7])
    b = Quants()
    y = b.bipolar(b.input("x", (1, 6)), scale)
    np.testing.assert_array_equal(run(b.model(y), x=x[np.newaxis])[0], f32(scale) * f32([-1, -1, 1, 1, 1, 1]))


def test_weights_are_the_integers_of_their_definition():
    """Hand-computed: 2 narrow bits are -1..1, ties to even; 3 bits rounded half away from zero are -4..3."""
    b = Quants()
    x = b.quant(b.input("x", (1, 4)), 0.5, 0, 4)
    first = b.quant(b.constant([[0.5, -1.5], [1.5, 0.6], [-9, 0.4], [0.1, 2]], np.float32), 1.0, 0, 2, narrow=1)
    x = b.quant(b.node("MatMul", [x, first]), 1.0, 0, 4)
    second = b.quant(b.constant([[0.25, -0.75], [2, -2.5]], np.float32), 0.5, 0, 3, mode="HALF_UP")
    graph = load(b.model(b.quant(b.node("MatMul", [x, second]), 0.25, 0, 8)))
    one, two = (op for op in graph.ops if isinstance(op, Gemm))
    np.testing.assert_array_equal(one.weight, [[0, -1], [1, 1], [-1, 0], [0, 1]])
    np.testing.assert_array_equal(two.weight, [[1, -2], [3, -4]])
    assert (one.lo, one.hi) == (-8, 7)
    assert (two.lo, two.hi) == (-128, 127)
    assert kinds(graph) == ["QuantizeLinear", "Clip", "Gemm", "Gemm", "DequantizeLinear"]
    assert set(reasons(graph).values()) == {EDGE}
    # x = 1.5, -0.5, 4 (clipped to 3.5), 1 is q = 3, -1, 7, 2; sums -8, -2 of 1/2: levels -4, -1 of 1.
    # -4 * (1, -2) + -1 * (3, -4) is -7, 12 halves: -14, 24 quarters.
    inner = reference.run(graph, {"x": f32([[1.5, -0.5, 4, 1]])}, keep=[one.outputs[0], two.outputs[0]])
    np.testing.assert_array_equal(inner[one.outputs[0]], [[-4, -1]])
    np.testing.assert_array_equal(inner[two.outputs[0]], [[-14, 24]])


def bipolar_network(rng):
    b = Quants()
    x = b.bipolar(b.input("x", (1, 24)), 1.0)
    values = {}
    for layer, (inputs, outputs) in enumerate([(24, 16), (16, 8)]):
        weight = f32(rng.normal(size=(inputs, outputs)))
        gamma, beta, mean = (f32(rng.normal(size=outputs)) for _ in range(3))
        variance = f32(rng.uniform(0.5, 9, outputs))
        acc = b.node("MatMul", [x, b.bipolar(b.constant(weight), 1.0)])
        norm = b.node("BatchNormalization", [acc, *map(b.constant, (gamma, beta, mean, variance))])
        x = b.bipolar(norm, 1.0, f"level_{layer}")
        values[layer] = (weight, gamma, beta, mean, variance)
    return b.model(x), values


def test_bipolar_network_runs_on_the_array_and_is_exact():
    rng = np.random.default_rng(SEED)
    model, layers = bipolar_network(rng)
    graph = load(model)
    assert kinds(graph)[-3:] == ["Gemm", "Gemm", "DequantizeLinear"]
    feeds = f32(rng.normal(size=(200, 24)))
    value = np.where(feeds >= 0, f32(1), f32(-1))
    for weight, gamma, beta, mean, variance in layers.values():
        acc = value @ np.where(weight >= 0, f32(1), f32(-1))
        gain = gamma / np.sqrt(variance + f32(1e-5))
        value = np.where(acc * gain + (beta - mean * gain) >= 0, f32(1), f32(-1))
    np.testing.assert_array_equal(reference.run(graph, {"x": feeds})[graph.outputs[0]], value)
    assert graph.rewrites[0] == "5 nodes of QONNX taken as standard operators"
    assert sum("proved equal" in line for line in graph.rewrites) == 2
    report = verify(model, "sim-4x4", samples=3, targets=["reference", "machine"])
    assert report.ok
    assert report.lsb_histogram == {graph.outputs[0]: {"0": 24}}


def test_signed_and_unsigned_tensors_share_one_type():
    rng, b = np.random.default_rng(SEED), Quants()
    x = b.quant(b.input("x", (1, 12)), 0.5, 0, 8)
    for bits in (4, 8):
        weight = b.quant(b.constant(f32(rng.normal(size=(12, 12)))), 0.25, 0, 4)
        x = b.quant(b.node("Relu", [b.node("MatMul", [x, weight])]), 0.75, 0, bits, signed=0)
    model = b.model(x)
    graph = load(model)
    assert kinds(graph) == ["QuantizeLinear", "Gemm", "Gemm", "DequantizeLinear"]
    four, eight = (graph.tensors[op.outputs[0]] for op in graph.ops if isinstance(op, Gemm))
    assert (four.dtype, four.zero_point) == ("int8", 0)
    assert (eight.dtype, eight.zero_point) == ("int8", -128)
    assert [(op.lo, op.hi) for op in graph.ops if isinstance(op, Gemm)] == [(0, 15), (-128, 127)]
    assert_exact(graph)


def random_network(rng, *, exact):
    """Return a model of matrix products with a width of its own at each quantizer, and what it computes, in numpy.

    With `exact`, scales are powers of two and widths at most 3 bits, so float32 holds every sum.
    """
    b, most = Quants(), 4 if exact else 9
    steps = []

    def quantizer(scale):
        bits, signed, narrow = int(rng.integers(2, most)), int(rng.integers(2)), int(rng.integers(2))
        scale = 2.0 ** np.round(np.log2(scale)) if exact else scale
        return {"scale": f32(scale), "zero_point": 0, "bits": bits}, {"signed": signed, "narrow": narrow}

    def apply(name, parameters, options):
        steps.append(lambda x: quant(x, **parameters, **options))
        return b.quant(name, **parameters, **options)

    width = int(rng.integers(3, 20))
    x = apply(b.input("x", (1, width)), *quantizer(0.4))
    for _ in range(int(rng.integers(1, 4))):
        outputs = int(rng.integers(1, 12))
        weight = f32(rng.normal(size=(width, outputs)))
        parameters, options = quantizer(0.3 if exact else rng.uniform(0.05, 0.5, outputs))
        options["signed"] = 1
        x = b.node("MatMul", [x, b.quant(b.constant(weight), **parameters, **options)])
        known = quant(weight, **parameters, **options)
        steps.append(lambda x, known=known: x @ known)
        if rng.integers(2):
            gamma, beta, mean, variance = (
                f32(rng.uniform(*limits, outputs)) for limits in ((-2, 2), (-1, 1), (-3, 3), (1, 9))
            )
            x = b.node("BatchNormalization", [x, *map(b.constant, (gamma, beta, mean, variance))])
            gain = gamma / np.sqrt(variance + f32(1e-5))
            steps.append(lambda x, gain=gain, offset=beta - mean * gain: x * gain + offset)
        if rng.integers(2):
            x = b.node("Relu", [x])
            steps.append(lambda x: np.maximum(x, 0))
        x = apply(x, *quantizer(rng.uniform(0.2, 1)))
        width = outputs

    def compute(x):
        for step in steps:
            x = step(x)
        return x

    return b.model(x), compute, b.inputs[0].type.tensor_type.shape.dim[1].dim_value


@pytest.mark.parametrize("seed", range(20))
def test_random_exact_networks_are_what_their_definition_says(seed):
    rng = np.random.default_rng((SEED, seed))
    model, compute, width = random_network(rng, exact=True)
    graph = load(model)
    assert set(reasons(graph).values()) <= {EDGE}
    x = f32(rng.normal(size=(50, width)) * 2)
    np.testing.assert_array_equal(reference.run(graph, {"x": x})[graph.outputs[0]], compute(x))
    assert verify(model, "sim-4x4", samples=2, targets=["reference", "machine"]).ok


@pytest.mark.parametrize("seed", range(20))
def test_random_networks_are_equal_on_reference_and_machine(seed):
    model, _, _ = random_network(np.random.default_rng((SEED, seed)), exact=False)
    assert set(reasons(load(model)).values()) <= {EDGE}
    assert verify(model, "sim-4x4", samples=3, targets=["reference", "machine"]).ok


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("declared", [True, False])
def test_every_domain_is_read_with_and_without_its_import(domain, declared):
    b = Quants()
    b.domain = domain
    y = b.quant(b.input("x", (1, 3)), 0.5, 0, 4)
    np.testing.assert_array_equal(run(b.model(y, opset=11, declared=declared), x=f32([[1.2, -9, 3]])), [[1, -4, 3]])


def test_parameters_may_be_constant_nodes():
    b = Quants()
    names = [
        b.node("Constant", [], value_float=0.5),
        b.node("Constant", [], value_float=0.0),
        b.node("Constant", [], value_int=4),
    ]
    y = b.node("Quant", [b.input("x", (1, 3)), *names], None, b.domain, signed=1, narrow=0, rounding_mode="ROUND")
    np.testing.assert_array_equal(run(b.model(y), x=f32([[1.2, -9, 3]])), [[1, -4, 3]])


def malformed(op_type="Quant", inputs=4, computed=False, **attributes):
    b = Quants()
    x = b.input("x", (1, 3))
    names = [b.constant(value, np.float32) for value in (0.5, 0, attributes.pop("bits", 4))]
    if computed:
        names[0] = b.node("Abs", [x])
    known = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"} if op_type == "Quant" else {}
    y = b.node(op_type, [x, *names][:inputs], "y", b.domain, **known | attributes)
    return b.model(y)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (malformed(inputs=3), "must have 4 inputs and one output"),
        (malformed(computed=True), "which isn't an initializer: fold the model's constants"),
        (malformed(rounding_mode="STOCHASTIC"), "has rounding mode 'STOCHASTIC': use one of ROUND, "),
        (malformed(bits=0), "has bit width 0.0: it must be an integer of 1 to 32"),
        (malformed(bits=3.5), "has bit width 3.5: it must be an integer of 1 to 32"),
        (malformed("Trunc"), "isn't supported: of QONNX's operators, use Quant or BipolarQuant"),
        (malformed("BipolarQuant"), "must have 2 inputs and one output"),
    ],
)
def test_malformed_node_is_refused_in_one_sentence(model, message):
    with pytest.raises(ModelError) as caught:
        load(model)
    assert message in str(caught.value)
    assert "node 'n_y'" in str(caught.value)
    assert "\n" not in str(caught.value)


# The executor of the qonnx package ------------------------------------------------------------------------------------


@pytest.fixture
def execute(monkeypatch):
    """Return a function that runs a model file on samples as the qonnx package does."""
    if importlib.util.find_spec("qonnx") is None:
        pytest.skip("the qonnx package isn't installed: pip install -c constraints.txt -e .[dev]")
    # It makes a model of every node, of an IR version that ONNX Runtime has to accept.
    monkeypatch.setattr(onnx, "IR_VERSION", 10)
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.util.cleanup import cleanup_model

    def execute(path, samples):
        model = cleanup_model(ModelWrapper(str(path)))
        (x,), (y,) = model.graph.input, model.graph.output
        return np.concatenate([execute_onnx(model, {x.name: sample})[y.name] for sample in samples])

    return execute


@pytest.mark.filterwarnings("ignore")
def test_random_quantizers_equal_the_executors(execute, tmp_path):
    rng = np.random.default_rng(SEED)
    for _ in range(8):
        b, x = Quants(), ties(0.25, 41)[np.newaxis]
        mode = list(MODES)[rng.integers(len(MODES))]
        bits, signed, narrow = (int(rng.integers(*limits)) for limits in ((1, 9), (0, 2), (0, 2)))
        y = b.quant(b.input("x", x.shape), 0.25, 0, bits, signed=signed, narrow=narrow, mode=mode, output="y")
        model = b.model(y, types={"y": ("float32", x.shape)})
        onnx.save(model, tmp_path / "net.onnx")
        np.testing.assert_array_equal(run(model, x=x), execute(tmp_path / "net.onnx", [x]), err_msg=f"{mode} {bits}")


@pytest.mark.system
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_digit_is_what_the_executor_makes_of_it(execute, workloads):
    path = workloads / "lowbit" / "tfc_2w2a.qonnx.onnx"
    images = np.load(workloads / "data" / "mnist_uint8.npz")["x"].astype(np.float32).reshape(-1, 1, 1, 28, 28) / 255
    assert len(images) == 1000
    graph = load(path)
    ours = reference.run(graph, {graph.inputs[0]: images[:, 0]})[graph.outputs[0]]
    np.testing.assert_array_equal(ours, execute(path, images))
