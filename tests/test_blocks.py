"""Weights with a scale for each block of inputs: how they are read, what they mean, and where they run."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

import hwq
from hwq import ir, onnx_constraints, reference, weights
from hwq.compiler import compile
from hwq.ladder import verify
from hwq.onnx_blocks import _n_bits
from hwq.onnx_constraints import StaysOnHost, sentence
from hwq.onnx_load import open_source
from hwq.onnx_values import Values
from hwq.second_level import second_level
from tests import blocked_models, programs
from tests.blocked_models import FORMS, grid, single
from tests.onnx_models import Builder, assert_exact, kinds, reasons

ROOM = {"act_bytes": 1 << 16, "weight_words": 1 << 14, "param_words": 2048, "slots": 64}
ALL = {"weight_bits": 4, "codebooks": 1, "block_scales": 1}
EXACT = [form for form in FORMS if form != "bnb4"]


def config(*shape, **options):
    return programs.tiny(*(shape or (4, 4, 4, 1)), **(ROOM | ALL | options))


def layer_of(graph):
    return next(op for op in graph.ops if isinstance(op, ir.Conv | ir.Gemm))


def effective(op):
    """The weights an operator of the graph stands for, (inputs, outputs)."""
    stored = op.weight[:, :, 0, 0].T if isinstance(op, ir.Conv) else op.weight
    places = np.arange(len(stored)) // op.block_scales.size
    return stored.astype(np.float64) * op.block_scales.scale[places] * op.weight_scale.astype(np.float64)


def on_array(program):
    """Whether nothing but quantizers runs on the host."""
    return {node.op for node in program.host_nodes} <= {"QuantizeLinear", "DequantizeLinear"}


def convolutions(program):
    return [d for step in program.array_steps for d in program.descriptors(step.slot) if d["opcode"] == 1]


# Second level


def test_scales_on_a_grid_stay_as_they_are():
    scale = np.array([[3, 0, 255, 7], [5, 0, 1, 7], [0, 0, 254, 7]]) * [0.25, 1, 2.0**-9, 0.1]
    integers, level, change = second_level(scale.astype(np.float32))
    assert integers.T.tolist() == [[3, 5, 0], [0, 0, 0], [255, 1, 254], [1, 1, 1]]
    assert level.tolist() == [0.25, 1, 2.0**-9, float(np.float32(0.7))]
    assert change == 0


@pytest.mark.parametrize("most", [16, 100, 255])
def test_other_scales_change_by_half_a_step_at_most(most):
    scale = np.random.default_rng(most).uniform(0.01, 1, (9, 50)).astype(np.float32)
    integers, level, change = second_level(scale, most)
    assert integers.max() <= most
    difference = np.abs(integers * level.astype(float) - scale)
    assert difference.max() <= 0.51 * level.max()
    assert np.isclose(change, (difference / scale).max())
    plain = np.rint(scale / (scale.max(0) / most)) * (scale.max(0) / most)
    assert np.square(difference).sum() <= np.square(plain - scale).sum() * (1 + 1e-6)


# Reading


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize(("inputs", "size"), [(96, 32), (64, 16), (80, 32), (128, 128), (20, 64), (200, 64)])
@pytest.mark.parametrize("form", EXACT)
def test_every_form_is_a_layer_with_the_model_s_weights(form, inputs, size, dtype):
    scale = grid(np.random.default_rng(inputs), -(-inputs // size), 10)
    model, made = single(form, scale, size, inputs, 3, dtype)
    graph = hwq.load(model)
    op = layer_of(graph)
    assert op.block_scales.scale.shape == scale.shape
    assert np.array_equal(effective(op), made.weight)
    assert not any("blocks" in rewrite for rewrite in graph.rewrites)
    assert_exact(graph)
    report = verify(graph, config(), samples=2, targets=["reference", "machine"])
    assert report.ok
    assert on_array(compile(graph, config(), golden=False))


@pytest.mark.parametrize("form", FORMS)
def test_reference_equals_integers_added_one_by_one(form):
    scale = np.random.default_rng(1).uniform(0.01, 0.02, (3, 5)).astype(np.float32)
    graph = hwq.load(single(form, scale, 16, 48, 7)[0])
    op = layer_of(graph)
    x, y = (graph.tensors[name] for name in (op.inputs[0], op.outputs[0]))
    feeds = {"x": np.random.default_rng(2).uniform(-4, 4, graph.tensors["x"].shape).astype(np.float32)}
    values = reference.run(graph, feeds, keep=[x.name, y.name])
    rows = values[x.name].reshape(48, -1).T if form == "conv" else values[x.name].reshape(-1, 48)
    results = values[y.name].reshape(5, -1).T if form == "conv" else values[y.name].reshape(-1, 5)
    weight = op.weight[:, :, 0, 0].T if form == "conv" else op.weight
    for row, result in zip(rows.tolist(), results.tolist(), strict=True):
        for channel in range(5):
            total = int(op.bias[channel])
            for k in range(48):
                scale = int(op.block_scales.scale[k // 16, channel])
                total += scale * int(weight[k, channel]) * (row[k] - x.zero_point)
            multiplier = np.float32(np.float32(x.scale) * op.weight_scale[channel]) / np.float32(y.scale)
            value = np.float32(np.float32(total) * multiplier)
            assert result[channel] == max(-128, min(127, round(float(value)) + y.zero_point))


@pytest.mark.parametrize("form", ["n_bits", "matmul", "conv"])
def test_scales_off_the_grid_are_said_to_change(form):
    scale = np.random.default_rng(0).uniform(0.01, 0.02, (4, 6)).astype(np.float32)
    model, made = single(form, scale, 16, 64, 1)
    graph = hwq.load(model)
    (rewrite,) = graph.rewrites
    said = float(rewrite.split("at most ")[1].rstrip("%")) / 100
    wanted = np.abs(made.weight)
    change = (np.abs(np.abs(effective(layer_of(graph))) - wanted) / np.where(wanted > 0, wanted, 1)).max()
    assert 0 < change <= 1.05 * said
    assert said < 0.005
    assert verify(model, config(), samples=2, targets=["reference", "machine"]).ok


def test_negative_scales_turn_the_weights():
    scale = grid(np.random.default_rng(0), 4, 6) * np.random.default_rng(1).choice([-1, 1], (4, 6)).astype(np.float32)
    model, made = single("n_bits", scale, 16, 64, 1)
    graph = hwq.load(model)
    assert np.array_equal(effective(layer_of(graph)), made.weight)
    assert layer_of(graph).weight.max() == 8
    assert verify(graph, config(), samples=2, targets=["reference", "machine"]).ok


def test_long_sums_get_smaller_scales():
    scale = np.random.default_rng(0).uniform(0.3, 1, (64, 2)).astype(np.float32)
    graph = hwq.load(single("uint8", scale, 64, 4096, 1)[0])
    op = layer_of(graph)
    most = op.block_scales.scale.astype(int).max()
    assert 16 <= most < 255
    sums = 128 * 2 * (np.abs(op.weight.astype(int)) * op.block_scales.scale[np.arange(4096) // 64]).sum(0)
    assert sums.max() < 1 << 31


def chain(*nodes):
    """A model of one MatMulNBits and float nodes after it, each (operator, other operands)."""
    model = Builder()
    x = model.dequantize(model.quantize(model.input("x", (3, 32)), 0.05, 3), 0.05, 3)
    made = blocked_models.layer(
        model, "n_bits", x, grid(np.random.default_rng(0), 2, 6), 16, 32, np.random.default_rng(5)
    )
    name = made.name
    for op_type, *operands in nodes:
        name = model.node(op_type, [name, *(model.constant(value, np.float32) for value in operands)])
    return model.model(model.dequantize(model.quantize(name, 0.5, 3), 0.5, 3), opset=21)


@pytest.mark.parametrize(
    "nodes", [[("Relu",)], [("Clip", -3, 8)], [("Add", [1, 2, 3, 4, 5, 6])], [("Add", [7.0]), ("Relu",)]], ids=str
)
def test_bias_and_clamp_belong_to_the_layer(nodes):
    graph = hwq.load(chain(*nodes))
    assert kinds(graph).count("Gemm") == 1
    assert on_array(compile(graph, config(), golden=False))
    assert verify(graph, config(), samples=2, targets=["reference", "machine"]).ok


def test_bias_of_n_bits_is_its_sixth_operand():
    model = chain()
    bias = np.array([5, -3, 8, 0, 1, 2], np.float32)
    node = next(node for node in model.graph.node if node.op_type == "MatMulNBits")
    node.input.extend(["", "", "bias"])
    model.graph.initializer.append(numpy_helper.from_array(bias, "bias"))
    op = layer_of(hwq.load(model))
    assert np.allclose(op.bias * np.float32(0.05) * op.weight_scale, bias, atol=0.05 * op.weight_scale.max())


# Refusals


@pytest.mark.parametrize("form", ["n_bits", "bnb4", "matmul", "conv"])
def test_a_core_without_block_scales_leaves_them_to_the_host(form):
    model, _ = single(form, grid(np.random.default_rng(0), 2, 4), 32, 64, 1)
    plain = config(block_scales=0)
    report = verify(model, plain, samples=1, targets=["reference", "machine"])
    assert report.ok
    assert [node.reason for node in report.host_nodes if node.op in ("Conv", "Gemm")] == [
        "Weights with a scale for each block of inputs need an architecture that has them (block_scales)."
    ]


def node_and_constants(model, op_type):
    """The node of that type, and what it reads, by position."""
    node = next(node for node in model.graph.node if node.op_type == op_type)
    by_name = {constant.name: constant for constant in model.graph.initializer}
    return node, {position: by_name[name] for position, name in enumerate(node.input) if name in by_name}


def refuse(model, rule):
    """Assert that the layer stays on the host with the rule's sentence, and that the model is exact all the same."""
    graph = hwq.load(model)
    assert sentence(getattr(onnx_constraints, f"constraint_{rule}")) in reasons(graph).values()


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("form", ["n_bits", "bnb4", "matmul"])
def test_infinite_scales_stay_on_the_host(form, value):
    model, _ = single(form, grid(np.random.default_rng(0), 2, 4), 32, 64, 1)
    position = 1 if form == "matmul" else 2
    op_type = {"n_bits": "MatMulNBits", "bnb4": "MatMulBnb4", "matmul": "DequantizeLinear"}[form]
    blocked = [node for node in model.graph.node if node.op_type == op_type][-2 if form == "matmul" else -1]
    constant = next(c for c in model.graph.initializer if c.name == blocked.input[position])
    scale = numpy_helper.to_array(constant).copy()
    scale.reshape(-1)[1] = value
    constant.CopyFrom(numpy_helper.from_array(scale, constant.name))
    refuse(model, "block_storage")


