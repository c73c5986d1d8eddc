"""The numpy machine against a byte-by-byte one, and its refusals."""

import copy

import numpy as np
import pytest

from hwq import isa
from hwq.machine import Machine
from tests import naive, programs

SHAPES = [(2, 2, 4, 1), (4, 4, 4, 1), (3, 6, 8, 2), (6, 4, 4, 2), (8, 16, 16, 8)]


@pytest.mark.parametrize(("shape", "widths"), programs.widths(SHAPES), ids=str)
def test_random_programs_equal_the_naive_model(shape, widths):
    config = programs.tiny(*shape, act_bytes=1024, weight_words=256, param_words=32, **widths)
    for seed in range(12):
        machine = programs.random_machine(config, np.random.default_rng(seed), 3)
        expected = copy.deepcopy(machine)
        naive.run(expected)
        status = machine.run()
        assert status.error is isa.ErrorCode.NONE
        assert status.slot == 3
        assert (machine.act == expected.act).all(), f"seed {seed}"


def blank(fields, slots=2, lanes=1, **sizes):
    """Machine on a 4x4 array with one descriptor."""
    machine = Machine(programs.tiny(4, 4, 4, lanes, slots=slots, **sizes))
    machine.program[: isa.DESCRIPTOR_WORDS] = isa.encode(isa.DESCRIPTOR, isa.DESCRIPTOR_WORDS, fields)
    return machine


@pytest.mark.parametrize("last", [1, 3])
def test_sums_of_paired_channels_wrap_at_24_bits(last):
    config = programs.tiny(2, 2, 4, 1, act_bytes=1024, weight_words=1 << 15, weight_bits=4)
    machine = programs.random_machine(config, np.random.default_rng(0), 0)
    machine.weights[:] = -120  # 1000 1000: both halves -8
    machine.act[:512] = -128
    d = {"opcode": isa.Opcode.CONV, "int4": 1, "row_pixels": 1, "pixels": 1, "taps_y": 40, "taps_x": 1, "span": 256}
    d |= {"blocks": 2, "last_channels": last, "ofm_base": 600, "lo": -128, "hi": 127, "factor_a": 1}
    d |= {"add_lo": -128, "add_hi": 127}
    machine.program[: isa.DESCRIPTOR_WORDS] = isa.encode(isa.DESCRIPTOR, isa.DESCRIPTOR_WORDS, d)
    identity = {"bias": 0, "mantissa": 1 << 23, "shift": 40}
    machine.params[:] = isa.encode(isa.PARAM, isa.PARAM_LANE_WORDS, identity)
    expected = copy.deepcopy(machine)
    naive.run(expected)
    machine.run()
    assert (machine.act == expected.act).all()
    total = 40 * 256 * 1024
    wrapped = round((total - (1 << 24)) / (1 << 17))
    assert machine.act[600:604].tolist() == [wrapped] * 4
    assert machine.act[604] == (wrapped if last == 3 else round(total / (1 << 17)))


def test_sums_of_two_products_wrap_at_24_bits():
    config = programs.tiny(2, 2, 4, 2, act_bytes=2048, weight_words=1 << 17, weight_bits=4, act_bits=4)
    machine = programs.random_machine(config, np.random.default_rng(0), 0)
    machine.weights[:] = machine.act[:1024] = -120  # 1000 1000: both halves -8
    d = {"opcode": isa.Opcode.CONV, "ifm_int4": 1, "row_pixels": 1, "pixels": 1, "taps_y": 70, "taps_x": 1}
    d |= {"span": 1000, "blocks": 1, "last_channels": 1, "ofm_base": 1500, "lo": -128, "hi": 127, "factor_a": 1}
    d |= {"add_lo": -128, "add_hi": 127}
    programs.set_program(machine, [d])
    machine.params[:] = isa.encode(isa.PARAM, isa.PARAM_LANE_WORDS, {"mantissa": 1 << 23, "shift": 40}) * 2
    expected = copy.deepcopy(machine)
    naive.run(expected)
    machine.run()
    assert (machine.act == expected.act).all()
    assert machine.act[1500] == round((70 * 1000 * 128 - (1 << 24)) / (1 << 17))


