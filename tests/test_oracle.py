import numpy as np
import pytest

from hwq.oracle import lsb_histogram


def test_integers_are_compared_as_they_are():
    original, oracle = np.array([0, 255, 7, 7], np.uint8), np.array([255, 0, 7, 8], np.uint8)
    assert lsb_histogram([original], [oracle]) == [{-255: 1, 0: 1, 1: 1, 255: 1}]


def test_dequantized_values_are_compared_in_steps():
    scale = np.float32(0.037)
    original = np.array([-5, 0, 3, 9], np.float32) * scale
    oracle = np.array([-5, 1, 3, 7], np.float32) * scale
    assert lsb_histogram({"y": original}, {"y": oracle}) == [{-2: 1, 0: 2, 1: 1}]


def test_other_floats_are_compared_in_parts_of_the_largest():
    original = np.array([0.1, 0.33, 1.0], np.float32)
    assert lsb_histogram([original], [original + np.float32([0, 1 / 256, 0])]) == [{0: 2, 1: 1}]


def test_equal_zeros():
    assert lsb_histogram([np.zeros(3, np.float32)], [np.zeros(3, np.float32)]) == [{0: 3}]


def test_outputs_are_matched_by_name():
    a, b = np.array([1], np.int8), np.array([5], np.int8)
    assert lsb_histogram({"a": a, "b": b}, {"b": b, "a": a}) == [{0: 1}, {0: 1}]


def test_different_numbers_of_outputs():
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        lsb_histogram([np.zeros(1)], [])
