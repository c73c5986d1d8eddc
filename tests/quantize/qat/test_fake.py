"""Fake quantization against LSQ's published formulas (Esser et al., 2020, equations 1 to 5), worked out in numpy."""

import numpy as np
import pytest
import torch

from hwq.quantize.qat.fake import quantize, scaled_gradient, step_gradient, through
from hwq.quantize.qat.layers import initial_steps


def published(value, step, low, high):
    """Return LSQ's quantized values and their derivatives by value and by step."""
    scaled = value / step
    rounded = np.array([round(u) for u in scaled])  # Python's ties go to even
    inside = (scaled > low) & (scaled < high)
    quantized = np.clip(rounded, low, high) * step
    by_step = np.where(inside, rounded - scaled, np.where(scaled <= low, low, high))
    return quantized, inside.astype(float), by_step


@pytest.mark.parametrize(("low", "high"), [(0, 15), (0, 255), (-8, 7), (-2, 1), (-127, 127), (-6, 9)])
def test_gradients_of_value_and_step_are_the_published_ones(low, high):
    rng = np.random.default_rng(0)
    step = 0.25
    exact = np.arange(low - 2, high + 2.5, 0.5) * step  # ties, bounds, and beyond
    value = np.concatenate([exact, rng.uniform((low - 3) * step, (high + 3) * step, 200)])
    factor = rng.normal(size=value.shape)
    v = torch.tensor(value, requires_grad=True)
    s = torch.tensor(step, dtype=torch.float64, requires_grad=True)
    quantized = quantize(v / s, low, high) * s
    (quantized * torch.tensor(factor)).sum().backward()
    wanted, by_value, by_step = published(value, step, low, high)
    np.testing.assert_array_equal(quantized.detach().numpy(), wanted)
    np.testing.assert_allclose(v.grad.numpy(), by_value * factor, rtol=1e-12, atol=0)
    np.testing.assert_allclose(s.grad.item(), (by_step * factor).sum(), rtol=1e-9)


def test_ties_go_to_even():
    values = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert quantize(values, -8, 7).tolist() == [-2, -2, 0, 0, 2, 2]


def test_gradient_scale():
    assert step_gradient(100, 7) == pytest.approx(1 / np.sqrt(700), rel=1e-15)
    value = torch.tensor([3.0, -2.0], requires_grad=True)
    scaled = scaled_gradient(value, 0.25)
    assert scaled.tolist() == [3, -2]
    (scaled * torch.tensor([8.0, 4.0])).sum().backward()
    assert value.grad.tolist() == [2, 1]


def test_through_has_the_value_of_one_and_the_gradient_of_the_other():
    smooth = torch.tensor([1e-9, 2.0], requires_grad=True)
    made = through(smooth * 3, torch.tensor([1.0, 7.0]))
    assert made.tolist() == [1, 7]
    made.sum().backward()
    assert smooth.grad.tolist() == [3, 3]


def test_first_steps_are_lsq_s_unless_no_weight_needs_so_large_ones():
    kernels = np.array([[7.0, *[0.1] * 10, *[-0.1] * 5], [0.1, 0.1, -0.1, 0.1, *[0.1] * 12]])
    np.testing.assert_allclose(initial_steps(kernels, 4), [2 * 8.5 / 16 / np.sqrt(7), 0.1 / 7], rtol=1e-6)
    np.testing.assert_allclose(initial_steps(kernels, 2), [2 * 8.5 / 16, 0.1], rtol=1e-6)
    assert (initial_steps(np.zeros((1, 4)), 4) > 0).all()
