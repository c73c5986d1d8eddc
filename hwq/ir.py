"""Integer intermediate representation: what a quantized network means, before any array is chosen.

A `Graph` is a topologically ordered list of operators over named tensors. A quantized tensor holds ``int8`` or
``uint8`` values ``q`` standing for ``(q - zero_point) * scale``; every integer operator has exactly one meaning,
given by its class docstring in integers. Anything else is a `HostNode`, an untouched ONNX node run by ONNX Runtime.

In the formulas ``fl(x)`` rounds to float32, ``RNE`` is round half to even and
``R(acc) = clamp(RNE(fl(fl(acc) * m)) + y_zp, lo, hi)``, with ``acc`` an int32 that wraps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Tensor:
    """Name, static shape and type of one value of the graph.

    Members
    -------
    name : str
    shape : tuple of int
        Logical ONNX shape (NCHW for images, (M, K) for matrices); every dimension at least 1.
    dtype : str
        numpy dtype name; ``int8`` or ``uint8`` for quantized tensors.
    scale : float or None
        float32-representable scale of a quantized tensor, None for any other.
    zero_point : int
        Within the range of ``dtype``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int = 0

    @property
    def is_quantized(self) -> bool:
        """Whether the tensor can live in activation memory."""
        return self.scale is not None

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest value of the dtype."""
        info = np.iinfo(self.dtype)
        return int(info.min), int(info.max)


@dataclass(frozen=True, kw_only=True, eq=False)
class Op:
    """An operator: reads the tensors `inputs`, writes the tensors `outputs` (by name)."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Class name, as printed in reports."""
        return type(self).__name__


@dataclass(frozen=True, slots=True, eq=False)
class Floor:
    """Requantization that rounds down: ``clamp(floor((acc * multiplier + offset) / 2**shift) + y_zp, lo, hi)``.

    It takes the place of R in an operator's formula, and no scale enters the result. One value for each output channel:

    Members
    -------
    multiplier : int64 (O,)
        0 to 2**24 - 1.
    offset : int64 (O,)
        Signed 58 bits.
    shift : int64 (O,)
        0 to 48.
    """

    multiplier: Array
    offset: Array
    shift: Array