def test_every_bit_of_a_long_sum_counts():
    """An odd sum beyond 2**24, which float32 can't hold: the bias leaves 5 of it."""
    clamps = {"lo": -128, "hi": 127}
    machine = blank(LEGAL | clamps | {"span": 1032}, slots=2)
    machine.act[:1032] = machine.weights[:1032, 0] = -128
    machine.act[0] = machine.weights[0, 0] = 1
    machine.params[0] = isa.encode(isa.PARAM, 2, {"bias": 5 - (1031 * 2**14 + 1), "mantissa": 1 << 23, "shift": 23})
    machine.run()
    assert machine.act[0] == 5


COUNTS = {"row_pixels": 1, "pixels": 1, "taps_y": 1, "taps_x": 1, "span": 1, "blocks": 1, "last_channels": 1}
LEGAL = {"opcode": isa.Opcode.CONV, **COUNTS}
PRODUCT = {"opcode": isa.Opcode.VECTOR, "product": 1, "residual": 1}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({}, "NONE"),
        ({"opcode": 4}, "ILLEGAL_OPCODE"),
        ({"opcode": 255}, "ILLEGAL_OPCODE"),
        *[({name: 0}, "ILLEGAL_FIELD") for name in COUNTS],
        ({"last_channels": 5}, "ILLEGAL_FIELD"),
        ({"opcode": isa.Opcode.VECTOR, "last_channels": 2}, "ILLEGAL_FIELD"),
        ({"int4": 1}, "ILLEGAL_FIELD"),
        ({"scaled": 1}, "ILLEGAL_FIELD"),
        (PRODUCT, "NONE"),
        (PRODUCT | {"residual": 0}, "ILLEGAL_FIELD"),
        (PRODUCT | {"reduce": isa.Reduce.SUM}, "ILLEGAL_FIELD"),
        (PRODUCT | {"opcode": isa.Opcode.CONV}, "ILLEGAL_FIELD"),
        ({"table": 3}, "NONE"),
        ({"table": 4}, "ILLEGAL_FIELD"),
        ({"ifm_base": 4096}, "ACT_RANGE"),
        ({"ifm_base": 4095, "span": 2}, "ACT_RANGE"),
        ({"ifm_base": 0, "ifm_x_step": -1, "pixels": 2, "row_pixels": 2}, "ACT_RANGE"),
        ({"ofm_base": 4096}, "ACT_RANGE"),
        ({"ofm_base": 4095, "last_channels": 2}, "ACT_RANGE"),
        ({"residual": 1, "res_base": 4096}, "ACT_RANGE"),
        ({"opcode": isa.Opcode.VECTOR, "ifm_base": 4096}, "ACT_RANGE"),
        ({"weight_base": 2048}, "WEIGHT_RANGE"),
        ({"weight_base": 2047, "span": 2}, "WEIGHT_RANGE"),
        ({"param_base": 128}, "PARAM_RANGE"),
        ({"param_base": 127, "last_channels": 2}, "PARAM_RANGE"),
    ],
)
def test_refusals_name_the_rule_and_write_nothing(changes, error):
    machine = blank(LEGAL | changes)
    machine.act[:] = 1
    before = machine.act.copy()
    status = machine.run()
    assert status.error.name == error
    if status.error:
        assert status.slot == 0
        assert (machine.act == before).all()


STRIP = {"opcode": isa.Opcode.DEPTHWISE, "strips": 1, "pixels": 4, "row_pixels": 2, "ofm_x_step": 1, "ofm_y_step": 1}
UNFIT = [{"row_pixels": 3}, {"row_pixels": 1}, {"pixels": 3}, {"taps_x": 2}, {"repeats": 1}, {"taps_y": 4}, {"span": 4}]


@pytest.mark.parametrize("change", UNFIT, ids=str)
def test_strips_have_pairs_of_pixels_and_a_small_kernel(change):
    machine = Machine(programs.tiny(6, 4, 4, 2))
    for fields, error in ((STRIP, "NONE"), (STRIP | change, "ILLEGAL_FIELD")):
        programs.set_program(machine, [isa.complete(LEGAL | fields)])
        assert machine.run().error.name == error


