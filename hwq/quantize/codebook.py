"""Codebooks: at most sixteen different weights in a layer, found by k-means or given as NF4."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from hwq import isa

Array = npt.NDArray[Any]
Book = npt.NDArray[np.int16]

_INT8 = (-128, 127)

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose second operand is a weight, behind DequantizeLinear."""

_QOPERATORS = {"QLinearConv": (3, 5), "QLinearMatMul": (3, 5), "QGemm": (3, 5)}
"""Operators with a stored weight: the inputs that are it and its zero point."""


def kmeans(values: Array, entries: int = isa.BOOK_ENTRIES, bounds: tuple[int, int] = _INT8) -> Book:
    """Return the book of at most `entries` whole numbers, ascending, that has the least squared error on `values`.

    It is the optimum, not one that depends on where a search begins: in one dimension clusters are neighbours, so
    dynamic programming over the levels finds it (Wang and Song, 2011). Unless `values` are few enough to be the book,
    one entry is 0: what was 0 stays 0, and weights of 0 that the compiler adds need no further entry.

    Parameters
    ----------
    values : array of any shape, int or float
        Weights in the book's unit: stored ones less their zero point, or floats over their scale. Floats count among
        the whole number next to them.
    entries : int
    bounds : (int, int)
        Of the entries; 0 lies between them.
    """
    clipped = np.clip(values, *bounds).astype(np.float64).reshape(-1)
    whole = np.rint(clipped)
    levels = np.unique(whole)
    if len(levels) <= entries and np.array_equal(clipped, whole):
        return levels.astype(np.int16)
    levels = np.union1d(levels, [0.0])
    place = np.searchsorted(levels, whole)
    count, total, square = (_between(np.bincount(place, clipped**power, len(levels))) for power in range(3))
    entry = np.rint(total / np.maximum(count, 1))
    zero = int(np.searchsorted(levels, 0))
    entry[: zero + 1, zero + 1 :] = 0
    cost = np.where(np.tri(len(entry), dtype=bool), np.inf, square - 2 * entry * total + entry**2 * count)
    error, begins = np.where(np.arange(len(entry)) == 0, 0.0, np.inf), []
    for _ in range(min(entries, len(levels))):
        through = error[:, None] + cost
        begins.append(through.argmin(axis=0))
        error = through.min(axis=0)
    book, end = [], len(levels)
    for begin in reversed(begins):
        book.append(entry[begin[end], end])
        end = begin[end]
    return np.unique(book).astype(np.int16)


def _between(values: Array) -> Array:
    """Return the sums of `values` from the first index up to the second, which is excluded."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return sums[None, :] - sums[:, None]


def encode(values: Array, book: Book) -> npt.NDArray[np.uint8]:
    """Return the index of the entry of `book` (ascending) that is nearest each of `values`, of two the lower one."""
    return np.searchsorted((book[1:] + book[:-1]) / 2, values).astype(np.uint8)


def share(weight: Array, axis: int = 0, group: int | None = None, bounds: tuple[int, int] = _INT8) -> Array:
    """Return `weight` (int) with each value replaced by its nearest entry of a book found by `kmeans`.

    Parameters
    ----------
    weight : int array
    axis : int
        Of output channels.
    group : int, optional
        Channels that share a book; None: all.
    bounds : (int, int)
        Of the result.
    """
    channels = np.moveaxis(weight, axis, 0)
    out = np.empty_like(channels)
    size = len(channels) if group is None else group
    for first in range(0, len(channels), size):
        part = channels[first : first + size]
        book = kmeans(part, bounds=bounds)
        out[first : first + size] = book[encode(part, book)]
    return np.moveaxis(out, 0, axis)


def share_weights(model: onnx.ModelProto | str | Path, group: int | None = None) -> onnx.ModelProto:
    """Return a quantized model, QDQ or QOperator, whose layers have at most sixteen different weights each.

    Scales, zero points and biases stay. Weights are stored as initializers of int8 or uint8; those with several zero
    points stay as they are.

    Parameters
    ----------
    model : onnx.ModelProto or path
    group : int, optional
        Channels that share a book, the array's `cols`, so that each of its blocks has one of its own; None: a layer's.

    Examples
    --------
    >>> from hwq import demo
    >>> model = share_weights(demo.model_path())
    >>> max(len(np.unique(numpy_helper.to_array(t))) for t in model.graph.initializer if t.data_type == 3 and t.dims)
    16
    """
    out = onnx.ModelProto()
    out.CopyFrom(model if isinstance(model, onnx.ModelProto) else onnx.load(str(model)))
    stored = {tensor.name: tensor for tensor in out.graph.initializer}
    for name, zero_name, axis in _weights(out.graph):
        if name not in stored or stored[name].data_type not in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8):
            continue
        weight = numpy_helper.to_array(stored[name])
        zero_points = np.unique(numpy_helper.to_array(stored[zero_name])) if zero_name in stored else np.zeros(1, int)
        if len(zero_points) == 1 and weight.ndim > 1:
            zero, limits = int(zero_points[0]), np.iinfo(weight.dtype)
            bounds = (limits.min - zero, limits.max - zero)
            shared = share(weight.astype(np.int16) - zero, axis, group, bounds) + zero
            stored[name].CopyFrom(numpy_helper.from_array(shared.astype(weight.dtype), name))
    return out


def _weights(graph: onnx.GraphProto) -> Iterator[tuple[str, str, int]]:
    """Yield the names of each layer's stored weight and zero point ("" where there is none), and its channels' axis."""
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type in _QOPERATORS:
            index, zero = _QOPERATORS[node.op_type]
            yield node.input[index], node.input[zero], _channel_axis(node)
        elif node.op_type in _LAYERS:
            maker = makers.get(node.input[1])
            if maker is not None and maker.op_type == "DequantizeLinear":
                yield maker.input[0], maker.input[2] if len(maker.input) > 2 else "", _channel_axis(node)


def _channel_axis(node: onnx.NodeProto) -> int:
    """Return the axis of a layer's weight that is its output channels."""
    if node.op_type.endswith("Conv"):
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
    return 0 if transposed else -1
