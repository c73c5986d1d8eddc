"""From an ONNX model or Graph to a Program for one architecture."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from hwq import ir, isa, reference
from hwq.capacity import Pages, Unfit, fit, one_page
from hwq.channel_order import order_chain
from hwq.config import ArrayConfig, load_arch
from hwq.constraints import MEMORIES, broken_rule
from hwq.errors import CapacityError, ModelError
from hwq.images import Images
from hwq.layout import View
from hwq.onnx_reader import read
from hwq.passes.flatten_to_conv import flatten_to_conv
from hwq.passes.fuse_tables import fuse_tables
from hwq.passes.fuse_views import fuse_views
from hwq.passes.partition import ArrayPart, HostPart, Part, partition
from hwq.passes.sums_by_bytes import product_of, sums_by_bytes
from hwq.passes.transpose_space import SWAP, is_square, transpose_space
from hwq.plan import Port
from hwq.program import ArrayStep, HostNodeInfo, HostStep, LayerInfo, PageSizes, PortImage, Program, TensorInfo
from hwq.schedule import Layer, Schedule
from hwq.weights import STORAGES, Storage

Array = npt.NDArray[Any]

Model = str | Path | onnx.ModelProto | ir.Graph
"""What the public functions take as a model."""


def load(model: Model, *, external_data: bool = False) -> ir.Graph:
    """Return `model` as an integer graph; see `hwq.onnx_reader.read`."""
    return model if isinstance(model, ir.Graph) else read(model, external_data=external_data)


def split(graph: ir.Graph, config: ArrayConfig) -> tuple[ir.Graph, list[Part]]:
    """Return the graph rearranged for the array, and its parts for array and host."""
    if config.sum_bytes:
        graph = sums_by_bytes(graph)
    return _split(fuse_tables(fuse_views(flatten_to_conv(graph))), config)


def _split(graph: ir.Graph, config: ArrayConfig) -> tuple[ir.Graph, list[Part]]:
    return graph, partition(graph, lambda op: broken_rule(op, graph, config))


def arrangements(graph: ir.Graph, config: ArrayConfig) -> list[tuple[ir.Graph, list[Part]]]:
    """Return the ways to lay out the graph's images: as they are, and with rows and columns exchanged."""
    upright = split(graph, config)
    if is_square(upright[0]):
        return [upright]
    return [upright, _split(fuse_tables(fuse_views(transpose_space(upright[0]))), config)]


def compile(
    model: Model,
    arch: str | Path | ArrayConfig,
    *,
    golden: bool = True,
    weights: str | Mapping[str, str] = "auto",
    compact: bool = False,
) -> Program:
    """Compile `model` for `arch`.

    Parameters
    ----------
    model : path, onnx.ModelProto or Graph
    arch : preset name, architecture file or ArrayConfig
    golden : bool
        Store one random sample with the reference's outputs in the program.
    weights : ``auto``, ``int8``, ``codebook`` or a mapping of operator names to one of them
        ``auto``: 4 bits where an operator's weights fit, the architecture has them and they are no slower, and where
        memory is what counts (`compact`) codebooks as well; ``int8``: bytes, for the activations it reads as well;
        ``codebook``: as ``auto``, but codebooks wherever at most 16 different weights in a layer, or in each of its
        blocks of channels, make it smaller than bytes, though each book takes cycles. What a mapping doesn't name is
        ``auto``; what runs once for every byte of its sums is stored alike for each.
    compact : bool
        Prefer the ways that take the least memory to the fastest ones; so it is anyway where those don't fit.

    Raises
    ------
    ModelError, ArchError
        As the reader and the architecture raise them; ModelError also on `weights` that names no operator or storage
        there is.
    """
    config = load_arch(arch)
    source = load(model)
    storage = _storage(source, weights)
    candidates = [_candidate(graph, parts, config, storage, compact) for graph, parts in arrangements(source, config)]
    best = min(candidates, key=lambda found: (len(found.unfit), len(found.pages) > 1, found.cycles()))
    graph, pages = best.graph, [images for images, _ in best.pages] or [Images(config)]
    for images in pages:
        if not images.descriptors:
            images.add_descriptor({"opcode": isa.Opcode.HALT}, "")
    descriptors = [fields for images in pages for fields in images.descriptors]
    words = np.zeros((len(descriptors), isa.SLOT_WORDS), np.uint32)
    for slot, fields in enumerate(descriptors):
        words[slot, : isa.DESCRIPTOR_WORDS] = isa.encode(isa.DESCRIPTOR, isa.DESCRIPTOR_WORDS, fields)
    params = [word for images in pages for word in images.params]
    sample = random_feeds(source, 1, seed=0) if golden else {}
    return Program(
        name=graph.name,
        config=config,
        inputs=_infos(graph, graph.inputs),
        outputs=_infos(graph, graph.outputs),
        steps=tuple(_steps(best)),
        words=words.reshape(-1),
        params=np.stack(params).reshape(len(params), -1),
        weights=np.concatenate([np.zeros((0, config.cols), np.int8), *(w for images in pages for w in images.weights)]),
        constants=tuple(constant for images in pages for constant in images.constants),
        tables=np.stack([np.zeros(isa.TABLE_ENTRIES, np.int8), *(t for images in pages for t in images.tables)])[1:],
        host_nodes=tuple(host_nodes(graph, best.parts, config, best.unfit)),
        rewrites=tuple(graph.rewrites),
        sizes=tuple(map(_sizes, pages)) if len(pages) > 1 else (),
        golden=sample | reference.run(source, sample) if golden else {},
    )


