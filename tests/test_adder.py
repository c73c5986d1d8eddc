"""Architectures whose output path has no adder: sums of tensors on the host, everything else as it was."""

from dataclasses import replace

import pytest

import hwq
from hwq import demo, isa
from hwq.config import PRESETS
from hwq.schedule import without_adder


def test_sums_of_tensors_run_on_the_host_by_a_rule():
    report = hwq.verify(demo.model_path(), "ice40-4x4", samples=2, targets=["reference", "machine"])
    assert report.ok
    (add,) = (node for node in report.host_nodes if node.op == "Add")
    assert add.reason.startswith("Add, Sub and Mul of two tensors need an adder")


def test_clamps_of_the_adder_join_those_of_the_requantizer():
    arch = replace(PRESETS["ecp5-8x16"], name="no-adder", adder=0)
    assert hwq.verify(demo.model_path(), arch, samples=2, targets=["reference", "machine"]).ok
    program = hwq.compile(demo.model_path(), arch)
    layers = [d for step in program.array_steps for d in program.descriptors(step.slot)]
    assert not any(d[name] for d in layers for name in isa.ADDER)


@pytest.mark.parametrize(("strips", "step"), [(0, 0), (3, 8)])
def test_strips_keep_their_step(strips, step):
    clamps = {"lo": -100, "hi": 100, "add_lo": -128, "add_hi": -7}
    fields = without_adder(clamps | {"factor_a": 1, "res_x_step": 8, "strips": strips})
    assert isa.complete(fields) == isa.complete({"lo": -100, "hi": -7, "res_x_step": step, "strips": strips})
