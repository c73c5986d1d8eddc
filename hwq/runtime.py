"""Run programs: one Backend protocol over the machine, the simulated gateware and boards."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hwq import ir, isa, nibbles, reference
from hwq.compiler import Model, compile, load
from hwq.config import ArrayConfig, load_arch
from hwq.driver import Driver
from hwq.errors import DeviceError, HwqError, InputError, MissingToolError, ParityError, ProgramError
from hwq.host import run_model
from hwq.layout import follow
from hwq.machine import Machine
from hwq.program import ArrayStep, HostStep, Page, PortImage, Program, TensorInfo

Array = npt.NDArray[Any]

BUSES = {
    "verilator": "sim.verilator_bus",
    "amaranth": "sim.amaranth_bus",
    "netlist": "sim.netlist_bus",
    "pins": "sim.pins_bus",
    "serial": "boards.link.serial_bus",
}
"""Target to the module whose ``open_bus(config, ...)`` returns its `hwq.driver.Bus`."""

_BATCH = 32
"""Samples that pass through a step before the next step's page is loaded."""

TARGETS = ("reference", "machine", "amaranth", "verilator", "netlist[:BOARD]", "pins[:BOARD]", "serial:PORT")
"""What `InferenceSession` runs on."""


def parse_target(target: str) -> tuple[str, str]:
    """Return kind and argument of a target; the argument is empty where there is none.

    >>> parse_target("serial:/dev/ttyUSB1"), parse_target("pins")
    (('serial', '/dev/ttyUSB1'), ('pins', ''))

    Raises
    ------
    HwqError
        On a target that isn't one of `TARGETS`.
    """
    kind, colon, argument = target.partition(":")
    form = next((known for known in TARGETS if re.split(r"\W", known)[0] == kind), None)
    if form is None or (":" not in form and colon) or (not argument and (colon or form == f"{kind}:PORT")):
        raise HwqError(f"No target {target!r}; the targets are {', '.join(TARGETS)}")
    return kind, argument


class Backend(Protocol):
    """One accelerator with its memories; `hwq.driver.Driver` is the one over a bus."""

    config: ArrayConfig

    def load_program(self, words: npt.NDArray[np.uint32]) -> None:
        """Write program memory from slot 0."""

    def load_params(self, image: npt.NDArray[np.uint32], first: int = 0) -> None:
        """Write parameter memory."""

    def load_weights(self, image: npt.NDArray[np.int8], first: int = 0) -> None:
        """Write weight memory."""

    def load_tables(self, image: npt.NDArray[np.int8], first: int = 0) -> None:
        """Write table memory."""

    def write_act(self, address: int, data: npt.NDArray[np.int8]) -> None:
        """Write activation memory."""

    def read_act(self, address: int, count: int) -> npt.NDArray[np.int8]:
        """Read activation memory."""

    def start(self, slot: int = 0) -> dict[str, int]:
        """Run from `slot` to HALT; return cycle counters, none where time has no meaning."""

    def profile(self, count: int) -> list[int]:
        """Return the cycles of the first `count` slots, none where time has no meaning."""

    def close(self) -> None:
        """Release what the backend holds."""


class MachineBackend:
    """The numpy machine behind the Backend protocol."""

    def __init__(self, config: ArrayConfig):
        self.config = config
        self.machine = Machine(config)

    def load_program(self, words: npt.NDArray[np.uint32]) -> None:
        """Write program memory from slot 0."""
        self.machine.program[: len(words)] = words

    def load_params(self, image: npt.NDArray[np.uint32], first: int = 0) -> None:
        """Write parameter memory."""
        self.machine.params[first : first + len(image)] = image

    def load_weights(self, image: npt.NDArray[np.int8], first: int = 0) -> None:
        """Write weight memory."""
        self.machine.weights[first : first + len(image)] = image

    def load_tables(self, image: npt.NDArray[np.int8], first: int = 0) -> None:
        """Write table memory."""
        self.machine.tables[first : first + len(image)] = image

    def write_act(self, address: int, data: npt.NDArray[np.int8]) -> None:
        """Write activation memory."""
        self.machine.act[address : address + data.size] = data.reshape(-1)

    def read_act(self, address: int, count: int) -> npt.NDArray[np.int8]:
        """Read activation memory."""
        return self.machine.act[address : address + count].copy()

    def start(self, slot: int = 0) -> dict[str, int]:
        """Run from `slot` to HALT; the machine has no clock."""
        status = self.machine.run(slot)
        if status.error is not isa.ErrorCode.NONE:
            raise DeviceError(f"The machine stopped in slot {status.slot}: {status.error.name}")
        return {}

    def profile(self, count: int) -> list[int]:
        """Return nothing: the machine has no clock."""
        return []

    def close(self) -> None:
        """Nothing to release."""


