"""NF4 with double quantization: its bits, its error, and MatMulBnb4 in integers."""

import numpy as np
import pytest

import hwq
from hwq.compiler import compile
from hwq.host import run_once
from hwq.ladder import verify
from hwq.quantize import nf4
from tests import programs
from tests.onnx_models import Builder
from tests.test_codebook import EXACT_NF4

ROOM = {"act_bytes": 1 << 16, "weight_words": 1 << 14, "param_words": 2048, "slots": 64}
GAUSSIAN = np.random.default_rng(0).standard_normal((4096, 128)).astype(np.float32)


def network(packed, largest, inputs, outputs, size, rows=3):
    """A model of one MatMulBnb4 between quantizers."""
    model = Builder()
    x = model.dequantize(model.quantize(model.input("x", (rows, inputs)), 1 / 32, 3), 1 / 32, 3)
    names = [x, model.constant(packed), model.constant(largest)]
    attributes = {"K": inputs, "N": outputs, "quant_type": 1, "block_size": size}
    y = model.node("MatMulBnb4", names, "float", domain="com.microsoft", **attributes)
    return model.model(model.dequantize(model.quantize(y, 0.5, -2), 0.5, -2), opset=21)


@pytest.mark.parametrize(("blocks", "bits"), [(256, 4 + 8 / 64 + 32 / (64 * 256)), (None, 4 + 8 / 64 + 32 / 4096)])
def test_bits_and_error_of_gaussian_weights(blocks, bits):
    made = nf4.quantize(GAUSSIAN, blocks=blocks)
    assert made.bits == bits
    assert abs(made.bits / 4.127 - 1) < 0.01
    assert abs(np.square(made.floats() - GAUSSIAN).mean() / 0.00859 - 1) < 0.01
    assert len(np.unique(made.codes)) == 16


@pytest.mark.parametrize("blocks", [None, 256, 5])
def test_weights_are_levels_times_scales(blocks):
    weight = np.random.default_rng(1).normal(0, 0.02, (96, 7)).astype(np.float32) * np.linspace(0.1, 3, 96)[:, None]
    weight[32:64, 2] = 0
    made = nf4.quantize(weight[:, :6], 32, blocks)
    for (k, n), value in np.ndenumerate(made.floats()):
        level = round(127 * EXACT_NF4[made.codes[k, n]])
        assert value == level * int(made.scale[k // 32, n]) * float(made.level[k // 32, n])
        others = [other * made.scale[k // 32, n] * made.level[k // 32, n] / 127 for other in EXACT_NF4]
        assert abs(value - weight[k, n]) <= min(abs(np.array(others) - weight[k, n])) + 0.01 * np.abs(weight).max()


@pytest.mark.parametrize("shape", [(63, 4), (65, 1)])
def test_what_makes_no_blocks_is_refused(shape):
    with pytest.raises(ValueError, match=f"{shape[0]} inputs of {shape[1]} outputs can't be cut into blocks of 64"):
        nf4.quantize(np.zeros(shape))


def test_weights_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="Every weight must be a finite number"):
        nf4.quantize(np.full((64, 2), np.nan))


def test_model_of_quantized_weights_has_their_integers_on_every_rung():
    made = nf4.quantize(GAUSSIAN[:256, :20])
    graph = hwq.load(network(*made.operands(), 256, 20, 64))
    gemm = next(op for op in graph.ops if op.kind == "Gemm")
    factors = gemm.block_scales.scale.astype(int)
    assert np.array_equal(factors * made.scale.max(0), made.scale * factors.max(0)), "the same but for a common divisor"
    assert np.allclose(gemm.weight_scale * factors.max(0), made.level[0] * made.scale.max(0), rtol=1e-6, atol=0)
    assert np.array_equal(gemm.weight.astype(int) * made.scale.repeat(64, axis=0), made.integers())
    assert graph.rewrites == ["n_float: the levels of NF4 are multiples of 1/127"]
    config = programs.tiny(4, 4, 4, 1, **ROOM, weight_bits=4, codebooks=1, block_scales=1)
    program = compile(graph, config, golden=False)
    assert program.weights.size == 5 * 4 * (32 + 1) * 4 + 16, "half a byte a weight, a byte a scale, a book"
    assert verify(graph, config, samples=2, targets=["reference", "machine"]).ok


@pytest.mark.parametrize(("inputs", "size"), [(64, 16), (128, 64), (512, 64)])
def test_codes_decoded_one_by_one_are_the_layer_s_weights(inputs, size):
    rng = np.random.default_rng(inputs)
    packed = rng.integers(0, 256, (inputs * 9 + 1) // 2).astype(np.uint8)
    largest = (rng.integers(1, 200, inputs * 9 // size) / 256).astype(np.float32)
    gemm = next(op for op in hwq.load(network(packed, largest, inputs, 9, size)).ops if op.kind == "Gemm")
    for n in range(9):
        for k in range(inputs):
            place = n * inputs + k
            byte = int(packed[place // 2])
            level = round(127 * EXACT_NF4[byte & 15 if place % 2 else byte >> 4])
            assert gemm.weight[k, n] == level
            scale = int(gemm.block_scales.scale[k // size, n]) * float(gemm.weight_scale[n])
            assert np.isclose(scale * 127, largest[place // size], rtol=0.01)


def test_difference_from_the_float_operator_is_that_of_the_levels():
    """No level of the book is farther than 0.0037 from NF4's, so no product than that times scale and activation."""
    made, rng = nf4.quantize(GAUSSIAN[:512, :32]), np.random.default_rng(3)
    model = network(*made.operands(), 512, 32, 64, rows=64)
    model.graph.output.add(name="float").type.tensor_type.elem_type = 1
    feeds = {"x": rng.normal(0, 1, (64, 512)).astype(np.float32)}
    x = np.clip(np.rint(feeds["x"] * 32) + 3, -128, 127) - 3
    own = x @ made.integers() * made.level[0].astype(float) / 32
    floats = run_once(model, feeds, ["float"])["float"]
    apart = np.abs(own - floats)
    spread = made.scale.repeat(64, axis=0) * made.level[0].astype(float) * 127
    assert (apart <= np.abs(x / 32) @ spread * 0.0037 + 1e-3).all()
    assert apart.max() < 0.01 * np.abs(floats).max()
    assert apart.mean() < 0.006 * np.sqrt(np.square(floats).mean())
