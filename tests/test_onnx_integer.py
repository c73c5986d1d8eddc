"""Networks of integers in float tensors: proved layers on integers, equal to ONNX Runtime and third-party goldens."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hwq import onnx_constraints, reference
from hwq.compiler import load
from hwq.host import run_once
from hwq.ir import Conv, Gemm, HostNode
from hwq.onnx_reader import EDGE
from tests.onnx_models import Builder, assert_exact, kinds

SEED = 9


def floats(*values):
    return np.array(values, np.float32)


def floor_chain(b, acc, m, offset, divisor, top=255.0, bottom=0.0):
    """Return ``Clip(Floor((acc * m + offset) / divisor))`` in floats."""
    acc = b.node("Add", [b.node("Mul", [b.constant(m), acc]), b.constant(offset)])
    acc = b.node("Floor", [b.node("Div", [acc, b.constant(divisor, np.float32)])])
    return b.node("Clip", [acc, b.constant(bottom, np.float32), b.constant(top, np.float32)])


def cast_chain(b, acc, m, offset, factor, divisor):
    """Return the same as NEMO writes it, with 64-bit integers."""
    acc = b.node("Add", [b.node("Mul", [b.constant(m), acc]), b.constant(offset)])
    acc = b.node("Mul", [b.node("Cast", [acc], to=TensorProto.INT64), b.constant([factor], np.int64)])
    acc = b.node("Cast", [b.node("Div", [acc, b.constant([divisor], np.int64)])], to=TensorProto.FLOAT)
    return b.node("Clip", [acc, b.constant(0, np.float32), b.constant(255, np.float32)])


def integer_conv(b, x, rng, inputs, outputs, kernel=3, groups=1, **attributes):
    weight = rng.integers(-40, 41, (outputs, inputs // groups, kernel, kernel)).astype(np.float32)
    return b.node("Conv", [x, b.constant(weight)], group=groups, **attributes)


def parameters(rng, channels):
    shape = (1, channels, 1, 1)
    m, offset = rng.integers(200, 2048, shape), rng.integers(-(10**6), 10**6, shape)
    return m.astype(np.float32), offset.astype(np.float32)


def original(model, feed):
    (result,) = run_once(model, feed).values()
    return result


def assert_equals_original(model, shape, samples=4):
    graph = load(model)
    rng = np.random.default_rng(SEED)
    images = rng.integers(0, 256, (samples, *shape[1:])).astype(np.float32)
    images[0], images[1] = 255, 0
    got = reference.run(graph, {"x": images})[graph.outputs[0]]
    want = np.concatenate([original(model, {"x": image[np.newaxis]}) for image in images])
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)
    assert_exact(graph)
    return graph


@pytest.mark.parametrize("chain", ["floor", "cast"])
def test_convolutions_and_pooling_run_on_integers(chain):
    rng, b = np.random.default_rng(SEED), Builder()
    x = b.input("x", (1, 3, 12, 10))
    for inputs, outputs in ((3, 8), (8, 4)):
        acc = integer_conv(b, x, rng, inputs, outputs, pads=[1, 1, 1, 1])
        m, offset = parameters(rng, outputs)
        x = floor_chain(b, acc, m, offset, 2.0**19) if chain == "floor" else cast_chain(b, acc, m, offset, 3, 2**21 - 1)
        x = b.node("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
    model = b.model(b.node("Flatten", [x]))
    graph = assert_equals_original(model, (1, 3, 12, 10))
    assert kinds(graph) == [
        "QuantizeLinear",
        "Conv",
        "MaxPool",
        "Conv",
        "MaxPool",
        "Reshape",
        "DequantizeLinear",
    ]
    assert {op.reason for op in graph.ops if isinstance(op, HostNode)} == {EDGE}
    assert graph.rewrites[0] == "x: taken as integers of 0 to 255, as the layers' results are"
    assert all("proved equal" in line for line in graph.rewrites[1:])
    for op in graph.ops:
        if isinstance(op, Conv):
            assert op.weight.dtype == np.int8
            assert graph.tensors[op.outputs[0]].scale == 1


@pytest.mark.parametrize("op_type", ["MatMul", "Gemm"])
def test_matrix_products_run_on_integers(op_type):
    rng, b = np.random.default_rng(SEED), Builder()
    weight = rng.integers(-30, 31, (20, 6)).astype(np.float32)
    m, offset = (value.reshape(-1) for value in parameters(rng, 6))
    names = [b.input("x", (1, 20)), b.constant(weight)]
    if op_type == "Gemm":
        names = [names[0], b.constant(weight.T), b.constant(rng.integers(-999, 999, 6), np.float32)]
    acc = b.node(op_type, names, **({"transB": 1} if op_type == "Gemm" else {}))
    graph = assert_equals_original(b.model(floor_chain(b, acc, m, offset, 2.0**18)), (1, 20))
    (gemm,) = [op for op in graph.ops if isinstance(op, Gemm)]
    assert gemm.weight.shape == (20, 6)


def test_grouped_layer():
    rng, b = np.random.default_rng(SEED), Builder()
    acc = integer_conv(b, b.input("x", (1, 4, 6, 6)), rng, 4, 8, groups=4)
    graph = assert_equals_original(b.model(floor_chain(b, acc, *parameters(rng, 8), 2.0**14)), (1, 4, 6, 6))
    assert kinds(graph) == ["QuantizeLinear", "Conv", "DequantizeLinear"]


def test_clip_below_255_and_above_0():
    rng, b = np.random.default_rng(SEED), Builder()
    acc = integer_conv(b, b.input("x", (1, 3, 6, 6)), rng, 3, 4)
    graph = assert_equals_original(b.model(floor_chain(b, acc, *parameters(rng, 4), 2.0**17, 100.0, 3.0)), (1, 3, 6, 6))
    (conv,) = [op for op in graph.ops if isinstance(op, Conv)]
    assert (conv.lo, conv.hi) == (3, 100)


def test_weights_of_0_to_255():
    rng, b = np.random.default_rng(SEED), Builder()
    weight = rng.integers(0, 256, (4, 3, 1, 1)).astype(np.float32)
    acc = b.node("Conv", [b.input("x", (1, 3, 6, 6)), b.constant(weight)])
    graph = assert_equals_original(b.model(floor_chain(b, acc, *parameters(rng, 4), 2.0**19)), (1, 3, 6, 6))
    assert graph.ops[1].weight.dtype == np.uint8


def test_rounding_half_up():
    rng, b = np.random.default_rng(SEED), Builder()
    acc = integer_conv(b, b.input("x", (1, 3, 6, 6)), rng, 3, 4)
    ones = np.ones((1, 4, 1, 1), np.float32)
    graph = assert_equals_original(b.model(floor_chain(b, acc, ones, 64 * ones, 128.0)), (1, 3, 6, 6))
    (conv,) = [op for op in graph.ops if isinstance(op, Conv)]
    at_half = reference_levels(conv.floor, np.arange(-64, 65))
    np.testing.assert_array_equal(at_half, np.tile([0] * 128 + [1], (4, 1)))


def reference_levels(floor, acc):
    """Return floor((acc * multiplier + offset) / 2**shift) for each channel, in Python's integers."""
    channels = zip(floor.multiplier.tolist(), floor.offset.tolist(), floor.shift.tolist(), strict=True)
    return [[(a * m + b) >> s for a in acc.tolist()] for m, b, s in channels]


