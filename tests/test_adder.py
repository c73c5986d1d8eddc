"""Architectures whose output path has no adder: sums of tensors on the host, everything else as it was."""

from dataclasses import replace

import hwq
from hwq import demo, isa
from hwq.config import PRESETS
from tests.test_mesh_parts import network

WITHOUT = replace(PRESETS["ecp5-8x16"], name="no-adder", adder=0)


def test_sums_of_tensors_run_on_the_host_by_a_rule():
    report = hwq.verify(demo.model_path(), "ice40-4x4", samples=2, targets=["reference", "machine"])
    assert report.ok
    (add,) = (node for node in report.host_nodes if node.op == "Add")
    assert add.reason.startswith("Add, Sub and Mul of two tensors need an adder")


def test_clamps_of_the_adder_join_those_of_the_requantizer():
    assert hwq.verify(demo.model_path(), WITHOUT, samples=2, targets=["reference", "machine"]).ok
    program = hwq.compile(demo.model_path(), WITHOUT)
    layers = [d for step in program.array_steps for d in program.descriptors(step.slot)]
    assert not any(d[name] for d in layers for name in isa.ADDER)


def test_layers_in_strips_keep_the_step_of_their_strips():
    graph = network([(16, 16, (3, 3), {"pads": [1] * 4})], (1, 16, 7, 6))
    assert any(d["strips"] for d in hwq.compile(graph, WITHOUT, golden=False).descriptors(0))
    assert hwq.verify(graph, WITHOUT, samples=2, targets=["reference", "machine"]).ok
