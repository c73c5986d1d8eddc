"""Checked products: their values, what they find, what they cost, what they refuse."""

import itertools

import numpy as np
import pytest

from hwq import abft
from hwq.errors import ArchError, ChecksumError, InputError
from tests.campaigns.checksums import SHAPES, compiled, core


def matrices(seed, m, k, n):
    rng = np.random.default_rng(seed)
    return (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((m, k), (k, n)))


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 8, 4), (5, 3, 9), (2, 300, 3)], ids=str)
def test_values_are_those_of_the_product(shape):
    a, weight = matrices(0, *shape)
    found = abft.CheckedProduct(weight, len(a), "sim-4x4").run(a)
    assert found.dtype == np.int32
    assert found.tolist() == [
        [sum(int(x) * int(w) for x, w in zip(row, column, strict=True)) for column in weight.T] for row in a
    ]


@pytest.mark.parametrize("count", [1, 2, 257, 258, 300])
@pytest.mark.parametrize("value", [-128, 127, 1])
def test_digits_hold_every_sum(count, value):
    column = np.full((count, 1), value, np.int8)
    digits = abft.with_row_checksums(column)[count:, 0]
    assert len(digits) == {1: 1, 2: 2, 257: 2, 258: 3, 300: 3}[count]
    assert sum(int(digit) * 256**place for place, digit in enumerate(digits)) == count * value
    assert (abft.with_column_checksums(column.T)[0, count:] == digits).all()


def test_every_bit_of_every_sum_is_checked():
    a, weight = matrices(1, 3, 5, 2)
    sums = abft.with_row_checksums(a).astype(np.int32) @ abft.with_column_checksums(weight).astype(np.int32)
    for i, j, bit in itertools.product(range(3), range(2), range(32)):
        wrong = sums.copy()
        wrong.view(np.uint32)[i, j] ^= np.uint32(1 << bit)
        rows, columns = abft.faults(wrong, 3, 2)
        assert (rows == (np.arange(3) == i)).all()
        assert (columns == (np.arange(2) == j)).all()


def test_sums_may_wrap():
    row = [(1 << 31) - 1, 1, -(1 << 31), 0]
    assert not any(wrong.any() for wrong in abft.faults(np.array([row, row], np.int32), 1, 2))


def test_error_names_rows_and_columns():
    a, weight = matrices(2, 4, 6, 5)
    product = abft.CheckedProduct(weight, 4, "sim-4x4")
    first = product.program.descriptors(0)[0]["weight_base"]
    product._session._accelerator.backend.machine.weights[first, 0] ^= 1  # of all four rows, in all bytes of sums
    with pytest.raises(ChecksumError, match=r"disagree with their checksums in row \d and \d more and no column; run"):
        product.run(a)
    sums = abft.with_row_checksums(a).astype(np.int32) @ abft.with_column_checksums(weight).astype(np.int32)
    sums[2, 3] += 1
    with pytest.raises(ChecksumError, match="in row 2 and column 3; run it again"):
        abft.checked(sums, 4, 5)


def test_what_cannot_be_checked_is_refused():
    a, weight = matrices(3, 2, 3, 4)
    with pytest.raises(ArchError, match="arch 'ecp5-8x16': sums leave the array only where sum_bytes is 1"):
        abft.CheckedProduct(weight, 2, "ecp5-8x16")
    for bad, rows in ((weight.astype(np.int16), 2), (weight[0], 2), (weight[:0], 2), (weight, 0)):
        with pytest.raises(InputError, match="A checked product is of an int8 matrix and rows, not "):
            abft.CheckedProduct(bad, rows, "sim-4x4")
    product = abft.CheckedProduct(weight, 2, "sim-4x4")
    for bad in (a[:1], a.astype(np.uint8)):
        with pytest.raises(InputError, match=r"operand must be int8 \(2, 3\), not "):
            product.run(bad)


@pytest.mark.parametrize("index", range(len(SHAPES)))
@pytest.mark.xdist_group("verilator")
def test_a_core_takes_the_cycles_that_were_told(index):
    from hwq.runtime import Accelerator

    product, cycles = compiled(index)
    a, _ = matrices(4, *SHAPES[index])
    accelerator = Accelerator(product.program, core())
    sums = accelerator.run({"a": abft.with_row_checksums(a)})["sums"]
    assert accelerator.counters["cycles"] == cycles == product.cycles()[0] > product.cycles()[1]
    weight = np.random.default_rng(index).integers(-128, 128, SHAPES[index][1:]).astype(np.int8)
    assert (abft.checked(sums, *SHAPES[index][::2]) == a.astype(int) @ weight.astype(int)).all()
