"""What an ONNX node must satisfy to become an integer operator, one function a rule.

Each docstring is the rule and its remedy in one sentence: the text a user reads when a node stays on the host, and the
line the manual prints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from hwq.ir import Array, Tensor

_T = TypeVar("_T")


class StaysOnHost(Exception):
    """A node breaks a constraint; the message is the constraint's sentence."""


def require(constraint: Callable[..., bool], *args: Any) -> None:
    """Raise `StaysOnHost` with the constraint's docstring unless it holds."""
    if not constraint(*args):
        raise StaysOnHost(sentence(constraint))


def present(constraint: Callable[[_T | None], bool], value: _T | None) -> _T:
    """Return `value`, which the constraint says must not be None."""
    require(constraint, value)
    assert value is not None
    return value


def sentence(constraint: Callable[..., bool]) -> str:
    """Return a constraint's docstring on one line."""
    return " ".join((constraint.__doc__ or "").split())


def constraint_known_operator(known: bool) -> bool:
    """The operator has no integer form here: it runs in ONNX Runtime."""
    return known


def constraint_quantized_output(quantized: bool) -> bool:
    """The result isn't quantized: follow the node with QuantizeLinear to int8 or uint8."""
    return quantized


def constraint_quantized_input(tensor: Tensor | None) -> bool:
    """An input isn't int8 or uint8 with a single scale: put QuantizeLinear and DequantizeLinear before the node."""
    return tensor is not None


def constraint_usable_parameters(usable: bool) -> bool:
    """The output's scale isn't one positive float32 constant or its type isn't int8 or uint8: quantize per tensor."""
    return usable


def constraint_constant_parameters(params: object | None) -> bool:
    """An input's scale and zero point aren't float32 and 8-bit constants of one element: store them in the model."""
    return params is not None


def constraint_one_source(single: bool) -> bool:
    """The function reads several quantized tensors: the array adds, subtracts or multiplies two, or maps one."""
    return single


def constraint_one_function(equal: bool) -> bool:
    """ONNX Runtime's result for an element depends on its place: keep undefined values such as log(-1) out."""
    return equal


def constraint_eight_bits(dtype: str) -> bool:
    """The tensor is quantized to 16 or 32 bits: the array's tensors have 8 or fewer, so use int8, uint8 or INT4."""
    return dtype not in ("int16", "uint16", "int32")


def constraint_whole_scale(block_size: int) -> bool:
    """The weight's scale changes along its inputs (block_size): use one scale a tensor or an output channel."""
    return not block_size


def constraint_block_storage(known: bool) -> bool:
    """The weight's blocks aren't stored in a way known here: use 4 bits, power-of-two blocks, float32 scales, NF4."""
    return known


def constraint_block_shape(fits: bool) -> bool:
    """The scales don't belong to blocks along the inputs of each output: quantize along the inputs' axis."""
    return fits


def constraint_block_groups(groups: int) -> bool:
    """The convolution has groups and scales for blocks of its inputs: use one scale an output channel."""
    return groups == 1


def constraint_block_range(values: Array) -> bool:
    """Weights less their zero points exceed 8 bits: use zero points in the middle."""
    return bool(values.min(initial=0) >= -128 and values.max(initial=0) <= 127)


def constraint_block_sums(fits: bool) -> bool:
    """Sums of blocks times their scales exceed 32 bits even with scales of 4 bits: split the layer along its inputs."""
    return fits


def constraint_countable_sums(count: int) -> bool:
    """The layer makes more than 2**24 sums, too many to run the nodes after it for each: quantize before them."""
    return count <= 1 << 24


def constraint_monotone_function(monotone: bool) -> bool:
    """The function between layer and quantizer both rises and falls: follow the layer with QuantizeLinear instead."""
    return monotone


def constraint_affine_function(affine: bool) -> bool:
    """What lies between layer and quantizer isn't a scale, an offset and a clamp: quantize the layer's result first."""
    return affine


def constraint_no_requantization(same: bool) -> bool:
    """A tensor is quantized again with other parameters: quantize both sides alike, or leave the change to the host."""
    return same


def constraint_matching_parameters(same: bool) -> bool:
    """The node reads its input under other scale or zero point than it was written with: make them equal."""
    return same


def constraint_constant_weight(weight: object | None) -> bool:
    """The weight isn't an 8-bit or 4-bit constant behind DequantizeLinear: quantize it and store it in the model."""
    return weight is not None


def constraint_matrix_weight(values: Array) -> bool:
    """The weight isn't a matrix on the right-hand side: reshape it to two dimensions."""
    return values.ndim == 2