INT4_CASES = [
    ({"last_channels": 8}, "NONE"),
    ({"last_channels": 9}, "ILLEGAL_FIELD"),
    ({"opcode": isa.Opcode.VECTOR}, "ILLEGAL_FIELD"),
    ({"opcode": isa.Opcode.DEPTHWISE, "last_channels": 4}, "NONE"),
    ({"opcode": isa.Opcode.DEPTHWISE, "last_channels": 5}, "ILLEGAL_FIELD"),
    ({"weight_base": 2047, "span": 2}, "NONE"),
    ({"weight_base": 2047, "span": 3}, "WEIGHT_RANGE"),
    ({"weight_base": 2047, "span": 2, "last_channels": 5}, "WEIGHT_RANGE"),
    ({"param_base": 121, "last_channels": 7}, "NONE"),
    ({"param_base": 121, "last_channels": 8}, "PARAM_RANGE"),
]


@pytest.mark.parametrize(("changes", "error"), INT4_CASES)
def test_layers_of_4_bit_weights_have_their_own_limits(changes, error):
    machine = blank(LEGAL | {"int4": 1} | changes, weight_bits=4)
    assert machine.run().error.name == error


CODEBOOK_CASES = [
    ({}, "NONE"),
    ({"codebook": 2}, "NONE"),
    ({"codebook": 3}, "ILLEGAL_FIELD"),
    ({"int4": 1}, "ILLEGAL_FIELD"),
    ({"codebook": 2, "int4": 1}, "ILLEGAL_FIELD"),
    ({"last_channels": 5}, "ILLEGAL_FIELD"),
    ({"opcode": isa.Opcode.VECTOR}, "ILLEGAL_FIELD"),
    ({"opcode": isa.Opcode.DEPTHWISE, "last_channels": 4}, "NONE"),
    ({"weight_base": 2043, "span": 2}, "NONE"),
    ({"weight_base": 2043, "span": 3}, "WEIGHT_RANGE"),
    ({"weight_base": 2045}, "WEIGHT_RANGE"),
    ({"weight_base": 2042, "blocks": 2}, "NONE"),
    ({"weight_base": 2039, "blocks": 2, "codebook": 2}, "WEIGHT_RANGE"),
]


@pytest.mark.parametrize(("changes", "error"), CODEBOOK_CASES)
def test_layers_of_codebook_weights_have_their_own_limits(changes, error):
    machine = blank(LEGAL | {"codebook": 1} | changes, weight_bits=4, codebooks=1)
    assert machine.run().error.name == error


@pytest.mark.parametrize("codebook", [1, 2])
def test_a_core_without_codebooks_refuses_them(codebook):
    assert blank(LEGAL | {"codebook": codebook}, weight_bits=4).run().error is isa.ErrorCode.ILLEGAL_FIELD


SCALED_CASES = [
    ({"last_channels": 4}, "NONE"),
    ({"last_channels": 5}, "ILLEGAL_FIELD"),
    ({"int4": 1, "last_channels": 5}, "ILLEGAL_FIELD"),
    ({"opcode": isa.Opcode.VECTOR}, "ILLEGAL_FIELD"),
    ({"opcode": isa.Opcode.DEPTHWISE}, "ILLEGAL_FIELD"),
    ({"weight_base": 2046}, "NONE"),
    ({"weight_base": 2047}, "WEIGHT_RANGE"),
    ({"weight_base": 2048}, "WEIGHT_RANGE"),
    ({"weight_base": 2046, "span": 2}, "WEIGHT_RANGE"),
    ({"weight_base": 2046, "span": 2, "int4": 1}, "NONE"),
    ({"weight_base": 2044, "taps_x": 2}, "NONE"),
    ({"weight_base": 2045, "taps_x": 2}, "WEIGHT_RANGE"),
    ({"weight_base": 2044, "taps_y": 2, "int4": 1}, "NONE"),
    ({"param_base": 124, "last_channels": 4}, "NONE"),
    ({"param_base": 125, "last_channels": 4}, "PARAM_RANGE"),
    ({"weight_base": 2042, "codebook": 1}, "NONE"),
    ({"weight_base": 2043, "codebook": 1}, "WEIGHT_RANGE"),
    ({"weight_base": 2042, "span": 2, "taps_x": 1, "codebook": 2}, "NONE"),
]


