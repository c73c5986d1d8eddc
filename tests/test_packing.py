"""Activations of 4 bits: which tensors lie two channels a byte, what that saves, and that networks stay exact."""

import dataclasses
import itertools

import numpy as np
import pytest

import hwq
from hwq import bisect, ir, isa, pairs, runtime
from hwq.capacity import one_page
from hwq.compiler import compile, split
from hwq.config import PRESETS
from hwq.constraints import broken_storage_rule
from hwq.errors import ProgramError
from hwq.ladder import verify
from hwq.passes.partition import ArrayPart
from hwq.program import Program
from hwq.weights import Storage
from tests import programs
from tests.lowbit_networks import Resnet8
from tests.onnx_models import Builder

ROOM = {"act_bytes": 1 << 17, "weight_words": 1 << 14, "param_words": 2048, "slots": 64}
SHAPES = [(2, 4, 4, 2), (3, 6, 8, 2), (8, 16, 16, 8), (2, 12, 16, 4)]


def narrow(shape, **sizes):
    """Return a configuration with activations of 4 bits."""
    return programs.tiny(*shape, **{**ROOM, "weight_bits": 4, "act_bits": 4, **sizes})


class Narrow(Builder):
    """Networks of quantized tensors; `low` to `low` + 15 unless `low` is None."""

    def __init__(self, seed=0):
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def tensor(self, x, low=0, zero_point=0, dtype="uint8", scale=0.25):
        q = self.quantize(x, scale, zero_point, dtype)
        if low is not None:
            q = self.node("Clip", [q, *(self.constant(bound, dtype) for bound in (low, low + 15))])
        return self.dequantize(q, scale, zero_point, dtype)

    def conv(self, x, inputs, outputs, kernel=3, least=-8, **attributes):
        values = self.rng.integers(least, -least, (outputs, inputs, kernel, kernel)).astype(np.int8)
        weight = self.weight(values, self.rng.uniform(0.2, 0.4, outputs) / np.sqrt(inputs * kernel**2))
        return self.node("Conv", [x, weight], pads=[kernel // 2] * 4, kernel_shape=[kernel] * 2, **attributes)

    def gemm(self, x, inputs, outputs):
        values = self.rng.integers(-8, 8, (inputs, outputs)).astype(np.int8)
        return self.node("MatMul", [x, self.weight(values, np.full(outputs, 0.1), axis=1)])


def chain(channels, *, size=6, first_low=0, low=0, zero_point=0, dtype="uint8", kernel=3, least=-8, **attributes):
    """Return convolutions one after another, the first operand on the host; tensors are bytes where `low` is None."""
    b = Narrow()
    x = b.tensor(b.input("x", (1, channels[0], size, size)), first_low, zero_point, dtype)
    for inputs, outputs in itertools.pairwise(channels):
        x = b.tensor(b.conv(x, inputs, outputs, kernel, least, **attributes), low, zero_point, dtype)
    return b.model(x)


def forms(model, config, **options):
    """Return (ifm_int4, ofm_int4, int4) of every CONV."""
    program = compile(model, config, golden=False, **options)
    descriptors = [d for step in program.array_steps for d in program.descriptors(step.slot)]
    convs = [d for d in descriptors if d["opcode"] == isa.Opcode.CONV]
    return [(d["ifm_int4"], d["ofm_int4"], d["int4"]) for d in convs]


def buffers(model, config, weights="auto"):
    """Return the bytes of every buffer of a network of one part."""
    graph, parts = split(hwq.load(model), config)
    (part,) = (part for part in parts if isinstance(part, ArrayPart))
    _, (schedule,) = one_page(graph, [part], config, Storage(weights), compact=False)
    return {buffer.name: buffer.size_bytes for buffer in schedule.plan.buffers}


def exact(model, config, samples=2):
    return verify(model, config, samples=samples, targets=["reference", "machine"]).ok


# Which tensors


def test_tensors_between_mesh_layers_are_packed_and_results_are_not():
    config = narrow((8, 16, 16, 8))
    assert forms(chain([8, 16, 16]), config) == [(1, 1, 0), (1, 0, 0)]
    assert forms(chain([8, 16, 16], first_low=None), config) == [(0, 1, 1), (1, 0, 0)]


@pytest.mark.parametrize(
    "model",
    [
        chain([8, 16, 16], low=None, first_low=None),  # 8 bits
        chain([8, 16, 16], least=-9),  # weights of 5 bits
        chain([8, 16, 16], low=1, first_low=1),  # 1..16 has no even label, nor has 0..16
        chain([8, 16, 16], low=0, first_low=0, zero_point=16),  # padding isn't in the range
        chain([1, 1, 1]),  # nothing to pair
    ],
)
def test_other_tensors_stay_bytes(model):
    config = narrow((8, 16, 16, 8))
    assert {form[:2] for form in forms(model, config)} == {(0, 0)}
    assert exact(model, config)


def test_weights_as_bytes_and_arrays_without_4_bit_activations_keep_bytes():
    model = chain([8, 16, 16])
    assert {form[:2] for form in forms(model, narrow((8, 16, 16, 8), act_bits=8))} == {(0, 0)}
    assert set(forms(model, narrow((8, 16, 16, 8)), weights="int8")) == {(0, 0, 0)}


@pytest.mark.parametrize("reader", ["pool", "depthwise", "add", "other operand", "concat", "host"])
def test_a_tensor_that_anything_else_reads_stays_bytes(reader):
    b = Narrow()
    x = b.tensor(b.conv(b.tensor(b.input("x", (1, 8, 6, 6)), None), 8, 16))
    y = b.tensor(b.conv(x, 16, 16))
    outputs = []
    if reader == "pool":
        outputs.append(b.tensor(b.node("MaxPool", [x], kernel_shape=[2, 2])))
    elif reader == "depthwise":
        outputs.append(b.tensor(b.conv(x, 1, 16, group=16)))
    elif reader == "add":
        y = b.tensor(b.node("Add", [x, y]))
    elif reader == "other operand":
        y = b.tensor(b.node("Add", [b.tensor(b.conv(b.tensor(b.conv(x, 16, 16)), 16, 16), None), x]))
    elif reader == "concat":
        outputs.append(b.tensor(b.node("Concat", [x, x], axis=1)))
    else:
        outputs.append(x)
    model = b.model(y, *outputs)
    config = narrow((8, 16, 16, 8))
    first = forms(model, config)[0]
    assert first[:2] == (0, 0)
    assert exact(model, config)


def test_several_layers_may_read_a_packed_tensor_and_a_sum_may_make_it():
    b = Narrow()
    x = b.tensor(b.conv(b.tensor(b.input("x", (1, 8, 6, 6)), None), 8, 16), None)
    y = b.tensor(b.node("Add", [x, b.tensor(b.conv(x, 16, 16), None)]), scale=1.0)
    outputs = [b.tensor(b.conv(y, 16, 16)), b.tensor(b.conv(y, 16, 7, kernel=1))]
    model = b.model(*outputs)
    config = narrow((8, 16, 16, 8))
    assert forms(model, config) == [(0, 0, 1), (0, 1, 1), (1, 0, 0), (1, 0, 0)]
    assert exact(model, config, samples=8)


@pytest.mark.parametrize("size", [1, 3])
def test_matrix_products_take_packed_tensors(size):
    b = Narrow()
    x = b.tensor(b.conv(b.tensor(b.input("x", (2, 8, size, size)), None), 8, 15))
    y = b.tensor(b.gemm(b.node("Flatten", [x]), 15 * size**2, 9))
    model = b.model(b.tensor(b.gemm(y, 9, 5)))
    config = narrow((8, 16, 16, 8))
    assert set(forms(model, config)) == {(0, 1, 1), (1, 1, 0), (1, 0, 0)}
    assert exact(model, config)


# What it saves


def test_activation_memory_is_half():
    model, config = chain([16, 32, 16, 32]), narrow((8, 16, 16, 8))
    packed, wide = (buffers(model, config, weights=weights) for weights in ("auto", "int8"))
    result = hwq.load(model).ops[-1].inputs[0]
    assert packed.pop(result) == wide.pop(result), "the host reads it"
    assert {name: 2 * size for name, size in packed.items()} == wide
    assert len(wide) == 3
    (step,) = compile(model, config, golden=False).array_steps
    assert step.inputs[0].size_bytes == packed[step.inputs[0].tensor]


@pytest.mark.parametrize(
    ("shape", "bound"), [((8, 16, 16, 8), "mac"), ((8, 16, 4, 4), "fetch"), ((16, 16, 8, 8), "fetch")]
)
def test_layers_take_half_the_cycles(shape, bound):
    config, model = narrow(shape), chain([16, 16, 16], size=24)
    packed, wide = (hwq.estimate(compile(model, config, golden=False, weights=w)) for w in ("auto", "int8"))
    for after, before in zip(packed.layers, wide.layers, strict=True):
        assert before.bound == bound
        assert before.cycles_predicted / after.cycles_predicted >= 1.95
        assert after.macs == before.macs
        assert after.act_read_bytes * 2 == before.act_read_bytes
    assert [layer.act_write_bytes for layer in packed.layers] == [24 * 24 * 8, 24 * 24 * 16]


# In networks


@pytest.mark.parametrize("channels", [[2, 3, 5, 4], [7, 1, 9, 3], [5, 33, 17, 2], [16, 40, 8, 8]])
@pytest.mark.parametrize(("dtype", "low", "zero_point"), [("uint8", 0, 5), ("int8", -8, 7), ("uint8", 100, 115)])
def test_any_number_of_channels_and_zero_point_is_exact(channels, dtype, low, zero_point):
    model = chain(channels, dtype=dtype, low=low, first_low=low, zero_point=zero_point)
    for shape in SHAPES:
        assert exact(model, narrow(shape)), shape


@pytest.mark.parametrize("label", [("int8", -8, 3), ("uint8", 0, 5)], ids=str)
def test_floored_layers_take_packed_tensors(label):
    dtype, low, zero_point = label
    graph = hwq.load(chain([6, 9, 5], dtype=dtype, low=low, first_low=low, zero_point=zero_point))
    rng = np.random.default_rng(3)

    def floored(op):
        if not isinstance(op, ir.Conv):
            return op
        outputs = len(op.weight)
        values = rng.integers(1, 99, outputs), rng.integers(-9999, 9999, outputs), np.full(outputs, 11)
        return dataclasses.replace(op, floor=ir.Floor(*values))

    graph = dataclasses.replace(graph, ops=[floored(op) for op in graph.ops])
    config = narrow((8, 16, 16, 8))
    assert forms(graph, config) == [(1, 1, 0), (1, 0, 0)]
    report = verify(graph, config, samples=4, targets=["reference", "machine"])
    assert report.ok
    assert all(np.unique(values).size > 10 for values in report.outputs["machine"].values())


@pytest.mark.rtl
@pytest.mark.slow
@pytest.mark.xdist_group("verilator")
def test_residual_network_of_4_bits_is_exact_and_faster_on_rtl():
    model = Resnet8(np.random.default_rng(1)).model
    images = np.random.default_rng(3).uniform(-2, 2, (2, 3, 32, 32)).astype(np.float32)
    report = verify(model, "ecp5-8x16", inputs={"x": images})
    assert report.ok
    assert [(rung.name, rung.mismatches) for rung in report.rungs] == [
        ("reference", 0),
        ("machine", 0),
        ("verilator", 0),
    ]
    assert all(np.unique(values).size > 10 for values in report.outputs["verilator"].values())
    narrow_weights = dataclasses.replace(PRESETS["ecp5-8x16"], act_bits=8)
    wide = hwq.estimate(compile(model, "ecp5-8x16", golden=False, weights="int8"))
    assert report.cycles_measured <= 0.55 * wide.cycles_predicted
    assert report.cycles_measured < hwq.estimate(model, narrow_weights).cycles_predicted


# On the way


def test_sums_under_a_label_are_the_sums_less_it():
    moved_sums = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        b = Narrow()
        x, y = (
            b.tensor(b.input(name, (1, 4)), None, int(rng.integers(0, 256)), scale=float(rng.uniform(0.1, 1)))
            for name in "xy"
        )
        low = int(rng.choice([0, 64, 240]))
        z = b.tensor(b.node("Add", [x, y]), low, low + 3, scale=float(rng.uniform(2, 20)))
        graph = hwq.load(b.model(z))
        (add,) = (op for op in graph.ops if op.kind == "Add")
        p = pairs.pair_parameters(add, graph, low + 8)
        if p is None:
            continue
        first, second = (graph.tensors[name] for name in add.inputs)
        table = pairs.pair_table("Add", first, second, graph.tensors[add.outputs[0]]).astype(int) + 128
        a, c = np.meshgrid(np.arange(-128, 128), np.arange(-128, 128), indexing="ij")
        scaled = np.float32((a * p.factor_a + c * p.factor_b + p.offset) / 2.0**p.shift)
        result = np.clip(np.rint(scaled), add.lo - low - 8, add.hi - low - 8)
        assert np.array_equal(result + low + 8, np.clip(table, add.lo, add.hi))
        moved_sums += 1
    assert moved_sums >= 15


def test_program_file_keeps_labels_and_refuses_bad_ones(tmp_path):
    model, config = chain([5, 16, 16], dtype="int8", low=-8, first_low=-8), narrow((8, 16, 16, 8))
    program = compile(model, config)
    program.save(tmp_path / "p.hwq")
    loaded = Program.load(tmp_path / "p.hwq")
    assert loaded.steps == program.steps
    assert loaded.array_steps[0].inputs[0].packed == 0
    for change in ({"packed": 3000}, {"packed": "no"}, {"shape": (1, 7, 6, 6)}):
        (step,) = program.array_steps
        port = dataclasses.replace(step.inputs[0], **change)
        steps = tuple(dataclasses.replace(s, inputs=(port,)) if s is step else s for s in program.steps)
        dataclasses.replace(program, steps=steps).save(tmp_path / "q.hwq")
        with pytest.raises(ProgramError):
            Program.load(tmp_path / "q.hwq")


def test_host_packs_and_reads_every_element_at_its_address():
    (step,) = compile(chain([5, 9, 3]), narrow((8, 16, 16, 8)), golden=False).array_steps
    for port in (step.inputs[0], step.layers[0].output):
        value = np.random.default_rng(2).integers(0, 16, port.shape).astype(port.dtype)
        data = runtime.pack(port, value)
        assert np.array_equal(runtime.unpack(port, data), value)
        addresses = bisect._addresses(port)
        for index in np.ndindex(*port.shape):
            half = int(data[addresses[index] - port.address]) >> 4 * (index[1] % 2) & 15
            assert half == (int(value[index]) - 8) & 15


@pytest.mark.parametrize(("inputs", "outputs", "kept"), [(8192, 5, True), (8191, 5, False), (8192, 4, False)])
def test_sums_beyond_24_bits_keep_bytes_by_name(inputs, outputs, kept):
    b = Builder()
    x = b.dequantize(b.quantize(b.input("x", (1, inputs)), 0.1, 0), 0.1, 0)
    y = b.node("MatMul", [x, b.weight(np.full((inputs, outputs), -8, np.int8), np.full(outputs, 0.1), axis=1)])
    graph = hwq.load(b.model(b.dequantize(b.quantize(y, 0.1, 0), 0.1, 0)))
    (gemm,) = (op for op in graph.ops if op.kind == "Gemm")
    config = programs.tiny(2, 4, 4, 1, **{**ROOM, "weight_words": 1 << 15, "weight_bits": 4})
    message = broken_storage_rule(gemm, graph, config)
    assert (message is not None) == kept
    assert message is None or message.startswith("Stored as bytes: sums of these 4-bit weights need more than 24 bits")
    assert {form[2] for form in forms(graph, config)} == {int(not kept)}
