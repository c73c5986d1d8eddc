"""The equality ladder finds nothing where nothing is wrong, and every planted fault where it was planted."""

import json

import numpy as np
import pytest

from hwq import costs, demo, ir, isa, ladder, reference, runtime, timing
from hwq.bisect import first_wrong_layer, locate, memory_fault
from hwq.compiler import compile, load, random_feeds
from hwq.cpu import cpu_flags
from hwq.errors import DeviceError, HwqError, InputError, MissingToolError
from hwq.ladder import verify
from hwq.program import LayerInfo, PortImage, Program
from hwq.rungs import Rung
from hwq.runners import start_memory
from hwq.runtime import MachineBackend
from tests.onnx_models import Builder
from tests.programs import random_conv, random_depthwise, random_strips, random_vector, tiny

SMALL = tiny(2, 4, 4, 2, act_bytes=8192, param_words=256, slots=64)


def network(dtype="int8", seed=0):
    """A residual block, pooling, a concatenation and a matrix product: every kind of layer the array has."""
    rng = np.random.default_rng(seed)
    zero, model = (3, Builder()) if dtype == "int8" else (130, Builder())

    def conv(x, inputs, outputs, kernel, scale, **attributes):
        values = rng.integers(-127, 128, (outputs, inputs, kernel, kernel)).astype(np.int8)
        y = model.node("Conv", [x, model.weight(values, rng.uniform(0.004, 0.01, outputs))], **attributes)
        return model.dequantize(model.quantize(y, scale, zero, dtype), scale, zero, dtype)

    x = model.dequantize(model.quantize(model.input("x", (1, 3, 6, 6)), 0.05, zero, dtype), 0.05, zero, dtype)
    a = conv(x, 3, 6, 3, 0.3, pads=[1, 1, 1, 1])
    b = conv(a, 6, 6, 3, 1.2, pads=[1, 1, 1, 1])
    y = model.node("Add", [a, b])
    y = model.dequantize(model.quantize(y, 1.5, zero, dtype), 1.5, zero, dtype)
    y = model.node("MaxPool", [y], kernel_shape=[2, 2], strides=[2, 2])
    y = model.dequantize(model.quantize(y, 1.5, zero, dtype), 1.5, zero, dtype)
    c = conv(y, 6, 5, 1, 1.5)
    y = model.node("Concat", [y, c], axis=1)
    y = model.dequantize(model.quantize(y, 1.5, zero, dtype), 1.5, zero, dtype)
    y = model.node("Flatten", [y])
    weight = model.weight(rng.integers(-127, 128, (99, 7)).astype(np.int8), 0.003)
    y = model.quantize(model.node("MatMul", [y, weight]), 4.0, zero, dtype)
    return load(model.model(model.dequantize(y, 4.0, zero, dtype, output="y")))


