"""Which tensors of an array part lie in activation memory two channels a byte (see `hwq.nibbles`).

Those of 4 bits that a convolution or matrix product writes, or the host, and that only such layers of 4-bit weights
read: a step of theirs then multiplies two channels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Protocol, TypeGuard

import numpy as np
import numpy.typing as npt

from hwq import ir, nibbles
from hwq.config import ArrayConfig
from hwq.nibbles import channel_axis
from hwq.pairs import pair_parameters
from hwq.truncations import truncations
from hwq.weights import has_int4, has_short_sums


class Layer(Protocol):
    """What this module needs to know of a step: its operator and what that carries, its operands and its result."""

    @property
    def ops(self) -> tuple[ir.Op, ...]:
        """The operator, and those in its output path."""
        ...

    @property
    def reads(self) -> tuple[str, ...]:
        """Its operands."""
        ...

    @property
    def writes(self) -> str:
        """Its result."""
        ...


def packed_tensors(
    layers: Sequence[Layer],
    inputs: Collection[tuple[str, str]],
    outputs: Set[str],
    graph: ir.Graph,
    config: ArrayConfig,
    may_pack_inputs: Callable[[str], bool],
) -> dict[str, int]:
    """Return the labels of the tensors to be stored two channels a byte, by name.

    Parameters
    ----------
    layers : sequence of Layer
        In order, views among them.
    inputs : collection of (str, str)
        Tensors the host writes, and what they are stored as.
    outputs : set of str
        Stored tensors the host reads; they stay bytes.
    may_pack_inputs : callable
        Whether an operator of this name may read them.
    """
    if not config.act_int4:
        return {}
    made = {layer.writes: layer.ops for layer in layers if _on_mesh(layer.ops[0])}
    made |= {stored: (producer,) for name, stored in inputs if (producer := graph.producer(name)) is not None}
    found: dict[str, int] = {}
    for name, ops in made.items():
        label = _label(ops[-1], graph.tensors[name], graph)
        readers = _readers(name, layers, graph.tensors)
        if label is None or readers is None or not outputs.isdisjoint(readers.names):
            continue
        fit = all(may_pack_inputs(op.name) and _fits(op, graph, label) for op in readers.ops)
        if fit and readers.ops and _pays(readers.ops, graph.tensors, config):
            found |= dict.fromkeys(readers.names, label)
    return found


def _on_mesh(op: ir.Op) -> TypeGuard[ir.Conv | ir.Gemm]:
    return isinstance(op, ir.Gemm) or (isinstance(op, ir.Conv) and op.groups == 1)


def _label(op: ir.Op, y: ir.Tensor, graph: ir.Graph) -> int | None:
    """Return the label of the tensor that `op` makes, None where it isn't one of 4 bits."""
    bounds = _bounds(op, graph)
    if bounds is None or not y.is_quantized:
        return None
    label = nibbles.label(min(bounds[0], y.zero_point), max(bounds[1], y.zero_point))
    if label is not None and isinstance(op, ir.Pair) and pair_parameters(op, graph, label) is None:
        return None
    return label


def _bounds(op: ir.Op, graph: ir.Graph) -> tuple[int, int] | None:
    """Return the bounds of what `op` makes, a layer of the array or a Clip on the host; None for others."""
    if isinstance(op, ir.Conv | ir.Gemm | ir.Pair):
        return op.lo, op.hi
    if isinstance(op, ir.HostNode) and op.node.op_type == "Clip" and len(op.inputs) == 3:
        low, high = (graph.constants.get(name) for name in op.inputs[1:])
        return None if low is None or high is None else (int(low.item()), int(high.item()))
    return None


@dataclass(frozen=True)
class _Readers:
    """The layers that multiply a tensor, and the tensor's names, under other shapes too."""

    ops: tuple[ir.Conv | ir.Gemm, ...]
    names: frozenset[str]


def _readers(name: str, layers: Sequence[Layer], tensors: Mapping[str, ir.Tensor]) -> _Readers | None:
    """Return what reads tensor `name`; None if anything does but layers of the mesh, as their first operand."""
    found = _Readers((), frozenset({name}))
    for layer in layers:
        if name not in layer.reads:
            continue
        op = layer.ops[0]
        if layer.reads.index(name) or layer.reads.count(name) > 1:
            return None
        if _on_mesh(op):
            found = replace(found, ops=(*found.ops, op))
        elif isinstance(op, ir.Reshape) and _keeps_channels(tensors[name].shape, tensors[layer.writes].shape):
            behind = _readers(layer.writes, layers, tensors)
            if behind is None:
                return None
            found = _Readers((*found.ops, *behind.ops), found.names | behind.names)
        else:
            return None
    return found


def _keeps_channels(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Whether a tensor's channels are those of its reshaped form, pixels in the same order."""
    sizes = [s[channel_axis(s)] if s else 1 for s in (shape, other)]
    flat = all(len(s) != 4 or s[2:] == (1, 1) for s in (tuple(shape), tuple(other)))
    return sizes[0] == sizes[1] and flat


def _fits(op: ir.Conv | ir.Gemm, graph: ir.Graph, label: int) -> bool:
    """Whether a layer can multiply activations under `label` two at once."""
    matrix = weight_matrix(op)
    if op.block_scales is not None or not has_int4(matrix) or not has_short_sums(matrix, nibbles.LOW):
        return False
    return op.floor is None or truncations(op, graph, label) is not None


def weight_matrix(op: ir.Conv | ir.Gemm) -> npt.NDArray[np.int16]:
    """Return the weights (K, channels) less their zero points."""
    matrix = op.weight.reshape(len(op.weight), -1).T if isinstance(op, ir.Conv) else op.weight
    return matrix.astype(np.int16) - op.weight_zero_point.astype(np.int16)


def _pays(layers: Sequence[ir.Conv | ir.Gemm], tensors: Mapping[str, ir.Tensor], config: ArrayConfig) -> bool:
    """Whether layers take no more cycles, about, than with bytes, for which two output channels share a column."""
    sizes = [(op, tensors[op.outputs[0]].size) for op in layers]
    packed, bytewise = (sum(_cycles(op, size, config, halves) for op, size in sizes) for halves in (True, False))
    return packed <= bytewise and all(_inputs(op) > 1 for op in layers)


def _inputs(op: ir.Conv | ir.Gemm) -> int:
    return op.weight.shape[1 if isinstance(op, ir.Conv) else 0]


def _cycles(op: ir.Conv | ir.Gemm, size: int, config: ArrayConfig, halves: bool) -> int:
    """Return about how long `size` results take, with two inputs or, unless `halves`, two outputs on a multiplier."""
    rows, columns = op.weight.shape[2:] if isinstance(op, ir.Conv) else (1, 1)
    channels = op.weight.shape[0 if isinstance(op, ir.Conv) else 1]
    span = columns * (-(-_inputs(op) // 2) if halves else _inputs(op))
    width = config.cols if halves else 2 * config.cols
    fetch = config.rows * rows * -(-span // config.fetch_bytes)
    output = config.rows * -(-min(channels, width) // config.lanes)
    return -(-size // (channels * config.rows)) * -(-channels // width) * max(rows * span, fetch, output)
