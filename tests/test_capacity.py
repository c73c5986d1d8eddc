"""Networks larger than the memories run whole on the array, equal on every rung and in exactly the predicted cycles."""

import json
from itertools import pairwise

import numpy as np
import pytest

from hwq import compile, ir, isa, runtime
from hwq.bisect import first_wrong_layer
from hwq.compiler import load, random_feeds
from hwq.constraints import MEMORIES
from hwq.costs import estimate
from hwq.errors import ProgramError
from hwq.host import run_once
from hwq.images import Images
from hwq.ladder import verify
from hwq.onnx_writer import write
from hwq.profile import profile
from hwq.program import HostStep, Program
from hwq.runners import start_memory
from hwq.runtime import Accelerator, InferenceSession, MachineBackend
from hwq.weights import Form
from tests.onnx_models import Builder
from tests.programs import tiny
from tests.test_program import forged

SMALL = {"act_bytes": 4096, "weight_words": 384, "param_words": 48, "slots": 24, "tables": 2}
"""Sizes that every network below exceeds somewhere."""

ARRAY = tiny(4, 4, 4, 2, **SMALL)
ROOMY = tiny(4, 4, 4, 2, act_bytes=1 << 17, weight_words=1 << 14, param_words=1024, slots=256)
EDGES = {"QuantizeLinear", "DequantizeLinear"}


