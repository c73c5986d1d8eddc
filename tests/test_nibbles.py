"""Two numbers of 4 bits a byte: labels, shapes, and bytes there and back, against Python's integers."""

import itertools

import numpy as np
import pytest

from hwq import nibbles


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-8, 7, 0), (0, 15, 8), (1, 16, None), (-9, 6, None), (0, 16, None), (-10, 5, -2), (-2, 1, -6), (120, 135, 128)],
)
def test_label_brings_values_into_4_bits_and_is_even(low, high, expected):
    assert nibbles.label(low, high) == expected


def test_every_range_that_has_an_even_label_gets_one():
    for low, width in itertools.product(range(-130, 130), range(18)):
        high = low + width
        there = any(label % 2 == 0 for label in range(high - 7, low + 9))
        label = nibbles.label(low, high)
        assert (label is not None) == there
        if label is not None:
            assert label % 2 == 0
            assert -8 <= low - label <= high - label <= 7


@pytest.mark.parametrize(
    ("shape", "packed"), [((2, 5, 3, 4), (2, 3, 3, 4)), ((2, 8, 1, 1), (2, 4, 1, 1)), ((6, 7), (6, 4)), ((1,), (1,))]
)
def test_channels_take_half_the_bytes(shape, packed):
    assert nibbles.packed_shape(shape) == packed
    values = np.random.default_rng(1).integers(-8, 8, shape).astype(np.int8)
    axis = nibbles.channel_axis(shape)
    stored = nibbles.join(values, axis)
    assert stored.shape == packed
    assert stored.dtype == np.int8
    for index in np.ndindex(*shape):
        place = (*index[:axis], index[axis] // 2, *index[axis + 1 :])
        assert (int(stored[place]) >> 4 * (index[axis] % 2)) & 15 == values[index] & 15
    if shape[axis] % 2:
        assert not (stored.take(-1, axis).astype(int) >> 4 & 15).any(), "the spare half is 0"
    assert np.array_equal(nibbles.split(stored, axis).take(range(shape[axis]), axis), values)
