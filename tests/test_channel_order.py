"""Depthwise convolutions with several outputs a channel: their channels lie in another order where it can be read."""

import numpy as np
import pytest

from hwq import isa
from hwq.compiler import compile, load
from hwq.ladder import verify
from tests.onnx_models import Builder
from tests.programs import tiny

MEMORY = {"act_bytes": 65536, "weight_words": 16384, "param_words": 512, "slots": 256, "tables": 2}
SHAPES = [(2, 4, 4, 2), (3, 6, 8, 2), (8, 16, 16, 8), (1, 1, 4, 1), (4, 12, 4, 4)]
EDGES = {"QuantizeLinear", "DequantizeLinear"}
KEEPERS = ["depthwise", "average", "maximum", "table", "global average"]
READERS = ["pointwise", "gemm", "flatten", "output", "add", "concat", "grouped", "multiplied"]
BLIND = {"pointwise", "gemm", "flatten"}
"""Readers that take channels in any order."""


class Network:
    """Convolutions, pools and functions of one image after another."""

    def __init__(self, seed, channels, size, dtype="int8"):
        self.rng, self.b, self.dtype, self.zero = np.random.default_rng(seed), Builder(), dtype, 2
        self.channels = channels
        self.factor = 1
        self.x = self.b.dequantize(self.b.input("x", (1, channels, *size), dtype), 0.05, self.zero, dtype)

    def quantized(self, y, scale=0.1):
        self.x = self.b.dequantize(self.b.quantize(y, scale, self.zero, self.dtype), scale, self.zero, self.dtype)

    def conv(self, outputs, groups=1, kernel=(1, 1), scale=0.1, **attributes):
        values = self.rng.integers(-127, 128, (outputs, self.channels // groups, *kernel)).astype(np.int8)
        weight = self.b.weight(values, self.rng.uniform(0.005, 0.01, outputs))
        self.quantized(self.b.node("Conv", [self.x, weight], group=groups, **attributes), scale)
        self.channels = outputs

    def keep(self, kind):
        if kind == "depthwise":
            self.conv(self.channels, self.channels, (3, 3), pads=[1] * 4)
        elif kind == "average":
            self.quantized(self.b.node("AveragePool", [self.x], kernel_shape=[2, 2], strides=[1, 1]), 0.1)
        elif kind == "maximum":
            self.quantized(self.b.node("MaxPool", [self.x], kernel_shape=[3, 3], pads=[1] * 4), 0.1)
        elif kind == "table":
            self.quantized(self.b.node("Tanh", [self.x]), 0.1)
        else:
            self.quantized(self.b.node("GlobalAveragePool", [self.x]), 0.1)

    def read(self, kind):
        x = self.x
        if kind == "pointwise":
            self.conv(5)
        elif kind in ("gemm", "flatten"):
            if kind == "gemm":
                x = self.b.node("GlobalAveragePool", [x])
                self.quantized(x)
            flat = self.b.node("Flatten", [self.x])
            rows = self.shape(flat)
            weight = self.b.weight(self.rng.integers(-127, 128, (rows, 7)).astype(np.int8), 0.003)
            self.quantized(self.b.node("MatMul", [flat, weight]))
        elif kind == "add":
            self.conv(self.channels)
            self.quantized(self.b.node("Add", [x, self.x]), 0.15)
        elif kind == "concat":
            self.conv(3)
            self.quantized(self.b.node("Concat", [x, self.x], axis=1))
        elif kind == "grouped":
            self.conv(self.channels, self.channels // self.factor, (2, 2), pads=[0, 0, 1, 1])
        elif kind == "multiplied":
            self.conv(self.channels * 2, self.channels, (2, 2), pads=[1, 1, 0, 0])

    def shape(self, name):
        """Return the number of elements an image has as `name`."""
        tensors = load(self.b.model(name)).tensors
        return tensors[name].shape[1]

    def graph(self):
        return load(self.b.model(self.x))


def multiplied(seed, channels, outputs, size, between, reader, dtype="int8", **attributes):
    """Return a convolution of `outputs` a channel, what keeps channels apart, and who reads the last of them."""
    network = Network(seed, channels, size, dtype)
    network.conv(channels)
    network.conv(channels * outputs, channels, (3, 3), **attributes)
    network.factor = outputs
    for kind in between:
        network.keep(kind)
    network.read(reader)
    return network.graph()


def opcodes(program):
    return [isa.Opcode(d["opcode"]).name for d in program.descriptors(0)]


@pytest.mark.parametrize("seed", range(40))
def test_random_networks_agree(seed):
    rng = np.random.default_rng(seed)
    channels, outputs = int(rng.choice([2, 3, 5, 8, 17])), int(rng.integers(2, 5))
    size = [int(n) for n in rng.integers(5, 9, 2)]
    between = rng.choice(KEEPERS[:4], int(rng.integers(0, 3))).tolist()
    attributes = {"strides": [int(n) for n in rng.integers(1, 3, 2)], "pads": [int(n) for n in rng.integers(0, 3, 4)]}
    dtype = str(rng.choice(["int8", "uint8"]))
    graph = multiplied(seed, channels, outputs, size, between, READERS[seed % len(READERS)], dtype, **attributes)
    report = verify(graph, tiny(*SHAPES[seed % len(SHAPES)], **MEMORY), samples=2, targets=["reference", "machine"])
    assert report.ok
    assert {node.op for node in report.host_nodes} <= EDGES


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("keeper", [None, *KEEPERS])
def test_the_depthwise_unit_runs_what_may_lie_in_another_order(keeper, reader):
    graph = multiplied(1, 16, 2, (8, 8), [keeper] if keeper else [], reader)
    program = compile(graph, "ecp5-8x16", golden=False)
    layers = [layer for step in program.array_steps for layer in step.layers]
    layer = next(layer for layer in layers if layer.macs == 32 * 36 * 9)
    slots = opcodes(program)[layer.first_slot : layer.end_slot]
    assert slots == ["DEPTHWISE"] * 2 if reader in BLIND else "DEPTHWISE" not in slots
    assert verify(graph, "ecp5-8x16", samples=1, targets=["machine"]).ok


@pytest.mark.rtl
@pytest.mark.parametrize("arch", ["sim-4x4", "ecp5-8x16"])
def test_verilator_agrees_in_every_byte_and_cycle(arch):
    graph = multiplied(3, 12, 3, (7, 9), ["depthwise", "table"], "gemm", pads=[1] * 4, strides=[2, 1])
    report = verify(graph, arch, samples=1)
    assert report.ok
    assert "verilator" in [rung.name for rung in report.rungs]
    assert all(layer.cycles_measured == layer.cycles_predicted for layer in report.layers)


def test_few_channels_with_many_outputs_run_as_a_dense_convolution():
    """Two channels of 8 outputs: DEPTHWISE would use two columns eight times over."""
    graph = multiplied(4, 2, 8, (10, 10), [], "pointwise")
    assert "DEPTHWISE" not in opcodes(compile(graph, "ecp5-8x16", golden=False))
    assert verify(graph, "ecp5-8x16", samples=1, targets=["machine"]).ok