def _storage(graph: ir.Graph, weights: str | Mapping[str, str]) -> Storage:
    """Return the caller's `weights`, checked."""
    storage = Storage(named=weights) if isinstance(weights, Mapping) else Storage(weights)
    names = {op.name for op in graph.ops}
    for name in storage.named:
        if name not in names:
            raise ModelError(f"weights: the model has no operator {name!r}")
    for kind in (storage.default, *storage.named.values()):
        if kind not in STORAGES:
            raise ModelError(f"weights must be {', '.join(STORAGES[:-1])} or {STORAGES[-1]}, not {kind!r}")
    return storage


def _candidate(graph: ir.Graph, parts: list[Part], config: ArrayConfig, storage: Storage, compact: bool) -> Pages:
    """Schedule one arrangement of the network: in one page as it is, or fitted to the memories it exceeds."""
    asked = {op.name: storage.named.get(op.name) or storage.named.get(product_of(op)) for op in graph.ops}
    storage = replace(storage, named={name: kind for name, kind in asked.items() if kind})
    try:
        page = one_page(graph, [part for part in parts if isinstance(part, ArrayPart)], config, storage, compact)
        return Pages(graph, parts, [page])
    except CapacityError:
        pass
    unfit: set[str] = set()
    while True:
        try:
            return replace(fit(graph, parts, config, storage, compact), unfit=frozenset(unfit))
        except Unfit as error:
            unfit.add(error.output)
            parts = partition(graph, lambda op: _host_reason(op, graph, config, unfit))


def _sizes(images: Images) -> PageSizes:
    weights = sum(map(len, images.weights))
    return PageSizes(len(images.descriptors), len(images.params), weights, len(images.tables), len(images.constants))


def _steps(network: Pages) -> Iterator[HostStep | ArrayStep]:
    """Yield the network's parts as steps, slots counted through all pages."""
    array_steps = []
    first_slot = 0
    for images, schedules in network.pages:
        array_steps += [_array_step(item, first_slot) for item in schedules]
        first_slot += len(images.descriptors)
    following = iter(array_steps)
    for part in network.parts:
        if isinstance(part, HostPart):
            model_bytes = part.model.SerializeToString(deterministic=True)
            yield HostStep(model_bytes, part.inputs, part.outputs)
        else:
            yield next(following)


def _host_reason(op: ir.Op, graph: ir.Graph, config: ArrayConfig, unfit: Container[str]) -> str | None:
    return MEMORIES if op.outputs[0] in unfit else broken_rule(op, graph, config)


def host_nodes(
    graph: ir.Graph, parts: list[Part], config: ArrayConfig, unfit: Container[str] = ()
) -> list[HostNodeInfo]:
    """Return the operators that run on the host, and why; `unfit` are the tensors for which memories are too small."""
    out = []
    for part in parts:
        if not isinstance(part, HostPart):
            continue
        for op in part.ops:
            if isinstance(op, ir.HostNode):
                out.append(HostNodeInfo(op.name, op.node.op_type, op.reason))
            else:
                reason = _host_reason(op, graph, config, unfit) or "Its neighbours run on the host."
                out.append(HostNodeInfo(op.name, op.kind, reason))
    return out