def constraint_weight_scale_per_output(axis: int | None, output_axis: int, scale: Array, outputs: int) -> bool:
    """Weight scales run along another axis than the output channels: quantize per tensor or per output channel."""
    return scale.size == 1 or (axis == output_axis and scale.size == outputs)


def constraint_constant_bias(bias: Array | None) -> bool:
    """The bias isn't a constant vector with one value per output channel: fold it into the model."""
    return bias is not None


def constraint_bias_in_range(values: Array) -> bool:
    """The bias divided by input scale times weight scale doesn't fit in 32 bits: raise the weight's scale."""
    return bool(np.all(np.abs(values) < 2**31))


def constraint_one_signedness(*tensors: Tensor) -> bool:
    """Inputs and output mix int8 and uint8: quantize all activations to one type."""
    return len({tensor.dtype for tensor in tensors}) == 1


def constraint_image(rank: int) -> bool:
    """The window isn't one- or two-dimensional: reshape the tensor to (N, C, H, W)."""
    return rank in (3, 4)


def constraint_plain_pads(pads: tuple[int, ...]) -> bool:
    """Padding is negative: crop with a separate node instead."""
    return min(pads, default=0) >= 0


def constraint_one_divisor(pads: tuple[int, ...], counted: bool, overhang: bool) -> bool:
    """The average divides by fewer values at the edge: set count_include_pad = 1 and ceil_mode = 0."""
    return (counted or not any(pads)) and not overhang


def constraint_image_mean(axes: object | None) -> bool:
    """The mean isn't over all axes behind the channels (of constant number): use GlobalAveragePool."""
    return axes is not None


def constraint_undilated_average(dilations: tuple[int, ...]) -> bool:
    """The averaging window is dilated: use a dilation of 1."""
    return set(dilations) <= {1}


def constraint_no_indices(outputs: int) -> bool:
    """MaxPool also returns indices: drop the second output."""
    return outputs == 1


def constraint_channels_first(channels_last: int) -> bool:
    """The pooling node has channels_last set: use the (N, C, H, W) layout."""
    return not channels_last


def constraint_equal_parameters(*tensors: Tensor) -> bool:
    """Inputs and output have different scales, zero points or types: give them equal quantization parameters."""
    return len({(tensor.scale, tensor.zero_point, tensor.dtype) for tensor in tensors}) == 1


def constraint_plain_gemm(trans_a: int, beta: float, has_bias: bool) -> bool:
    """Gemm transposes its input or scales its bias: use transA = 0 and beta = 1."""
    return not trans_a and (beta == 1 or not has_bias)


def constraint_clamp_order(lo: int, hi: int) -> bool:
    """The activation's lower bound lies above its upper one: remove the activation, its result is a constant."""
    return lo <= hi


def constraint_constant_clamp(bound: float | None) -> bool:
    """A Clip bound isn't a constant: store it in the model."""
    return bound is not None


def constraint_pad_mode(mode: str) -> bool:
    """Padding copies or reflects the edge: use mode "constant"."""
    return mode == "constant"


def constraint_constant_pad(operand: object | None) -> bool:
    """The amounts, axes or value of the padding aren't constants: store them in the model."""
    return operand is not None


def constraint_constant_slice(operand: object | None) -> bool:
    """The bounds or scales aren't constants: store them in the model."""
    return operand is not None


def constraint_whole_steps(whole: bool) -> bool:
    """Resize doesn't repeat or drop whole elements evenly: use mode "nearest" and whole factors."""
    return whole


def constraint_plain_transposed(plain: bool) -> bool:
    """ConvTranspose has groups, dilations, automatic pads or a stated output shape: write its pads, use one group."""
    return plain


def constraint_representable_pad(exact: bool) -> bool:
    """The padding value isn't a multiple of the tensor's scale in range: pad with zero, or quantize after padding."""
    return exact


def constraint_integer_input(known: bool) -> bool:
    """An integer layer's input isn't known to hold integers of 0 to 255: clip what makes it."""
    return known


def constraint_exact_float_sum(largest: int) -> bool:
    """Sums of an integer layer in floats may reach 2**24, where float32 rounds: use smaller weights."""
    return largest < 1 << 24


def constraint_short_weights(dtype: object | None) -> bool:
    """An integer layer's weights take more than 8 bits: scale them to -128..127 or 0..255."""
    return dtype is not None


def constraint_steps_fit(fit: object | None) -> bool:
    """No multiplier and offset reproduce the function of the layer's sums at every sum: round down or to nearest."""
    return fit is not None