def test_fp4_stays_on_the_host():
    model, _ = single("bnb4", grid(np.random.default_rng(0), 2, 4), 32, 64, 1)
    next(a for a in node_and_constants(model, "MatMulBnb4")[0].attribute if a.name == "quant_type").i = 0
    refuse(model, "block_storage")


@pytest.mark.parametrize(("name", "value"), [("bits", 2), ("bits", 8), ("block_size", 24), ("weight_prepacked", 1)])
def test_other_forms_of_n_bits_are_not_known(name, value):
    model, _ = single("n_bits", grid(np.random.default_rng(0), 2, 4), 32, 64, 1)
    values = Values(open_source(model, "test"))
    node = node_and_constants(model, "MatMulNBits")[0]
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])
    with pytest.raises(StaysOnHost, match="The weight's blocks aren't stored in a way known here"):
        _n_bits(values, node)


def test_n_bits_with_scales_in_another_order_of_inputs_is_not_known():
    model, _ = single("n_bits", grid(np.random.default_rng(0), 2, 4), 32, 64, 1)
    values = Values(open_source(model, "test"))
    node = node_and_constants(model, "MatMulNBits")[0]
    node.input.extend(["", "order"])
    with pytest.raises(StaysOnHost, match="The weight's blocks aren't stored in a way known here"):
        _n_bits(values, node)