def random_feeds(graph: ir.Graph, samples: int, seed: int) -> dict[str, Array]:
    """Return `samples` random samples for the graph's inputs.

    Integers cover their dtype's range. A float input that is quantized covers the quantized range and a sixteenth
    beyond it at both ends; any other is uniform in -1..1.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for name in graph.inputs:
        tensor = graph.tensors[name]
        shape = (samples * tensor.shape[0], *tensor.shape[1:]) if tensor.shape else ()
        dtype = np.dtype(tensor.dtype)
        if dtype.kind in "iu":
            info = np.iinfo(dtype)
            feeds[name] = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
        elif dtype.kind == "b":
            feeds[name] = rng.integers(0, 2, shape).astype(bool)
        else:
            low, high = _float_range(graph, name)
            feeds[name] = rng.uniform(low, high, shape).astype(dtype)
    return feeds


def _float_range(graph: ir.Graph, name: str) -> tuple[float, float]:
    """Return the range that the quantizers of float input `name` cover, widened by a sixteenth."""
    seen, names = set(), [name]
    while names:
        current = names.pop()
        for op in graph.consumers(current):
            for output in op.outputs:
                tensor = graph.tensors[output]
                if tensor.is_quantized:
                    assert tensor.scale is not None
                    low, high = ((q - tensor.zero_point) * tensor.scale for q in _host_bounds(graph, tensor))
                    margin = (high - low) / 16
                    return low - margin, high + margin
                if output not in seen:
                    seen.add(output)
                    names.append(output)
    return -1.0, 1.0


def _host_bounds(graph: ir.Graph, tensor: ir.Tensor) -> tuple[int, int]:
    """Return the range of a tensor that the host quantizes: its type's, or that of the Clip which follows at once."""
    for op in graph.consumers(tensor.name):
        if isinstance(op, ir.HostNode) and op.node.op_type == "Clip":
            bounds = [graph.constants[bound] for bound in op.inputs[1:] if bound in graph.constants]
            if len(bounds) == 2:
                return int(bounds[0].item()), int(bounds[1].item())
    return tensor.range


def _infos(graph: ir.Graph, names: list[str]) -> tuple[TensorInfo, ...]:
    return tuple(TensorInfo(name, graph.tensors[name].shape, graph.tensors[name].dtype) for name in names)


def _array_step(result: Schedule, first_slot: int) -> ArrayStep:
    plan = result.plan
    return ArrayStep(
        slot=first_slot + result.slot,
        inputs=tuple(_input_port(port, plan) for port in plan.inputs),
        outputs=tuple(_output_port(port, plan) for port in plan.outputs),
        layers=tuple(_layer(layer, plan, first_slot) for layer in result.layers),
    )


def _input_port(port: Port, plan: Any) -> PortImage:
    buffer, tensor = plan.buffer(port.stored), plan.tensors[port.tensor]
    return PortImage(
        tensor=port.tensor,
        dtype=tensor.dtype,
        shape=tensor.shape,
        chain=port.chain,
        address=buffer.address,
        size_bytes=buffer.size_bytes,
        fill=buffer.fill if buffer.fill is not None else 0,
        view=plan.view(port.stored),
        packed=plan.packed.get(port.stored),
    )


def _output_port(port: Port, plan: Any) -> PortImage:
    tensor = plan.tensors[port.tensor]
    return _extent(port.tensor, tensor, plan.view(port.stored), port.chain, None)


def _layer(layer: Layer, plan: Any, first_slot: int) -> LayerInfo:
    tensor = plan.tensors[layer.tensor]
    graph, shape = plan.graph, tensor.shape
    name, part = tensor.name, list[tuple[int, int, int]]()
    base, macs = name if name in graph.tensors else name.rpartition("#")[0], layer.macs
    while base in graph.pieces:
        piece = graph.pieces[base]
        part.insert(0, (piece.axis, piece.start, piece.size))
        macs -= macs * piece.again // piece.size
        name = base = piece.whole.name
    chain = order_chain(plan, layer.tensor)
    if name in graph.swapped:
        name, shape = graph.swapped[name].name, tuple(shape[i] for i in SWAP)
        chain = (*chain, ("transpose", SWAP))
        part = [(SWAP[axis], start, size) for axis, start, size in part]
    image = _extent(name, replace(tensor, shape=shape), layer.view, chain, plan.packed.get(layer.tensor))
    first, end = first_slot + layer.first_slot, first_slot + layer.end_slot
    return LayerInfo(layer.name, layer.op, first, end, image, macs, tuple(part))


def _extent(name: str, tensor: ir.Tensor, view: View, chain: Any, packed: int | None) -> PortImage:
    size = 1 + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True))
    return PortImage(name, tensor.dtype, tensor.shape, chain, view.address, size, 0, view, packed)
