"""The whole core in Verilator against the machine: every byte of activation memory, every cycle, every error."""

import itertools
from contextlib import nullcontext

import numpy as np
import pytest

from hwq import isa, timing
from hwq.errors import DeviceError
from hwq.overlap import mark_early
from tests import programs
from tests.campaigns import cores
from tests.rtl.lockstep import compare, load
from tests.test_machine import (
    ACT_INT4_CASES,
    CODEBOOK_CASES,
    INT4_CASES,
    LEGAL,
    PRODUCT,
    SCALED_CASES,
    STRIP,
    UNFIT,
    blank,
)

SHAPES = [(2, 2, 4, 1), (4, 4, 4, 1), (3, 5, 4, 1), (8, 16, 16, 8), (6, 4, 4, 2), (2, 12, 16, 4), (16, 16, 16, 8)]
"""rows, cols, fetch_bytes, lanes: square and not, powers of two and not, every relation of rows to lanes."""

TABLES = dict(zip(SHAPES, (1, 4, 0, 3, 16, 5, 2), strict=True))

PROGRAMS = 80

ARRAYS = [(shape, 4, 1, 4 if shape[3] > 1 else 8) for shape in SHAPES[:-1]]
ARRAYS += [(shape, 8, 0, 8) for shape in SHAPES[1:5]]
ARRAYS += [(SHAPES[2], 4, 0, 8), (SHAPES[2], 8, 1, 8)]
"""Shapes, the width of the narrowest weights, whether there are codebooks, and the width of activations."""

LARGE = [pytest.param(*array, marks=pytest.mark.large) for array in ((SHAPES[3], 4, 0, 8), (SHAPES[-1], 4, 1, 4))]


@pytest.mark.parametrize(("shape", "weight_bits", "codebooks", "act_bits"), [*ARRAYS, *LARGE], ids=str)
@pytest.mark.xdist_group("verilator")
def test_random_programs_in_every_byte_and_cycle(accelerator, shape, weight_bits, codebooks, act_bits):
    widths = {"weight_bits": weight_bits, "codebooks": codebooks, "act_bits": act_bits, "block_scales": codebooks}
    widths["sum_bytes"] = codebooks
    config = programs.tiny(*shape, tables=TABLES[shape], **widths)
    driver = accelerator(config)
    for seed in range(PROGRAMS):
        rng = np.random.default_rng(seed)
        machine = programs.random_machine(config, rng, int(rng.integers(1, 9)))
        compare(driver, machine, f"seed {seed}")


EARLY_SHAPES = ((4, 4, 4, 1), (6, 4, 4, 2), (8, 16, 16, 8))


EARLY_ARRAYS = [array for array in ARRAYS if array[0] in EARLY_SHAPES]


@pytest.mark.parametrize(("shape", "weight_bits", "codebooks", "act_bits"), [*EARLY_ARRAYS, LARGE[0]], ids=str)
@pytest.mark.xdist_group("verilator")
def test_layers_marked_early_read_what_the_one_before_wrote(accelerator, shape, weight_bits, codebooks, act_bits):
    widths = {"weight_bits": weight_bits, "codebooks": codebooks, "act_bits": act_bits, "block_scales": codebooks}
    widths["sum_bytes"] = codebooks
    config = programs.tiny(*shape, tables=TABLES[shape], **widths)
    driver = accelerator(config)
    marked = {0: set(), 1: set()}
    for seed in range(PROGRAMS):
        rng = np.random.default_rng(seed)
        machine, layers = programs.random_memories(config, rng), programs.random_chain(config, rng, 8)
        mark_early(layers, config)
        programs.set_program(machine, layers)
        for pair in itertools.pairwise(layers):
            marked[pair[1].get("early", 0)].add(tuple((d["opcode"], "strips" in d) for d in pair))
        compare(driver, machine, f"seed {seed}")
    pairs = len(programs.mesh_makers(config)) ** 2
    assert [len(kinds) for kinds in marked.values()] == [pairs, pairs], "every kind after every kind, early and not"


@pytest.mark.xdist_group("verilator")
@pytest.mark.parametrize("widths", list(itertools.product(("", "int4", "ifm_int4"), repeat=2)), ids=str)
@pytest.mark.parametrize("span", [1, 2, 3, 8, 40])
def test_early_layer_waits_for_the_last_pass_of_the_one_before(accelerator, span, widths):
    config = cores.ARRAYS[5]
    driver = accelerator(config)
    machine = programs.random_memories(config, np.random.default_rng(span))
    shared = {"opcode": isa.Opcode.CONV, "row_pixels": 16, "pixels": 16, "taps_y": 3, "taps_x": 1, "tap_y_step": 50}
    shared |= {"blocks": 1, "ifm_x_step": 1, "ofm_x_step": 32, "lo": -128, "hi": 127}
    shared |= {"factor_a": 1, "add_lo": -128, "add_hi": 127}
    layers = [shared | {"span": span, "ofm_base": 2048}, shared | {"span": 48, "ofm_base": 3072, "early": 1}]
    for d, width in zip(layers, widths, strict=True):
        d |= {width: 1} if width else {}
        d["last_channels"] = 32 if width == "int4" else 16
    programs.set_program(machine, layers)
    predicted = compare(driver, machine)
    assert predicted.layers[1].cycles < timing.cycles(layers[1], config), "the layer did begin early"


