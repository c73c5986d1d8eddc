"""Which of the forms of a layer the compiler takes where all are right."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from hwq import isa
from hwq.addresses import pixel_addresses
from hwq.compiler import compile, load
from hwq.images import Images
from hwq.ladder import verify
from hwq.layout import View
from hwq.mesh_layer import tap_orders
from hwq.mesh_parts import Part
from hwq.vector_layer import copy_descriptors
from tests import test_widths
from tests.onnx_models import Builder
from tests.programs import tiny
from tests.test_mesh_parts import network


def layers(graph, arch="ecp5-8x16"):
    """Return the descriptors of a program's layers."""
    return [d for d in compile(graph, arch, golden=False).descriptors(0) if d["opcode"] != isa.Opcode.HALT]


@pytest.mark.parametrize(
    ("kernel", "strides", "strips", "taps_x", "span", "short_from"),
    [
        ((3, 3), 1, 6, 1, 3, 0),
        ((3, 4), 1, 6, 1, 4, 0),
        ((3, 5), 1, 0, 1, 5, 0),
        ((3, 3), 2, 0, 2, 2, 1),
        ((5, 5), 3, 0, 3, 2, 2),
        ((1, 1), 2, 0, 1, 1, 0),
    ],
)
def test_depthwise_convolutions_run_in_strips_or_in_runs(kernel, strides, strips, taps_x, span, short_from):
    """Kernel columns as far apart as the pixels that share them are one run, those left over one shorter."""
    shape = {"pads": [size // 2 for size in kernel] * 2, "strides": [strides] * 2}
    graph = network([(16, 16, kernel, shape)], (2, 16, 12, 11))
    found = [d for d in layers(graph) if d["opcode"] == isa.Opcode.DEPTHWISE]
    for d in found:
        assert [d[name] for name in ("strips", "taps_x", "span", "short_from")] == [strips, taps_x, span, short_from]
    assert len(found) == 2, "one an image"
    assert verify(graph, "ecp5-8x16", samples=2, targets=["machine"]).ok


def test_rows_of_a_strip_are_pairs():
    (d,) = layers(network([(16, 16, (3, 3), {})], (1, 16, 9, 13)))
    assert (d["row_pixels"], d["pixels"], d["strips"], d["short_strip"]) == (2, 2 * 11, 4, 1)


@pytest.mark.parametrize("arch", ["ecp5-8x16", "ice40-4x4"])
@pytest.mark.parametrize(("shape", "pixels"), [((1, 24), 1), ((5, 24), 5), ((2, 3, 24), 6)])
def test_a_matrix_product_reads_every_row_once(shape, pixels, arch):
    b = Builder()
    x = b.dequantize(b.input("x", shape, "int8"), 0.05, 3)
    weight = b.weight(np.random.default_rng(0).integers(-128, 128, (24, 15)).astype(np.int8), np.float32(0.01))
    y = b.quantize(b.node("MatMul", [x, weight]), 0.1, 2)
    graph = load(b.model(y, types={y: ("int8", None)}))
    assert [d["pixels"] for d in layers(graph, arch) if d["opcode"] == isa.Opcode.CONV] == [pixels]
    assert verify(graph, arch, samples=2, targets=["machine"]).ok


def test_columns_that_lie_apart_are_read_in_one_run_where_that_takes_fewer_fetches():
    x, y = View(0, (1, 5, 1, 3), (0, 1, 0, 6)), View(0, (1, 4, 1, 1), (0, 1, 0, 0))
    part = Part(np.ones((1, 3, 5, 4), np.int16), np.arange(4), x, y, None)
    config = tiny(4, 4, 4, 1)
    orders = [(fields["taps_x"], fields["span"]) for fields, _ in tap_orders(part, config)]
    assert orders == [(3, 5), (1, 17)]  # six fetches of four bytes, or five
    far = dataclasses.replace(part, x=View(0, (1, 5, 1, 3), (0, 1, 0, 10)))
    assert [(fields["taps_x"], fields["span"]) for fields, _ in tap_orders(far, config)] == [(3, 5)]  # or seven


@pytest.mark.parametrize(("inputs", "spans"), [(255, [255]), (256, [])])
def test_a_run_is_as_long_as_a_descriptor_counts(inputs, spans):
    x, y = View(0, (1, inputs, 1, 1), (0, 1, 0, 0)), View(0, (1, 4, 1, 1), (0, 1, 0, 0))
    part = Part(np.ones((1, 1, inputs, 4), np.int16), np.arange(4), x, y, None)
    assert [fields["span"] for fields, _ in tap_orders(part, tiny(4, 4, 4, 1, count_bits=8))] == spans


def test_layers_of_every_width_agree():
    config, seen = test_widths.roomy((2, 4, 4, 2)), Counter()
    for seed in range(9):
        made, storage = test_widths.network(seed, config)
        graph = load(made.model)
        assert verify(graph, config, samples=1, targets=["machine"], weights=storage).ok
        seen += test_widths.forms(compile(graph, config, golden=False, weights=storage))
    assert set(seen) == test_widths.FORMS - {"block's book"}
    assert seen["int4"] >= 5


@pytest.mark.parametrize("shape", [(600,), (2, 300), (300, 2), (3, 2, 600)])
def test_copies_count_no_further_than_a_descriptor_does(shape):
    images = Images(tiny(4, 4, 4, 1, act_bytes=1 << 13, count_bits=8))
    source = View.dense(0, shape[::-1]).transpose(range(len(shape))[::-1])
    target = View.dense(4096, shape)
    moved = []
    for d in copy_descriptors(source, target, images):
        assert max(d["row_pixels"], d["blocks"]) <= 255
        channels = d["blocks"] - 1 + d["last_channels"]
        ends = zip(pixel_addresses(d, "ifm"), pixel_addresses(d, "ofm"), strict=True)
        moved += [(a + channel, b + channel) for a, b in ends for channel in range(channels)]
    assert sorted(moved) == sorted(zip(source.offsets().flat, target.offsets().flat, strict=True))