class Network(Builder):
    """A `Builder` of int8 layers of one scale and zero point, on random weights."""

    def __init__(self, seed):
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def start(self, *shape):
        return self.again(self.input("x", shape))

    def again(self, x, output=None):
        return self.dequantize(self.quantize(x, 0.0625, 4), 0.0625, 4, output=output)

    def conv(self, x, inputs, outputs, kernel=3, groups=1, **attributes):
        values = self.rng.integers(-127, 128, (outputs, inputs // groups, kernel, kernel)).astype(np.int8)
        weight = self.weight(values, self.rng.uniform(0.5, 1.0, outputs) / (inputs // groups * kernel * kernel) / 40)
        attributes = {"pads": [kernel // 2] * 4} | attributes
        return self.again(self.node("Conv", [x, weight], group=groups, **attributes))

    def add(self, x, y):
        return self.again(self.node("Add", [x, y]))

    def pool(self, x, kind="MaxPool", size=2, stride=2):
        return self.again(self.node(kind, [x], kernel_shape=[size] * 2, strides=[stride] * 2))

    def dense(self, x, inputs, outputs):
        weight = self.weight(self.rng.integers(-127, 128, (inputs, outputs)).astype(np.int8), 0.02 / inputs)
        return self.again(self.node("MatMul", [x, weight]))

    def done(self, *outputs):
        return load(self.model(*outputs))


def weights():
    """More weights, parameters and slots than there is room for, and an addition whose operands lie far apart."""
    net = Network(1)
    x = first = net.conv(net.start(1, 3, 6, 5), 3, 8)
    for _ in range(4):
        x = net.conv(x, 8, 8)
    return net.done(net.add(x, first))


def chain():
    """A wide layer between small ones: in bands together with the pool behind it."""
    net = Network(2)
    x = net.pool(net.conv(net.start(1, 2, 18, 20), 2, 16))
    return net.done(net.pool(net.conv(x, 16, 8), "AveragePool"))


def streamed():
    """Results larger than the memory: bands that only the host can put together."""
    net = Network(3)
    return net.done(net.conv(net.start(1, 3, 19, 17), 3, 17, strides=[1, 1]))


def blocks():
    """A matrix product and a convolution with more weights, or parameters, than fit."""
    net = Network(4)
    x = net.conv(net.start(1, 32, 3, 3), 32, 13)
    x = net.node("Reshape", [x, net.constant([1, 117], np.int64)])
    return net.done(net.dense(net.dense(x, 117, 110), 110, 7))


def depthwise():
    """Depthwise layers, strides, a table and an addition of large images."""
    net = Network(5)
    first = x = net.conv(net.start(1, 6, 21, 22), 6, 6, groups=6)
    x = net.again(net.node("Tanh", [x]))
    x = net.add(x, first)
    x = net.conv(x, 6, 6, groups=6, strides=[2, 2])
    return net.done(net.pool(net.conv(x, 6, 12, 1), "AveragePool", 2))


def several():
    """Two inputs, two outputs, a concatenation, and tensors that live across many parts."""
    net = Network(6)
    x, z = net.start(1, 4, 12, 12), net.again(net.input("z", (1, 4, 12, 12)))
    a = net.conv(net.add(x, z), 4, 10)
    both = net.again(net.node("Concat", [a, x], axis=1))
    b = net.conv(both, 14, 9, strides=[2, 2])
    return net.done(net.add(net.conv(b, 9, 9), b), net.pool(a))


NETWORKS = {network.__name__: network for network in (weights, chain, streamed, blocks, depthwise, several)}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    "config",
    [
        ARRAY,
        tiny(2, 4, 8, 1, **SMALL),
        tiny(8, 16, 16, 8, **SMALL | {"act_bytes": 6144}),
        tiny(3, 6, 4, 2, **SMALL | {"act_bytes": 3000, "slots": 7, "param_words": 24}),
    ],
    ids=lambda config: config.name,
)
def test_equal_to_onnx_runtime_layer_by_layer(network, config):
    graph = NETWORKS[network]()
    report = verify(graph, config, samples=3, targets=["reference", "machine"])
    assert [(rung.name, rung.mismatches) for rung in report.rungs] == [("reference", 0), ("machine", 0)]
    assert {node.op for node in report.host_nodes} <= EDGES
    kinds = ir.Conv, ir.Gemm, ir.MaxPool, ir.AveragePool
    made = sum(graph.tensors[op.outputs[0]].size for op in graph.ops if isinstance(op, kinds))
    assert report.rungs[1].elements >= made  # every layer, not only the outputs


@pytest.mark.parametrize("network", NETWORKS)
def test_no_page_is_larger_than_the_memories(network):
    program = compile(NETWORKS[network](), ARRAY, golden=False)
    assert len(program.array_steps) > 1 or network == "chain"
    for page in program.pages:
        assert len(page.params) <= ARRAY.param_words
        assert len(page.weights) <= ARRAY.weight_words
        assert len(page.tables) <= ARRAY.tables
        assert len(page.words) <= 32 * ARRAY.slots
    for name in ("words", "params", "weights", "tables"):
        parts = [getattr(page, name) for page in program.pages]
        np.testing.assert_array_equal(np.concatenate(parts), getattr(program, name))


def test_what_pieces_compute_twice_counts_once():
    net = Network(8)
    graph = net.done(net.conv(net.conv(net.start(1, 2, 20, 18), 2, 16), 16, 2))
    layers = [layer for step in compile(graph, ARRAY, golden=False).array_steps for layer in step.layers]
    rows = [size for layer in layers if layer.output.shape[1] == 16 for _, _, size in layer.part]
    assert sum(rows) > 20
    assert sum(layer.macs for layer in layers) == 20 * 18 * 9 * (2 * 16 + 16 * 2)


def test_equal_weights_lie_in_memory_once_for_each_storage():
    images = Images(tiny(4, 4, 4, 2, weight_bits=4, codebooks=1), shared=True)
    forms = [Form(), Form(int4=1), Form(codebook=1), Form(codebook=2)]
    matrix = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
    first = [images.add_weights(matrix, "layer", 4, form) for form in forms]
    assert len(set(first)) == 4
    assert [images.add_weights(matrix.copy(), "other", 4, form) for form in forms] == first
    assert images.add_weights(-matrix, "other", 4) not in first


def test_pieces_keep_how_weights_are_stored():
    """Weights of 4 bits, less those that are to be bytes; a layer named so names its pieces."""
    net = Network(7)
    x = net.start(1, 24, 4, 4)
    for _ in range(2):
        values = net.rng.integers(-7, 8, (40, 24, 3, 3)).astype(np.int8)
        x = net.again(net.node("Conv", [x, net.weight(values, np.full(40, 0.002))], pads=[1] * 4))
        x = net.conv(x, 40, 24, 1)
    graph = net.done(x)
    wide, _, other, _ = (op.name for op in graph.ops if isinstance(op, ir.Conv))
    config = tiny(4, 4, 4, 2, **SMALL | {"weight_bits": 4})
    program = compile(graph, config, golden=False, weights={wide: "int8"})
    int4 = {wide: set(), other: set()}
    for step in program.array_steps:
        descriptors = program.descriptors(step.slot)
        for layer in step.layers:
            if (name := layer.name.partition("[")[0]) in int4:
                chosen = descriptors[layer.first_slot - step.slot : layer.end_slot - step.slot]
                int4[name] |= {d["int4"] for d in chosen if d["opcode"] != isa.Opcode.VECTOR}
    assert int4 == {wide: {0}, other: {1}}
    assert any(layer.part for step in program.array_steps for layer in step.layers)
    assert verify(graph, config, samples=2, targets=["reference", "machine"]).ok


@pytest.mark.parametrize("network", NETWORKS)
def test_network_that_fits_keeps_one_page_and_whole_layers(network):
    graph = NETWORKS[network]()
    program = compile(graph, ROOMY, golden=False)
    assert (len(program.pages), len(program.array_steps), program.sizes) == (1, 1, ())
    assert not any(layer.part for step in program.array_steps for layer in step.layers)
    assert estimate(program).load_bytes == 0


def test_wide_layer_and_its_pool_stay_on_the_array():
    """The bands never leave the array: the first part's ports are the small tensors at both ends."""
    step = compile(chain(), ARRAY, golden=False).array_steps[0]
    bands = [layer for layer in step.layers if layer.part]
    assert {layer.op for layer in bands} == {"Conv", "MaxPool"}
    pooled = [part for layer in bands if layer.op == "MaxPool" for part in layer.part]
    (axis,) = {axis for axis, _, _ in pooled}
    assert sum(size for _, _, size in pooled) == {2: 9, 3: 10}[axis]
    assert sum(port.size_bytes for port in (*step.inputs, *step.outputs)) < 3000


@pytest.mark.rtl
@pytest.mark.parametrize("network", NETWORKS)
def test_rtl_agrees_in_every_byte_and_cycle(network):
    report = verify(NETWORKS[network](), ARRAY, samples=2, targets=["machine", "verilator"])
    assert [(rung.name, rung.mismatches) for rung in report.rungs] == [("machine", 0), ("verilator", 0)]
    assert report.cycles_measured == report.cycles_predicted
    assert [layer.cycles_measured for layer in report.layers] == [layer.cycles_predicted for layer in report.layers]
    assert report.ok


@pytest.mark.rtl
def test_profile_and_trace_count_every_page():
    result = profile(weights(), ARRAY)
    costs = result.costs
    assert costs.pages > 1
    assert costs.cycles_measured == costs.cycles_predicted
    assert sorted(result.slots) == [
        slot for step in result.program.array_steps for slot in range(step.slot, step.layers[-1].end_slot)
    ]
    assert costs.load_bytes == sum(page.size_bytes for page in result.program.pages)
    events = [event for event in result.chrome_trace()["traceEvents"] if event["ph"] == "X"]
    bus = [event for event in events if event["cat"] == "bus"]
    loads = [event["args"]["bytes"] for event in bus if event["name"].startswith("load ")]
    assert (len(loads), sum(loads)) == (costs.pages, costs.load_bytes)
    end = max(event["ts"] + event["dur"] for event in events)
    assert end == costs.cycles_predicted + sum(event["dur"] for event in bus)


class Counting(MachineBackend):
    """A machine that counts how often its program memory is written."""

    loads = 0

    def load_program(self, words):
        self.loads += 1
        super().load_program(words)


def test_each_page_is_loaded_once_for_a_batch(monkeypatch):
    graph = weights()
    program = compile(graph, ARRAY, golden=False)
    backend = Counting(ARRAY)
    monkeypatch.setattr(runtime, "open_backend", lambda target, config: backend)
    session = InferenceSession(program)
    feeds = random_feeds(graph, 5, 2)
    results = session.run(None, feeds)
    turned = [program.page(step).first_slot for step in program.array_steps]
    turns = 1 + sum(a != b for a, b in pairwise(turned))
    assert backend.loads == turns == len(program.pages) > 1
    model = write(graph)
    for row in range(5):
        expected = run_once(model, {name: value[row : row + 1] for name, value in feeds.items()})
        for name, got in zip(graph.outputs, results, strict=True):
            np.testing.assert_array_equal(got[row : row + 1], expected[name])


def test_single_page_is_loaded_once_for_all_runs():
    graph = chain()
    backend = Counting(ROOMY)
    accelerator = Accelerator(compile(graph, ROOMY, golden=False), backend)
    for seed in range(3):
        accelerator.run(random_feeds(graph, 1, seed))
    assert backend.loads == 1


def test_bisect_finds_a_wrong_layer_on_a_later_page():
    graph = weights()
    program = compile(graph, ARRAY, golden=False)
    assert len(program.pages) > 1
    last = program.array_steps[-1]

    class Broken(MachineBackend):
        def load_weights(self, image, first=0):
            super().load_weights(image, first)
            if np.array_equal(image, program.page(last).weights):
                self.machine.weights[: len(image), 1] ^= 0x40

    fault = first_wrong_layer(program, Broken(ARRAY), random_feeds(graph, 1, 0), start_memory(program, 0), 0)
    assert fault is not None
    assert fault.layer == last.layers[0].name
    assert (
        first_wrong_layer(program, MachineBackend(ARRAY), random_feeds(graph, 1, 0), start_memory(program, 0), 0)
        is None
    )


def test_what_fits_in_no_piece_runs_on_the_host_by_a_rule():
    net = Network(7)
    x = net.dense(net.start(2, 500), 500, 6)  # a column of 500 weights
    graph = net.done(net.dense(x, 6, 5))
    program = compile(graph, ARRAY, golden=False)
    assert [(node.op, node.reason) for node in program.host_nodes if node.op not in EDGES] == [("Gemm", MEMORIES)]
    assert [layer.op for step in program.array_steps for layer in step.layers] == ["Gemm"]
    assert verify(graph, ARRAY, samples=2, targets=["reference", "machine"]).ok


@pytest.mark.parametrize("act_bytes", [16, 64, 300, 1000])
@pytest.mark.parametrize("weight_words", [2, 40, 4096])
def test_no_array_is_too_small(act_bytes, weight_words):
    config = tiny(2, 2, 4, 1, act_bytes=act_bytes, weight_words=weight_words, param_words=9, slots=5, tables=1)
    report = verify(several(), config, samples=1, targets=["reference", "machine"])
    assert report.ok
    assert {node.reason for node in report.host_nodes if node.op not in EDGES} <= {MEMORIES}


def test_pages_survive_the_file(tmp_path):
    graph = depthwise()
    program = compile(graph, ARRAY)
    program.save(tmp_path / "p.hwq")
    again = Program.load(tmp_path / "p.hwq")
    assert again.sizes == program.sizes
    assert again.steps == program.steps
    feeds = {name: program.golden[name] for name in graph.inputs}
    for name, got in zip(graph.outputs, InferenceSession(again).run(None, feeds), strict=True):
        np.testing.assert_array_equal(got, program.golden[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda body: body["pages"].pop(), "whole program"),
        (lambda body: body["pages"].clear(), "slots|larger than its memory"),
        (lambda body: body["pages"].append(dict(body["pages"][0])), "whole program"),
        (lambda body: body["pages"][0].update(weights=-1), "negative"),
        (lambda body: body["pages"][0].update(weights=body["pages"][0]["weights"] + 1), "whole program|larger"),
        (lambda body: body["pages"][0].update(slots=body["pages"][0]["slots"] - 1), "HALT|whole program|layer slots"),
        (lambda body: body["pages"][0].update(slots=0), "0 slots"),
        (lambda body: body["pages"][0].update(slots=1 << 40), "slots"),
        (lambda body: body["pages"][0].update(params=1 << 40), "larger than its memory"),
        (lambda body: body["pages"][0].update(tables=1 << 40), "tables"),
        (lambda body: body["pages"][0].update(constants=0.5), "integers"),
        (lambda body: body["pages"][0].pop("constants"), "constants"),
        (lambda body: body.update(pages=[[1]]), "pages|TypeError"),
        (lambda body: array_step(body).update(slot=0), "layer slots"),
        (lambda body: sliced(body).update(chain=[["slice", [2, 0, 1 << 20]]]), "slice leaves its tensor"),
        (lambda body: sliced(body).update(chain=[["slice", [9, 0, 1]]]), "slice leaves its tensor"),
        (lambda body: sliced(body).update(chain=[["slice", [2, 0]]]), "unpack"),
        (lambda body: sliced(body).update(chain=[["slice", [2, -1, 4]]]), "size"),
    ],
)
def test_forged_pages_are_refused(tmp_path, change, message):
    path = tmp_path / "p.hwq"
    compile(depthwise(), ARRAY, golden=False).save(path)
    data = path.read_bytes()
    path.write_bytes(forged(data, lambda body: None))
    Program.load(path)
    path.write_bytes(forged(data, change))
    with pytest.raises(ProgramError, match=message):
        Program.load(path)


def array_step(body):
    """Return the last run of the accelerator."""
    return [step for step in body["steps"] if "slot" in step][-1]


def sliced(body):
    """Return a port that takes a slice of its tensor."""
    ports = [port for step in body["steps"] if "slot" in step for port in step["inputs"]]
    return next(port for port in ports if any(kind == "slice" for kind, _ in port["chain"]))


def test_reports_say_what_crosses_the_bus():
    report = verify(streamed(), ARRAY, samples=1, targets=["reference"])
    program = compile(streamed(), ARRAY, golden=False)
    ports = [port for step in program.array_steps for port in (*step.inputs, *step.outputs)]
    values = json.loads(json.dumps(report.to_dict()))
    assert values["host_bytes"] == sum(port.size_bytes for port in ports)
    assert (values["pages"], values["load_bytes"]) == (len(program.pages), report.load_bytes)
    assert any(isinstance(step, HostStep) and len(step.inputs) > 1 for step in program.steps)  # puts bands together


def test_programs_of_several_pages_do_not_depend_on_hashes_or_time():
    a, b = (compile(several(), ARRAY, golden=False) for _ in range(2))
    assert a.steps == b.steps
    assert a.words.tobytes() == b.words.tobytes()