@pytest.mark.parametrize(("changes", "error"), SCALED_CASES)
def test_layers_with_scales_have_their_own_limits(changes, error):
    machine = blank(LEGAL | {"scaled": 1} | changes, weight_bits=4, codebooks=1, block_scales=1)
    assert machine.run().error.name == error


@pytest.mark.parametrize(("span", "taps", "scale"), [(256, 3, 255), (600, 1, 1), (512, 2, 3), (256, 12, 255)])
def test_sums_of_taps_wrap_at_24_bits_and_totals_at_32(span, taps, scale):
    config = programs.tiny(2, 2, 4, 1, act_bytes=8192, weight_words=1 << 15, block_scales=1)
    machine = programs.random_machine(config, np.random.default_rng(0), 0)
    machine.weights[:] = -128
    machine.weights[: taps * (span + 1) : span + 1] = np.uint8(scale).view(np.int8)
    machine.act[:4096] = -128
    d = {"opcode": isa.Opcode.CONV, "scaled": 1, "row_pixels": 1, "pixels": 1, "taps_y": 1, "taps_x": taps}
    d |= {"span": span, "blocks": 1, "last_channels": 1, "ofm_base": 5000, "lo": -128, "hi": 127, "factor_a": 1}
    d |= {"add_lo": -128, "add_hi": 127}
    programs.set_program(machine, [d])
    machine.params[:] = isa.encode(isa.PARAM, isa.PARAM_LANE_WORDS, {"bias": 0, "mantissa": 1 << 23, "shift": 47})
    expected = copy.deepcopy(machine)
    naive.run(expected)
    machine.run()
    assert (machine.act == expected.act).all()
    part = (span * 128 * 128 + (1 << 23)) % (1 << 24) - (1 << 23)
    assert machine.act[5000] == round(((part * scale * taps + (1 << 31)) % (1 << 32) - (1 << 31)) / (1 << 24))


ACT_INT4_CASES = [
    ({"ifm_int4": 1}, "NONE"),
    ({"ifm_int4": 1, "int4": 1}, "ILLEGAL_FIELD"),
    ({"ifm_int4": 1, "codebook": 1}, "ILLEGAL_FIELD"),
    ({"ifm_int4": 1, "last_channels": 5}, "ILLEGAL_FIELD"),
    ({"ifm_int4": 1, "opcode": isa.Opcode.VECTOR}, "ILLEGAL_FIELD"),
    ({"ifm_int4": 1, "opcode": isa.Opcode.DEPTHWISE}, "ILLEGAL_FIELD"),
    ({"ifm_int4": 1, "ifm_base": 4095, "span": 2}, "ACT_RANGE"),
    ({"ifm_int4": 1, "weight_base": 2047, "span": 2}, "WEIGHT_RANGE"),
    ({"ofm_int4": 1, "int4": 1, "last_channels": 8}, "NONE"),
    ({"ofm_int4": 1, "opcode": isa.Opcode.VECTOR}, "ILLEGAL_FIELD"),
    ({"ofm_int4": 1, "opcode": isa.Opcode.DEPTHWISE}, "ILLEGAL_FIELD"),
    ({"ofm_int4": 1, "ofm_base": 4095, "last_channels": 2}, "NONE"),
    ({"ofm_int4": 1, "ofm_base": 4095, "last_channels": 3}, "ACT_RANGE"),
]


@pytest.mark.parametrize(("changes", "error"), ACT_INT4_CASES)
def test_layers_of_4_bit_activations_have_their_own_limits(changes, error):
    machine = blank(LEGAL | changes, lanes=2, weight_bits=4, act_bits=4, codebooks=1)
    assert machine.run().error.name == error


@pytest.mark.parametrize("field", ["ifm_int4", "ofm_int4"])
def test_arrays_without_4_bit_activations_refuse_them(field):
    machine = blank(LEGAL | {field: 1}, lanes=2, weight_bits=4)
    assert machine.run().error is isa.ErrorCode.ILLEGAL_FIELD