@pytest.mark.xdist_group("verilator")
@pytest.mark.parametrize("span", [29, 30, 31, 32, 33])
def test_tiles_with_second_operands_end_next_to_the_read_of_the_one_before(accelerator, span):
    config = programs.tiny(*SHAPES[3], tables=TABLES[SHAPES[3]], weight_bits=8, codebooks=0, act_bits=8, block_scales=0)
    assert 2 * config.rows * config.groups == 32, "cycles of a tile's read"
    driver = accelerator(config)
    machine = programs.random_memories(config, np.random.default_rng(span))
    layer = {"opcode": isa.Opcode.CONV, "row_pixels": 20, "pixels": 20, "taps_y": 1, "taps_x": 1, "span": span}
    layer |= {"ifm_x_step": 2, "res_base": 1024, "res_x_step": 16, "ofm_base": 2048, "ofm_x_step": 16, "blocks": 1}
    layer |= {"last_channels": 16, "lo": -128, "hi": 127, "residual": 1, "add_lo": -128, "add_hi": 127}
    layer |= {"factor_a": 3 << 20, "factor_b": -5 << 19, "offset_low": 1 << 20, "add_shift": 22}
    programs.set_program(machine, [layer])
    load(driver, machine)
    predicted = timing.predict(programs.decoded(machine), config)
    machine.run()
    driver.start(0)
    assert driver.read_act(2048, 320).tolist() == machine.act[2048:2368].tolist()
    assert driver.profile(1) == [layer.cycles for layer in predicted.layers]


@pytest.mark.xdist_group("verilator")
@pytest.mark.parametrize("change", [{}, {"table": 1}, {"ofm_int4": 1}, {"lo": 5, "hi": 6}], ids=str)
def test_short_layer_keeps_its_constants_with_an_early_one_behind(accelerator, change):
    config = cores.ARRAYS[2]
    driver = accelerator(config)
    machine = programs.random_memories(config, np.random.default_rng(0))
    one = dict.fromkeys(("row_pixels", "pixels", "taps_y", "taps_x", "span", "blocks"), 1)
    one |= {"opcode": isa.Opcode.CONV, "last_channels": 4, "lo": -128, "hi": 127}
    one |= {"factor_a": 1, "add_lo": -128, "add_hi": 127}
    layers = [one | {"ofm_base": 2048} | change, one | {"ofm_base": 3072, "early": 1}]
    programs.set_program(machine, layers)
    predicted = compare(driver, machine)
    assert predicted.layers[1].cycles < timing.cycles(layers[1], config), "the layer did begin early"


@pytest.mark.xdist_group("verilator")
def test_short_strip_means_nothing_without_strips(accelerator):
    widths = {"weight_bits": 4, "codebooks": 1, "act_bits": 4, "block_scales": 1, "sum_bytes": 1}
    config = programs.tiny(*SHAPES[4], tables=TABLES[SHAPES[4]], **widths)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        machine = programs.random_memories(config, rng)
        layers = [programs.random_conv(config, rng), programs.random_depthwise(config, rng)]
        programs.set_program(machine, [d | {"short_strip": 1} for d in layers])
        compare(accelerator(config), machine, f"seed {seed}")