def open_backend(target: str, config: ArrayConfig) -> Backend:
    """Return the accelerator that `target` names, one of `TARGETS` but for ``reference``.

    Raises
    ------
    HwqError
        On an unknown target.
    MissingToolError
        Where the target's extra isn't installed.
    """
    if target == "machine":
        return MachineBackend(config)
    kind, argument = parse_target(target)
    extra = {"serial": "boards", "pins": "sim,boards", "netlist": "sim,boards"}.get(kind, "sim")
    try:
        module = importlib.import_module(BUSES[kind])
    except ModuleNotFoundError as error:
        raise MissingToolError(
            f"Target {target!r} needs {error.name}; install it with: pip install 'hwq[{extra}]'"
        ) from error
    bus = module.open_bus(config, argument) if argument else module.open_bus(config)
    return Driver(bus, config)


def load_page(page: Page, backend: Backend) -> None:
    """Write everything `page` holds to the memories of `backend`."""
    backend.load_program(page.words)
    backend.load_params(page.params)
    backend.load_weights(page.weights)
    if len(page.tables):
        backend.load_tables(page.tables)
    for address, data in page.constants:
        backend.write_act(address, data)


class Accelerator:
    """A program in a backend: its first page is loaded at once, and any other when a step needs it.

    Members
    -------
    counters : dict of str to int
        Sums of the hardware's cycle counters over the array steps of the last call of `run` or `run_batch`.
    profile : dict of int to int
        Cycles of each slot of the program, in the last sample.
    """

    def __init__(self, program: Program, backend: Backend):
        if backend.config.digest() != program.config.digest():
            raise ProgramError(
                f"Program {program.name!r} was compiled for arch {program.config.name!r} "
                f"({program.config.digest()[:8]}), not for {backend.config.name!r} ({backend.config.digest()[:8]})"
            )
        self.program = program
        self.backend = backend
        self.counters: dict[str, int] = {}
        self.profile: dict[int, int] = {}
        self._page = -1
        self.turn_to(program.page_at(0))

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run one sample, `feeds` having the program's shapes; return the outputs by name."""
        return self.run_batch([feeds])[0]

    def run_batch(self, batch: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
        """Run several samples step by step, so that each page is loaded once for all of them."""
        values = [dict(feeds) for feeds in batch]
        self.counters, self.profile = {}, {}
        for step in self.program.steps:
            for sample in values:
                if isinstance(step, HostStep):
                    sample |= run_model(step.model, {name: sample[name] for name in step.inputs}, step.outputs)
                else:
                    sample |= self._run_array(step, sample)
        return [{info.name: sample[info.name] for info in self.program.outputs} for sample in values]

    def _run_array(self, step: ArrayStep, values: Mapping[str, Array]) -> dict[str, Array]:
        try:
            return self._run_page(step, values)
        except ParityError:
            self._page = -1  # what is in memory can't be relied on
            raise

    def _run_page(self, step: ArrayStep, values: Mapping[str, Array]) -> dict[str, Array]:
        page = self.program.page(step)
        self.turn_to(page)
        self.write_inputs(step, values)
        for name, count in self.backend.start(step.slot - page.first_slot).items():
            self.counters[name] = self.counters.get(name, 0) + count
        end = step.layers[-1].end_slot if step.layers else step.slot
        cycles = self.backend.profile(end - page.first_slot)
        self.profile |= dict(enumerate(cycles[step.slot - page.first_slot :], step.slot))
        return {port.tensor: self.read(port) for port in step.outputs}

    def turn_to(self, page: Page) -> None:
        """Load `page`, unless it is the one that is loaded."""
        if page.first_slot != self._page:
            load_page(page, self.backend)
            self._page = page.first_slot

    def write_inputs(self, step: ArrayStep, values: Mapping[str, Array]) -> None:
        """Write the step's inputs to activation memory."""
        for port in step.inputs:
            self.backend.write_act(port.address, pack(port, values[port.tensor]))

    def read(self, port: PortImage) -> Array:
        """Return the tensor behind `port`."""
        return unpack(port, self.backend.read_act(port.address, port.size_bytes))

    def close(self) -> None:
        """Release the backend."""
        self.backend.close()


def pack(port: PortImage, value: Array) -> npt.NDArray[np.int8]:
    """Return the bytes of activation memory that hold `value`."""
    value = follow(port.chain, value)
    data = np.full(port.size_bytes, port.fill, np.int8)
    stored = (value.astype(np.int16) - _label(port)).astype(np.int8)
    if port.packed is not None:
        stored = nibbles.join(stored, nibbles.channel_axis(stored.shape))
    data[port.view.offsets() - port.address] = stored
    return data


def unpack(port: PortImage, data: npt.NDArray[np.int8]) -> Array:
    """Return the tensor that the bytes `data` from `port.address` hold."""
    stored = data[port.view.offsets() - port.address]
    if port.packed is not None:
        axis = nibbles.channel_axis(stored.shape)
        stored = nibbles.split(stored, axis).take(range(port.shape[axis]), axis)
    value = (stored.astype(np.int16) + _label(port)).astype(port.dtype)
    return follow(port.chain, value).reshape(port.shape)


def _label(port: PortImage) -> int:
    """Return what the tensor's values are stored less."""
    return (128 if port.dtype == "uint8" else 0) if port.packed is None else port.packed


def sample_count(infos: Sequence[TensorInfo], feeds: Mapping[str, Array], model: str) -> int:
    """Check names, dtypes and shapes of `feeds` and return how many samples they hold along the first dimension.

    Raises
    ------
    InputError
        Naming the input and what it should be.
    """
    graph = ir.Graph(model, inputs=[info.name for info in infos])
    graph.tensors = {info.name: ir.Tensor(info.name, info.shape, info.dtype) for info in infos}
    return reference.count_samples(graph, feeds)


class InferenceSession:
    """A model on a target, called as ONNX Runtime's session is.

    Parameters
    ----------
    model : path to an ONNX model or a Program file, Program, Graph or onnx.ModelProto
    arch : preset name, architecture file or ArrayConfig
        Needed for models; a Program brings its own, and another one is refused.
    target : str
        One of `TARGETS`.

    Members
    -------
    counters : dict of str to int
        Hardware cycle counters of the last run, summed over its samples; empty on targets without a clock.

    Raises
    ------
    HwqError
        In one sentence, what can't be read, compiled or run.
    """

    def __init__(
        self,
        model: Model | Program,
        arch: str | Path | ArrayConfig | None = None,
        target: str = "machine",
    ):
        self.target = target
        self.counters: dict[str, int] = {}
        self._graph: ir.Graph | None = None
        self._accelerator: Accelerator | None = None
        if isinstance(model, str | Path) and str(model).endswith(".hwq"):
            model = Program.load(model)
        if target == "reference":
            if isinstance(model, Program):
                raise HwqError("Target 'reference' runs models, not compiled programs; give the ONNX file")
            self._graph = load(model)
            tensors = self._graph.tensors
            self._inputs = tuple(_info(tensors[name]) for name in self._graph.inputs)
            self._outputs = tuple(_info(tensors[name]) for name in self._graph.outputs)
            return
        if not isinstance(model, Program):
            if arch is None:
                raise HwqError(f"Target {target!r} needs an architecture (arch), for example 'sim-4x4'")
            model = compile(model, arch, golden=False)
        self.program = model
        self._accelerator = Accelerator(model, open_backend(target, _wanted(model, arch)))
        self._inputs, self._outputs = model.inputs, model.outputs

    def get_inputs(self) -> tuple[TensorInfo, ...]:
        """Return name, shape and dtype of every input."""
        return self._inputs

    def get_outputs(self) -> tuple[TensorInfo, ...]:
        """Return name, shape and dtype of every output."""
        return self._outputs

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Array]) -> list[Array]:
        """Run one or more samples and return the outputs in the order of `output_names`, all of them if None.

        Arrays have the model's shapes; the first dimension may be a multiple of the model's.
        """
        names = [info.name for info in self._outputs] if output_names is None else list(output_names)
        unknown = [name for name in names if name not in {info.name for info in self._outputs}]
        if unknown:
            raise InputError(f"No output {unknown[0]!r}; the outputs are {', '.join(i.name for i in self._outputs)}")
        if self._graph is not None:
            values = reference.run(self._graph, input_feed)
            return [values[name] for name in names]
        assert self._accelerator is not None
        samples = sample_count(self._inputs, input_feed, self.program.name)
        self.counters = {}
        rows = []
        for first in range(0, samples, _BATCH):
            batch = range(first, min(first + _BATCH, samples))
            rows += self._accelerator.run_batch(
                [{info.name: sample_of(input_feed[info.name], info, row) for info in self._inputs} for row in batch]
            )
            for name, count in self._accelerator.counters.items():
                self.counters[name] = self.counters.get(name, 0) + count
        return [np.concatenate([row[name] for row in rows]) if rows[0][name].ndim else rows[0][name] for name in names]

    def close(self) -> None:
        """Release the target."""
        if self._accelerator is not None:
            self._accelerator.close()


def sample_of(value: Array, info: TensorInfo, sample: int) -> Array:
    """Return the rows of `value` that are sample number `sample`."""
    size = info.shape[0] if info.shape else 0
    return np.asarray(value)[sample * size : (sample + 1) * size] if size else np.asarray(value)


def _info(tensor: ir.Tensor) -> TensorInfo:
    return TensorInfo(tensor.name, tensor.shape, tensor.dtype)


def _wanted(program: Program, arch: str | Path | ArrayConfig | None) -> ArrayConfig:
    return program.config if arch is None else load_arch(arch)
