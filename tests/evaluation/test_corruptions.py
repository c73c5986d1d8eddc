"""Corruptions: worse with severity, in the samples' own range and dtype, the same for the same seed."""

import numpy as np
import pytest

from hwq.evaluation.corruptions import CORRUPTIONS, SEVERITIES, UNKNOWN, corrupted, names, unknown


def images(dtype=np.float32):
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:24, :24]
    slope, phase = rng.uniform(0.2, 0.5, (2, 6, 3, 1, 1)), rng.uniform(0, 6, (6, 3, 1, 1))
    x = 0.5 + 0.5 * np.sin(slope[0] * row + slope[1] * column + phase)
    return (x * 255).astype(dtype) if dtype != np.float32 else x.astype(dtype) * 4 - 1


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_grows(name, dtype):
    x = images(dtype)
    changed = [corrupted(x, name, severity, seed=1) for severity in SEVERITIES]
    damage = [np.abs(y.astype(float) - x.astype(float)).mean() for y in changed]
    assert damage[0] > 0
    assert damage == sorted(set(damage))
    for y in changed:
        assert (y.dtype, y.shape) == (x.dtype, x.shape)
        assert x.min() <= y.min()
        assert y.max() <= x.max()
    assert np.array_equal(changed[2], corrupted(x, name, 3, seed=1))


@pytest.mark.parametrize("name", ["noise", "impulses", "cover", *UNKNOWN])
def test_seeds_and_names_make_a_difference(name):
    x = images()
    make = unknown if name in UNKNOWN else lambda x, name, seed: corrupted(x, name, 3, seed)
    assert not np.array_equal(make(x, name, 0), make(x, name, 1))
    assert np.array_equal(make(x, name, 1), make(x, name, 1))


def test_by_hand():
    x = np.array([[[[0.0, 1.0, 0.0, 0.0, 0.5, 0.5]] * 6]])
    assert np.array_equal(corrupted(x, "brightness", 2, 0)[0, 0, 0], np.minimum(x[0, 0, 0] + 0.1, 1))
    middle = x[0, 0].mean()
    assert np.allclose(corrupted(x, "contrast", 1, 0), middle + 0.8 * (x - middle))
    wide = np.kron(x, np.ones((1, 1, 4, 4)))
    assert np.allclose(corrupted(wide, "pixelate", 3, 0), wide)  # 0.16 of 24 are 4 pixels, the blocks there are
    pairs = corrupted(x, "pixelate", 5, 0)[0, 0, 0]  # 0.25 of 6 is 1.5, rounded to even: 2 pixels
    assert np.allclose(pairs, [0.5, 0.5, 0, 0, 0.5, 0.5])
    grey = corrupted(wide, "cover", 5, 0) == 0.5
    assert grey.sum() - (wide == 0.5).sum() <= 13 * 13  # sqrt(0.3) of 24
    hits = corrupted(np.full((1, 1, 200, 200), 0.25) + np.eye(200) / 2, "impulses", 5, 0)
    assert np.mean((hits == 0.75) | (hits == 0.25)) == pytest.approx(1, abs=1e-9)  # the ends of the range there is


def test_blur_keeps_the_mean_and_flat_images():
    flat = np.full((1, 2, 9, 9), 0.5)
    flat[..., 0, 0, 0], flat[..., 1, 0, 0] = 0, 1
    far = corrupted(flat, "blur", 1, 0)[0, 0, 5:, 5:]
    assert np.allclose(far, 0.5)
    impulse = np.zeros((1, 1, 41, 41))
    impulse[0, 0, 20, 20] = 1
    spread = corrupted(impulse, "blur", 3, 0)[0, 0]
    assert spread.sum() == pytest.approx(1, abs=1e-9)
    deviation = np.sqrt((spread.sum(axis=0) * np.square(np.arange(41) - 20)).sum())
    assert deviation == pytest.approx(0.035 * 41, rel=0.02)


def test_shuffled_samples_have_the_same_values():
    x = images()
    y = unknown(x, "shuffled samples", 0)
    assert np.allclose(np.sort(x.reshape(6, -1)), np.sort(y.reshape(6, -1)), atol=1e-6)


def test_series_have_no_neighbouring_pixels():
    assert names(np.zeros((4, 10))) == ["noise", "impulses", "brightness", "contrast"]
    assert names(images()) == list(CORRUPTIONS)
