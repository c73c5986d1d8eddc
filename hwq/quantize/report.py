"""What a quantized model is on the array: its layers, how many channels are on the lattice, what is left over."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx

from hwq import ir
from hwq.compiler import host_nodes, load, split
from hwq.config import ArrayConfig
from hwq.multipliers import multipliers, on_lattice
from hwq.program import HostNodeInfo


@dataclass(frozen=True)
class LayerReport:
    """One layer.

    Members
    -------
    name, op : str
    weights : int
        Number of them.
    bits : int
        The fewest that hold them.
    channels, on_lattice : int
        Multipliers, and how many of them need one product and one shift.
    """

    name: str
    op: str
    weights: int
    bits: int
    channels: int
    on_lattice: int


@dataclass(frozen=True)
class Report:
    """What `hwq.quantize.quantize` made.

    Members
    -------
    layers : tuple of LayerReport
        Operators that requantize, averages among them.
    host_nodes : tuple of HostNodeInfo
        What the array doesn't run, and why.
    """

    layers: tuple[LayerReport, ...]
    host_nodes: tuple[HostNodeInfo, ...]

    @property
    def lattice_share(self) -> float:
        """Share of the channels that are on the lattice, 0 to 1."""
        channels = sum(layer.channels for layer in self.layers)
        return sum(layer.on_lattice for layer in self.layers) / max(channels, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self) | {"lattice_share": self.lattice_share}


def report(model: onnx.ModelProto, config: ArrayConfig) -> Report:
    """Return what `model`, a QDQ model, is on the architecture `config`."""
    graph, parts = split(load(model), config)
    return Report(
        tuple(_layer(op, graph) for op in graph.ops if isinstance(op, ir.Conv | ir.Gemm | ir.AveragePool)),
        tuple(host_nodes(graph, parts, config)),
    )


def _layer(op: ir.Conv | ir.Gemm | ir.AveragePool, graph: ir.Graph) -> LayerReport:
    scales = multipliers(graph, op)
    weight = np.zeros(0, np.int8) if isinstance(op, ir.AveragePool) else op.weight.astype(np.int64)
    bits = 0
    if weight.size:
        bits = max(int(max(weight.max(), -weight.min() - 1, 0)).bit_length() + 1, 1)
    return LayerReport(op.name, op.kind, weight.size, bits, scales.size, int(on_lattice(scales).sum()))
