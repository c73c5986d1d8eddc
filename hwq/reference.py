"""What a model means: a Graph run on numpy integers, operator by operator.

Nothing here is shared with ONNX Runtime's integer kernels or with the hardware's model; floats appear only in host
nodes, which ONNX Runtime runs, and as exact carriers of integers in matrix products (`hwq.kernels`).

All samples go through an operator together. A tensor's array has one more axis than the tensor, the samples', in
front, so operators that permute or merge the model's own batch axis need no special case.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import singledispatch
from itertools import groupby

import numpy as np

from hwq.errors import InputError, ModelError
from hwq.fixed import byte_of_sum, encode_multiplier, requantize, requantize_floor
from hwq.host import run_model
from hwq.ir import (
    Array,
    AveragePool,
    BlockScales,
    Concat,
    Conv,
    Expand,
    Gemm,
    Graph,
    HostNode,
    MaxPool,
    Op,
    Pad,
    Pair,
    Reshape,
    Slice,
    Table,
    Tensor,
    Transpose,
)
from hwq.kernels import columns, exact_matmul, exact_pieces, pad_image, window_taps
from hwq.multipliers import multipliers
from hwq.onnx_writer import boundary, write_subgraph
from hwq.pairs import pair_table

_BLOCK_ELEMENTS = 1 << 19
"""Elements of the largest intermediate of a block of samples: 2 MiB of float32, which stays in a core's cache."""


def run(graph: Graph, feeds: Mapping[str, Array], *, keep: Collection[str] = ()) -> dict[str, Array]:
    """Run `graph` on one or more samples.

    Parameters
    ----------
    graph : Graph
    feeds : mapping of str to array
        One array for each of the graph's inputs, of its dtype and shape; the first dimension may be N times the model's
        for N samples.
    keep : collection of str
        Names of tensors to return besides the graph's outputs.

    Returns
    -------
    dict of str to array
        The samples' results concatenated along their first dimension (stacked, where a result is a scalar).

    Raises
    ------
    InputError
        A feed is missing or unknown, or its dtype or shape isn't the input's.
    ModelError
        ONNX Runtime fails on a host node, or the shape of its result depends on the inputs' values.
    """
    samples = count_samples(graph, feeds)
    values = {name: _split(feeds[name], graph.tensors[name], samples) for name in graph.inputs}
    values |= {name: value[np.newaxis] for name, value in graph.constants.items()}
    wanted = dict.fromkeys([*graph.outputs, *keep])
    unknown = next((name for name in wanted if name not in graph.tensors), None)
    if unknown is not None:
        raise InputError(f"{graph.name}: there is no tensor {unknown!r} to keep")
    for names, outputs in _run_steps(graph, values, samples, set(wanted)):
        values |= outputs
        for name in names:
            values.pop(name, None)
    return {name: _join(values[name], graph.tensors[name], samples) for name in wanted}


def count_samples(graph: Graph, feeds: Mapping[str, Array]) -> int:
    """Return the number of samples in `feeds`, checking names, dtypes and shapes."""
    for name in feeds:
        if name not in graph.inputs:
            raise InputError(f"{graph.name} has no input {name!r}: its inputs are {', '.join(graph.inputs)}")
    counts = {}
    for name in graph.inputs:
        tensor = graph.tensors[name]
        if name not in feeds:
            raise InputError(f"{graph.name}: input {name!r} is missing")
        feed = np.asarray(feeds[name])
        if feed.dtype.name != tensor.dtype:
            raise InputError(f"{graph.name}: input {name!r} must be {tensor.dtype}, not {feed.dtype}")
        batch = tensor.shape[0] if tensor.shape else 1
        if feed.shape[1:] != tensor.shape[1:] or feed.ndim != len(tensor.shape) or (feed.shape[:1] or (1,))[0] % batch:
            raise InputError(
                f"{graph.name}: input {name!r} must have shape {tensor.shape}, or a multiple of it along "
                f"the first dimension, not {feed.shape}"
            )
        counts[name] = feed.shape[0] // batch if tensor.shape else 1
    if len(set(counts.values())) > 1 or 0 in counts.values():
        listed = ", ".join(f"{name!r} {count}" for name, count in counts.items())
        raise InputError(f"{graph.name}: every input must hold the same number of samples, at least 1 ({listed})")
    return next(iter(counts.values()), 1)