def depthwise(stride):
    """A depthwise layer between two pointwise ones, on a map that isn't square."""
    rng = np.random.default_rng(stride)
    model = Builder()
    x = model.dequantize(model.quantize(model.input("x", (1, 5, 7, 4)), 0.05, 3), 0.05, 3)
    for inputs, outputs, groups, kernel, scale in ((5, 9, 1, 1, 0.2), (9, 9, 9, 3, 0.5), (9, 6, 1, 1, 0.7)):
        values = rng.integers(-127, 128, (outputs, inputs // groups, kernel, kernel)).astype(np.int8)
        weight = model.weight(values, rng.uniform(0.004, 0.01, outputs))
        pads = [kernel // 2] * 4
        strides = [stride if groups > 1 else 1] * 2
        y = model.node("Conv", [x, weight], group=groups, pads=pads, strides=strides)
        x = model.dequantize(model.quantize(y, scale, -2), scale, -2)
    return load(model.model(x))


def counted(report):
    return {rung.name: (rung.against, rung.mismatches) for rung in report.rungs}


# Nothing wrong


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("shape", [(2, 4, 4, 2), (3, 6, 8, 2), (1, 1, 4, 1), (8, 16, 16, 8)])
def test_reference_and_machine_agree(dtype, shape):
    config = tiny(*shape, act_bytes=8192, weight_words=8192, param_words=256, slots=64)
    report = verify(network(dtype), config, samples=3, targets=["reference", "machine"])
    assert report.ok
    assert counted(report) == {"reference": ("onnxruntime", 0), "machine": ("reference", 0)}
    assert all(rung.elements > 3 * 500 for rung in report.rungs)  # the tensors in between are compared as well
    assert report.cycles_measured is None


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(2, 4, 4, 2), (8, 16, 16, 8)])
def test_depthwise_layers_agree(shape, stride):
    config = tiny(*shape, act_bytes=8192, weight_words=8192, param_words=256, slots=64)
    report = verify(depthwise(stride), config, samples=2, targets=["reference", "machine"])
    assert report.ok
    assert not {node.op for node in report.host_nodes} - {"QuantizeLinear", "DequantizeLinear"}


@pytest.mark.rtl
def test_amaranth_agrees_in_every_byte_and_cycle():
    report = verify(network(), SMALL, samples=1, targets=["machine", "amaranth"])
    assert counted(report) == {"machine": ("reference", 0), "amaranth": ("machine", 0)}
    assert report.rungs[1].elements == SMALL.act_bytes + 7
    assert report.cycles_measured == report.cycles_predicted
    assert all(layer.cycles_measured == layer.cycles_predicted for layer in report.layers)
    assert report.ok


@pytest.mark.rtl
@pytest.mark.parametrize("arch", ["sim-4x4", "ecp5-8x16"])
@pytest.mark.parametrize("graph", [network("int8"), network("uint8"), depthwise(1), depthwise(2)])
def test_verilator_agrees_in_every_byte_and_cycle(arch, graph):
    report = verify(graph, arch)
    assert report.ok
    assert [rung.name for rung in report.rungs] == ["reference", "machine", "verilator"]
    assert report.samples == 4
    assert report.cycles_measured == report.cycles_predicted


def test_report_holds_what_it_says():
    report = verify(demo.model_path(), "sim-4x4", samples=2, seed=5, targets=["machine"])
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["targets"] == ["machine"]
    assert values["lsb_histogram"] == {"logits": {"0": 20}}
    assert {node["op"] for node in values["host_nodes"]} == {"QuantizeLinear", "DequantizeLinear"}
    assert values["utilisation"] == values["macs"] / values["cycles_predicted"] / 16
    assert sum(layer["macs"] for layer in values["layers"]) == values["macs"]
    images = random_feeds(load(demo.model_path()), 2, 5)
    expected = reference.run(load(demo.model_path()), images)["logits"]
    for name in ("onnxruntime", "reference", "machine"):
        np.testing.assert_array_equal(report.outputs[name]["logits"], expected)


def test_samples_come_from_the_inputs_where_there_are_any():
    images, _ = demo.load_samples()
    several = verify(demo.model_path(), "sim-4x4", inputs={"image": images[:11]}, targets=["reference"])
    assert several.samples == 11
    few = verify(demo.model_path(), "sim-4x4", inputs={"image": images[:11]}, samples=3, targets=["reference"])
    assert few.rungs[0].elements * 11 == several.rungs[0].elements * 3


def test_bad_arguments_are_refused(monkeypatch):
    with pytest.raises(HwqError, match=r"No target 'board'; the targets are reference, machine"):
        verify(network(), SMALL, targets=["board"])
    with pytest.raises(HwqError, match="No target ''"):
        verify(network(), SMALL, targets=[])
    with pytest.raises(HwqError, match="at least 1, not 0"):
        verify(network(), SMALL, samples=0)
    with pytest.raises(InputError, match="has no input 'z'"):
        verify(network(), SMALL, inputs={"z": np.zeros(3)})
    monkeypatch.setitem(runtime.BUSES, "verilator", "sim.nothing")
    with pytest.raises(MissingToolError, match=r"install it with: pip install 'hwq\[sim\]'"):
        verify(network(), SMALL)


# Planted faults


def planted(program, layer, byte):
    """Return the first weight of the layer named `layer` with `byte` added to its address, and the layer."""
    found = next(item for step in program.array_steps for item in step.layers if item.name.startswith(layer))
    slots = range(found.first_slot, found.end_slot)
    descriptors = [program.descriptors(slot)[0] for slot in slots]
    conv = next(d for d in descriptors if d["opcode"] == isa.Opcode.CONV)
    return conv["weight_base"] + byte // program.config.cols, byte % program.config.cols, found


@pytest.mark.parametrize("position", [0, 1, 2, 3])
def test_wrong_weight_in_the_program_is_found_at_its_layer(monkeypatch, position):
    graph = network()
    layers = [op.name for op in graph.ops if isinstance(op, ir.Conv | ir.Gemm)]
    compiled = []

    def faulty(*arguments, **options):
        program = compile(*arguments, **options)
        word, column, layer = planted(program, layers[position], 1)
        program.weights[word, column] ^= 0x40
        compiled.append((layer, column))
        return program

    monkeypatch.setattr(ladder, "compile", faulty)
    report = verify(graph, SMALL, samples=1, targets=["reference", "machine"])
    (layer, column), (above, below) = compiled[0], report.rungs
    assert (report.ok, above.mismatches) == (False, 0)
    assert below.mismatches > 0
    assert (below.first.layer, below.first.tensor) == (layer.name, layer.output.tensor)
    tile = dict(below.first.tile)
    assert (tile["column block"], tile["PE column"]) == (0, column)
    assert below.first.index[1] == column
    assert below.max_abs_diff > 0


class Faulty(MachineBackend):
    """An accelerator with a clock whose weight memory has one wrong bit."""

    def __init__(self, config, fault=None, cycles=None, slots=()):
        super().__init__(config)
        self.fault, self.cycles, self.slots, self.programs = fault, cycles, list(slots), []

    def load_program(self, words):
        super().load_program(words)
        self.programs.append(words.copy())

    def load_weights(self, image, first=0):
        super().load_weights(image, first)
        if self.fault is not None:
            self.machine.weights[self.fault] ^= 0x40

    def start(self, slot=0):
        super().start(slot)
        return {} if self.cycles is None else {"cycles": self.cycles}

    def profile(self, count):
        return self.slots[:count]


def open_faulty(monkeypatch, **options):
    backends = []

    def opened(target, config):
        backends.append(Faulty(config, **options))
        return backends[-1]

    monkeypatch.setattr(runtime, "open_backend", opened)
    return backends


@pytest.mark.parametrize("position", [0, 1, 2, 3])
def test_bisect_finds_the_layer_tile_and_element_on_hardware(monkeypatch, position):
    graph = network()
    program = compile(graph, SMALL)
    layers = [op.name for op in graph.ops if isinstance(op, ir.Conv | ir.Gemm)]
    word, column, layer = planted(program, layers[position], 2)
    backends = open_faulty(monkeypatch, fault=(word, column))
    report = verify(graph, SMALL, samples=2, targets=["machine", "verilator"], bisect=True)
    machine, hardware = report.rungs
    assert (machine.mismatches, report.ok) == (0, False)
    assert hardware.mismatches > 0
    first = hardware.first
    assert (first.layer, first.op, first.tensor) == (layer.name, layer.op, layer.output.tensor)
    assert dict(first.tile)["PE column"] == column
    assert first.expected != first.got
    assert f"written by layer {layer.name!r}" in first.sentence()
    assert "PE row" in first.sentence()
    # What it expected is the reference's, and program memory is whole again.
    np.testing.assert_array_equal(backends[0].programs[-1], program.words)
    if layer.output.tensor in graph.tensors:
        wanted = reference.run(graph, random_feeds(graph, 2, 0), keep=[layer.output.tensor])[layer.output.tensor]
        assert wanted[first.index] == first.expected


def test_without_bisect_only_the_element_is_named(monkeypatch):
    program = compile(network(), SMALL)
    open_faulty(monkeypatch, fault=planted(program, program.array_steps[0].layers[0].name, 0)[:2])
    report = verify(network(), SMALL, samples=1, targets=["verilator"])
    assert report.rungs[0].mismatches > 0
    assert report.rungs[0].first.layer == ""


def test_wrong_cycle_count_fails_the_check(monkeypatch):
    predicted = costs.estimate(network(), SMALL).cycles_predicted
    open_faulty(monkeypatch, cycles=predicted)
    assert verify(network(), SMALL, samples=1, targets=["verilator"]).ok
    open_faulty(monkeypatch, cycles=predicted + 1)
    report = verify(network(), SMALL, samples=1, targets=["verilator"])
    assert (report.ok, report.rungs[0].mismatches, report.cycles_measured) == (False, 0, predicted + 1)


def test_wrong_cycles_of_layers_that_cancel_fail_the_check(monkeypatch):
    program = compile(network(), SMALL)
    (step,) = program.array_steps
    predicted = timing.predict(program.descriptors(step.slot), SMALL, step.slot)
    slots = [layer.cycles for layer in predicted.layers]
    open_faulty(monkeypatch, cycles=predicted.total, slots=slots)
    assert verify(network(), SMALL, samples=1, targets=["verilator"]).ok
    slots[0], slots[-1] = slots[0] + 1, slots[-1] - 1
    open_faulty(monkeypatch, cycles=predicted.total, slots=slots)
    report = verify(network(), SMALL, samples=1, targets=["verilator"])
    assert (report.ok, report.cycles_measured) == (False, report.cycles_predicted)


def test_wrong_rounding_in_the_reference_is_found(monkeypatch):
    exact = reference.requantize

    def faulty(acc, *arguments):
        result = np.array(exact(acc, *arguments))
        result[..., -1:] += 1
        return result

    monkeypatch.setattr(reference, "requantize", faulty)
    report = verify(network(), SMALL, samples=1, targets=["reference"])
    assert not report.ok
    assert report.rungs[0].max_abs_diff >= 1
    assert abs(report.rungs[0].first.got - report.rungs[0].first.expected) == 1


def test_hardware_that_stops_is_an_error(monkeypatch):
    class Stuck(Faulty):
        def start(self, slot=0):
            raise DeviceError("The accelerator stopped in slot 2: WATCHDOG")

    monkeypatch.setattr(runtime, "open_backend", lambda target, config: Stuck(config))
    with pytest.raises(DeviceError, match="slot 2: WATCHDOG"):
        verify(network(), SMALL, samples=1, targets=["verilator"])


def test_layer_spoiled_by_the_next_one_is_named():
    program = compile(network(), SMALL)
    first, second, *_ = program.array_steps[0].layers
    expected = np.zeros(SMALL.act_bytes, np.int8)
    got = expected.copy()
    for layer in (first, second):
        got[layer.output.address + layer.output.size_bytes - 1] = 5
    fault = memory_fault(program, (first, second), 3, got, expected)
    assert (fault.layer, fault.sample, fault.expected, fault.got) == (first.name, 3, 0, 5)
    assert fault.index == tuple(n - 1 for n in first.output.shape)
    assert memory_fault(program, (first, second), 3, expected, expected) is None


def test_bisect_finds_nothing_in_equal_machines():
    graph = network()
    program = compile(graph, SMALL)
    backend = MachineBackend(SMALL)
    runtime.Accelerator(program, backend)
    assert first_wrong_layer(program, backend, random_feeds(graph, 1, 0), start_memory(program, 0), 0) is None


# The parts


@pytest.mark.parametrize("make", [random_conv, random_depthwise, random_vector])
def test_locate_knows_every_byte_a_descriptor_writes(make):
    rng = np.random.default_rng(11)
    config = tiny(3, 4, 8, 2)
    port = PortImage("t", "int8", (1,), (), 0, 1, 0, None)
    for _ in range(20):
        d = make(config, rng)
        words = np.array(isa.encode(isa.DESCRIPTOR, isa.SLOT_WORDS, d), np.uint32)
        empty = (np.zeros((0, 1), np.uint32), np.zeros((0, 4), np.int8))
        program = Program("p", config, (), (), (), words, *empty)
        layer = LayerInfo("l", "Conv", 0, 1, port, 0)
        width = {random_conv: config.cols, random_depthwise: config.depthwise_cols}.get(make, config.lanes)
        channels = (d["blocks"] - 1) * width + d["last_channels"]
        written, address = {}, d["ofm_base"]
        for pixel in range(d["pixels"]):
            for channel in range(channels):
                written.setdefault(address + channel, (pixel, channel))
            last = pixel % d["row_pixels"] == d["row_pixels"] - 1
            address += d["ofm_y_step"] if last else d["ofm_x_step"]
        chosen = int(rng.choice(list(written)))
        wrong = np.zeros(config.act_bytes, bool)
        wrong[chosen] = True
        tile = dict(locate(program, layer, wrong).tile)
        pixel, channel = written[chosen]
        if make is random_depthwise:
            tiles = -(-d["row_pixels"] // config.rows)
            row, tile_in_row = divmod(tile["row block"], tiles)
            assert row * d["row_pixels"] + tile_in_row * config.rows + tile["PE row"] == pixel
            assert tile["column block"] * width + tile["PE column"] == channel
        elif make is random_conv:
            assert tile["row block"] * config.rows + tile["PE row"] == pixel
            assert tile["column block"] * config.cols + tile["PE column"] == channel
        else:
            assert (tile["pixel"], tile["group"] * config.lanes + tile["lane"]) == (pixel, channel)
        wrong[list(written)] = True
        first = dict(locate(program, layer, wrong).tile)
        assert {name: first[name] for name in tile if name != "slot"} == dict.fromkeys(set(tile) - {"slot"}, 0)
        wrong = np.ones(config.act_bytes, bool)
        wrong[list(written)] = False
        assert locate(program, layer, wrong) is None


def test_locate_knows_the_strips_of_a_depthwise_layer():
    rng = np.random.default_rng(12)
    config = tiny(8, 4, 8, 4)
    for _ in range(20):
        d = random_strips(config, rng)
        words = np.array(isa.encode(isa.DESCRIPTOR, isa.SLOT_WORDS, d), np.uint32)
        program = Program("p", config, (), (), (), words, np.zeros((0, 1), np.uint32), np.zeros((0, 4), np.int8))
        layer = LayerInfo("l", "Conv", 0, 1, PortImage("t", "int8", (1,), (), 0, 1, 0, None), 0)
        strip = int(rng.integers(d["strips"]))
        row = int(rng.integers(1 if d["short_strip"] and strip == d["strips"] - 1 else 2))
        x, channel = int(rng.integers(d["pixels"] // 2)), int(rng.integers(d["last_channels"]))
        block = int(rng.integers(d["blocks"]))
        address = d["ofm_base"] + strip * d["res_x_step"] + row * d["ofm_x_step"]
        address += x * (d["ofm_x_step"] + d["ofm_y_step"]) + block * config.depthwise_cols + channel
        wrong = np.zeros(config.act_bytes, bool)
        wrong[address] = True
        tile = dict(locate(program, layer, wrong).tile)
        expected = {"slot": 0, "column block": block, "strip": strip, "x": x, "strip row": row, "PE column": channel}
        assert tile == expected


def test_rung_counts_elements_and_keeps_the_first_fault():
    rung = Rung("a", "b")
    assert rung.compare(0, "t", np.array([1, 2], np.int8), np.array([1, 2], np.int8)) is None
    fault = rung.compare(1, "u", np.array([[1, 127]], np.int8), np.array([[1, -128]], np.int8))
    assert (rung.elements, rung.mismatches, rung.max_abs_diff, rung.first) == (4, 1, 255, fault)
    assert (fault.sample, fault.tensor, fault.index, fault.expected, fault.got) == (1, "u", (0, 1), -128, 127)
    rung.compare(2, "v", np.float32([np.nan, 1]), np.float32([np.nan, 1]))
    assert rung.mismatches == 1
    rung.compare(2, "v", np.float32([np.nan, np.inf]), np.float32([0, 1]))
    assert rung.mismatches == 3
    json.dumps(rung.to_dict(), allow_nan=False)
    assert rung.first is fault


def test_rung_counts_a_wrong_type_or_shape_in_full():
    rung = Rung("a", "b")
    rung.compare(0, "t", np.zeros(3, np.uint8), np.zeros(3, np.int8))
    rung.compare(0, "t", np.zeros((3, 1), np.int8), np.zeros(3, np.int8))
    assert (rung.elements, rung.mismatches) == (6, 6)
    assert "uint8" in rung.first.tensor


def test_costs_count_bytes_by_hand():
    model = Builder()
    x = model.dequantize(model.input("x", (1, 5, 4, 4), "int8"), 0.1, 0)
    y = model.node("Conv", [x, model.weight(np.ones((6, 5, 2, 2), np.int8), [0.1] * 6)])
    estimate = costs.estimate(load(model.model(model.quantize(y, 0.2, 0))), SMALL)
    (layer,) = (layer for layer in estimate.layers if layer.macs)
    assert layer.macs == 9 * 6 * 20
    assert layer.act_read_bytes == 9 * 20 * 2  # two blocks of four columns
    assert layer.act_write_bytes == 9 * 6
    assert layer.weight_bytes == 2 * 20 * 4
    assert estimate.macs == layer.macs
    assert estimate.utilisation == estimate.macs / (estimate.cycles_predicted * 8)


def test_cpu_flags_are_those_that_choose_kernels(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor : 0\nflags\t\t: fpu avx2 avx512_vnni\n\nprocessor : 1\nflags : fpu\n")
    assert cpu_flags(path)[1:] == ["avx2", "avx512_vnni"]
    assert cpu_flags(tmp_path / "none")[1:] == []