@dataclass(frozen=True, slots=True, eq=False)
class BlockScales:
    """Scales of blocks of `size` inputs, integers: input i of output o has ``scale[i // size, o]`` as a factor.

    Members
    -------
    size : int
    scale : uint8 (ceil(inputs / size), outputs)
    """

    size: int
    scale: Array

    def blocks(self, inputs: int) -> list[slice]:
        """Return the inputs of each block."""
        return [slice(start, min(start + self.size, inputs)) for start in range(0, inputs, self.size)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Conv(Op):
    """``y[n,o] = R(sum (x[n,i] - x_zp) * (weight[o,i] - weight_zero_point[o]) + bias[o])``, padding reads as ``x_zp``.

    ``m[o] = fl(fl(x_scale * weight_scale[o]) / y_scale)`` (ONNX QLinearConv; SEMANTICS: 0 mismatches).

    Members
    -------
    weight : int8 or uint8, (O, I / groups, kh, kw)
    weight_zero_point : int array (O,), within the range of the weight's dtype
    weight_scale : float32 (O,)
    bias : int32 (O,)
    block_scales : factors of the products, by blocks of input channels, where not None
    strides, dilations : (y, x), at least 1
    pads : (top, left, bottom, right), at least 0
    lo, hi : clamp in y's quantized domain
    floor : in place of R, where not None
    byte : where not None, y is this byte of the sum, counted from the lowest, ``acc >> 8 * byte & 255``, in place of R:
        uint8 of zero point 128, m = 1 and no clamp
    """

    weight: Array
    weight_zero_point: Array
    weight_scale: Array
    bias: Array
    block_scales: BlockScales | None = None
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    lo: int = -128
    hi: int = 127
    floor: Floor | None = None
    byte: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Gemm(Op):
    """``y[..., n] = R(sum_k (x[..., k] - x_zp) * (weight[k, n] - weight_zero_point[n]) + bias[n])``.

    ``m[n] = fl(fl(x_scale * weight_scale[n]) / y_scale)``; with ``alpha`` other than 1,
    ``m[n] = fl(fl(fl(alpha * x_scale) * weight_scale[n]) / y_scale)`` (com.microsoft QGemm, ONNX QLinearMatMul).

    Members
    -------
    weight : int8 or uint8, (K, N)
    weight_zero_point : int array (N,)
    weight_scale : float32 (N,)
    bias : int32 (N,)
    block_scales : factors of the products, by blocks of k, where not None
    alpha : float
    lo, hi : clamp in y's quantized domain
    floor : in place of R, where not None
    byte : where not None, y is this byte of the sum, counted from the lowest, ``acc >> 8 * byte & 255``, in place of R:
        uint8 of zero point 128, m = 1 and no clamp
    """

    weight: Array
    weight_zero_point: Array
    weight_scale: Array
    bias: Array
    block_scales: BlockScales | None = None
    alpha: float = 1.0
    lo: int = -128
    hi: int = 127
    floor: Floor | None = None
    byte: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair(Op):
    """A function of two quantized tensors (a, b), element by element with numpy broadcasting.

    Members
    -------
    lo, hi : clamp in y's quantized domain
    """

    lo: int = -128
    hi: int = 127


@dataclass(frozen=True, kw_only=True, eq=False)
class Add(Pair):
    """``y = clamp(RNE(fma(a, ra, fma(b, rb, K))), lo, hi)`` in float32.

    ``ra = fl(a_scale / y_scale)``, ``rb = fl(b_scale / y_scale)``,
    ``K = fl(y_zp - fl(fl(ra * a_zp) + fl(rb * b_zp)))`` (com.microsoft QLinearAdd on x86).

    The order counts: an operand that is broadcast along the innermost axis is b, as in ONNX Runtime's kernel.
    """


@dataclass(frozen=True, kw_only=True, eq=False)
class Sub(Pair):
    """``y = clamp(RNE(fl(fl(da - db) / y_scale)) + y_zp, lo, hi)``, ``da = fl((a - a_zp) * a_scale)`` and db likewise.

    DequantizeLinear, Sub and QuantizeLinear: ONNX Runtime has no integer kernel for it.
    """


@dataclass(frozen=True, kw_only=True, eq=False)
class Mul(Pair):
    """``y = clamp(RNE(fl(fl((a - a_zp) * (b - b_zp) * r) + y_zp)), lo, hi)``, the product of integers exact.

    ``r = fl(fl(a_scale * b_scale) / y_scale)`` (com.microsoft QLinearMul).
    """


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool(Op):
    """Exact maximum over the window; padding never wins. Input and output have equal scale and zero point."""

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class AveragePool(Op):
    """``y = R(sum over the window of (x - x_zp))`` with ``m = fl(x_scale / fl(y_scale * N))``, N = kh * kw.

    Padding reads as ``x_zp`` and counts. Over the whole map this is com.microsoft QLinearGlobalAveragePool; for a
    smaller window it is the declared integer meaning (ONNX Runtime adds dequantized float32 values there).
    """

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    lo: int = -128
    hi: int = 127


@dataclass(frozen=True, kw_only=True, eq=False)
class Table(Op):
    """``y = table[x - x_min]``, x_min the least value of x's dtype: any function of a quantized tensor's elements.

    Members
    -------
    table : int8 or uint8 (256,), of y's dtype
    nodes : tuple of onnx.NodeProto
        The function itself, from the tensor ``x`` to the tensor ``y``, in the graph's operator sets: what ONNX Runtime
        computed the table with, for all 256 values of x.
    constants : dict of str to array
        What `nodes` read besides.
    """

    table: Array
    nodes: tuple[Any, ...]
    constants: dict[str, Array]


@dataclass(frozen=True, kw_only=True, eq=False)
class Concat(Op):
    """Concatenation along `axis` of tensors with equal scale, zero point and dtype."""

    axis: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Pad(Op):
    """Constant padding: ``begin[d]`` and ``end[d]`` elements of `value` around dimension d, each at least 0."""

    begin: tuple[int, ...]
    end: tuple[int, ...]
    value: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Reshape(Op):
    """Same elements, row-major, under the output's shape (ONNX Reshape, Flatten, Squeeze, Unsqueeze, Identity)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Transpose(Op):
    """``y = x.transpose(perm)``."""

    perm: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice(Op):
    """``y[i, j, ...] = x[begin[0] + i * steps[0], begin[1] + j * steps[1], ...]``, for the whole shape of y.

    Members
    -------
    begin : tuple of int, within x's shape
    steps : tuple of int, not 0
    """

    begin: tuple[int, ...]
    steps: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Expand(Op):
    """``y = x``, repeated along axes of size 1 to y's shape by numpy's rules."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Copy(Op):
    """``y = x``, in another place of activation memory; made by the scheduler, never read from a model."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HostNode(Op):
    """One ONNX node left to ONNX Runtime: `node` is its ``onnx.NodeProto``, `reason` the rule it broke.

    Empty optional inputs stay in ``node.input`` and are absent from `inputs`; initializers it reads are in
    ``Graph.constants``.
    """

    node: Any
    reason: str


@dataclass(frozen=True, slots=True)
class Piece:
    """Elements ``start .. start + size - 1`` of `axis` of the tensor `whole`, which the graph itself may not have.

    The first `again` of them belong to an earlier piece too, as a halo does, and are computed once more.
    """

    whole: Tensor
    axis: int
    start: int
    size: int
    again: int = 0


@dataclass(slots=True)
class Graph:
    """A network: tensors, constants and operators in topological order.

    Members
    -------
    name : str
        The file's stem, for messages and reports.
    inputs, outputs : list of str
        Names of tensors, in the model's order; `inputs` excludes constants.
    tensors : dict of str to Tensor
        Every value an operator reads or writes, constants included.
    constants : dict of str to array
        Values known at compile time, in the tensor's dtype.
    ops : list of Op
    opset : dict of str to int
        Operator-set versions of the source model, for writing ONNX again.
    swapped : dict of str to Tensor
        Names of tensors that are another with rows and columns exchanged, and that other one.
    pieces : dict of str to Piece
        Names of tensors that are a part of another, and which; see `hwq.passes.split`.
    rewrites : list of str
        What the reader changed on the way to integer operators, one line each, for the report of `verify`.
    """

    name: str
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    ops: list[Op] = field(default_factory=list)
    opset: dict[str, int] = field(default_factory=dict)
    swapped: dict[str, Tensor] = field(default_factory=dict)
    pieces: dict[str, Piece] = field(default_factory=dict)
    rewrites: list[str] = field(default_factory=list)

    def producer(self, name: str) -> Op | None:
        """Return the operator that writes tensor `name`, or None for inputs and constants."""
        return next((op for op in self.ops if name in op.outputs), None)

    def consumers(self, name: str) -> Iterator[Op]:
        """Yield the operators that read tensor `name`."""
        return (op for op in self.ops if name in op.inputs)