def test_sums_that_float32_moves_are_counted():
    # Above 2**24 float32 rounds acc * m and its sum with the offset: some sums just below a level come out on it.
    rng, b = np.random.default_rng(SEED), Builder()
    channels, factor, divisor = 200, 48, 2**23 - 1
    weight = rng.integers(-60, 61, (channels, 117, 1, 1)).astype(np.float32)
    m, offset = rng.integers(1000, 2048, channels), rng.integers(-(2**23), 2**23, channels)
    acc = b.node("Conv", [b.input("x", (1, 117, 2, 2)), b.constant(weight)])
    shape = (1, channels, 1, 1)
    graph = load(b.model(cast_chain(b, acc, m.reshape(shape), offset.reshape(shape), factor, divisor)))
    (line,) = [line for line in graph.rewrites if "proved equal" in line]
    (conv,) = [op for op in graph.ops if isinstance(op, Conv)]
    moved = 0
    for channel in range(channels):
        row = weight[channel]
        ends = int(row[row < 0].sum()) * 255, int(row[row > 0].sum()) * 255
        sums = np.arange(max(ends[0], -60_000), min(ends[1], 60_000) + 1)  # all beyond are clipped
        carried = (sums.astype(np.float32) * np.float32(m[channel]) + np.float32(offset[channel])).astype(np.int64)
        exact, in_floats = (
            np.clip(np.sign(total) * (np.abs(total) * factor // divisor), 0, 255)
            for total in (sums * m[channel] + offset[channel], carried)
        )
        part = [getattr(conv.floor, name)[channel] for name in ("multiplier", "offset", "shift")]
        got = np.clip((sums * part[0] + part[1]) >> part[2], 0, 255)
        if np.any(got != in_floats):
            moved += int(np.abs(exact - in_floats).sum())
            np.testing.assert_array_equal(got, exact)
    assert moved > 0
    assert f"proved equal but for {moved} sums," in line


def test_two_layers_share_one_input():
    rng, b = np.random.default_rng(SEED), Builder()
    x, ones = b.input("x", (1, 3, 6, 6)), np.ones((1, 4, 1, 1), np.float32)
    levels = [floor_chain(b, integer_conv(b, x, rng, 3, 4), ones, 0 * ones, 128.0) for _ in range(2)]
    graph = assert_equals_original(b.model(b.node("Concat", levels, axis=1)), (1, 3, 6, 6))
    assert sorted(kinds(graph)) == ["Concat", "Conv", "Conv", "DequantizeLinear", "QuantizeLinear"]


def test_result_that_is_also_an_output():
    rng, b = np.random.default_rng(SEED), Builder()
    ones = np.ones((1, 4, 1, 1), np.float32)
    clip = floor_chain(b, integer_conv(b, b.input("x", (1, 3, 6, 6)), rng, 3, 4), ones, 0 * ones, 128.0)
    graph = load(b.model(clip, b.node("Abs", [clip])))
    assert kinds(graph) == ["QuantizeLinear", "Conv", "DequantizeLinear", "Abs"]


def fractional_weight(b, x, ones):
    return floor_chain(b, b.node("Conv", [x, b.constant(np.full((2, 2, 1, 1), 0.5), np.float32)]), ones, 0 * ones, 8.0)


def no_rounding(b, x, ones):
    acc = b.node("Conv", [x, b.constant(np.ones((2, 2, 1, 1)), np.float32)])
    return b.node("Clip", [acc, b.constant(0, np.float32), b.constant(255, np.float32)])


def wide_clip(b, x, ones):
    acc = b.node("Conv", [x, b.constant(np.ones((2, 2, 1, 1)), np.float32)])
    return floor_chain(b, acc, ones, 0 * ones, 2.0, top=256.0)


def fractional_clip(b, x, ones):
    acc = b.node("Conv", [x, b.constant(np.ones((2, 2, 1, 1)), np.float32)])
    return floor_chain(b, acc, ones, 0 * ones, 2.0, top=2.5)


def negative_multiplier(b, x, ones):
    acc = b.node("Conv", [x, b.constant(np.ones((2, 2, 1, 1)), np.float32)])
    return floor_chain(b, acc, -ones, 0 * ones, 2.0)


def second_reader(b, x, ones):
    acc = b.node("Conv", [x, b.constant(np.ones((2, 2, 1, 1)), np.float32)])
    clip = floor_chain(b, acc, ones, 0 * ones, 2.0)
    return b.node("Add", [clip, b.node("Relu", [acc])])


def fraction_after_floor(b, x, ones):
    acc = b.node("Floor", [b.node("Conv", [x, b.constant(np.ones((2, 2, 1, 1)), np.float32)])])
    acc = b.node("Mul", [acc, b.constant(0.5, np.float32)])
    return b.node("Clip", [acc, b.constant(0, np.float32), b.constant(255, np.float32)])


def multiplier_along_rows(b, x, ones):
    acc = b.node("Conv", [x, b.constant(np.ones((2, 2, 1, 1)), np.float32)])
    return floor_chain(b, acc, np.arange(1, 5, dtype=np.float32).reshape(1, 1, 4, 1), 0 * ones, 2.0)


@pytest.mark.parametrize(
    "build",
    [
        fractional_weight,
        no_rounding,
        wide_clip,
        fractional_clip,
        negative_multiplier,
        second_reader,
        fraction_after_floor,
        multiplier_along_rows,
    ],
)
def test_what_is_no_integer_layer_is_left_alone(build):
    b = Builder()
    model = b.model(build(b, b.input("x", (1, 2, 4, 4)), np.ones((1, 2, 1, 1), np.float32)))
    graph = load(model)
    assert set(kinds(graph)) == {node.op_type for node in model.graph.node}
    assert not graph.rewrites


def float_input(b):
    x = b.node("Mul", [b.input("x", (1, 1, 2, 2)), b.constant(0.5, np.float32)])
    return x, np.ones((1, 1, 1, 1)), floats(1), floats(0), 2.0


def large_sums(b):
    return b.input("x", (1, 1, 2, 2)), np.full((1, 1, 1, 1), 2.0**17), floats(1), floats(0), 2.0


def uneven_steps(b):
    # Next to 2**25 float32 holds multiples of 4 only: steps of 2**18 + 3 sums come out a sum or two apart.
    weight = np.where(np.arange(300) % 2, 100.0, -100.0).reshape(1, 300, 1, 1)
    return b.input("x", (1, 300, 1, 1)), weight, floats(1), floats(2**25), 2.0**18 + 3


def wide_weights(b):
    weight = np.array([-1.0, 128.0]).reshape(1, 2, 1, 1)
    return b.input("x", (1, 2, 1, 1)), weight, floats(1), floats(0), 2.0**8


@pytest.mark.parametrize(
    ("build", "constraint"),
    [
        (float_input, "integer_input"),
        (large_sums, "exact_float_sum"),
        (uneven_steps, "steps_fit"),
        (wide_weights, "short_weights"),
    ],
)
def test_layer_that_is_not_proved_stays_on_the_host(build, constraint):
    b = Builder()
    x, weight, m, offset, divisor = build(b)
    acc = b.node("Conv", [x, b.constant(weight, np.float32)])
    graph = load(b.model(floor_chain(b, acc, m, offset, divisor)))
    expected = onnx_constraints.sentence(getattr(onnx_constraints, f"constraint_{constraint}"))
    assert {op.reason for op in graph.ops if op.node.op_type != "Mul" or op.inputs[0] != "x"} == {expected}


# Third-party networks and their goldens -------------------------------------------------------------------------------

DORY = {
    # folder: (model, layers that floor, sums of all of them that float32 moves)
    "NAS_Frontnet": ("Frontnet.onnx", 7, 2),
    "eegnet_1d_8b_1xW": ("eegnet_id_8b.onnx", 4, 0),
}


def golden(path):
    """Return a golden, whose first line holds its (H, W, C) shape, as (1, C, H, W)."""
    lines = path.read_text().splitlines()
    shape = tuple(int(n) for n in lines[0].split("[")[1].split("]")[0].split(","))
    values = np.array([float(line.strip(" \\").rstrip(",")) for line in lines[1:] if line.strip()], np.float32)
    values = values.reshape(shape)
    return values.transpose(2, 0, 1)[np.newaxis] if len(shape) == 3 else values[np.newaxis]


def computed(graph, name, feeds):
    """Return a float tensor of the original model as the graph has it."""
    known = [twin for twin in (name, f"{name}/levels", f"{name}_quantized") if twin in graph.tensors]
    return reference.run(graph, feeds, keep=known)[known[0]].astype(np.float32)


@pytest.mark.system
@pytest.mark.parametrize("folder", DORY)
def test_network_equals_its_goldens_and_onnx_runtime(workloads, folder):
    name, floored, moved = DORY[folder]
    path = workloads / "integer_goldens" / "dory" / folder
    model = onnx.load(path / name)
    graph = load(path / name)
    convs = [op for op in graph.ops if isinstance(op, Conv | Gemm)]
    rounds = sum(node.op_type == "Clip" for node in model.graph.node)
    proved = [line for line in graph.rewrites if "proved equal" in line]
    assert (len(convs), len(proved), rounds) == (floored, floored, floored)
    assert [line.split("but for ")[1].split()[0] for line in proved if "but for" in line] == [str(moved)] * (moved > 0)
    feeds = {"0": golden(path / "input.txt")}
    results = [node.output[0] for node in model.graph.node if node.op_type in ("Clip", "MaxPool", "Gemm")]
    if model.graph.node[-1].op_type == "MatMul":
        results.append(model.graph.node[-1].output[0])
    layers = sorted(path.glob("out_layer*.txt"), key=lambda file: int(file.stem.removeprefix("out_layer")))
    assert len(layers) == len(results)
    for file, result in zip(layers, results, strict=True):
        want, got = golden(file), computed(graph, result, feeds)
        np.testing.assert_array_equal(got.reshape(-1), want.reshape(-1), err_msg=file.name)
    rng = np.random.default_rng(SEED)
    compared = 0
    # Everything between full range and nearly dark, so that no layer only saturates.
    for top in (255, 255, 64, 16, 4):
        feeds = {"0": rng.integers(0, top + 1, graph.tensors["0"].shape).astype(np.float32)}
        probe = onnx.ModelProto()
        probe.CopyFrom(model)
        known = {output.name for output in probe.graph.output}
        probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in results if name not in known)
        for result, want in run_once(probe, feeds).items():
            np.testing.assert_array_equal(computed(graph, result, feeds), want, err_msg=result)
            compared += want.size
    print(f"{folder}: {len(layers)} goldens, {compared} elements of ONNX Runtime's, 0 mismatches; {graph.rewrites}")
    assert_exact(graph, samples=1)
