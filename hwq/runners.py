"""What stands on the rungs: the oracle, the machine layer by layer, and an accelerator on a bus."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq import ir, runtime
from hwq.bisect import Bytes, first_wrong_layer, tensor_fault
from hwq.errors import DeviceError
from hwq.host import oracle_session
from hwq.isa import ErrorCode
from hwq.layout import follow
from hwq.onnx_load import value_info
from hwq.onnx_writer import write
from hwq.program import LayerInfo, Page, Program
from hwq.rungs import Rung
from hwq.runtime import Accelerator, MachineBackend

Array = npt.NDArray[Any]
Values = dict[str, Array]


class Oracle:
    """ONNX Runtime on the graph's integer operators, every quantized tensor being an output.

    Members
    -------
    names : list of str
        The tensors that `run` returns: quantized intermediates in the graph's order, then the graph's outputs.
    """

    def __init__(self, graph: ir.Graph):
        made = [name for op in graph.ops for name in op.outputs]
        inner = [name for name in made if graph.tensors[name].is_quantized and name not in graph.outputs]
        self.names = [*inner, *dict.fromkeys(graph.outputs)]
        model = write(graph)
        for name in inner:
            tensor = graph.tensors[name]
            model.graph.output.append(value_info(name, tensor.shape, tensor.dtype))
        self._session = oracle_session(model)

    def run(self, feeds: Mapping[str, Array]) -> Values:
        """Return the tensors `names` of one sample."""
        return dict(zip(self.names, self._session.run(self.names, dict(feeds)), strict=True))


def start_memory(program: Program, seed: int) -> Bytes:
    """Return what activation memory holds before the first sample: noise from `seed`, the first page's constants."""
    memory = np.random.default_rng(seed).integers(-128, 128, program.config.act_bytes).astype(np.int8)
    for address, data in program.pages[0].constants:
        memory[address : address + data.size] = data
    return memory


class _WatchedMachine(MachineBackend):
    """A machine that keeps every layer's output as it was when the layer ended.

    Members
    -------
    first_slot : int
        Of the page in its memories.
    captured : list of (LayerInfo, array)
    """

    def __init__(self, program: Program):
        super().__init__(program.config)
        self.first_slot = 0
        self._layers = {layer.end_slot: layer for step in program.array_steps for layer in step.layers}
        self.captured: list[tuple[LayerInfo, Array]] = []

    def start(self, slot: int = 0) -> dict[str, int]:
        status = self.machine.run(slot, on_layer=self._capture)
        if status.error is not ErrorCode.NONE:
            raise DeviceError(f"The machine stopped in slot {status.slot}: {status.error.name}")
        return {}

    def _capture(self, slot: int) -> None:
        layer = self._layers.get(self.first_slot + slot + 1)
        if layer is not None:
            port = layer.output
            self.captured.append((layer, runtime.unpack(port, self.read_act(port.address, port.size_bytes))))


class _WatchedAccelerator(Accelerator):
    """Tells its machine which page it turns to."""

    backend: _WatchedMachine

    def turn_to(self, page: Page) -> None:
        super().turn_to(page)
        self.backend.first_slot = page.first_slot


class MachineRunner:
    """The machine, compared with the reference layer by layer.

    Members
    -------
    rung : Rung
    memory : int8 (act_bytes,)
        Activation memory now.
    before : int8 (act_bytes,)
        Activation memory before the last sample.
    """

    def __init__(self, program: Program, graph: ir.Graph, memory: Bytes):
        self.rung = Rung("machine", "reference")
        self._program, self._graph = program, graph
        self._backend = _WatchedMachine(program)
        self._accelerator = _WatchedAccelerator(program, self._backend)
        self._backend.write_act(0, memory)
        self.before = memory

    @property
    def memory(self) -> Bytes:
        """Activation memory, not a copy."""
        return self._backend.machine.act

    @property
    def needed(self) -> list[str]:
        """Tensors of the graph that `run` compares layers with."""
        layers = [layer for step in self._program.array_steps for layer in step.layers]
        return list(dict.fromkeys(name for name in map(self._name, layers) if name is not None))

    def run(self, sample: int, feeds: Mapping[str, Array], expected: Mapping[str, Array]) -> Values:
        """Run one sample and return its outputs; `expected` holds the `needed` tensors and the outputs to compare."""
        self.before = self.memory.copy()
        self._backend.captured.clear()
        start = time.perf_counter()
        outputs = self._accelerator.run(feeds)
        self.rung.seconds += time.perf_counter() - start
        for layer, got in self._backend.captured:
            name = self._name(layer)
            if name is not None:
                wanted = follow(tuple(("slice", part) for part in layer.part), expected[name])
                fault = self.rung.compare(sample, name, got, wanted)
                if fault is not None and fault is self.rung.first:
                    self.rung.first = tensor_fault(self._program, layer, sample, got, wanted, name)
        for name, got in outputs.items():
            self.rung.compare(sample, name, got, expected[name])
        return outputs

    def _name(self, layer: LayerInfo) -> str | None:
        """Return the graph's name of what `layer` writes; the scheduler's copies are named ``tensor#reader``."""
        name = layer.output.tensor
        while name and name not in self._graph.tensors:
            name = name.rpartition("#")[0]
        return name or None


class HardwareRunner:
    """An accelerator behind a bus, compared with the machine: outputs, and all of activation memory after sample 0.

    Members
    -------
    rung : Rung
    counters : dict of str to int
        Of the last sample.
    slots : dict of int to int
        Cycles of each descriptor in the last sample.
    """

    def __init__(self, target: str, program: Program, memory: Bytes, *, bisect: bool):
        self.rung = Rung(target, "machine")
        self._program, self._bisect = program, bisect
        self._backend = runtime.open_backend(target, program.config)
        self._accelerator = Accelerator(program, self._backend)
        self._backend.write_act(0, memory)

    @property
    def counters(self) -> dict[str, int]:
        """The hardware's cycle counters in the last sample."""
        return self._accelerator.counters

    @property
    def slots(self) -> dict[int, int]:
        """Cycles of each descriptor in the last sample."""
        return self._accelerator.profile

    def run(
        self, sample: int, feeds: Mapping[str, Array], expected: Mapping[str, Array], machine: MachineRunner
    ) -> Values:
        """Run one sample and compare it with the machine, which has just run it and made `expected`."""
        start = time.perf_counter()
        outputs = self._accelerator.run(feeds)
        self.rung.seconds += time.perf_counter() - start
        faults = [self.rung.compare(sample, name, got, expected[name]) for name, got in outputs.items()]
        if sample == 0:
            memory = self._backend.read_act(0, machine.memory.size)
            faults.append(self.rung.compare(sample, "memory", memory, machine.memory))
        if self._bisect and any(fault is not None and fault is self.rung.first for fault in faults):
            found = first_wrong_layer(self._program, self._backend, feeds, machine.before, sample)
            self.rung.first = found or self.rung.first
        return outputs

    def close(self) -> None:
        """Release the accelerator."""
        self._accelerator.close()


def concatenated(rows: Sequence[Values]) -> Values:
    """Return the values of several samples along their first dimension."""
    return {name: np.concatenate([np.atleast_1d(row[name]) for row in rows]) for name in (rows[0] if rows else {})}
