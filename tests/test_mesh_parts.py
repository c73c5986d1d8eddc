"""Convolutions cut into parts: grouped ones, and those whose pixels lie abreast on the mesh."""

import dataclasses

import numpy as np
import pytest

from hwq import isa
from hwq.compiler import compile, load
from hwq.config import PRESETS
from hwq.costs import estimate
from hwq.ladder import verify
from tests.onnx_models import Builder
from tests.programs import tiny

MEMORY = {"act_bytes": 32768, "weight_words": 16384, "param_words": 512, "slots": 256}
SHAPES = [(2, 4, 4, 2), (3, 6, 8, 2), (8, 16, 16, 8), (1, 1, 4, 1), (4, 12, 4, 4)]
EDGES = {"QuantizeLinear", "DequantizeLinear"}


def network(layers, shape, seed=0, dtype="int8", zero_point=3, asymmetric=False, add=False):
    """Return one convolution after another, each given as (outputs, groups, kernel, attributes)."""
    rng, b = np.random.default_rng(seed), Builder()
    x, channels = b.dequantize(b.input("x", shape, dtype), 0.05, zero_point, dtype), shape[1]
    for outputs, groups, kernel, attributes in layers:
        low, high = (0, 256) if asymmetric else (-127, 128)
        values = rng.integers(low, high, (outputs, channels // groups, *kernel))
        values = values.astype(np.uint8 if asymmetric else np.int8)
        size = values[0].size
        scale = np.float32(0.004) if asymmetric else rng.uniform(0.003, 0.006, outputs) * 3 / np.sqrt(size)
        weight = b.weight(values, scale, int(rng.integers(0, 256)) if asymmetric else 0)
        y = b.node("Conv", [x, weight], group=groups, **attributes)
        y = b.dequantize(b.quantize(y, 0.1, zero_point - 1, dtype), 0.1, zero_point - 1, dtype)
        if add:
            y = b.node("Add", [x, y])
            y = b.dequantize(b.quantize(y, 0.125, zero_point, dtype), 0.125, zero_point, dtype)
        x, channels = y, outputs
    return load(b.model(x))


def random_layer(rng, rank, inputs, size):
    """Return a random layer for images of `size`, and the size it gives."""
    groups = int(rng.choice([g for g in range(1, inputs + 1) if inputs % g == 0]))
    outputs = groups * int(rng.integers(1, 5))
    kernel, strides, dilations, begin, end, result = [], [], [], [], [], []
    for length in size:
        k, dilation, stride = (int(rng.choice(choice)) for choice in ([1, 2, 3, 5], [1, 1, 2], [1, 1, 2, 3]))
        reach = (k - 1) * dilation
        pads = [int(rng.integers(0, reach + 1)) for _ in range(2)]
        if length + sum(pads) < reach + 1:
            k, reach, pads = 1, 0, [0, 0]
        kernel.append(k)
        strides.append(stride)
        dilations.append(dilation)
        begin.append(pads[0])
        end.append(pads[1])
        result.append((length + sum(pads) - reach - 1) // stride + 1)
    attributes = {"strides": strides, "dilations": dilations, "pads": [*begin, *end]}
    return (outputs, groups, tuple(kernel), attributes), outputs, result


def random_network(seed, rank=2):
    rng = np.random.default_rng(seed)
    inputs = int(rng.choice([1, 2, 3, 4, 6, 8, 12]))
    size = [int(rng.integers(1, 12)) for _ in range(rank)]
    shape, layers = (1, inputs, *size), []
    for _ in range(2):
        layer, inputs, size = random_layer(rng, rank, inputs, size)
        layers.append(layer)
    dtype = str(rng.choice(["int8", "uint8"]))
    zero_point = int(rng.integers(-100, 100)) + (128 if dtype == "uint8" else 0)
    return network(layers, shape, seed, dtype, zero_point, asymmetric=rng.random() < 0.3)


def assert_equal_on_the_array(graph, arch, targets=("reference", "machine"), samples=2):
    report = verify(graph, arch, samples=samples, targets=list(targets))
    assert report.ok
    assert {node.op for node in report.host_nodes} <= EDGES
    if "verilator" in targets:
        assert all(layer.cycles_measured == layer.cycles_predicted for layer in report.layers)
    return report


def convs(program):
    """Return the CONV descriptors of a program."""
    return [d for d in program.descriptors(0) if d["opcode"] == isa.Opcode.CONV]


# Against ONNX Runtime


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("rank", [1, 2])
def test_random_convolutions_agree(seed, rank):
    config = tiny(*SHAPES[seed % len(SHAPES)], **MEMORY)
    assert_equal_on_the_array(random_network(seed, rank), config)


@pytest.mark.rtl
@pytest.mark.parametrize("seed", range(100, 106))
@pytest.mark.parametrize("arch", ["sim-4x4", "ecp5-8x16"])
def test_verilator_agrees_in_every_byte_and_cycle(arch, seed):
    assert_equal_on_the_array(random_network(seed), arch, ("machine", "verilator"))


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_grouped_layer_carries_an_addition(shape, groups):
    layers = [(6, groups, (3, 3), {"pads": [1] * 4})] * 2
    graph = network(layers, (1, 6, 5, 7), add=True)
    report = assert_equal_on_the_array(graph, tiny(*shape, **MEMORY))
    assert [layer.op for layer in report.layers] == ["Conv+Add"] * 2


def test_a_convolution_in_three_dimensions_stays_on_the_host():
    b = Builder()
    x = b.dequantize(b.input("x", (1, 2, 4, 4, 4), "int8"), 0.05, 0)
    y = b.node("Conv", [x, b.weight(np.ones((2, 2, 2, 2, 2), np.int8), 0.01)])
    report = verify(load(b.model(b.quantize(y, 0.1, 0))), "sim-4x4", samples=1, targets=["machine"])
    assert "Conv" in {node.op for node in report.host_nodes}


# Groups


def test_bundles_of_groups_fill_the_columns():
    """16 groups of 4 channels: one descriptor for every 16 columns, each reading its own channels only."""
    graph = network([(64, 16, (1, 1), {})], (1, 64, 9, 9))
    descriptors = convs(compile(graph, "ecp5-8x16", golden=False))
    assert [(d["span"], d["last_channels"]) for d in descriptors] == [(16, 16)] * 4
    assert len({d["ifm_base"] for d in descriptors}) == len({d["ofm_base"] for d in descriptors}) == 4


def test_macs_are_those_of_the_groups():
    graph = network([(64, 16, (3, 3), {})], (1, 64, 9, 9))
    assert estimate(graph, "ecp5-8x16").macs == 64 * 4 * 9 * 49


# Pixels abreast


def test_pixels_abreast_take_the_free_columns():
    """8 channels on 16 columns, stride 2: two pixels share a window of five columns."""
    graph = network([(8, 1, (3, 3), {"strides": [2, 2]})], (1, 3, 17, 33))
    (d,) = convs(compile(graph, "ecp5-8x16", golden=False))
    assert (d["pixels"], d["row_pixels"], d["span"], d["last_channels"]) == (64, 8, 15, 16)


def test_pixels_at_the_end_of_a_row_are_computed_by_themselves():
    graph = network([(8, 1, (3, 3), {})], (1, 8, 23, 23))
    wide, rest = convs(compile(graph, "ecp5-8x16", golden=False))
    assert (wide["row_pixels"], wide["last_channels"]) == (10, 16)
    assert (rest["row_pixels"], rest["last_channels"]) == (1, 8)


@pytest.mark.rtl
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("width", [12, 13, 15])
def test_layers_with_pixels_abreast_carry_an_addition(width, dtype):
    graph = network([(4, 1, (3, 3), {"pads": [1] * 4})] * 2, (1, 4, 6, width), dtype=dtype, add=True)
    assert max(d["last_channels"] for d in convs(compile(graph, "ecp5-8x16"))) > 4
    assert_equal_on_the_array(graph, "ecp5-8x16", ("machine", "verilator"))


def test_no_pixels_abreast_where_the_second_operand_is_one_pixel():
    rng, b = np.random.default_rng(0), Builder()
    x = b.dequantize(b.input("x", (1, 8, 8, 8), "int8"), 0.05, 3)
    values = rng.integers(-127, 128, (8, 8, 3, 3)).astype(np.int8)
    y = b.node("Conv", [x, b.weight(values, rng.uniform(0.001, 0.002, 8))])
    y = b.dequantize(b.quantize(y, 0.0625, 0), 0.0625, 0)
    mean = b.dequantize(b.quantize(b.node("GlobalAveragePool", [x]), 0.03125, 1), 0.03125, 1)
    graph = load(b.model(b.dequantize(b.quantize(b.node("Add", [y, mean]), 0.125, 0), 0.125, 0)))
    (d,) = convs(compile(graph, "ecp5-8x16", golden=False))
    assert (d["residual"], d["res_x_step"], d["last_channels"]) == (1, 0, 8)
    assert_equal_on_the_array(graph, "ecp5-8x16")


def test_no_pixels_abreast_where_they_cost_more():
    """A kernel of one column shares nothing: two pixels abreast would take twice the steps."""
    graph = network([(8, 1, (1, 1), {})], (1, 64, 8, 8))
    (d,) = convs(compile(graph, "ecp5-8x16", golden=False))
    assert (d["pixels"], d["last_channels"]) == (64, 8)


# Taps


def test_columns_of_few_channels_far_apart_are_read_as_one_tap():
    """Three channels, every other column: 15 bytes are one fetch, three times three bytes would be three."""
    graph = network([(16, 1, (3, 3), {"dilations": [2, 2]})], (1, 3, 12, 12))
    (d,) = convs(compile(graph, "ecp5-8x16", golden=False))
    assert (d["taps_y"], d["taps_x"], d["span"]) == (3, 1, 15)
    assert_equal_on_the_array(graph, "ecp5-8x16")


def test_columns_of_many_channels_far_apart_are_read_one_by_one():
    graph = network([(16, 1, (3, 3), {"dilations": [2, 2]})], (1, 16, 12, 12))
    (d,) = convs(compile(graph, "ecp5-8x16", golden=False))
    assert (d["taps_y"], d["taps_x"], d["span"]) == (3, 3, 16)


# Memory


def test_a_network_that_fits_in_no_other_way_is_compiled_to_little_memory():
    graph = network([(8, 1, (3, 3), {})], (1, 8, 12, 12))
    words = PRESETS["ecp5-8x16"]
    fast = compile(graph, words, golden=False)
    short = dataclasses.replace(words, weight_words=len(fast.weights) - 1)
    compact = compile(graph, short)
    assert len(compact.weights) == 72
    assert_equal_on_the_array(graph, short)
    nowhere = compile(graph, dataclasses.replace(words, weight_words=71), golden=False)
    assert "Not even a small piece of this layer fits the memories" in nowhere.host_nodes[0].reason


@pytest.mark.parametrize("slots", [2, 3, 8])
def test_groups_share_descriptors_where_slots_are_few(slots):
    graph = network([(32, 32, (3, 3), {}), (32, 16, (3, 3), {})], (1, 32, 7, 7))
    config = tiny(2, 4, 4, 2, **(MEMORY | {"slots": slots + 1}))
    assert_equal_on_the_array(graph, config)
