"""Rounding that gradients pass, and gradients of steps: learned step size quantization (Esser et al., 2020).

With ``u = value / step`` and ``q = quantize(u, low, high)``, autograd gives of ``q * step``, the quantized value,

    by value:  1 where low < u < high, else 0                        (the straight-through estimator)
    by step:   q - u where low < u < high, else low or high

which are LSQ's equations 5 and 3, whatever else the integers ``q`` are multiplied and added up to in between.
"""

from __future__ import annotations

from typing import Any

import torch


class _Quantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Any, low: float, high: float) -> Any:
        ctx.save_for_backward((value > low) & (value < high))
        return torch.clamp(torch.round(value), low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, smooth: Any, value: Any) -> Any:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient, None


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Any, factor: float) -> Any:
        ctx.factor = factor
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient * ctx.factor, None


def quantize(value: Any, low: float, high: float) -> Any:
    """Return `value` rounded, ties to even, and clamped to the integers `low` to `high`."""
    return _Quantize.apply(value, low, high)


def through(smooth: Any, value: Any) -> Any:
    """Return `value`, with the gradient of `smooth`."""
    return _Through.apply(smooth, value)


def scaled_gradient(value: Any, factor: float) -> Any:
    """Return `value`, whose gradient is multiplied by `factor`."""
    return _Scaled.apply(value, factor)


def step_gradient(count: int, top: float) -> float:
    """Return LSQ's gradient scale ``1 / sqrt(count * top)``.

    Parameters
    ----------
    count : int
        Weights that share the step, or elements of the tensor of activations.
    top : float
        The greatest integer, Q_P.
    """
    return float((count * top) ** -0.5)
