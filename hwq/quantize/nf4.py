"""NF4 with double quantization: 4-bit codes, an 8-bit scale for each block of 64, a float32 over many of those.

As QLoRA (Dettmers et al., 2023) has it, in whole numbers: the levels are those of `hwq.weights.NF4`,
multiples of 1/127, and a block's largest magnitude is an integer times the float. One such float serves 256 blocks
there; on the array it serves an output, whose requantizer multiplies by it, so that all before it is integers.

A model's MatMulBnb4 differs by the levels, at most 0.0037 of a block's largest magnitude a weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq.quantize.codebook import encode
from hwq.quantize.network import Layer
from hwq.second_level import second_level
from hwq.weights import NF4

Array = npt.NDArray[Any]

BLOCK = 64
"""Weights that share a scale."""

BLOCKS = 256
"""Scales that share a float32 in QLoRA."""

_UNIT = int(NF4.max())

_TOP_BITS = 7
"""Of an output's greatest factor."""


@dataclass(frozen=True)
class Nf4:
    """A weight of K inputs and N outputs: ``book[code] * scale * level``, book being NF4's levels in whole numbers.

    Members
    -------
    codes : uint8 (K, N), 0..15
    scale : uint8 (K / size, N)
    level : float32 (K / size, N)
        The same number in all places it serves.
    levels : int
        Different places it is stored in.
    size : int
    """

    codes: Array
    scale: Array
    level: Array
    levels: int
    size: int

    @property
    def bits(self) -> float:
        """Bits a weight takes; the book, 128 bits a layer, aside."""
        return (4 * self.codes.size + 8 * self.scale.size + 32 * self.levels) / self.codes.size

    def integers(self) -> npt.NDArray[np.int32]:
        """Return ``book[code] * scale``, what the array multiplies by, (K, N)."""
        return NF4[self.codes].astype(np.int32) * self._spread(self.scale).astype(np.int32)

    def floats(self) -> npt.NDArray[np.float64]:
        """Return the weights, (K, N)."""
        return self.integers().astype(np.float64) * self._spread(self.level).astype(np.float64)

    def operands(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Return a MatMulBnb4's operands B and absmax."""
        codes = np.ascontiguousarray(self.codes.T).reshape(-1, 2)
        largest = (self.scale * self.level.astype(np.float64) * _UNIT).astype(np.float32)
        return (codes[:, 0] << 4 | codes[:, 1]).astype(np.uint8), np.ascontiguousarray(largest.T).reshape(-1)

    def _spread(self, values: Array) -> Array:
        return values.repeat(self.size, axis=0)


def quantize(weight: Array, size: int = BLOCK, blocks: int | None = None) -> Nf4:
    """Return the NF4 weight next to `weight`.

    Parameters
    ----------
    weight : float (K, N), finite
    size : int
        Inputs of an output that share a scale; K is a multiple of it.
    blocks : int or None
        Scales, counted along each output and then on in the next, that share a float32; None: those of an output, which
        is what the array runs.

    Raises
    ------
    ValueError
        K isn't a multiple of `size`, K * N not even, or a weight isn't finite.
    """
    inputs, outputs = weight.shape
    if inputs % size or weight.size % 2:
        raise ValueError(f"{inputs} inputs of {outputs} outputs can't be cut into blocks of {size}, two codes a byte")
    if not np.isfinite(weight).all():
        raise ValueError("Every weight must be a finite number")
    tiles = weight.astype(np.float64).reshape(-1, size, outputs)
    wanted = np.abs(tiles).max(axis=1) / _UNIT
    if blocks is None:
        scale, levels, _ = second_level(wanted.astype(np.float32))
        level = np.broadcast_to(levels, scale.shape)
    else:
        groups = np.zeros((-(-wanted.size // blocks), blocks), np.float32)
        groups.reshape(-1)[: wanted.size] = wanted.T.reshape(-1)
        factors, levels, _ = second_level(groups.T)
        scale = factors.T.reshape(-1)[: wanted.size].reshape(outputs, -1).T
        level = levels.repeat(blocks)[: wanted.size].reshape(outputs, -1).T
    step = (scale * level.astype(np.float64))[:, np.newaxis]
    position = np.divide(tiles, step, out=np.zeros_like(tiles), where=step > 0)
    return Nf4(encode(position, NF4).reshape(inputs, outputs), scale, level, len(levels), size)


def block_factors(layer: Layer, kernels: Array) -> npt.NDArray[np.uint8] | None:
    """Return integers, (O, blocks), that the scales of blocks of `BLOCK` inputs are multiples by; None: one block.

    An output's greatest one is a power of two, so that its scale, found again by who reads the model, is the same
    float32; the sums of uint8 activations stay within 30 bits. Groups and kernels of several rows and columns have one
    scale an output: the array takes no blocks of those.

    Parameters
    ----------
    layer : Layer
    kernels : float (O, K)
        Its weights, a row an output.
    """
    inputs = kernels.shape[1] // _taps(layer)
    if inputs <= BLOCK or layer.groups > 1 or min(layer.weight.shape[2:], default=1) > 1:
        return None
    tiles = np.abs(kernels).reshape(len(kernels), inputs, -1).max(axis=2)
    largest = np.maximum.reduceat(tiles, range(0, inputs, BLOCK), axis=1)
    top = 1 << min(max((1 << 30) // (kernels.shape[1] * _UNIT * 255), 1).bit_length() - 1, _TOP_BITS)
    whole = np.maximum(largest.max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return np.ceil(largest / whole * top).clip(1).astype(np.uint8)


def spread_factors(layer: Layer, factors: npt.NDArray[np.uint8]) -> Array:
    """Return the factor of every weight, (O, K)."""
    taps = _taps(layer)
    inputs = layer.kernels.shape[1] // taps
    return factors.repeat(BLOCK, axis=1)[:, :inputs].repeat(taps, axis=1).astype(np.float64)


def _taps(layer: Layer) -> int:
    return int(np.prod(layer.weight.shape[2:])) if layer.node.op_type == "Conv" else 1