def _split(value: Array, tensor: Tensor, samples: int) -> Array:
    return np.asarray(value).reshape(samples, *tensor.shape)


def _join(value: Array, tensor: Tensor, samples: int) -> Array:
    value = np.broadcast_to(value, (samples, *tensor.shape))
    if not tensor.shape:
        return np.array(value if samples > 1 else value[0], value.dtype)
    return value.reshape(samples * tensor.shape[0], *tensor.shape[1:])


def _run_steps(
    graph: Graph, values: dict[str, Array], samples: int, wanted: set[str]
) -> Iterator[tuple[list[str], dict[str, Array]]]:
    """Yield, for each operator or run of host nodes, the tensors nobody reads any more and the results."""
    last_use = {name: position for position, op in enumerate(graph.ops) for name in (*op.inputs, *op.outputs)}
    position = 0
    for is_host, group in groupby(graph.ops, key=lambda op: isinstance(op, HostNode)):
        ops = list(group)
        steps = [ops] if is_host else [[op] for op in ops]
        for step in steps:
            result = _run_host(graph, step, values, samples, wanted) if is_host else _run_op(graph, step[0], values)
            position += len(step)
            names = [name for op in step for name in (*op.inputs, *op.outputs)]
            yield [name for name in names if last_use[name] < position and name not in wanted], result


def _run_host(
    graph: Graph, ops: Sequence[Op], values: Mapping[str, Array], samples: int, wanted: set[str]
) -> dict[str, Array]:
    """Run host nodes as one model, sample by sample: their shapes are static."""
    inputs, read = boundary(graph, ops)
    outputs = list(dict.fromkeys([*read, *(name for op in ops for name in op.outputs if name in wanted)]))
    model = write_subgraph(graph, ops, outputs=outputs).SerializeToString(deterministic=True)
    rows = []
    for sample in range(samples):
        # asarray: a row of scalars is a numpy scalar, which ONNX Runtime doesn't take.
        feeds = {name: np.asarray(values[name][min(sample, len(values[name]) - 1)]) for name in inputs}
        rows.append(run_model(model, feeds, outputs))
        _check_shapes(graph, rows[-1])
    return {name: np.stack([row[name] for row in rows]) for name in outputs}


def _check_shapes(graph: Graph, values: Mapping[str, Array]) -> None:
    """Refuse a host node's result whose shape depends on values: every tensor of a graph has one shape."""
    for name, value in values.items():
        shape = graph.tensors[name].shape
        if np.shape(value) != shape:
            raise ModelError(
                f"{graph.name}: tensor {name!r} has shape {np.shape(value)} on these inputs and {shape} on others: "
                "store the values that its shape depends on in the model"
            )


def _run_op(graph: Graph, op: Op, values: Mapping[str, Array]) -> dict[str, Array]:
    return {op.outputs[0]: _compute(op, graph, [values[name] for name in op.inputs])}


def _ends(graph: Graph, op: Op) -> tuple[Tensor, Tensor]:
    return graph.tensors[op.inputs[0]], graph.tensors[op.outputs[0]]


