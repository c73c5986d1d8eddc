"""Float models made ready: what is folded computes the same, and what can't be quantized is refused in a sentence."""

import numpy as np
import onnx
import pytest

from hwq.errors import ModelError
from hwq.quantize.prepare import IR_VERSION, OPSET, prepare
from tests.onnx_models import Builder
from tests.quantize.networks import convnet, run, samples


def whole(rng, *shape):
    return rng.integers(-4, 5, shape).astype(np.float32)


def batch_norm(build, x, channels, rng):
    """Factors are powers of two and the rest whole numbers: folding is exact."""
    names = [build.constant(value, np.float32) for value in (whole(rng, channels), whole(rng, channels))]
    names += [build.constant(whole(rng, channels)), build.constant(np.full(channels, 4), np.float32)]
    return build.node("BatchNormalization", [x, *names], epsilon=0.0)


def test_batch_normalization_goes_into_the_layer_before_it():
    rng, build = np.random.default_rng(0), Builder()
    x = build.input("x", (1, 3, 6, 6))
    conv = build.node("Conv", [x, build.constant(whole(rng, 4, 3, 3, 3))])
    model = build.model(batch_norm(build, conv, 4, rng))
    ready = prepare(model, "net")
    assert [node.op_type for node in ready.graph.node] == ["Conv"]
    inputs = whole(rng, 2, 3, 6, 6)
    np.testing.assert_array_equal(run(ready, inputs)[0], run(model, inputs)[0])


def test_batch_normalization_with_no_layer_before_it_becomes_one():
    rng, build = np.random.default_rng(1), Builder()
    x = build.input("x", (1, 3, 6, 6))
    model = build.model(batch_norm(build, build.node("Relu", [x]), 3, rng))
    ready = prepare(model, "net")
    assert [node.op_type for node in ready.graph.node] == ["Relu", "Conv"]
    inputs = whole(rng, 2, 3, 6, 6)
    np.testing.assert_array_equal(run(ready, inputs)[0], run(model, inputs)[0])


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [None, (1,), (5,), (1, 5)])
def test_gemm_loses_its_factors(transposed, bias):
    rng, build = np.random.default_rng(2), Builder()
    names = [build.input("x", (1, 3)), build.constant(whole(rng, *((5, 3) if transposed else (3, 5))))]
    names += [] if bias is None else [build.constant(whole(rng, *bias))]
    model = build.model(build.node("Gemm", names, alpha=0.5, beta=2.0, transB=transposed))
    ready = prepare(model, "net")
    (node,) = ready.graph.node
    assert {entry.name: entry.i for entry in node.attribute} == {"transB": 1}
    inputs = whole(rng, 4, 3)
    np.testing.assert_array_equal(run(ready, inputs)[0], run(model, inputs)[0])


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]])
def test_a_mean_over_an_image_is_a_global_average(keepdims, axes):
    rng, build = np.random.default_rng(3), Builder()
    mean = build.node("ReduceMean", [build.input("x", (1, 3, 4, 4))], axes=axes, keepdims=keepdims)
    model = build.model(build.node("Relu", [mean]))
    ready = prepare(model, "net")
    assert [node.op_type for node in ready.graph.node][:-1] == ["GlobalAveragePool"] + ["Flatten"] * (not keepdims)
    inputs = whole(rng, 2, 3, 4, 4)
    np.testing.assert_array_equal(run(ready, inputs)[0], run(model, inputs)[0])


@pytest.mark.parametrize(("shape", "axes"), [((1, 3, 4, 4), [1, 2]), ((1, 3, 4, 4), [3]), ((1, 3, 4), [1, 2])])
def test_other_means_stay(shape, axes):
    build = Builder()
    model = build.model(build.node("ReduceMean", [build.input("x", shape)], axes=axes))
    assert [node.op_type for node in prepare(model, "net").graph.node] == ["ReduceMean"]


def test_constants_are_folded_and_every_shape_is_known():
    build = Builder()
    x = build.input("x", ("batch", 4))
    shape = build.node("Concat", [build.constant([1], np.int64), build.constant([2, 2], np.int64)], axis=0)
    ready = prepare(build.model(build.node("Identity", [build.node("Reshape", [x, shape])])), "net")
    assert [node.op_type for node in ready.graph.node] == ["Reshape"]
    shapes = [[dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in ready.graph.value_info]
    assert shapes == [[1, 2, 2]]


def test_result_is_a_valid_model_that_older_runtimes_read():
    ready = prepare(convnet(), "net")
    onnx.checker.check_model(ready, full_check=True)
    assert ready.ir_version == IR_VERSION == 10
    assert [(entry.domain, entry.version) for entry in ready.opset_import] == [("", OPSET)]
    names = [node.name for node in ready.graph.node]
    assert len(set(names)) == len(names)
    assert np.abs(run(ready, samples(4))[0] - run(convnet(), samples(4))[0]).max() < 1e-5  # float sums, other order


def test_models_that_cannot_be_quantized_are_refused():
    build = Builder()
    quantized = build.model(build.quantize(build.input("x", (1, 4)), 0.5, 0))
    with pytest.raises(ModelError, match=r"net: node .*QuantizeLinear.*: is quantized already: start from the float"):
        prepare(quantized, "net")
    build = Builder()
    integer = build.model(build.node("Relu", [build.input("x", (1, 4), "int8")], "y"), types={"y": ("int8", (1, 4))})
    with pytest.raises(ModelError, match="input 'x' is of int8: quantization starts from float32"):
        prepare(integer, "net")
