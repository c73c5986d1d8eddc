"""Dynamic quantization: the integers are those of the definitions, and every rung has them."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import hwq
from hwq.errors import ModelError
from hwq.host import oracle_session
from hwq.quantize import Recipe, quantize_dynamic
from tests.onnx_models import Builder
from tests.quantize.networks import convnet, run, samples


def stored(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def quantized_by_hand(x):
    """DynamicQuantizeLinear as ONNX defines it, in float32."""
    low, high = np.minimum(x.min(), 0).astype(np.float32), np.maximum(x.max(), 0).astype(np.float32)
    scale = np.float32(high - low) / np.float32(255)
    zero = np.rint(np.clip(-low / scale, 0, 255))
    return np.clip(np.rint(x / scale) + zero, 0, 255), scale, zero


@pytest.mark.parametrize(("op", "weights"), [("Gemm", "int8"), ("MatMul", "int4"), ("Gemm", "codebook")])
def test_a_product_by_hand(op, weights):
    rng, build = np.random.default_rng(0), Builder()
    weight, bias = rng.normal(0, 1, (12, 6)).astype(np.float32), rng.normal(0, 1, 6).astype(np.float32)
    operands = [build.input("x", (3, 12)), build.constant(weight), build.constant(bias)]
    y = build.node(op, operands) if op == "Gemm" else build.node("Add", [build.node(op, operands[:2]), operands[2]])
    model = build.model(y)
    made = quantize_dynamic(model, Recipe(weights=weights))
    ((name, values),) = [(name, v) for name, v in stored(made).items() if v.dtype == np.int8]
    scale = stored(made)[name.replace("_weight", "_scale")]
    assert values.shape == (12, 6)
    greatest = {"int8": 127, "int4": 7, "codebook": 127}[weights]
    assert np.abs(values * scale - weight).max() <= (0.51 if weights != "codebook" else 20) * scale.max()
    assert np.abs(values).max() <= greatest + (weights == "int4")
    assert weights != "codebook" or len(np.unique(values)) <= 16
    x = rng.normal(0.5, 1, (3, 12)).astype(np.float32)
    q, x_scale, zero = quantized_by_hand(x)
    sums = (q - zero).astype(np.int64) @ values.astype(np.int64)
    wanted = sums.astype(np.float32) * (x_scale * scale) + bias
    assert np.array_equal(oracle_session(made).run(None, {"x": x})[0], wanted)


def test_a_network_of_every_kind_of_layer():
    made, x = quantize_dynamic(convnet()), samples(8)
    kinds = [node.op_type for node in made.graph.node]
    assert kinds.count("ConvInteger") == 3
    assert kinds.count("MatMulInteger") == 1
    assert kinds.count("DynamicQuantizeLinear") == 4  # one a tensor, though two layers and an Add read the first
    assert not {"Conv", "Gemm", "BatchNormalization"} & set(kinds)
    (wanted,), (got,) = run(convnet(), x), run(made, x)
    assert np.abs(wanted - got).max() < 0.02
    assert made.ir_version <= 10


@pytest.mark.system
@pytest.mark.parametrize("weights", ["int8", "int4", "nf4"])
def test_every_rung_is_equal(weights):
    made = quantize_dynamic(convnet(), Recipe(weights=weights))
    checked = hwq.verify(made, "sim-4x4", inputs={"x": samples(3)}, targets=["reference", "machine", "verilator"])
    assert checked.ok
    assert [rung.mismatches for rung in checked.rungs] == [0, 0, 0]
    assert checked.cycles_measured == checked.cycles_predicted
    kinds = {node.op for node in checked.host_nodes}
    assert "DynamicQuantizeLinear" in kinds
    assert not {"ConvInteger", "MatMulInteger"} & kinds


def test_an_array_without_bytes_of_sums_leaves_layers_to_the_host():
    made = quantize_dynamic(convnet())
    checked = hwq.verify(made, "ecp5-8x16", inputs={"x": samples(2)}, targets=["reference", "machine"])
    assert checked.ok
    assert {"ConvInteger", "MatMulInteger"} <= {node.op for node in checked.host_nodes}


def test_kept_layers_stay_and_batches_do_not_matter_to_weights():
    layer = next(node.name for node in quantize_dynamic(convnet()).graph.node if node.op_type == "MatMulInteger")
    made = quantize_dynamic(convnet(), Recipe(keep_float=(layer,)))
    assert [node.op_type for node in made.graph.node if node.name == layer] == ["Gemm"]
    assert made.SerializeToString(deterministic=True) == quantize_dynamic(
        convnet(), Recipe(keep_float=(layer,))
    ).SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ({"weights": "mixed"}, "one kind of weights for all layers: int8, int4, codebook"),
        ({"weights": {"n": "int4"}}, "one kind of weights for all layers"),
        ({"keep_float": ("a",)}, "there is no layer 'a' to keep in floats"),
    ],
)
def test_refusals(recipe, sentence):
    with pytest.raises(ModelError, match=sentence):
        quantize_dynamic(convnet(), Recipe(**recipe))


def test_third_party_models_import(workloads):
    """ONNX Runtime's own test models, integers given as inputs: the ladder holds with every node on the host."""
    folder, rng = workloads / "unit_ort", np.random.default_rng(0)
    names = sorted([*folder.glob("dynamic_quantize_matmul*.onnx"), *folder.glob("matmul_integer_to_float*.onnx")])
    assert len(names) == 5
    for path in names:
        model = onnx.load(path)
        feeds = {}
        for info in model.graph.input:
            for dim, size in zip(info.type.tensor_type.shape.dim, _sizes(info), strict=True):
                dim.dim_value = size
            dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
            values = rng.uniform(0, 1, _sizes(info)) if dtype == np.float32 else rng.integers(0, 100, _sizes(info))
            feeds[info.name] = values.astype(dtype)
        wanted = oracle_session(model).run(None, feeds)
        session = hwq.InferenceSession(model, arch="sim-4x4", target="machine")
        assert all(np.array_equal(a, b) for a, b in zip(session.run(None, feeds), wanted, strict=True))


def _sizes(info):
    known = {"M": 3, "K": 4, "N": 5, "C": 1}
    return [dim.dim_value or known[dim.dim_param] for dim in info.type.tensor_type.shape.dim]