def test_blocks_across_outputs_stay_on_the_host():
    model, _ = single("bnb4", grid(np.random.default_rng(0), 1, 4), 16, 16, 1)
    next(a for a in node_and_constants(model, "MatMulBnb4")[0].attribute if a.name == "block_size").i = 32
    scale = node_and_constants(model, "MatMulBnb4")[1][2]
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale)[:2], scale.name))
    refuse(model, "block_storage")


def test_weights_of_more_than_8_bits_stay_on_the_host():
    rng, model = np.random.default_rng(0), Builder()
    x = model.dequantize(model.quantize(model.input("x", (3, 32)), 0.05, 3), 0.05, 3)
    stored = (np.full((32, 4), 255, np.uint8), grid(rng, 2, 4), np.full((2, 4), 3, np.uint8))
    weight = model.node("DequantizeLinear", [model.constant(v) for v in stored], axis=0, block_size=16)
    y = model.node("MatMul", [x, weight])
    refuse(model.model(model.dequantize(model.quantize(y, 0.5, 3), 0.5, 3), opset=21), "block_range")


def test_blocks_along_the_outputs_stay_on_the_host():
    rng, model = np.random.default_rng(0), Builder()
    x = model.dequantize(model.quantize(model.input("x", (3, 32)), 0.05, 3), 0.05, 3)
    stored = (rng.integers(-8, 8, (32, 4)).astype(np.int8), grid(rng, 32, 2))
    weight = model.node("DequantizeLinear", [model.constant(v) for v in stored], axis=1, block_size=2)
    y = model.node("MatMul", [x, weight])
    refuse(model.model(model.dequantize(model.quantize(y, 0.5, 3), 0.5, 3), opset=21), "block_shape")


