"""What a program costs on its architecture, layer by layer, from its descriptors alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from hwq import isa, timing
from hwq.compiler import Model, compile
from hwq.config import ArrayConfig
from hwq.program import HostNodeInfo, LayerInfo, Program


@dataclass(frozen=True)
class LayerCost:
    """One layer: what it computes, how long it takes and what it moves.

    Members
    -------
    name, op : str
    slots : (int, int)
        Its descriptors, the end excluded.
    macs : int
        Multiply-accumulates the operator asks for; those of the mesh on top, with weights of zero or the further terms
        of a weight beyond int8, and an average pool's additions don't count.
    cycles_predicted : int
    cycles_measured : int or None
        What the hardware counted, where it ran.
    utilisation : float
        ``macs / (cycles * rows * cols)``, 0..1; up to 2 with 4-bit weights.
    bound : str
        ``mac``, ``weight``, ``fetch``, ``output`` or ``vector``: what sets the pace of the layer's longest descriptor.
    act_read_bytes, act_write_bytes : int
        Operand bytes fetched from activation memory, those read again for every block of channels included, and
        bytes written.
    weight_bytes : int
        Size of the layer's weights in weight memory.
    """

    name: str
    op: str
    slots: tuple[int, int]
    macs: int
    cycles_predicted: int
    cycles_measured: int | None
    utilisation: float
    bound: str
    act_read_bytes: int
    act_write_bytes: int
    weight_bytes: int


@dataclass(frozen=True)
class Estimate:
    """Costs of a whole program; cycles cover its array steps, from start to done.

    Members
    -------
    model, arch : str
    layers : tuple of LayerCost
    macs, cycles_predicted : int
    cycles_measured : int or None
    utilisation : float
    counters : dict of str to int
        The hardware's cycle counters, where it ran.
    host_bytes : int
        What the host writes before and reads after the array steps of one inference.
    pages : int
        Times the accelerator's memories are loaded for the whole program.
    load_bytes : int
        Images loaded for one inference by itself: nothing where the first page is the only one, since it stays.
    host_nodes : tuple of HostNodeInfo
    """

    model: str
    arch: str
    layers: tuple[LayerCost, ...]
    macs: int
    cycles_predicted: int
    cycles_measured: int | None
    utilisation: float
    counters: dict[str, int]
    host_bytes: int
    pages: int
    load_bytes: int
    host_nodes: tuple[HostNodeInfo, ...]

    @property
    def exact(self) -> bool:
        """Whether the hardware took the predicted cycles, layer by layer and in all; True where it didn't run."""
        return cycles_agree(self.layers, self.cycles_predicted, self.cycles_measured)

    def to_dict(self) -> dict[str, Any]:
        """Return the members, ready for JSON."""
        return asdict(self)


def estimate(model: Model | Program, arch: Any = None, *, weights: str | Mapping[str, str] = "auto") -> Estimate:
    """Predict the cost of `model` on `arch`; no hardware, simulated or real, is needed.

    Parameters
    ----------
    model : path, onnx.ModelProto, Graph or Program
    arch : preset name, architecture file or ArrayConfig
        Not needed for a Program, which brings its own.
    weights : str or mapping
        How weights are stored, as `hwq.compile` takes it; a Program has its own.

    Raises
    ------
    HwqError
        As `hwq.compile` raises them.

    Examples
    --------
    >>> from hwq import demo
    >>> costs = estimate(demo.model_path(), "sim-4x4")
    >>> costs.cycles_predicted >= costs.macs / 16
    True
    """
    program = model if isinstance(model, Program) else compile(model, arch, weights=weights, golden=False)
    config, layers, total = program.config, [], 0
    for step in program.array_steps:
        descriptors = program.descriptors(step.slot)
        predicted = timing.predict(descriptors, config, step.slot)
        total += predicted.total
        by_slot = {
            item.slot: (item, descriptor) for item, descriptor in zip(predicted.layers, descriptors, strict=False)
        }
        layers += [_layer_cost(layer, by_slot, config) for layer in step.layers]
    macs = sum(layer.macs for layer in layers)
    return Estimate(
        model=program.name,
        arch=config.name,
        layers=tuple(layers),
        macs=macs,
        cycles_predicted=total,
        cycles_measured=None,
        utilisation=utilisation(macs, total, config),
        counters={},
        host_bytes=sum(port.size_bytes for step in program.array_steps for port in (*step.inputs, *step.outputs)),
        pages=len(program.pages),
        load_bytes=sum(page.size_bytes for page in program.pages) if len(program.pages) > 1 else 0,
        host_nodes=program.host_nodes,
    )