@pytest.mark.xdist_group("verilator")
def test_early_layer_waits_for_one_with_second_operands(accelerator):
    config = cores.ARRAYS[2]
    driver = accelerator(config)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        machine = programs.random_memories(config, rng)
        while not (before := programs.random_conv(config, rng))["residual"]:
            pass
        half = config.act_bytes // 2
        maker = rng.choice(programs.mesh_makers(config))
        while (before["ofm_base"] < half) != ((d := maker(config, rng))["ofm_base"] < half):
            pass  # it would read what isn't written yet
        programs.set_program(machine, [before, d | {"early": 1}])
        predicted = compare(driver, machine, f"seed {seed}")
        assert predicted.layers[1].cycles > timing.cycles(d, config)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"opcode": 4}, "ILLEGAL_OPCODE"),
        ({"pixels": 0}, "ILLEGAL_FIELD"),
        ({"last_channels": 5}, "ILLEGAL_FIELD"),
        ({"opcode": isa.Opcode.VECTOR, "last_channels": 2}, "ILLEGAL_FIELD"),
        (PRODUCT | {"residual": 0}, "ILLEGAL_FIELD"),
        (PRODUCT | {"reduce": isa.Reduce.SUM}, "ILLEGAL_FIELD"),
        (PRODUCT | {"opcode": isa.Opcode.CONV}, "ILLEGAL_FIELD"),
        ({"table": 4}, "ILLEGAL_FIELD"),
        ({"int4": 1}, "ILLEGAL_FIELD"),
        ({"codebook": 1}, "ILLEGAL_FIELD"),
        ({"scaled": 1}, "ILLEGAL_FIELD"),
        ({"ifm_base": 4096}, "ACT_RANGE"),
        ({"ifm_base": 4095, "span": 2}, "ACT_RANGE"),
        ({"ifm_base": 0, "ifm_x_step": -1, "pixels": 2, "row_pixels": 2}, "ACT_RANGE"),
        ({"ofm_base": 4095, "last_channels": 2}, "ACT_RANGE"),
        ({"residual": 1, "res_base": 4096}, "ACT_RANGE"),
        ({"opcode": isa.Opcode.VECTOR, "ifm_base": 4096}, "ACT_RANGE"),
        ({"opcode": isa.Opcode.VECTOR, "ofm_base": 4096}, "ACT_RANGE"),
        ({"weight_base": 2048}, "WEIGHT_RANGE"),
        ({"weight_base": 2047, "span": 2}, "WEIGHT_RANGE"),
        ({"param_base": 128}, "PARAM_RANGE"),
        ({"param_base": 127, "last_channels": 2}, "PARAM_RANGE"),
        ({"opcode": isa.Opcode.VECTOR, "param_base": 128}, "PARAM_RANGE"),
    ],
)
@pytest.mark.xdist_group("verilator")
def test_errors_have_the_machine_s_code_and_the_core_runs_again(accelerator, changes, error):
    machine = blank(LEGAL | changes, slots=16)
    driver = accelerator(machine.config)
    machine.act[:] = np.arange(machine.act.size) % 251
    load(driver, machine)
    assert machine.run().error.name == error
    with pytest.raises(DeviceError, match=f"slot 0: {error}"):
        driver.start(0)
    driver.clear()
    compare(driver, programs.random_machine(machine.config, np.random.default_rng(3), 3))


@pytest.mark.parametrize("change", [{}, *UNFIT], ids=str)
@pytest.mark.xdist_group("verilator")
def test_strips_have_pairs_of_pixels_and_a_small_kernel(accelerator, change):
    config = cores.ARRAYS[2]
    driver, machine = accelerator(config), programs.random_memories(config, np.random.default_rng(1))
    programs.set_program(machine, [isa.complete(LEGAL | STRIP | change)])
    if not change:
        compare(driver, machine)
        return
    load(driver, machine)
    assert machine.run().error is isa.ErrorCode.ILLEGAL_FIELD
    with pytest.raises(DeviceError, match="slot 0: ILLEGAL_FIELD"):
        driver.start(0)
    driver.clear()


FORMS = [({}, {"int4": 1} | changes, error) for changes, error in INT4_CASES]
FORMS += [({}, {"codebook": 1} | changes, error) for changes, error in CODEBOOK_CASES]
FORMS += [({"block_scales": 1}, {"scaled": 1} | changes, error) for changes, error in SCALED_CASES]
FORMS += [({"act_bits": 4, "lanes": 2}, changes, error) for changes, error in ACT_INT4_CASES]
FORMS += [({}, {field: 1}, "ILLEGAL_FIELD") for field in ("ifm_int4", "ofm_int4", "scaled")]


@pytest.mark.parametrize(("sizes", "changes", "error"), FORMS)
@pytest.mark.xdist_group("verilator")
def test_narrow_layers_have_the_machine_s_limits(accelerator, sizes, changes, error):
    machine = blank(LEGAL | changes, slots=16, weight_bits=4, codebooks=1, **sizes)
    driver = accelerator(machine.config)
    load(driver, machine)
    assert machine.run().error.name == error
    with nullcontext() if error == "NONE" else pytest.raises(DeviceError, match=f"slot 0: {error}"):
        driver.start(0)
    driver.clear()


@pytest.mark.xdist_group("verilator")
def test_program_without_halt_stops_at_the_end_of_program_memory(accelerator):
    machine = blank(LEGAL, slots=16)
    driver = accelerator(machine.config)
    machine.program.reshape(16, -1)[:] = machine.program[: isa.SLOT_WORDS]
    load(driver, machine)
    assert machine.run().error is isa.ErrorCode.PC_RANGE
    with pytest.raises(DeviceError, match="PC_RANGE"):
        driver.start(0)
    driver.clear()


@pytest.mark.parametrize("sizes", [{}, {"act_ports": 1}, programs.LEAST], ids=["two ports", "one", "smallest"])
@pytest.mark.xdist_group("verilator")
def test_abort_in_mid_layer_leaves_a_core_that_runs_again(accelerator, sizes):
    config = programs.tiny(4, 4, 4, 1, **sizes)
    driver = accelerator(config)
    for delay in range(0, 400, 23):
        machine = programs.random_machine(config, np.random.default_rng(delay), 4)
        load(driver, machine)
        driver._set_register("pc", 0)
        driver._set_register("control", isa.CONTROL_START)
        driver.bus.wait(delay)
        driver.clear()
        compare(driver, machine, f"after {delay} cycles")
