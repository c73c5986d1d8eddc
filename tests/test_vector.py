"""Architectures without a vector unit: MaxPool on the host, averages and copies on the mesh."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

import hwq
from hwq import demo, isa
from hwq.compiler import load
from hwq.config import PRESETS
from hwq.layout import Nest
from hwq.mesh_copy import mesh_parts
from tests.onnx_models import Builder
from tests.random_networks import RandomNetwork

ARCHES = [PRESETS["ice40-4x4"], replace(PRESETS["ecp5-8x16"], name="no-vector", adder=0, vector=0)]


@pytest.mark.parametrize("arch", ARCHES, ids=lambda arch: arch.name)
def test_maximum_runs_on_the_host_by_a_rule(arch):
    report = hwq.verify(demo.model_path(), arch, samples=2, targets=["reference", "machine"])
    assert report.ok
    (pool,) = (node for node in report.host_nodes if node.op == "MaxPool")
    assert pool.reason == "MaxPool needs a vector unit; choose an arch with one (vector)."


@pytest.mark.parametrize("arch", ARCHES, ids=lambda arch: arch.name)
def test_random_networks_without_vector_layers(arch):
    copies = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        graph = load(RandomNetwork(rng, int(rng.integers(1, 4))).model)
        assert hwq.verify(graph, arch, samples=1, targets=["reference", "machine"]).ok, f"seed {seed}"
        layers = descriptors(hwq.compile(graph, arch, golden=False))
        assert isa.Opcode.VECTOR not in {d["opcode"] for d in layers}
        copies += sum(d["opcode"] == isa.Opcode.DEPTHWISE and d["taps_y"] * d["span"] == 1 for d in layers)
    assert copies >= 5


@pytest.mark.parametrize(("bias", "fits"), [(500_000, True), (-600_000, False)])
def test_small_arrays_have_room_for_the_bias_too(bias, fits):
    b = Builder()
    x = b.dequantize(b.quantize(b.input("x", (1, 500)), 0.01, 0), 0.01, 0)
    weight, biases = b.weight(np.full((500, 8), 123, np.int8), 0.01), b.constant(np.full(8, bias), np.int32)
    y = b.node("Gemm", [x, weight, b.dequantize(biases, 1e-4, 0, "int32")])
    program = hwq.compile(b.model(b.dequantize(b.quantize(y, 1.0, 0), 1.0, 0)), ARCHES[0])
    reasons = [node.reason for node in program.host_nodes if node.reason.startswith("Sums may need")]
    assert bool(reasons) != fits


def test_sums_of_more_bits_than_the_array_has_run_on_the_host():
    arch = replace(ARCHES[0], count_bits=16)
    for weight, fits in ((63, True), (127, False)):
        b = Builder()
        x = b.dequantize(b.quantize(b.input("x", (1, 600)), 0.01, 0), 0.01, 0)
        y = b.node("MatMul", [x, b.weight(np.full((600, 8), weight, np.int8), 0.01)])
        program = hwq.compile(b.model(b.dequantize(b.quantize(y, 1.0, 0), 1.0, 0)), arch)
        reasons = [node.reason for node in program.host_nodes if node.reason.startswith("Sums may need")]
        assert bool(reasons) != fits


def descriptors(program):
    return [d for step in program.array_steps for d in program.descriptors(step.slot)]


def moves(nests):
    """Return every byte's source and target."""
    out = []
    for nest in nests:
        for index in itertools.product(range(nest.rows), range(nest.columns), range(nest.channels)):
            places = zip(nest.addresses, nest.row_strides, nest.column_strides, strict=True)
            out.append(tuple(a + index[0] * r + index[1] * c + index[2] for a, r, c in places))
    return sorted(out)


def test_parts_of_a_copy_move_the_same_bytes():
    rng = np.random.default_rng(0)
    for _ in range(300):
        config = ARCHES[int(rng.integers(2))]
        rows, columns = (int(n) for n in rng.integers(1, 4, 2))
        even = int(rng.integers(1, 3))
        strides = tuple(tuple(int(n) * even for n in rng.integers(30, 60, 2)) for _ in range(3))
        nest = Nest(rows, columns, int(rng.integers(1, 30)), *strides)
        parts = list(mesh_parts(nest, config))
        assert moves(parts) == moves([nest])
        for part in parts:
            assert part.channels <= config.depthwise_cols
            places = (*part.addresses, *part.row_strides, *part.column_strides)
            assert part.channels == 1 or not any(place % config.grain for place in places)
