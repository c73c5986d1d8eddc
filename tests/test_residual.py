"""QLinearAdd's table against ONNX Runtime, and the adder's parameters against the table."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from hwq import fixed, isa
from hwq.residual import FACTOR_BITS, OFFSET_BITS, AddParameters, fit_add, preimage, qlinear_add_table

SEED = 20240613
OPERAND = np.arange(-128, 128)


def random_scales(rng):
    return [np.float32(x) for x in np.exp(rng.uniform(np.log(0.01), 0, 3))]


def random_parameters(rng):
    a_scale, b_scale, c_scale = random_scales(rng)
    a_zero, b_zero, c_zero = rng.integers(-128, 128, 3).tolist()
    return a_scale, a_zero, b_scale, b_zero, c_scale, c_zero


def onnxruntime_table(a_scale, a_zero, b_scale, b_zero, c_scale, c_zero, *, unsigned):
    """All pairs through ONNX Runtime's QLinearAdd, relabelled if unsigned."""
    dtype, label = (np.uint8, 128) if unsigned else (np.int8, 0)
    element = TensorProto.UINT8 if unsigned else TensorProto.INT8
    names = ["a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "c_scale", "c_zero"]
    constants = [
        helper.make_tensor(name, TensorProto.FLOAT if name.endswith("scale") else element, [], [value])
        for name, value in zip(
            [name for name in names if "_" in name],
            [a_scale, a_zero + label, b_scale, b_zero + label, c_scale, c_zero + label],
            strict=True,
        )
    ]
    graph = helper.make_graph(
        [helper.make_node("QLinearAdd", names, ["c"], domain="com.microsoft")],
        "add",
        [helper.make_tensor_value_info(name, element, [65536]) for name in "ab"],
        [helper.make_tensor_value_info("c", element, [65536])],
        constants,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    a, b = np.repeat(OPERAND, 256), np.tile(OPERAND, 256)
    (c,) = session.run(None, {"a": (a + label).astype(dtype), "b": (b + label).astype(dtype)})
    return (c.astype(np.int64) - label).reshape(256, 256)


def adder(p, lo=-128, hi=127):
    return fixed.requantize_add(OPERAND[:, None], OPERAND, p.factor_a, p.factor_b, p.offset, p.shift, lo, hi)


@pytest.mark.parametrize("unsigned", [False, True])
def test_table_equals_onnxruntime(unsigned):
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    cases = [random_parameters(rng) for _ in range(100)]
    ends = [(a, b, c) for a in (-128, 127) for b in (-128, 127) for c in (-128, 127)]
    cases += [
        (np.float32(0.1), a, np.float32(0.3), b, np.float32(0.2), c) for a, b, c in ends
    ]  # every half is a tie but for float32's errors
    cases += [(np.float32(0.5), 3, np.float32(0.25), -7, np.float32(1), c) for c in (0, 1)]
    for case in cases:
        table = qlinear_add_table(*case, unsigned=unsigned)
        np.testing.assert_array_equal(table, onnxruntime_table(*case, unsigned=unsigned), err_msg=str(case))
    print(f"{len(cases)} parameter sets, {65536 * len(cases)} pairs")


def test_table_rounds_fma_once():
    # 65 * ratio is 2**-25 + 2**-55: added to 1/2 it lies just beyond half a float32 step, which float64 can't hold.
    case = (np.float32(16519105 * 2.0**-55), 0, np.float32(0.5), 0, np.float32(1.0), 0)
    assert qlinear_add_table(*case)[65 + 128, 1 + 128] == 1
    np.testing.assert_array_equal(qlinear_add_table(*case), onnxruntime_table(*case, unsigned=False))


def test_table_rounds_fma_to_odd_only_what_is_even():
    # 131 * ratio is 2**-25 + 7 * 2**-56: float64's 1/2 + 2**-25 + 2**-53 is odd, and as far as float32's step.
    case = (np.float32(16393005 * 2.0**-56), -128, np.float32(0.5), -128, np.float32(1.0), -128)
    assert qlinear_add_table(*case, unsigned=True)[131, 1] == 1 - 128
    np.testing.assert_array_equal(qlinear_add_table(*case, unsigned=True), onnxruntime_table(*case, unsigned=True))


def test_uint8_table_differs_from_relabelled_int8():
    rng = np.random.default_rng(SEED)
    cases = [random_parameters(rng) for _ in range(50)]
    assert any((qlinear_add_table(*c) != qlinear_add_table(*c, unsigned=True)).any() for c in cases)


@pytest.mark.parametrize("unsigned", [False, True])
def test_fit_equals_table_on_every_pair(unsigned):
    rng = np.random.default_rng(SEED)
    repaired = 0
    for _ in range(150):
        case = random_parameters(rng)
        p = fit_add(*case, unsigned=unsigned)
        assert p is not None, case
        np.testing.assert_array_equal(adder(p), qlinear_add_table(*case, unsigned=unsigned))
        assert abs(p.factor_a) < 2 ** (FACTOR_BITS - 1)
        assert abs(p.factor_b) < 2 ** (FACTOR_BITS - 1)
        assert abs(p.offset) < 2 ** (OFFSET_BITS - 1)
        repaired += p.factor_a != round(float(case[0] / case[4]) * 2.0**p.shift)
    print(f"150 parameter sets, the first factor moved in {repaired}")


def test_fit_repairs_a_first_candidate_that_fails():
    rng = np.random.default_rng(SEED)
    for _ in range(200):
        a_scale, a_zero, b_scale, b_zero, c_scale, c_zero = case = random_parameters(rng)
        p = fit_add(*case)
        ratio_a, ratio_b = float(a_scale / c_scale), float(b_scale / c_scale)
        constant = c_zero - ratio_a * a_zero - ratio_b * b_zero
        nearest = AddParameters(*(round(x * 2.0**p.shift) for x in (ratio_a, ratio_b, constant)), p.shift)
        if p != nearest:
            assert (adder(nearest) != qlinear_add_table(*case)).any()
            assert (adder(p) == qlinear_add_table(*case)).all()
            return
    pytest.fail("no parameter set needed a repair")


@pytest.mark.parametrize("c_zero_point", [-128, -1, 0, 1, 127])
def test_fit_power_of_two_scales_tie_to_even(c_zero_point):
    case = (np.float32(0.25), 5, np.float32(0.5), -6, np.float32(1.0), c_zero_point)
    p = fit_add(*case)
    assert (p.factor_a, p.factor_b, p.shift) == (2**22, 2**23, 24)
    np.testing.assert_array_equal(adder(p), qlinear_add_table(*case))


def test_fit_large_factor_takes_smaller_shift():
    case = (np.float32(8.31347), 5, np.float32(0.91263), -6, np.float32(1.0), 0)
    p = fit_add(*case)
    assert p.shift == 21
    np.testing.assert_array_equal(adder(p), qlinear_add_table(*case))


def test_fit_narrow_bounds():
    case = (np.float32(0.4), 5, np.float32(0.7), -6, np.float32(0.51), 3)
    p = fit_add(*case, lo=3, hi=100)
    np.testing.assert_array_equal(adder(p, 3, 100), np.clip(qlinear_add_table(*case), 3, 100))


def test_parameters_are_as_wide_as_their_fields():
    width = {field.name: field.width for field in isa.DESCRIPTOR}
    assert width["factor_a"] == width["factor_b"] == FACTOR_BITS
    assert width["offset_low"] + width["offset_high"] == OFFSET_BITS


@pytest.mark.parametrize("shift", [1, 8, 16, 20, 24])
def test_preimage_ends_where_float32_rounds_elsewhere(shift):
    least, most = preimage(OPERAND, shift)
    for total, result in ((least - 1, OPERAND - 1), (least, OPERAND), (most, OPERAND), (most + 1, OPERAND + 1)):
        np.testing.assert_array_equal(np.rint((total / 2.0**shift).astype(np.float32)), result)


def test_fit_is_deterministic():
    case = random_parameters(np.random.default_rng(SEED))
    assert fit_add(*case) == fit_add(*case)


def test_fit_gives_up_on_ratio_beyond_the_factors():
    assert fit_add(np.float32(2.0**25), 0, np.float32(1.0), 0, np.float32(1.0), 0) is None
    assert fit_add(np.float32(1e30), 0, np.float32(1.0), 0, np.float32(1e-30), 0) is None


def test_fit_gives_up_on_ties_by_the_thousand():
    assert fit_add(np.float32(0.7), 127, np.float32(0.9), -72, np.float32(1.2), 18) is None


def test_adder_rounds_ties_and_signs():
    halves = fixed.requantize_add(np.array([-5, -3, -1, 1, 3, 5], dtype=np.int8), 0, 1, 0, 0, 1, -128, 127)
    assert halves.tolist() == [-2, -2, 0, 0, 2, 2]


def test_adder_shift_zero_is_exact():
    a = OPERAND.astype(np.int8)
    assert (fixed.requantize_add(a, 1, 1, 3, -3, 0, -128, 127) == a).all()