@pytest.mark.parametrize(("groups", "vary", "rule"), [(2, False, "block_groups"), (1, True, "block_shape")])
def test_groups_and_scales_of_kernel_positions_stay_on_the_host(groups, vary, rule):
    rng, model = np.random.default_rng(0), Builder()
    x = model.dequantize(model.quantize(model.input("x", (1, 8, 5, 5)), 0.05, 3), 0.05, 3)
    inputs = 8 // groups
    scale = np.broadcast_to(grid(rng, inputs // 4, 6).T[:, :, None, None], (6, inputs // 4, 3, 1))
    scale = scale * np.arange(1, 4)[:, None].astype(np.float32) if vary else scale
    stored = (rng.integers(-8, 8, (6, inputs, 3, 1)).astype(np.int8), scale.astype(np.float32))
    weight = model.node("DequantizeLinear", [model.constant(v) for v in stored], axis=1, block_size=4)
    y = model.node("Conv", [x, weight], group=groups)
    refuse(model.model(model.dequantize(model.quantize(y, 0.5, 3), 0.5, 3), opset=21), rule)


def test_a_result_that_is_not_quantized_stays_on_the_host():
    rng, model = np.random.default_rng(0), Builder()
    x = model.dequantize(model.quantize(model.input("x", (3, 32)), 0.05, 3), 0.05, 3)
    made = blocked_models.layer(model, "n_bits", x, grid(rng, 2, 4), 16, 32, rng)
    refuse(model.model(made.name, opset=21), "quantized_output")


def test_float_activations_stay_on_the_host():
    rng, model = np.random.default_rng(0), Builder()
    made = blocked_models.layer(model, "n_bits", model.input("x", (3, 32)), grid(rng, 2, 4), 16, 32, rng)
    refuse(model.model(model.quantize(made.name, 0.5, 3), opset=21), "quantized_input")


# On the array


@pytest.mark.parametrize(("form", "bytes_per_block"), [("n_bits", 16), ("bnb4", 16), ("matmul", 32), ("int4", 16)])
def test_weight_memory_holds_half_bytes_and_a_byte_of_scale(form, bytes_per_block):
    model, _ = single(form, grid(np.random.default_rng(0), 3, 8), 32, 96, 1)
    program = compile(model, config(), golden=False)
    book = 4 if form == "bnb4" else 0
    assert len(program.weights) == book + 2 * 3 * (bytes_per_block + 1)
    (d,) = convolutions(program)
    assert (d["scaled"], d["int4"], d["codebook"]) == (1, int(form in ("n_bits", "int4")), int(form == "bnb4"))
    assert hwq.estimate(program).layers[-1].weight_bytes == 4 * len(program.weights)
    wide = compile(model, config(), golden=False, weights="int8")
    assert len(wide.weights) == 2 * 3 * 33


@pytest.mark.parametrize("shape", [(2, 4, 4, 2), (3, 6, 8, 2), (8, 16, 16, 8)], ids=str)
@pytest.mark.parametrize(("inputs", "size"), [(80, 32), (1024, 512), (300, 300), (33, 16), (17, 16), (7, 16)])
def test_blocks_of_any_length(inputs, size, shape):
    scale = grid(np.random.default_rng(0), -(-inputs // size), 9)
    graph = hwq.load(single("matmul", scale, size, inputs, 1)[0])
    assert verify(graph, config(*shape), samples=2, targets=["reference", "machine"]).ok
    (d,) = convolutions(compile(graph, config(*shape), golden=False))
    assert d["span"] <= weights.MAX_TAP


def test_a_last_block_that_would_leave_memory_is_read_in_shorter_taps():
    graph = hwq.load(single("matmul", grid(np.random.default_rng(0), 3, 4), 32, 80, 1, shape=(1, 2))[0])
    spans = {}
    for act_bytes in (172, 1 << 12):
        chosen = config(act_bytes=act_bytes)
        assert verify(graph, chosen, samples=2, targets=["reference", "machine"]).ok
        spans[act_bytes] = convolutions(compile(graph, chosen, golden=False))[0]["span"]
    assert spans == {172: 16, 1 << 12: 32}


@pytest.mark.parametrize("memory", ["weight_words", "act_bytes"])
def test_layer_beyond_the_memories_is_cut(memory):
    graph = hwq.load(single("n_bits", grid(np.random.default_rng(0), 4, 24), 32, 128, 1, shape=(1, 12))[0])
    small = config(**{memory: {"weight_words": 150, "act_bytes": 1024}[memory]})
    program = compile(graph, small, golden=False)
    assert on_array(program)
    assert len(convolutions(program)) > 1
    assert verify(graph, small, samples=2, targets=["reference", "machine"]).ok


@pytest.mark.parametrize(
    ("kernel", "inputs", "size"), [((3, 1), 8, 4), ((1, 3), 8, 4), ((3, 3), 8, 8), ((2, 2), 5, 16), ((1, 3), 6, 4)]
)
def test_kernels_of_several_taps(kernel, inputs, size):
    rng, model = np.random.default_rng(3), Builder()
    x = model.dequantize(model.quantize(model.input("x", (2, inputs, 6, 7)), 0.05, 3), 0.05, 3)
    blocks = -(-inputs // size)
    values = model.constant(rng.integers(-8, 8, (6, inputs, *kernel)).astype(np.int8))
    scale = np.broadcast_to(grid(rng, blocks, 6).T[:, :, None, None], (6, blocks, *kernel))
    weight = model.node("DequantizeLinear", [values, model.constant(scale)], axis=1, block_size=size)
    y = model.node("Conv", [x, weight], pads=[kernel[0] // 2, 0, 0, kernel[1] // 2], strides=[1, 2])
    graph = hwq.load(model.model(model.dequantize(model.quantize(y, 0.5, 3), 0.5, 3), opset=21))
    assert on_array(compile(graph, config(), golden=False))
    assert verify(graph, config(), samples=2, targets=["reference", "machine"]).ok


def test_flattened_image_keeps_its_order():
    rng, model = np.random.default_rng(3), Builder()
    x = model.dequantize(model.quantize(model.input("x", (2, 4, 3, 4)), 0.05, 3), 0.05, 3)
    made = blocked_models.layer(model, "n_bits", model.node("Flatten", [x]), grid(rng, 3, 5), 16, 48, rng)
    graph = hwq.load(model.model(model.dequantize(model.quantize(made.name, 0.5, 3), 0.5, 3), opset=21))
    assert on_array(compile(graph, config(), golden=False))
    assert verify(graph, config(), samples=2, targets=["reference", "machine"]).ok
