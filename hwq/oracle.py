"""How far the oracle graph is from the original model as ONNX Runtime runs it: information, not a rung of `verify`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hwq.ir import Array


def lsb_histogram(
    original: Mapping[str, Array] | Sequence[Array], oracle: Mapping[str, Array] | Sequence[Array]
) -> list[dict[int, int]]:
    """Count the differences between two runs, in units of the last place, output by output.

    Parameters
    ----------
    original, oracle : outputs by name, or in order
        Integer arrays are compared as they are. Floats that are multiples of one step (dequantized values) are compared
        in steps, the step being the least distance between two different values; other floats in multiples of 1/256 of
        the original's largest magnitude.

    Returns
    -------
    list of dict of int to int
        For each output, ``oracle - original`` in steps to the number of elements, sorted.
    """
    pairs = (
        [(original[name], oracle[name]) for name in original]
        if isinstance(original, Mapping) and isinstance(oracle, Mapping)
        else list(zip(original, oracle, strict=True))
    )
    return [_histogram(np.asarray(first), np.asarray(second)) for first, second in pairs]


def _histogram(original: Array, oracle: Array) -> dict[int, int]:
    if original.dtype.kind in "iub":
        difference = oracle.astype(np.int64) - original.astype(np.int64)
    else:
        difference = np.rint((oracle.astype(np.float64) - original) / _step(original, oracle)).astype(np.int64)
    values, counts = np.unique(difference, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def _step(original: Array, oracle: Array) -> float:
    """Return the quantization step of dequantized values, or 1/256 of the largest magnitude where there is none."""
    values = np.unique(np.concatenate([original.reshape(-1), oracle.reshape(-1)]).astype(np.float64))
    largest = float(np.abs(values).max(initial=0.0)) or 1.0
    gaps = np.diff(values)
    gaps = gaps[gaps > 1e-5 * largest]
    if gaps.size:
        steps = values / gaps.min()
        if np.abs(steps - np.rint(steps)).max() < 1e-2:
            return float(gaps.min())
    return largest / 256