ONE_PORT_CASES = [
    ({"ifm_base": 1}, "NONE"),
    ({"ifm_base": 1, "span": 2}, "ACT_RANGE"),
    ({"ifm_x_step": 1, "pixels": 2, "row_pixels": 2}, "NONE"),
    ({"ifm_x_step": 1, "pixels": 2, "row_pixels": 2, "span": 2}, "ACT_RANGE"),
    ({"taps_x": 2, "tap_x_step": 3, "span": 5}, "ACT_RANGE"),
    ({"ofm_base": 1}, "NONE"),
    ({"ofm_base": 1, "last_channels": 3}, "ACT_RANGE"),
    ({"ofm_base": 4094, "last_channels": 2}, "NONE"),
    ({"ofm_base": 4094, "last_channels": 3}, "ACT_RANGE"),
    ({"ofm_base": 4095}, "NONE"),
    ({"ofm_base": 4096}, "ACT_RANGE"),
    ({"ifm_base": 4095}, "NONE"),
    ({"residual": 1, "res_base": 1}, "NONE"),
    ({"residual": 1, "res_base": 1, "last_channels": 2}, "ACT_RANGE"),
    ({"opcode": isa.Opcode.DEPTHWISE, "ifm_base": 1}, "NONE"),
    ({"opcode": isa.Opcode.DEPTHWISE, "ifm_base": 1, "last_channels": 2}, "ACT_RANGE"),
    ({"opcode": isa.Opcode.VECTOR, "ifm_base": 1, "ofm_base": 2001, "blocks": 5}, "NONE"),
    ({"opcode": isa.Opcode.VECTOR, "ofm_base": 4095}, "NONE"),
]


@pytest.mark.parametrize(("changes", "error"), ONE_PORT_CASES)
def test_one_port_takes_several_bytes_at_even_addresses(changes, error):
    machine = blank(LEGAL | changes, act_ports=1)
    assert machine.run().error.name == error


@pytest.mark.parametrize("name", sorted(isa.ADDER))
def test_fields_of_an_adder_that_is_not_there_are_refused(name):
    machine = blank(LEGAL | {"opcode": isa.Opcode.VECTOR, name: 1}, adder=0)
    assert machine.run().error is isa.ErrorCode.ILLEGAL_FIELD


def test_bits_of_addresses_beyond_the_memory_are_kept_or_refused():
    for name, largest in (("ifm_base", 8191), ("weight_base", 4095), ("param_base", 255)):
        assert blank(LEGAL | {name: largest}).run().error is not isa.ErrorCode.ILLEGAL_FIELD
        assert blank(LEGAL | {name: largest + 1}).run().error is isa.ErrorCode.ILLEGAL_FIELD


def test_bits_outside_every_field_are_refused():
    machine = blank(LEGAL)
    machine.program[2] |= 1 << 31
    assert machine.run().error is isa.ErrorCode.ILLEGAL_FIELD


def test_a_program_without_halt_runs_off_the_end():
    machine = blank(LEGAL, slots=2)
    machine.program[isa.SLOT_WORDS :][: isa.DESCRIPTOR_WORDS] = machine.program[: isa.DESCRIPTOR_WORDS]
    status = machine.run()
    assert (status.error, status.slot) == (isa.ErrorCode.PC_RANGE, 1)
    status = machine.run(2)
    assert (status.error, status.slot) == (isa.ErrorCode.PC_RANGE, 2)


def test_accumulators_wrap_at_32_bits():
    machine = blank(LEGAL | {"zero_point": 0, "lo": -128, "hi": 127, "factor_a": 1, "add_lo": -128, "add_hi": 127})
    machine.act[0], machine.weights[0, 0] = -128, -128
    largest = (1 << 31) - 1
    machine.params[0] = isa.encode(isa.PARAM, 2, {"bias": largest, "mantissa": 1 << 23, "shift": 23 + 24})
    machine.run()
    assert machine.act[0] == round((128 * 128 + largest - 2**32) / 2**24)
