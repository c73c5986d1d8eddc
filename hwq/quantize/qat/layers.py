"""Layers of integer weights that learn: their weights, biases and steps, and the batch normalization in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from hwq.ir import Array, Tensor
from hwq.onnx_values import attribute
from hwq.onnx_windows import read_window
from hwq.quantize.lattice import weight_scales
from hwq.quantize.network import Layer, Network
from hwq.quantize.qat.fake import quantize, scaled_gradient, step_gradient, through
from hwq.quantize.qat.norms import Normalized
from hwq.quantize.rounding import levels, plain_scales

_MOMENTUM = 0.1
"""Of running means and variances, PyTorch's own."""


class Norm(nn.Module):
    """A batch normalization, folded into the weights before they are quantized.

    While it isn't `frozen`, training folds the statistics of the batch, and remembers them for evaluation.
    """

    def __init__(self, known: Normalized):
        super().__init__()
        self.gamma, self.beta = nn.Parameter(_tensor(known.gamma)), nn.Parameter(_tensor(known.beta))
        self.register_buffer("mean", _tensor(known.mean))
        self.register_buffer("variance", _tensor(known.variance))
        self.epsilon, self.frozen = known.epsilon, False

    def forward(self, sums: Any) -> tuple[Any, Any]:
        """Return factor and offset of each channel; `sums`, (samples, 1, O, ...), is called where it is looked at."""
        mean, variance = self.mean, self.variance
        if self.training and not self.frozen:
            values = sums().flatten(0, 1)
            axes = [axis for axis in range(values.ndim) if axis != 1]
            variance, mean = torch.var_mean(values, axes, correction=0)
            count = values.numel() / values.shape[1]
            with torch.no_grad():
                self.mean.lerp_(mean, _MOMENTUM)
                self.variance.lerp_(variance * (count / max(count - 1, 1)), _MOMENTUM)
        factor = self.gamma * torch.rsqrt(variance + self.epsilon)
        return factor, self.beta - mean * factor


class TrainedLayer(nn.Module):
    """A convolution or matrix product of integers, and its requantization.

    Members
    -------
    weight : float32 parameter
        As the operator takes it; where there is a `norm`, not yet normalized.
    bias : float32 parameter (O,)
    step : float32 parameter (O,)
        Of the weights.
    mask : float32 buffer
        1 or 0, of the weight's shape: pruned weights are 0.
    norm : Norm or None
    """

    def __init__(self, network: Network, layer: Layer, bits: int, norm: Normalized | None):
        super().__init__()
        self.layer, self.bits = layer, bits
        allowed = levels(bits)
        self.low, self.high = int(allowed[0]), int(allowed[-1])
        self.weight = nn.Parameter(_tensor(layer.weight if norm is None else norm.weight))
        self.bias = nn.Parameter(_tensor(layer.bias if norm is None else norm.bias))
        self.norm = None if norm is None else Norm(norm)
        self.register_buffer("mask", torch.ones_like(self.weight))
        self.step = nn.Parameter(_tensor(initial_steps(layer.kernels, bits)))
        self.gradient = step_gradient(layer.kernels.shape[1], self.high)
        self.multiply = _product(network, layer)

    def folded(self, inputs: Any) -> tuple[Any, Any]:
        """Return weights and biases of the layer as one; `inputs` makes the float32 values it multiplies."""
        weight, bias = self.weight * self.mask, self.bias
        if self.norm is not None:
            factor, offset = self.norm(lambda: self.multiply(inputs(), weight) + self.spread(bias, weight.ndim))
            weight, bias = weight * factor.reshape(-1, *[1] * (weight.ndim - 1)), bias * factor + offset
        return weight, bias

    def steps(self, x_step: Any, y_step: Any) -> Any:
        """Return the weights' steps, moved to where the multipliers are on the lattice."""
        least = self.step.detach().abs().numpy()
        moved = weight_scales(np.float32(x_step.item()), np.float32(y_step.item()), least)
        return through(scaled_gradient(self.step, self.gradient), torch.from_numpy(moved))

    def integers(self, weight: Any, steps: Any) -> Any:
        """Return the integers of `weight`, of its shape."""
        shape = [1] * weight.ndim
        shape[self.layer.axis] = -1
        return quantize(weight / steps.reshape(shape), self.low, self.high)

    def forward(self, x: Any, x_step: Any, y_step: Any, low: float, high: float, dtype: Any) -> Any:
        """Return ``clamp(RNE(acc * m), low, high)`` for integers `x`, zero points subtracted.

        Sums are of `dtype`; in float64 they are exact, in float32 below 2**24. The rest is what
        `hwq.multipliers.layer_multiplier` and a QDQ file's bias mean.
        """
        weight, bias = self.folded(lambda: x.float() * x_step)
        steps = self.steps(x_step, y_step)
        unit = x_step * steps
        offset = bias.double() / unit.double()
        offset = through(offset, torch.round(offset)).to(dtype)
        sums = self.multiply(x.to(dtype), self.integers(weight, steps).to(dtype))
        sums = sums + self.spread(offset, self.weight.ndim)
        return quantize(sums.float() * self.spread(unit / y_step, self.weight.ndim), low, high)

    def spread(self, values: Any, rank: int) -> Any:
        """Return one value for each output channel such that it broadcasts to the results."""
        return values if self.layer.node.op_type in ("Gemm", "MatMul") else values.reshape(-1, *[1] * (rank - 2))


