"""Rungs of the equality ladder: what was compared with what, how much of it, and the first element that differs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Fault:
    """The first element found to differ on a rung.

    Members
    -------
    sample : int
    tensor : str
        ``memory`` where the byte belongs to no tensor.
    index : tuple of int
        Of the element, or (address,) of the byte of memory.
    expected, got : int or float
    layer, op : str
        What computes it; empty where that isn't known.
    tile : dict of str to int
        Where on the array, as `hwq.bisect.locate` says; empty off the array.
    """

    sample: int
    tensor: str
    index: tuple[int, ...]
    expected: float
    got: float
    layer: str = ""
    op: str = ""
    tile: tuple[tuple[str, int], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the members, ready for JSON."""
        return asdict(self) | {"tile": dict(self.tile)}

    def sentence(self) -> str:
        """Return the fault as one line for a terminal."""
        place = ", ".join(f"{name} {value}" for name, value in self.tile)
        by = f", written by layer {self.layer!r} ({self.op})" if self.layer else ""
        at = f"; {place}" if place else ""
        index = ", ".join(map(str, self.index))
        return f"sample {self.sample}: {self.tensor}[{index}] is {self.got:g}, not {self.expected:g}{by}{at}"


@dataclass
class Rung:
    """One comparison of the ladder, counted element by element.

    Members
    -------
    name, against : str
        What was run, and what it was compared with.
    elements, mismatches : int
    max_abs_diff : int or float
    seconds : float
        Spent running `name`, all samples together.
    first : Fault or None
    """

    name: str
    against: str
    elements: int = 0
    mismatches: int = 0
    max_abs_diff: float = 0
    seconds: float = 0.0
    first: Fault | None = None

    def compare(self, sample: int, tensor: str, got: Array, expected: Array) -> Fault | None:
        """Count the elements of `tensor` in which `got` differs from `expected`; return the first one.

        A shape or type that differs makes every element wrong.
        """
        got, expected = np.asarray(got), np.asarray(expected)
        self.elements += expected.size
        if got.shape != expected.shape or got.dtype != expected.dtype:
            self.mismatches += expected.size
            fault = Fault(sample, f"{tensor} ({got.dtype}{got.shape}, not {expected.dtype}{expected.shape})", (), 0, 0)
        else:
            wrong = differs(got, expected)
            count = int(np.count_nonzero(wrong))
            if not count:
                return None
            self.mismatches += count
            self.max_abs_diff = max(self.max_abs_diff, _largest_difference(got[wrong], expected[wrong]))
            index = tuple(int(i) for i in np.argwhere(wrong)[0])
            fault = Fault(sample, tensor, index, expected[index].item(), got[index].item())
        self.first = self.first or fault
        return fault

    def to_dict(self) -> dict[str, Any]:
        """Return the members, ready for JSON."""
        return asdict(self) | {"first": self.first.to_dict() if self.first is not None else None}


def differs(got: Array, expected: Array) -> npt.NDArray[np.bool_]:
    """Return where two arrays of one type differ; a NaN equals a NaN."""
    wrong = np.asarray(got != expected)
    if got.dtype.kind == "f":
        wrong &= ~(np.isnan(got) & np.isnan(expected))
    return wrong


def _largest_difference(got: Array, expected: Array) -> float:
    if got.dtype.kind in "iub":
        return int(np.abs(got.astype(np.int64) - expected.astype(np.int64)).max())
    difference = np.abs(got.astype(np.float64) - expected.astype(np.float64))
    return float(np.nan_to_num(difference, nan=np.finfo(np.float64).max).max())
