"""Runs every cocotb bench on its component."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hwq import isa, timing
from rtl.mesh import Mesh
from rtl.requantize import Requantizer
from rtl.sequencer import Sequencer
from rtl.serializer import Serializer
from rtl.top import Accelerator
from sim.elaborate import convert
from tests import programs

pytestmark = [pytest.mark.rtl, pytest.mark.usefixtures("tools")]


def bench(component, name, tests, **options):
    from sim.cocotb_runner import run

    run(convert(component), "top", f"sim.benches.{name}", tests, **options)


def test_requantizer():
    bench(Requantizer(), "requantize", 1)


@pytest.mark.parametrize("fetch_bytes", [4, 16])
def test_serializer(fetch_bytes):
    bench(Serializer(fetch_bytes=fetch_bytes), "serializer", 1)


@pytest.mark.parametrize(("int4", "act_int4"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (3, 2), (2, 5), (4, 4)])
def test_mesh(rows, cols, int4, act_int4):
    widths = {"HWQ_INT4": str(int(int4)), "HWQ_ACT_INT4": str(int(act_int4))}
    environment = {"HWQ_ROWS": str(rows), "HWQ_COLS": str(cols), **widths}
    bench(Mesh(rows=rows, cols=cols, int4=int4, act_int4=act_int4), "mesh", 2, environment=environment)


@pytest.mark.parametrize("bank", [1, 2, 4])
def test_mesh_of_banks(bank):
    environment = {"HWQ_ROWS": "3", "HWQ_COLS": "4", "HWQ_INT4": "1", "HWQ_ACT_INT4": "1"}
    bench(Mesh(rows=3, cols=4, bank=bank, int4=True, act_int4=True), "mesh", 2, environment=environment)


@pytest.mark.parametrize(("weight_bits", "codebooks", "act_bits"), [(8, 0, 8), (4, 0, 8), (4, 1, 4)])
def test_sequencer(weight_bits, codebooks, act_bits):
    config = programs.tiny(2, 6, 4, 2, slots=8, weight_bits=weight_bits, codebooks=codebooks, act_bits=act_bits)
    bench(Sequencer(config), "sequencer", 8, environment={"HWQ_ARCH": json.dumps(config.to_dict())})


@pytest.mark.parametrize(
    ("shape", "seed", "ports"),
    [
        ((2, 4, 4, 2), 1, 2),
        ((2, 4, 4, 2), 2, 2),
        ((3, 6, 8, 2), 3, 2),
        ((4, 4, 4, 1), 4, 2),
        ((1, 3, 4, 1), 5, 2),
        ((4, 4, 4, 1), 6, 1),
    ],
)
def test_whole_program(shape, seed, ports, tmp_path):
    config = programs.tiny(*shape, act_bytes=1024, weight_words=512, param_words=32, slots=8, act_ports=ports)
    machine = programs.random_machine(config, np.random.default_rng(seed), layers=4)
    before = machine.act.copy()
    status = machine.run(0)
    assert status.error is isa.ErrorCode.NONE
    predicted = timing.predict(programs.decoded(machine), config)
    case = tmp_path / "case.npz"
    profile = [layer.cycles for layer in predicted.layers]
    images = {"act": before, "weights": machine.weights, "params": machine.params, "program": machine.program}
    images["tables"] = machine.tables
    np.savez(case, **images, after=machine.act, slot=status.slot, cycles=predicted.total, profile=profile)
    environment = {"HWQ_ARCH": json.dumps(config.to_dict()), "HWQ_CASE": str(case)}
    bench(Accelerator(config), "program", 2, seed=seed, environment=environment)
