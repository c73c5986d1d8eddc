"""From an ONNX model or Graph to a Program for one architecture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from hwq import ir, isa, reference
from hwq.channel_order import order_chain
from hwq.config import ArrayConfig, load_arch
from hwq.constraints import broken_rule
from hwq.errors import CapacityError, ModelError
from hwq.images import Images
from hwq.layout import View
from hwq.onnx_reader import read
from hwq.passes.flatten_to_conv import flatten_to_conv
from hwq.passes.fuse_tables import fuse_tables
from hwq.passes.fuse_views import fuse_views
from hwq.passes.partition import ArrayPart, HostPart, Part, partition
from hwq.passes.transpose_space import SWAP, is_square, transpose_space
from hwq.plan import Port
from hwq.program import ArrayStep, HostNodeInfo, HostStep, LayerInfo, PortImage, Program, TensorInfo
from hwq.schedule import Layer, Schedule, schedule

Array = npt.NDArray[Any]

Model = str | Path | onnx.ModelProto | ir.Graph
"""What the public functions take as a model."""


def load(model: Model, *, external_data: bool = False) -> ir.Graph:
    """Return `model` as an integer graph; see `hwq.onnx_reader.read`."""
    return model if isinstance(model, ir.Graph) else read(model, external_data=external_data)


def split(graph: ir.Graph, config: ArrayConfig) -> tuple[ir.Graph, list[Part]]:
    """Return the graph rearranged for the array, and its parts for array and host."""
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
    weights : ``auto``, ``int8`` or a mapping of operator names to one of them
        ``auto``: 4 bits where an operator's weights fit, the architecture has them and they are no slower; ``int8``:
        bytes. What a mapping doesn't name is ``auto``.
    compact : bool
        Prefer the ways that take the least memory to the fastest ones; so it is anyway where those don't fit.

    Raises
    ------
    ModelError, ArchError, CapacityError
        As the reader, the architecture and the scheduler raise them; ModelError also on `weights` that names no
        operator or storage there is.
    """
    config = load_arch(arch)
    source = load(model)
    int8_layers = _int8_layers(source, weights)
    candidates = [
        _candidate(graph, parts, config, int8_layers, compact) for graph, parts in arrangements(source, config)
    ]
    graph, parts, images, steps = min(candidates, key=lambda candidate: candidate[2].cycles())
    if not images.descriptors:
        images.add_descriptor({"opcode": isa.Opcode.HALT}, "")
    words = np.zeros((len(images.descriptors), isa.SLOT_WORDS), np.uint32)
    for slot, fields in enumerate(images.descriptors):
        words[slot, : isa.DESCRIPTOR_WORDS] = isa.encode(isa.DESCRIPTOR, isa.DESCRIPTOR_WORDS, fields)
    sample = random_feeds(source, 1, seed=0) if golden else {}
    return Program(
        name=graph.name,
        config=config,
        inputs=_infos(graph, graph.inputs),
        outputs=_infos(graph, graph.outputs),
        steps=tuple(steps),
        words=words.reshape(-1),
        params=np.stack(images.params).reshape(len(images.params), -1),
        weights=np.concatenate([np.zeros((0, config.cols), np.int8), *images.weights]),
        constants=tuple(images.constants),
        tables=np.stack([np.zeros(isa.TABLE_ENTRIES, np.int8), *images.tables])[1:],
        host_nodes=tuple(host_nodes(graph, parts, config)),
        rewrites=tuple(graph.rewrites),
        golden=sample | reference.run(source, sample) if golden else {},
    )


def _int8_layers(graph: ir.Graph, weights: str | Mapping[str, str]) -> frozenset[str] | None:
    """Return the operators whose weights stay bytes, None for all."""
    names = {op.name for op in graph.ops}
    for name, storage in weights.items() if isinstance(weights, Mapping) else [(None, weights)]:
        if name is not None and name not in names:
            raise ModelError(f"weights: the model has no operator {name!r}")
        if storage not in ("auto", "int8"):
            raise ModelError(f"weights must be auto or int8, not {storage!r}")
    if isinstance(weights, Mapping):
        return frozenset(name for name, storage in weights.items() if storage == "int8")
    return None if weights == "int8" else frozenset()


def _candidate(
    graph: ir.Graph, parts: list[Part], config: ArrayConfig, int8_layers: frozenset[str] | None, compact: bool
) -> tuple[ir.Graph, list[Part], Images, list[HostStep | ArrayStep]]:
    """Schedule one arrangement of the network, for few cycles, or for little memory where that alone fits."""
    array_parts = [part for part in parts if isinstance(part, ArrayPart)]
    try:
        images = Images(config, int8_layers, compact=compact)
        schedules = iter(schedule(graph, array_parts, config, images))
    except CapacityError:
        if compact:
            raise
        images = Images(config, int8_layers, compact=True)
        schedules = iter(schedule(graph, array_parts, config, images))
    steps: list[HostStep | ArrayStep] = []
    for part in parts:
        if isinstance(part, HostPart):
            model_bytes = part.model.SerializeToString(deterministic=True)
            steps.append(HostStep(model_bytes, part.inputs, part.outputs))
        else:
            steps.append(_array_step(next(schedules)))
    return graph, parts, images, steps


def host_nodes(graph: ir.Graph, parts: list[Part], config: ArrayConfig) -> list[HostNodeInfo]:
    """Return the operators that run on the host, and why."""
    out = []
    for part in parts:
        if not isinstance(part, HostPart):
            continue
        for op in part.ops:
            if isinstance(op, ir.HostNode):
                out.append(HostNodeInfo(op.name, op.node.op_type, op.reason))
            else:
                reason = broken_rule(op, graph, config) or "Its neighbours run on the host."
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


def _array_step(result: Schedule) -> ArrayStep:
    plan = result.plan
    return ArrayStep(
        slot=result.slot,
        inputs=tuple(_input_port(port, plan) for port in plan.inputs),
        outputs=tuple(_output_port(port, plan) for port in plan.outputs),
        layers=tuple(_layer(layer, plan) for layer in result.layers),
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
    )


def _output_port(port: Port, plan: Any) -> PortImage:
    tensor = plan.tensors[port.tensor]
    return _extent(port.tensor, tensor, plan.view(port.stored), port.chain)


def _layer(layer: Layer, plan: Any) -> LayerInfo:
    tensor = plan.tensors[layer.tensor]
    chain = order_chain(plan, layer.tensor)
    if layer.tensor in plan.graph.swapped:
        tensor, chain = plan.graph.swapped[layer.tensor], (*chain, ("transpose", SWAP))
    image = _extent(tensor.name, tensor, layer.view, chain)
    return LayerInfo(layer.name, layer.op, layer.first_slot, layer.end_slot, image, layer.macs)


def _extent(name: str, tensor: ir.Tensor, view: View, chain: Any) -> PortImage:
    size = 1 + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True))
    return PortImage(name, tensor.dtype, tensor.shape, chain, view.address, size, 0, view)
