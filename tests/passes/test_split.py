"""Layers in pieces compute what ONNX Runtime computes for the whole ones."""

import numpy as np
import pytest

from hwq import ir, reference
from hwq.host import oracle_session
from hwq.onnx_reader import read
from hwq.onnx_writer import write
from hwq.passes.split import CHANNELS, COLUMNS, ROWS, even, split, split_axes
from tests.onnx_models import Builder, random_feeds


def image(b, shape=(1, 4, 9, 7), name="x"):
    return b.input(name, shape, "int8")


def qconv(b, x, inputs, outputs, kernel, seed, groups=1, **attributes):
    rng = np.random.default_rng(seed)
    weight = b.constant(rng.integers(-128, 128, (outputs, inputs // groups, *kernel)), np.int8)
    scales = [b.constant(rng.uniform(0.002, 0.01, outputs), np.float32), b.constant(np.zeros(outputs), np.int8)]
    bias = b.constant(rng.integers(-900, 900, outputs), np.int32)
    names = [x, *b.params(0.05, 3), weight, *scales, *b.params(0.05, 3), bias]
    return b.node("QLinearConv", names, group=groups, **attributes)


def windows(seed):
    """A convolution, a table, a depthwise convolution and a pool of random windows."""
    rng = np.random.default_rng(seed)
    b = Builder()
    kernel, dilations = rng.integers(1, 4, 2), rng.integers(1, 3, 2)
    pads = [int(rng.integers(0, (k - 1) * d + 1)) for k, d in zip(kernel, dilations, strict=True)]
    strides = rng.integers(1, 3, 2).tolist()
    y = qconv(b, image(b, (2, 4, 17, 15)), 4, 6, kernel, seed, pads=pads * 2, strides=strides, dilations=dilations)
    y = b.quantize(b.node("Sigmoid", [b.dequantize(y, 0.05, 3)]), 0.05, 3)
    y = qconv(b, y, 6, 6, (3, 2), seed + 1, groups=6, pads=[1, 0, int(rng.integers(0, 2)), 1])
    y = b.node("MaxPool", [y], kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, int(rng.integers(0, 3)), 1])
    return read(b.model(y, types={y: ("int8", None)}), "net")


def check(graph, chain, axis, ranges, seed):
    """Compare the split graph on the reference with the whole one in ONNX Runtime, and both in ONNX Runtime."""
    new, groups = split(graph, chain, axis, ranges)
    assert len(groups) == len(ranges)
    names = {op.outputs[0] for op in new.ops}
    assert not {op.outputs[0] for op in chain[:-1]} & {*names, *new.tensors}
    feeds = random_feeds(graph, 1, seed)
    expected = oracle_session(write(graph)).run(graph.outputs, feeds)
    results = reference.run(new, feeds)
    for name, wanted, written in zip(
        graph.outputs, expected, oracle_session(write(new)).run(graph.outputs, feeds), strict=True
    ):
        np.testing.assert_array_equal(results[name], wanted)
        np.testing.assert_array_equal(written, wanted)
    return new, groups


@pytest.mark.parametrize("axis", [ROWS, COLUMNS])
@pytest.mark.parametrize("seed", range(8))
def test_chain_of_windows_in_bands(seed, axis):
    graph = windows(seed)
    size = graph.tensors[graph.outputs[0]].shape[axis]
    for first in range(len(graph.ops)):
        check(graph, graph.ops[first:], axis, even(size, 2 + seed % 3), seed)
    check(graph, graph.ops, axis, [(0, 1), (1, size - 1)], seed)


@pytest.mark.parametrize("position", range(4))
def test_one_layer_in_every_axis(position):
    graph = windows(3)
    op = graph.ops[position]
    axes = split_axes(op, graph)
    assert axes == [ROWS, COLUMNS, CHANNELS, 0]
    for axis in axes:
        size = graph.tensors[op.outputs[0]].shape[axis]
        new, _ = check(graph, [op], axis, even(size, size), axis)
        assert sum(name in new.pieces for name in new.tensors) >= size


def test_average_pool_in_bands_and_channels():
    b = Builder()
    x = b.dequantize(image(b), 0.05, 3)
    y = b.quantize(b.node("AveragePool", [x], kernel_shape=[3, 2], strides=[2, 2]), 0.04, -1)
    graph = read(b.model(y, types={y: ("int8", None)}), "net")
    for axis, count in ((ROWS, 4), (COLUMNS, 2), (CHANNELS, 3)):
        check(graph, graph.ops, axis, even(graph.tensors[y].shape[axis], count), 5)


def test_average_pool_that_counts_its_padding_in_bands():
    b = Builder()
    x = b.dequantize(image(b), 0.05, 3)
    attributes = {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 0, 1, 2], "count_include_pad": 1}
    y = b.quantize(b.node("AveragePool", [x], **attributes), 0.04, -1)
    graph = read(b.model(y, types={y: ("int8", None)}), "net")
    (op,) = graph.ops
    for axis in (ROWS, COLUMNS):
        size = graph.tensors[y].shape[axis]
        _, groups = check(graph, [op], axis, even(size, size), 5)
        pads = [group[-1].pads[axis - ROWS] + group[-1].pads[axis - ROWS + 2] for group in groups]
        assert 0 == min(pads) < max(pads)


def test_grouped_convolution_in_bands_but_not_in_channels():
    b = Builder()
    y = qconv(b, image(b, (1, 6, 9, 7)), 6, 4, (3, 3), 9, groups=2, pads=[1] * 4)
    graph = read(b.model(y), "net")
    (op,) = graph.ops
    assert split_axes(op, graph) == [ROWS, COLUMNS]
    for axis in (ROWS, COLUMNS):
        check(graph, [op], axis, even(graph.tensors[y].shape[axis], 3), 10)


@pytest.mark.parametrize("kind", ["Sub", "Mul"])
def test_other_functions_of_two_tensors(kind):
    b = Builder()
    x, z = (b.dequantize(image(b, shape, name), 0.05, 3) for name, shape in (("x", (1, 4, 9, 7)), ("z", (1, 4, 1, 7))))
    y = b.quantize(b.node(kind, [x, z]), 0.1, -1)
    graph = read(b.model(y, types={y: ("int8", None)}), "net")
    (op,) = (op for op in graph.ops if op.kind == kind)
    assert split_axes(op, graph) == [ROWS, COLUMNS, CHANNELS]
    for axis in split_axes(op, graph):
        check(graph, [op], axis, even(graph.tensors[y].shape[axis], 2), 11)


def test_floored_layers_keep_their_channels_parameters():
    rng = np.random.default_rng(12)
    x, y = (ir.Tensor(name, (1, 4 if name == "x" else 10, 6, 5), "int8", 1.0) for name in "xy")
    floor = ir.Floor(rng.integers(500, 5000, 10), rng.integers(-(1 << 24), 1 << 24, 10), rng.integers(20, 23, 10))
    op = ir.Conv(
        name="c", inputs=("x",), outputs=("y",), weight=rng.integers(-128, 128, (10, 4, 3, 3)).astype(np.int8),
        weight_zero_point=np.zeros(10, np.int64), weight_scale=np.ones(10, np.float32),
        bias=rng.integers(-900, 900, 10).astype(np.int32), pads=(1, 1, 1, 1), floor=floor,
    )  # fmt: skip
    graph = ir.Graph("net", ["x"], ["y"], {"x": x, "y": y}, ops=[op])
    feeds = random_feeds(graph, 2, 12)
    padded = np.pad(feeds["x"].astype(np.int64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    acc = np.einsum("nirckl,oikl->norc", patches, op.weight.astype(np.int64)) + op.bias.reshape(-1, 1, 1)
    multiplier, offset, shift = (value.reshape(-1, 1, 1) for value in (floor.multiplier, floor.offset, floor.shift))
    expected = np.clip((acc * multiplier + offset) >> shift, -128, 127)
    assert len(np.unique(expected)) > 100
    for axis in (ROWS, CHANNELS):
        new, _ = split(graph, [op], axis, even(graph.tensors["y"].shape[axis], 3))
        np.testing.assert_array_equal(reference.run(new, feeds)["y"], expected)


def test_scaled_layers_keep_their_channels_scales():
    rng = np.random.default_rng(13)
    tensors = {name: ir.Tensor(name, (3, size), "int8", 1.0) for name, size in (("x", 6), ("y", 10))}
    op = ir.Gemm(
        name="g", inputs=("x",), outputs=("y",), weight=rng.integers(-8, 8, (6, 10)).astype(np.int8),
        weight_zero_point=np.zeros(10, np.int64), weight_scale=np.ones(10, np.float32), bias=np.zeros(10, np.int32),
        block_scales=ir.BlockScales(4, rng.integers(1, 9, (2, 10)).astype(np.uint8)),
    )  # fmt: skip
    _, groups = split(ir.Graph("net", ["x"], ["y"], tensors, ops=[op]), [op], 1, even(10, 3))
    found = np.concatenate([group[-1].block_scales.scale for group in groups], axis=1)
    np.testing.assert_array_equal(found, op.block_scales.scale)


def test_operands_of_an_addition_are_sliced_unless_they_are_broadcast():
    for shape in ((1, 4, 9, 7), (1, 4, 1, 1), (1, 1, 9, 7), (9, 7), (9, 1), (1,)):
        b = Builder()
        x = image(b)
        other = b.constant(np.random.default_rng(1).integers(-128, 128, shape), np.int8)
        y = b.node(
            "QLinearAdd", [x, *b.params(0.05, 2), other, *b.params(0.025, 4), *b.params(0.1, 6)], domain="com.microsoft"
        )
        graph = read(b.model(y), "net")
        for axis in split_axes(graph.ops[0], graph):
            check(graph, graph.ops, axis, even(graph.tensors[y].shape[axis], 2), 6)


def test_second_operand_within_a_chain_is_sliced():
    b = Builder()
    x, other = qconv(b, image(b), 4, 4, (3, 3), 1, pads=[1] * 4), image(b, name="z")
    names = [x, *b.params(0.05, 3), other, *b.params(0.025, 4), *b.params(0.1, 6)]
    graph = read(b.model(b.node("QLinearAdd", names, domain="com.microsoft")), "net")
    check(graph, graph.ops, ROWS, even(9, 3), 14)


def test_matrix_product_in_columns_and_rows():
    b = Builder()
    x = b.input("x", (5, 12), "int8")
    weight = b.constant(np.random.default_rng(2).integers(-128, 128, (12, 11)), np.int8)
    scale = b.constant(np.random.default_rng(3).uniform(0.001, 0.01, 11), np.float32)
    names = [x, *b.params(0.05, 3), weight, scale, b.constant(np.zeros(11), np.int8), *b.params(0.05, 3)]
    graph = read(b.model(b.node("QLinearMatMul", names), types={}), "net")
    (op,) = graph.ops
    assert split_axes(op, graph) == [0, 1]
    for axis, count in ((0, 5), (1, 3)):
        _, groups = check(graph, [op], axis, even((5, 11)[axis], count), 7)
    assert [op.weight.shape for group in groups for op in group] == [(12, 4), (12, 4), (12, 3)]


def test_pieces_say_how_much_of_them_is_made_again():
    """Of seven rows between two windows of three rows, neighbouring pieces of the result both need two."""
    b = Builder()
    y = qconv(b, qconv(b, image(b), 4, 4, (3, 3), 1), 4, 4, (3, 3), 2)
    graph = read(b.model(y), "net")
    middle = graph.ops[0].outputs[0]
    new, _ = split(graph, graph.ops, ROWS, [(0, 2), (2, 2), (4, 1)])
    pieces = [(piece.start, piece.size, piece.again) for piece in new.pieces.values() if piece.whole.name == middle]
    assert pieces == [(0, 4, 0), (2, 4, 2), (4, 3, 2)]


@pytest.mark.parametrize(
    ("shape", "labels"),
    [((1, 2, 2, 2), ["channels", "rows", "columns"]), ((2, 2, 2), ["axis 0", "axis 1", "axis 2"])],
)
def test_pieces_are_named_by_their_axis(shape, labels):
    tensors = {name: ir.Tensor(name, shape, "int8", 1.0) for name in "xzy"}
    op = ir.Add(name="a", inputs=("x", "z"), outputs=("y",))
    for axis, label in enumerate(labels, len(shape) - 3):
        new, _ = split(ir.Graph("net", ["x", "z"], ["y"], tensors, ops=[op]), [op], axis, even(2, 2))
        assert {f"{name}[{label} {start}:{start + 1}]" for name in "xzy" for start in (0, 1)} == set(new.pieces)


def test_pieces_of_pieces_name_what_they_are_part_of():
    graph = windows(1)
    op = graph.ops[-1]
    new, groups = split(graph, [op], ROWS, [(0, 2), (2, graph.tensors[op.outputs[0]].shape[2] - 2)])
    again, parts = split(new, groups[1][-1:], CHANNELS, [(0, 4), (4, 2)])
    name = parts[1][-1].outputs[0]
    assert (again.pieces[name].axis, again.pieces[name].start, again.pieces[name].size) == (CHANNELS, 4, 2)
    outer = again.pieces[again.pieces[name].whole.name]
    assert (outer.whole.name, outer.axis, outer.start) == (op.outputs[0], ROWS, 2)
    feeds = random_feeds(graph, 1, 3)
    (expected,) = oracle_session(write(graph)).run(None, feeds)
    np.testing.assert_array_equal(reference.run(again, feeds)[graph.outputs[0]], expected)


def test_concatenation_in_every_axis_but_its_own():
    ops = [ir.Concat(name="c", inputs=("x", "z"), outputs=("y",), axis=1)]
    tensors = {name: ir.Tensor(name, (1, 8 if name == "y" else 4, 9, 7), "int8", 1.0) for name in ("x", "z", "y")}
    graph = ir.Graph("net", ["x", "z"], ["y"], tensors, ops=ops)
    assert split_axes(ops[0], graph) == [ROWS, COLUMNS]
    check(graph, ops, ROWS, even(9, 2), 8)


def test_padding_is_left_whole():
    tensors = {name: ir.Tensor(name, (1, 1, 2 + row, 2), "int8", 1.0) for row, name in enumerate("xy")}
    pad = ir.Pad(name="p", inputs=("x",), outputs=("y",), begin=(0, 0, 1, 0), end=(0, 0, 0, 0), value=0)
    assert split_axes(pad, ir.Graph("net", ["x"], ["y"], tensors, ops=[pad])) == []
