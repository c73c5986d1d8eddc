"""The integer requantizer against float32 arithmetic and against ONNX Runtime."""

from fractions import Fraction

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from hwq import fixed

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
SEED = 20240612
CORNERS = np.array(
    [
        *(s * n for n in (0, 1, 2, 3, 127, 128, 129, 255, 256, 257, 511, 512, 513) for s in (1, -1)),
        *(s * (2**k + d) for k in range(9, 31) for d in (-1, 0, 1) for s in (1, -1)),
        *(s * ((2**24 - 1) * 2**k + 2**k // 2) for k in range(1, 7) for s in (1, -1)),
        *(INT32_MIN + n for n in (0, 1, 64, 65)),
        *(INT32_MAX - n for n in (0, 63, 64, 65)),
    ]
)


def float_requantize(acc, m, zero_point, lo, hi):
    """The rule as ONNX Runtime's kernels write it, in float32."""
    with np.errstate(over="ignore"):
        scaled = np.rint(acc.astype(np.float32) * np.float32(m))
    return np.clip(scaled, lo - zero_point, hi - zero_point).astype(np.int64) + zero_point


def multipliers(rng, count):
    """Float32 multipliers from rounding everything to 0 to saturating everything, powers of two among them."""
    m = np.exp2(rng.uniform(-33, 10.5, count)).astype(np.float32)
    m[: count // 4] = np.exp2(np.arange(count // 4) - count // 4 + 9.0)
    # Off a power of two by a float32 step or two, where products lie inside the tie band.
    nudged = slice(count // 4, count // 2)
    steps = np.tile(np.array([-2, -1, 1, 2], dtype=np.int32), count)[: m[nudged].size]
    m[nudged] = (np.exp2(rng.integers(-24, 1, m[nudged].size)).astype(np.float32).view(np.int32) + steps).view(
        np.float32
    )
    return m


def accumulators(rng, m, count):
    """Corners, then accumulators whose product with `m` is nearest to a tie of either sign, then every bit length."""
    target = (rng.integers(0, 300, count // 2) + 0.5) * rng.choice([-1.0, 1.0], count // 2)
    ties = np.clip(np.rint(target / np.float64(m)) + rng.integers(-1, 2, target.size), INT32_MIN, INT32_MAX)
    rest = count - ties.size - CORNERS.size
    spread = (rng.integers(0, 2**31, rest) >> rng.integers(0, 31, rest)) * rng.choice([-1, 1], rest)
    return np.concatenate([CORNERS, ties.astype(np.int64), spread]).astype(np.int32)


def requantize(acc, m, zero_point=0, lo=-128, hi=127):
    return fixed.requantize(
        np.asarray(acc, dtype=np.int32), *fixed.encode_multiplier(np.float32(m)), zero_point, lo, hi
    )


def test_saturate():
    assert fixed.saturate(np.array([-129, -128, 0, 127, 128]), -128, 127).tolist() == [-128, -128, 0, 127, 127]


def test_rounding_shift_ties_of_both_signs():
    assert fixed.rounding_shift([-5, -3, -1, 1, 3, 5], 1).tolist() == [-2, -2, 0, 0, 2, 2]


def test_rounding_shift_zero_is_identity():
    assert fixed.rounding_shift([INT64_MIN, -1, 0, 1, INT64_MAX], 0).tolist() == [INT64_MIN, -1, 0, 1, INT64_MAX]


def test_rounding_shift_int64_extremes():
    assert fixed.rounding_shift([INT64_MIN, INT64_MIN + 2**61, INT64_MAX], 62).tolist() == [-2, -2, 2]


@given(st.integers(INT64_MIN, INT64_MAX), st.integers(0, 62))
def test_rounding_shift_is_exact(x, s):
    # Python rounds fractions to the nearest integer, ties to even.
    assert fixed.rounding_shift(x, s) == round(Fraction(x, 2**s))


@given(st.integers(INT64_MIN >> 1, INT64_MAX >> 1), st.integers(1, 62), st.integers(-1, 1))
def test_rounding_shift_next_to_ties(x, s, distance):
    near = ((x >> s) << s) + (1 << s - 1) + distance
    assert fixed.rounding_shift(near, s) == round(Fraction(near, 2**s))


@given(st.floats(2.0**-40, 1023.5, width=32))
def test_encoded_multiplier_is_exact(m):
    mantissa, shift = fixed.encode_multiplier(np.float32(m))
    assert Fraction(int(mantissa), 2 ** int(shift)) == Fraction(float(np.float32(m)))
    assert 2**23 <= mantissa < 2**24


def test_encode_keeps_shape_and_dtypes():
    mantissa, shift = fixed.encode_multiplier(np.ones((2, 3), dtype=np.float32))
    assert (mantissa.shape, mantissa.dtype) == ((2, 3), np.uint32)
    assert (shift.shape, shift.dtype) == ((2, 3), np.uint8)


@pytest.mark.parametrize(
    "m", [0.0, 1e-45, 1.1754942e-38, 2.0**-60, float(np.nextafter(np.float32(2.0**-40), np.float32(0)))]
)
def test_encode_tiny_multiplier_rounds_everything_to_zero(m):
    assert [int(x) for x in fixed.encode_multiplier(np.float32(m))] == [0, fixed.SHIFT_MAX]
    acc = np.array([INT32_MIN, INT32_MAX, 1, 0], dtype=np.int32)
    assert (float_requantize(acc, m, 5, -128, 127) == 5).all()
    assert (requantize(acc, m, 5) == 5).all()


@pytest.mark.parametrize("m", [1024.0, 1025.0, 1e10, 3.4028235e38])
@pytest.mark.parametrize(("qmin", "qmax"), [(-128, 127), (0, 255)])
def test_encode_huge_multiplier_saturates_everything_but_zero(m, qmin, qmax):
    assert [int(x) for x in fixed.encode_multiplier(np.float32(m))] == [2**24 - 1, fixed.SHIFT_MIN]
    acc = np.array([INT32_MIN, -1, 0, 1, INT32_MAX], dtype=np.int32)
    for zero_point in (qmin, qmin + 1, 0, qmax - 1, qmax):
        result = requantize(acc, m, zero_point, qmin, qmax).tolist()
        assert result == [qmin, qmin, zero_point, qmax, qmax]
        assert result == float_requantize(acc, m, zero_point, qmin, qmax).tolist()


@pytest.mark.parametrize("m", [-1.0, -1e-45, np.inf, -np.inf, np.nan])
def test_encode_refuses(m):
    with pytest.raises(ValueError, match=f"finite number not below 0, not {np.float32(m)!s}"):
        fixed.encode_multiplier(np.array([1.0, m], dtype=np.float32))


def test_encode_refuses_float64():
    with pytest.raises(TypeError, match="must be float32, not float64"):
        fixed.encode_multiplier(0.5)


def test_requantize_refuses_int64():
    with pytest.raises(TypeError, match="must be int32, not int64"):
        fixed.requantize(np.array([1]), 2**23, 23, 0, -128, 127)


def test_requantize_ties_of_both_signs():
    assert requantize([1, -1, 3, -3, 5, -5, 253, -253], 0.5).tolist() == [0, 0, 2, -2, 2, -2, 126, -126]


def test_requantize_zero_point_after_rounding():
    # 1.5 rounds to 2 before the odd zero point is added; rounded after it, 2.5 would give 2.
    assert requantize([3], 0.5, zero_point=1).tolist() == [3]


@pytest.mark.parametrize("zero_point", [-128, 0, 127])
def test_requantize_saturates_at_both_ends(zero_point):
    assert requantize([INT32_MIN, -256, 256, INT32_MAX], 1.0, zero_point).tolist() == [-128, -128, 127, 127]


def test_requantize_int32_extremes():
    assert requantize([INT32_MIN, INT32_MIN + 1, INT32_MAX], 2.0**-25).tolist() == [-64, -64, 64]
    assert requantize([INT32_MIN, INT32_MAX], 2.0**-32).tolist() == [0, 0]


def test_requantize_tie_band_is_wider_than_one_point():
    # 7 * m is 1/2 + 2**-26 exactly and 1/2 in float32, which rounds to 0.
    m = np.float32(1 / 14)
    assert Fraction(7) * Fraction(float(m)) > Fraction(1, 2)
    assert requantize([7, -7], m).tolist() == [0, 0]


def test_requantize_broadcasts_channels():
    mantissa, shift = fixed.encode_multiplier(np.array([0.5, 2.0], dtype=np.float32))
    acc = np.array([[2, 2], [-6, -6]], dtype=np.int32)
    assert fixed.requantize(acc, mantissa, shift, 1, -128, 127).tolist() == [[2, 5], [-2, -11]]


def test_bytes_of_a_sum():
    acc = np.array([0x01234567, -1, -0x80000000, 0x7FFFFF00], np.int32)
    bytes_of_sums = [fixed.byte_of_sum(acc, byte).tolist() for byte in range(4)]
    assert bytes_of_sums == [[0x67, 255, 0, 0], [0x45, 255, 0, 255], [0x23, 255, 0, 255], [0x01, 255, 0x80, 127]]


@pytest.mark.parametrize(
    ("acc", "mantissa", "offset", "shift", "result"),
    [
        (3, 1 << 23, 0, 24, 1),
        (-3, 1 << 23, 0, 24, -1),
        (1, 1 << 23, 2047, 24, 0),  # 2**23 + 2047 * 2**12, just below 2**24
        (1, 1 << 23, 2048, 24, 1),
        (-1, 1 << 23, 2048, 24, -1),
        ((1 << 24) - 1, 1, 2048, 25, 0),
        (1 << 24, 1, 2048, 25, 1),  # of 25 bits: the offset counts twice
        ((1 << 24) - 1, (1 << 24) - 1, 4095, 42, 63),
        ((1 << 31) - 1, 1 << 20, 0, 44, 127),  # rounded to 2**31
        (-(1 << 31), 1 << 20, 0, 45, -64),
    ],
)
def test_requantize_truncate_by_hand(acc, mantissa, offset, shift, result):
    assert fixed.requantize_truncate(np.array([acc], np.int32), mantissa, offset, shift, 0, -128, 127) == result


@pytest.mark.parametrize(
    ("acc", "multiplier", "offset", "shift", "result"),
    [(7, 3, 2, 2, 5), (7, 3, 3, 2, 6), (-7, 3, 0, 2, -6), (-7, 3, 1, 2, -5), (1 << 30, 1 << 23, -(1 << 53), 48, 0)],
)
def test_requantize_floor_by_hand(acc, multiplier, offset, shift, result):
    """(acc * multiplier + offset) / 2**shift is 5.75, 6, -5.25, -5, and 0; the zero point 1 follows."""
    acc = np.array([acc], np.int32)
    assert fixed.requantize_floor(acc, multiplier, offset, shift, 1, -128, 127) == result + 1


def test_band_edges_in_every_octave():
    """Products around both edges of the tie band, each a few steps away, against float32's own rounding."""
    compared = 0
    for octave in range(-1, 9):
        for whole in {0} if octave < 0 else {2**octave, 2**octave + 1, 2 ** (octave + 1) - 2, 2 ** (octave + 1) - 1}:
            for sign in (-1, 1):
                # acc * mantissa next to (whole + 1/2 + sign * h) * 2**shift, for mantissas all over their range.
                edge = Fraction(2 * whole + 1, 2) + sign * Fraction(2) ** (octave - 24)
                for shift in range(20, 48):
                    mantissa = np.linspace(2**23, 2**24 - 1, 400).astype(np.int64)
                    acc = np.rint(float(edge) * 2.0**shift / mantissa)
                    legal = (acc >= 1) & (acc <= INT32_MAX)
                    mantissa, acc = mantissa[legal], acc[legal].astype(np.int32)
                    m = np.ldexp(mantissa.astype(np.float64), -shift).astype(np.float32)
                    got = fixed.requantize(acc, mantissa, shift, 0, -128, 127)
                    np.testing.assert_array_equal(got, float_requantize(acc, m, 0, -128, 127))
                    compared += acc.size
    print(f"{compared} accumulators")


def test_exact_band_edges():
    """Sums exactly on an edge of the band, and one unit to either side, where one product of 24 bits can't lie."""
    whole = np.arange(256)
    half_step = np.exp2(np.floor(np.log2(np.maximum(whole, 0.5))) - 24)
    for shift in range(25, 32):
        for edge in (whole + 0.5 - half_step, whole + 0.5 + half_step):
            for unit in (-1, 0, 1):
                for sign in (-1, 1):
                    total = sign * ((edge * 2.0**shift).astype(np.int64) + unit)
                    expected = np.rint((total / 2.0**shift).astype(np.float32))
                    got = fixed.requantize_add(0, 0, 0, 0, total, shift, -128, 127)
                    np.testing.assert_array_equal(got, np.clip(expected, -128, 127))


@pytest.mark.parametrize(("qmin", "qmax"), [(-128, 127), (0, 255)])
def test_equals_float32_arithmetic(qmin, qmax):
    rng = np.random.default_rng(SEED)
    all_m, each = multipliers(rng, 256), 10_000
    for n, m in enumerate(all_m):
        zero_point = (qmin, qmax, 0, (qmin + qmax) // 2 + n % 7)[n % 4]
        acc = accumulators(rng, m, each)
        got = requantize(acc, m, zero_point, qmin, qmax)
        np.testing.assert_array_equal(got, float_requantize(acc, m, zero_point, qmin, qmax), err_msg=f"m = {m}")
    print(f"seed {SEED}: {all_m.size * each} accumulators, {all_m.size} multipliers, 0 mismatches")


def session(graph):
    """ONNX Runtime with int8 activations computed in integers.

    Its optimizer must be off: where x64quantprecision applies it relabels int8 weights to uint8, and QLinearMatMul
    has no kernel for int8 by uint8.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    options.add_session_config_entry("session.x64quantprecision", "1")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def gemm_session(a_scale, b_scale, y_scale, zero_point):
    """QGemm of one zero by a row of zeros: its int32 bias, one for each column, is the accumulator."""
    columns = len(b_scale)
    graph = helper.make_graph(
        [
            helper.make_node(
                "QGemm",
                ["a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "acc", "y_scale", "y_zero"],
                ["y"],
                domain="com.microsoft",
            )
        ],
        "gemm",
        [
            helper.make_tensor_value_info("a", TensorProto.INT8, ["rows", 1]),
            helper.make_tensor_value_info("acc", TensorProto.INT32, ["rows", columns]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.INT8, ["rows", columns])],
        [
            helper.make_tensor("a_scale", TensorProto.FLOAT, [], [a_scale]),
            helper.make_tensor("a_zero", TensorProto.INT8, [], [0]),
            helper.make_tensor("b", TensorProto.INT8, [1, columns], [0] * columns),
            helper.make_tensor("b_scale", TensorProto.FLOAT, [columns], b_scale),
            helper.make_tensor("b_zero", TensorProto.INT8, [columns], [0] * columns),
            helper.make_tensor("y_scale", TensorProto.FLOAT, [], [y_scale]),
            helper.make_tensor("y_zero", TensorProto.INT8, [], [zero_point]),
        ],
    )
    return session(graph)


def matmul_session(a_scale, b, b_scale, y_scale, zero_point):
    """QLinearMatMul of int8 rows by the columns of `b`, each with its scale."""
    depth, columns = b.shape
    graph = helper.make_graph(
        [
            helper.make_node(
                "QLinearMatMul", ["a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "y_scale", "y_zero"], ["y"]
            )
        ],
        "matmul",
        [helper.make_tensor_value_info("a", TensorProto.INT8, ["rows", depth])],
        [helper.make_tensor_value_info("y", TensorProto.INT8, ["rows", columns])],
        [
            helper.make_tensor("a_scale", TensorProto.FLOAT, [], [a_scale]),
            helper.make_tensor("a_zero", TensorProto.INT8, [], [0]),
            helper.make_tensor("b", TensorProto.INT8, b.shape, b.tobytes(), raw=True),
            helper.make_tensor("b_scale", TensorProto.FLOAT, [columns], b_scale),
            helper.make_tensor("b_zero", TensorProto.INT8, [columns], [0] * columns),
            helper.make_tensor("y_scale", TensorProto.FLOAT, [], [y_scale]),
            helper.make_tensor("y_zero", TensorProto.INT8, [], [zero_point]),
        ],
    )
    return session(graph)


def test_equals_onnxruntime_on_ten_million_accumulators():
    rng = np.random.default_rng(SEED)
    m = multipliers(rng, 128)
    rows, count = 8_000, 0
    for zero_point in (-128, -127, -3, 0, 1, 6, 64, 126, 127, -64):
        a_scale, y_scale = (
            np.exp2(rng.uniform(-3, 3, 2)).astype(np.float32) if zero_point % 2 else np.float32([0.5, 2.0])
        )
        b_scale = (m.astype(np.float64) / a_scale * y_scale).astype(np.float32)
        multiplier = a_scale * b_scale / y_scale
        acc = np.stack([accumulators(rng, x, rows) for x in multiplier], axis=1)
        zeros = np.zeros((rows, 1), dtype=np.int8)
        (y,) = gemm_session(a_scale, b_scale, y_scale, zero_point).run(None, {"a": zeros, "acc": acc})
        got = fixed.requantize(acc, *fixed.encode_multiplier(multiplier), zero_point, -128, 127)
        np.testing.assert_array_equal(got, y)
        count += acc.size
    print(f"seed {SEED}: {count} accumulators, {m.size} multipliers, 0 mismatches")
    assert count >= 10**7


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_equals_onnxruntime_on_matrix_products(depth):
    rng = np.random.default_rng(SEED + depth)
    columns, rows = 128, 4_000
    m = np.exp2(rng.uniform(-16, 1, columns)).astype(np.float32)
    m[:16] = np.exp2(np.arange(16.0) - 15)
    a = rng.integers(-128, 128, (rows, depth)).astype(np.int8)
    b = rng.integers(-128, 128, (depth, columns)).astype(np.int8)
    a[:4], b[:, :2] = [[-128], [127], [0], [-1]], [-128, 127]
    a_scale, y_scale = np.float32(0.0173), np.float32(0.0411)
    b_scale = m / a_scale * y_scale
    multiplier = a_scale * b_scale / y_scale
    acc = a.astype(np.int32) @ b.astype(np.int32)
    for zero_point in (-128, 5, 127):
        (y,) = matmul_session(a_scale, b, b_scale, y_scale, zero_point).run(None, {"a": a})
        got = fixed.requantize(acc, *fixed.encode_multiplier(multiplier), zero_point, -128, 127)
        np.testing.assert_array_equal(got, y)
    print(f"depth {depth}: {3 * acc.size} accumulators, {columns} multipliers, 0 mismatches")
