"""Which of the forms of a layer the compiler takes where all are right."""

import numpy as np
import pytest

from hwq import isa
from hwq.compiler import compile, load
from hwq.layout import View
from hwq.mesh_layer import tap_orders
from hwq.mesh_parts import Part
from tests.onnx_models import Builder
from tests.programs import tiny
from tests.test_mesh_parts import network


def layers(graph, arch="ecp5-8x16"):
    """Return the descriptors of a program's layers."""
    return [d for d in compile(graph, arch, golden=False).descriptors(0) if d["opcode"] != isa.Opcode.HALT]


@pytest.mark.parametrize(("kernel", "strides", "taken"), [(3, 1, True), (3, 2, False), (5, 1, False)])
def test_depthwise_convolutions_run_in_strips_where_they_fit(kernel, strides, taken):
    shape = {"pads": [kernel // 2] * 4, "strides": [strides] * 2}
    found = layers(network([(16, 16, (kernel, kernel), shape)], (1, 16, 12, 12)))
    assert any(d["strips"] for d in found if d["opcode"] == isa.Opcode.DEPTHWISE) == taken


def test_a_matrix_product_reads_every_row_once():
    b = Builder()
    x = b.dequantize(b.input("x", (5, 24), "int8"), 0.05, 3)
    weight = b.weight(np.random.default_rng(0).integers(-128, 128, (24, 16)).astype(np.int8), np.float32(0.01))
    y = b.quantize(b.node("MatMul", [x, weight]), 0.1, 2)
    (d,) = layers(load(b.model(y, types={y: ("int8", None)})))
    assert d["pixels"] == 5


def test_columns_that_lie_apart_are_read_in_one_run_where_that_takes_fewer_fetches():
    x, y = View(0, (1, 5, 1, 3), (0, 1, 0, 6)), View(0, (1, 4, 1, 1), (0, 1, 0, 0))
    part = Part(np.ones((1, 3, 5, 4), np.int16), np.arange(4), x, y, None)
    config = tiny(4, 4, 4, 1)
    orders = [(fields["taps_x"], fields["span"]) for fields, _ in tap_orders(part, config)]
    assert orders == [(3, 5), (1, 17)]  # six fetches of four bytes, or five