def measured(costs: Estimate, config: ArrayConfig, counters: Mapping[str, int], slots: Mapping[int, int]) -> Estimate:
    """Return `costs` with what the hardware counted: `counters` over one sample, `slots` for each descriptor."""
    layers = costs.layers
    if slots:
        layers = tuple(
            replace(layer, cycles_measured=sum(slots.get(slot, 0) for slot in range(*layer.slots))) for layer in layers
        )
    cycles = counters.get("cycles")
    return replace(
        costs,
        layers=layers,
        cycles_measured=cycles,
        utilisation=utilisation(costs.macs, cycles or costs.cycles_predicted, config),
        counters=dict(counters),
    )


def cycles_agree(layers: Iterable[LayerCost], predicted: int, measured: int | None) -> bool:
    """Return whether every layer took the predicted cycles, and all together did; what wasn't measured agrees."""
    pairs = [(layer.cycles_predicted, layer.cycles_measured) for layer in layers]
    return all(there in (None, wanted) for wanted, there in [*pairs, (predicted, measured)])


def utilisation(macs: int, cycles: int, config: ArrayConfig) -> float:
    """Return the multiply-accumulates done for each that the array can do with 8-bit weights, 0..2."""
    return macs / (cycles * config.macs_per_cycle) if cycles else 0.0


_Slots = Mapping[int, tuple[timing.LayerTiming, Mapping[str, int]]]


def _layer_cost(layer: LayerInfo, by_slot: _Slots, config: ArrayConfig) -> LayerCost:
    pairs = [by_slot[slot] for slot in range(layer.first_slot, layer.end_slot) if slot in by_slot]
    cycles = sum(item.cycles for item, _ in pairs)
    longest = max((item for item, _ in pairs), key=lambda item: item.cycles, default=None)
    read, written, weights = _moved(config, (descriptor for _, descriptor in pairs))
    return LayerCost(
        name=layer.name,
        op=layer.op,
        slots=(layer.first_slot, layer.end_slot),
        macs=layer.macs,
        cycles_predicted=cycles,
        cycles_measured=None,
        utilisation=utilisation(layer.macs, cycles, config),
        bound=longest.bound if longest is not None else "none",
        act_read_bytes=read,
        act_write_bytes=written,
        weight_bytes=weights,
    )


def _moved(config: ArrayConfig, descriptors: Iterable[Mapping[str, int]]) -> tuple[int, int, int]:
    """Return bytes read from and written to activation memory, and bytes of weights."""
    read = written = weights = 0
    for d in descriptors:
        pixels, channels = timing.pixels(d), timing.channels(d, config)
        if d["opcode"] == isa.Opcode.VECTOR:
            read += pixels * channels * d["taps_y"] * d["taps_x"]
        else:
            words = timing.weight_words(d)
            memory = timing.memory_words(d, config)
            weights += memory * config.cols
            if d["opcode"] == isa.Opcode.CONV:
                read += pixels * words * d["blocks"]
            else:  # a step reads one pixel's channels
                read += timing.mesh_steps(d, config) // d["blocks"] * channels
        written += pixels * timing.pixel_bytes(d, config)
        read += pixels * channels * d["residual"]
    return read, written, weights