def initial_steps(kernels: Array, bits: int) -> Array:
    """Return LSQ's first steps of weights (O, K), ``2 mean|w| / sqrt(Q_P)``, none greater than the largest needs."""
    top = levels(bits)[-1]
    wanted = 2 * np.abs(kernels).mean(axis=1) / np.sqrt(top)
    steps = np.minimum(wanted, plain_scales(kernels, bits))
    return np.maximum(steps, np.finfo(np.float32).tiny).astype(np.float32)


def _tensor(values: Array) -> Any:
    return torch.from_numpy(np.array(values, np.float32))


def _product(network: Network, layer: Layer) -> Any:
    """Return the layer's product (x, weight) -> sums, x and sums with an axis of samples before ONNX's own."""
    kind, shape = layer.node.op_type, network.shapes[layer.node.output[0]]
    if kind == "Gemm":
        return lambda x, weight: x @ weight.T
    if kind == "MatMul":
        return lambda x, weight: x @ weight
    image = _transposed if kind == "ConvTranspose" else _convolution
    run = image(network, layer)

    def multiply(x: Any, weight: Any) -> Any:
        flat = x.flatten(0, 1)
        flat, weight = (flat, weight) if flat.ndim == 4 else (flat.unsqueeze(2), weight.unsqueeze(2))
        return run(flat, weight).reshape(len(x), *shape)

    return multiply


def _convolution(network: Network, layer: Layer) -> Any:
    node = layer.node
    x, y = (Tensor(name, network.shapes[name], "float32") for name in (node.input[0], node.output[0]))
    window = read_window(node, x, y, layer.weight.shape[2:])
    top, left, bottom, right = window.pads

    def run(x: Any, weight: Any) -> Any:
        padded = functional.pad(x, (left, right, top, bottom))
        return functional.conv2d(padded, weight, None, window.strides, 0, window.dilations, layer.groups)

    return run


def _transposed(network: Network, layer: Layer) -> Any:
    node, rank = layer.node, layer.weight.ndim - 2
    strides, dilations = (tuple(attribute(node, name, [1] * rank)) for name in ("strides", "dilations"))
    pads, sizes = attribute(node, "pads", [0] * 2 * rank), network.shapes[node.output[0]][2:]

    def run(x: Any, weight: Any) -> Any:
        lead = (1,) * (2 - rank)
        whole = functional.conv_transpose2d(x, weight, None, lead + strides, dilation=lead + dilations)
        for axis, (begin, size) in enumerate(zip(pads, sizes, strict=False), 4 - rank):
            missing = max(begin + size - whole.shape[axis], 0)
            whole = functional.pad(whole, (0, 0) * (3 - axis) + (0, missing)).narrow(axis, begin, size)
        return whole

    return run