def _blocks(count: int, elements: int) -> Iterator[slice]:
    """Yield slices of `count` images, so that those of a slice have about `_BLOCK_ELEMENTS` elements in all."""
    step = max(_BLOCK_ELEMENTS // max(elements, 1), 1)
    return (slice(start, start + step) for start in range(0, count, step))


@singledispatch
def _compute(op: Op, graph: Graph, inputs: list[Array]) -> Array:
    """Return the output of one operator for all samples; inputs and output are (samples, *shape)."""
    raise TypeError(f"{op.kind} has no integer meaning")


@_compute.register
def _(op: Conv, graph: Graph, inputs: list[Array]) -> Array:
    x, y = _ends(graph, op)
    channels, kernel = len(op.weight), (op.weight.shape[2], op.weight.shape[3])
    weight = op.weight.astype(np.int32) - op.weight_zero_point.astype(np.int32).reshape(-1, 1, 1, 1)
    terms = []
    for part, scale in _factors(op.block_scales, op.weight.shape[1]):
        matrices = weight[:, part].reshape(op.groups, channels // op.groups, -1).astype(np.float32)
        pieces = exact_pieces(weight[:, part].reshape(channels, -1).T, _reach(x))
        terms.append((part, scale, matrices, pieces))
    images = inputs[0].reshape(-1, *x.shape[1:])
    result = np.empty((len(images), *y.shape[1:]), y.dtype)
    depth = op.groups * weight[0].size
    for block in _blocks(len(images), max(depth, channels) * y.shape[2] * y.shape[3]):
        image = pad_image(images[block].astype(np.float32) - np.float32(x.zero_point), op.pads, 0)
        if op.groups == x.shape[1] == channels:
            acc = _depthwise(image, weight, op)
        else:
            acc = np.zeros((channels, 1), np.int32)
            for part, scale, matrices, pieces in terms:
                windows = columns(image[:, part], kernel, op.strides, op.dilations)
                sums = exact_matmul(matrices, windows.reshape(op.groups, matrices.shape[2], -1), pieces)
                acc = acc + sums.reshape(channels, -1) * scale[:, np.newaxis]
        acc = acc.reshape(channels, -1) + op.bias[:, np.newaxis]
        quantized = _requantize(op, graph, acc.T).T
        result[block] = quantized.reshape(channels, -1, *y.shape[2:]).transpose(1, 0, 2, 3)
    return result.reshape(len(inputs[0]), *y.shape)


def _factors(scales: BlockScales | None, inputs: int) -> list[tuple[slice, Array]]:
    """Return the runs of inputs whose products have the same factor in an output, and each output's factor."""
    if scales is None:
        return [(slice(None), np.ones(1, np.int32))]
    return list(zip(scales.blocks(inputs), scales.scale.astype(np.int32), strict=True))


def _requantize(op: Conv | Gemm, graph: Graph, acc: Array) -> Array:
    """Return the results of accumulators (n, channels)."""
    zero_point = graph.tensors[op.outputs[0]].zero_point
    if op.floor is not None:
        multiplier, offset, shift = op.floor.multiplier, op.floor.offset, op.floor.shift
        return requantize_floor(acc, multiplier, offset, shift, zero_point, op.lo, op.hi)
    if op.byte is not None:
        return byte_of_sum(acc, op.byte)
    mantissa, shift = encode_multiplier(multipliers(graph, op))
    return requantize(acc, mantissa, shift, zero_point, op.lo, op.hi)


def _reach(x: Tensor) -> int:
    """Return the largest ``|x - x_zp|``."""
    return max(x.range[1] - x.zero_point, x.zero_point - x.range[0])


def _depthwise(image: Array, weight: Array, op: Conv) -> Array:
    """Return the accumulators (C, N, out_height, out_width) of one filter for each channel."""
    planes = image.astype(np.int32).transpose(1, 0, 2, 3)
    taps = window_taps(planes, weight.shape[2:], op.strides, op.dilations)
    factors = weight.reshape(len(weight), -1).T[:, :, np.newaxis, np.newaxis, np.newaxis]
    acc = next(taps) * factors[0]
    for tap, factor in zip(taps, factors[1:], strict=True):
        acc += tap * factor
    return acc


@_compute.register
def _(op: Gemm, graph: Graph, inputs: list[Array]) -> Array:
    x, y = _ends(graph, op)
    weight = op.weight.astype(np.int32) - op.weight_zero_point.astype(np.int32)
    rows = inputs[0].reshape(-1, x.shape[-1]).astype(np.float32) - np.float32(x.zero_point)
    acc = np.broadcast_to(op.bias, (len(rows), len(op.bias)))
    for part, scale in _factors(op.block_scales, len(weight)):
        pieces = exact_pieces(weight[part], _reach(x))
        acc = acc + exact_matmul(rows[:, part], weight[part].astype(np.float32), pieces) * scale
    result = _requantize(op, graph, acc)
    return result.astype(y.dtype).reshape(len(inputs[0]), *y.shape)


@_compute.register
def _(op: Pair, graph: Graph, inputs: list[Array]) -> Array:
    a, b, y = (graph.tensors[name] for name in (*op.inputs, *op.outputs))
    first, second = (_aligned(value, len(y.shape)).view(np.uint8) for value in inputs)
    return _pair_table(op.kind, a, b, y, op.lo, op.hi)[first.astype(np.intp) << 8 | second]


@functools.lru_cache(maxsize=64)
def _pair_table(kind: str, a: Tensor, b: Tensor, y: Tensor, lo: int, hi: int) -> Array:
    """Return the clamped results of every pair of operands, taken by the pair's bytes."""
    label = 128 if y.dtype == "uint8" else 0
    results = np.clip(pair_table(kind, a, b, y).astype(np.int16) + label, lo, hi).astype(y.dtype)
    if y.dtype == "int8":  # rows and columns run from -128; as bytes, from 0
        results = np.roll(results, 128, axis=(0, 1))
    results.setflags(write=False)
    return results.reshape(-1)


def _aligned(value: Array, rank: int) -> Array:
    """Return (samples, *shape) with ones after the samples, so that shapes of lower rank broadcast as ONNX's do."""
    return value.reshape(len(value), *(1,) * (rank + 1 - value.ndim), *value.shape[1:])


@_compute.register
def _(op: AveragePool, graph: Graph, inputs: list[Array]) -> Array:
    x, y = _ends(graph, op)
    mantissa, shift = encode_multiplier(multipliers(graph, op))
    image = pad_image(inputs[0].astype(np.int32) - x.zero_point, op.pads, 0)
    acc = sum(window_taps(image, op.kernel, op.strides, (1, 1)), np.zeros((), np.int32))
    return requantize(acc, mantissa, shift, y.zero_point, op.lo, op.hi).astype(y.dtype)


@_compute.register
def _(op: MaxPool, graph: Graph, inputs: list[Array]) -> Array:
    x, _ = _ends(graph, op)
    image = pad_image(inputs[0], op.pads, x.range[0])
    taps = window_taps(image, op.kernel, op.strides, op.dilations)
    result = next(taps).copy()
    for tap in taps:
        np.maximum(result, tap, out=result)
    return result


@_compute.register
def _(op: Table, graph: Graph, inputs: list[Array]) -> Array:
    x, _ = _ends(graph, op)
    return op.table[inputs[0].astype(np.int16) - x.range[0]]


@_compute.register
def _(op: Concat, graph: Graph, inputs: list[Array]) -> Array:
    samples = max(len(value) for value in inputs)
    return np.concatenate([np.broadcast_to(value, (samples, *value.shape[1:])) for value in inputs], axis=op.axis + 1)


@_compute.register
def _(op: Pad, graph: Graph, inputs: list[Array]) -> Array:
    widths = [(0, 0), *zip(op.begin, op.end, strict=True)]
    return np.pad(inputs[0], widths, constant_values=op.value)


@_compute.register
def _(op: Slice, graph: Graph, inputs: list[Array]) -> Array:
    y = _ends(graph, op)[1]
    result = inputs[0]
    for axis, (begin, step, size) in enumerate(zip(op.begin, op.steps, y.shape, strict=True), 1):
        result = result.take(begin + step * np.arange(size), axis)
    return result


@_compute.register
def _(op: Expand, graph: Graph, inputs: list[Array]) -> Array:
    y = _ends(graph, op)[1]
    return np.broadcast_to(_aligned(inputs[0], len(y.shape)), (len(inputs[0]), *y.shape))


@_compute.register
def _(op: Reshape, graph: Graph, inputs: list[Array]) -> Array:
    return inputs[0].reshape(len(inputs[0]), *_ends(graph, op)[1].shape)


@_compute.register
def _(op: Transpose, graph: Graph, inputs: list[Array]) -> Array:
    return inputs[0].transpose(0, *(axis + 1 for axis in op.perm))
