"""Ranges of activations: what is measured on samples, and which part of it the bits should cover.

Every method sees one histogram over all samples, between bounds measured before, so neither the order of the samples
nor how they are batched has any influence. Percentile and entropy are ONNX Runtime's own on that histogram.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import onnx

from hwq.ir import Array
from hwq.quantize.recipe import Method
from hwq.quantize.samples import Feeds, run_each

BINS = 2048
"""Of a histogram: eight for each value of 8 bits."""

_ENTROPY_BINS = 512
"""Of these many, ONNX Runtime's search takes a fraction of a second."""

_SHARES = np.linspace(0.3, 1.0, 71)
"""Parts of the measured range that the mean square error is tried with."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """How often a tensor's values lie where.

    Members
    -------
    counts : int64 (BINS,)
        In equal bins from -bound to bound.
    low, high : float
        The least and the greatest value.
    """

    counts: Array
    low: float
    high: float

    @property
    def bound(self) -> float:
        """The greatest magnitude."""
        return max(-self.low, self.high)


def measure(model: onnx.ModelProto, feeds: Feeds, names: Iterable[str]) -> dict[str, Histogram]:
    """Return the histograms of the tensors `names` over all samples."""
    names = list(names)
    low, high = dict.fromkeys(names, np.inf), dict.fromkeys(names, -np.inf)
    for values in run_each(model, feeds, names):
        for name, value in values.items():
            low[name], high[name] = min(low[name], float(value.min())), max(high[name], float(value.max()))
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    for values in run_each(model, feeds, names):
        for name, value in values.items():
            bound = max(-low[name], high[name])
            if bound > 0:
                counts[name] += np.histogram(value, BINS, (-bound, bound))[0]
    return {name: Histogram(counts[name], low[name], high[name]) for name in names}


def choose(histogram: Histogram, method: Method, percentile: float = 99.99, bits: int = 8) -> tuple[float, float]:
    """Return the range, with 0 in it, that the quantized tensor of `bits` should cover."""
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if histogram.bound <= 0:
        return low, high
    chosen = _METHODS[method](histogram, percentile, (1 << bits) - 1)
    return max(low, min(chosen[0], 0.0)), min(high, max(chosen[1], 0.0))


def _minmax(histogram: Histogram, percentile: float, top: int) -> tuple[float, float]:
    return histogram.low, histogram.high


def _onnxruntime(method: str, histogram: Histogram, bins: int, percentile: float, top: int) -> tuple[float, float]:
    from onnxruntime.quantization.calibrate import HistogramCollector

    counts = histogram.counts.reshape(-1, BINS // bins).sum(axis=1)
    collector = HistogramCollector(method, False, bins, top // 2 + 1, percentile, "same")
    edges = np.linspace(-histogram.bound, histogram.bound, bins + 1, dtype=np.float32)
    ends = (np.float32(histogram.low), np.float32(histogram.high), np.float32(histogram.bound))
    collector.histogram_dict["tensor"] = (counts, edges, *ends)
    with contextlib.redirect_stdout(io.StringIO()):
        low, high, *_ = collector.compute_collection_result()["tensor"]
    return float(low), float(high)


def _percentile(histogram: Histogram, percentile: float, top: int) -> tuple[float, float]:
    return _onnxruntime("percentile", histogram, BINS, percentile, top)


def _entropy(histogram: Histogram, percentile: float, top: int) -> tuple[float, float]:
    return _onnxruntime("entropy", histogram, _ENTROPY_BINS, percentile, top)


def _mse(histogram: Histogram, percentile: float, top: int) -> tuple[float, float]:
    """Return the part of the range with the least mean square error, the greatest of equals."""
    edges = np.linspace(-histogram.bound, histogram.bound, BINS + 1)
    centres, counts = (edges[1:] + edges[:-1]) / 2, histogram.counts
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)

    def error(share: float) -> float:
        step = share * (high - low) / top
        zero = round(-share * low / step)
        stored = np.clip(np.rint(centres / step) + zero, 0, top)
        inside = step * step / 12  # within a bin, which is narrower than a step but for clipped values
        rounding = np.where((stored > 0) & (stored < top), inside, ((stored - zero) * step - centres) ** 2)
        return float(counts @ rounding)

    best = min(reversed(_SHARES.tolist()), key=error)
    return best * low, best * high


_METHODS: dict[Method, Callable[[Histogram, float, int], tuple[float, float]]] = {
    Method.minmax: _minmax,
    Method.percentile: _percentile,
    Method.entropy: _entropy,
    Method.mse: _mse,
}
