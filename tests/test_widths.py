"""Random networks of layers of any width: bytes, 4 bits, codebooks, block scales, activations of 4 bits."""

from collections import Counter

import numpy as np
import pytest

import hwq
from hwq import ir, isa
from hwq.compiler import compile
from hwq.config import load_arch
from hwq.ladder import verify
from tests import programs
from tests.random_networks import RandomNetwork

ROOM = {"act_bytes": 1 << 17, "weight_words": 1 << 14, "param_words": 2048, "slots": 64}
SHAPES = [(2, 4, 4, 2), (3, 6, 8, 2), (4, 4, 4, 1), (8, 16, 16, 8), (2, 12, 16, 4)]
NETWORKS, RTL_NETWORKS = 300, 30
"""Networks an array, on the machine and on RTL."""

FORMS = {"bytes", "int4", "layer's book", "block's book", "scaled bytes", "scaled int4", "scaled book", "ifm_int4"}


def roomy(shape):
    """Return an array that has every width; a single lane can't write two channels in a byte."""
    widths = {"weight_bits": 4, "codebooks": 1, "block_scales": 1, "act_bits": 4 if shape[3] > 1 else 8}
    return programs.tiny(*shape, **ROOM, **widths)


def network(seed, config):
    """Return a random network, and how its weights are to be stored."""
    rng = np.random.default_rng(seed)
    shares = {"int4": 0.5, "codebook": 0.3, "group": config.cols, "act_int4": 0.9}
    shares["blocked"] = 0.4 if config.block_scales else 0
    return RandomNetwork(rng, int(rng.integers(2, 6)), **shares), str(rng.choice(["auto", "codebook", "codebook"]))


def forms(program):
    """Return how many layers of the mesh have which form."""
    chosen = Counter()
    for step in program.array_steps:
        for d in program.descriptors(step.slot):
            if d["opcode"] in (isa.Opcode.CONV, isa.Opcode.DEPTHWISE):
                weights = ("bytes", "layer's book", "block's book")[d["codebook"]] if not d["int4"] else "int4"
                if d["scaled"]:
                    weights = "scaled book" if d["codebook"] else f"scaled {weights}"
                chosen["ifm_int4" if d["ifm_int4"] else weights] += 1
    return chosen


def expected(config):
    """Return the forms that must come up on `config`: few layers have more channels than a wide array."""
    impossible = {"ifm_int4"} if config.act_bits == 8 else set()
    impossible |= {"block's book"} if config.cols > 8 else set()
    return {form for form in FORMS - impossible if config.block_scales or not form.startswith("scaled")}


def assert_int4_fits(graph, program):
    """Assert that only layers whose weights 4 bits hold have them so."""
    fit = {}
    for op in graph.ops:
        if isinstance(op, ir.Conv | ir.Gemm):
            shape = [-1, 1, 1, 1] if isinstance(op, ir.Conv) else [1, -1]
            values = op.weight.astype(int) - op.weight_zero_point.reshape(shape)
            fit[op.name] = values.min() >= -8 and values.max() <= 7
    for step in program.array_steps:
        descriptors = program.descriptors(step.slot)
        for layer in step.layers:
            if layer.name in fit:
                slots = descriptors[layer.first_slot - step.slot : layer.end_slot - step.slot]
                on_mesh = {d["int4"] | d["ifm_int4"] for d in slots if d["opcode"] != isa.Opcode.VECTOR}
                assert len(on_mesh) == 1
                assert max(on_mesh) <= fit[layer.name], layer.name


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_networks_of_any_widths_are_exact(shape):
    config, seen = roomy(shape), Counter()
    for seed in range(NETWORKS):
        made, storage = network([seed, *shape], config)
        graph = hwq.load(made.model)
        report = verify(graph, config, weights=storage, samples=1, seed=seed, targets=["reference", "machine"])
        assert report.ok, f"seed {seed}: {made.kinds}"
        program = compile(graph, config, golden=False, weights=storage)
        assert_int4_fits(graph, program)
        seen += forms(program)
    assert min(seen[form] for form in ("bytes", "int4", "layer's book")) >= 20
    assert min(seen[form] for form in expected(config)) >= 3
    assert sum(count for form, count in seen.items() if form.startswith("scaled")) >= 40


@pytest.mark.rtl
@pytest.mark.slow
@pytest.mark.xdist_group("verilator")
@pytest.mark.parametrize("arch", ["sim-4x4", "ecp5-8x16", (6, 4, 4, 2)], ids=str)
def test_networks_of_any_widths_are_exact_on_rtl(arch):
    config, seen = load_arch(arch) if isinstance(arch, str) else roomy(arch), Counter()
    for seed in range(RTL_NETWORKS):
        made, storage = network([seed, config.rows, config.cols], config)
        report = verify(made.model, config, weights=storage, samples=1, seed=seed)
        assert report.ok, f"seed {seed}: {made.kinds}"
        seen += forms(compile(made.model, config, golden=False, weights=storage))
    assert len(expected(config) - set(seen)) <= 1
