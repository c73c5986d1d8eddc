"""The equality ladder: a model run on every rung from ONNX Runtime down to hardware, compared element by element.

    ONNX Runtime = reference (graph, numpy) = machine (program, numpy) = RTL or board

Every quantized tensor of the graph is compared on the first step, every tensor the array writes on the second, and
every byte of activation memory on the third.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hwq import ir, reference, runtime
from hwq.compiler import Model, compile, load, random_feeds, split
from hwq.config import ArrayConfig
from hwq.costs import LayerCost, cycles_agree, estimate, measured
from hwq.cpu import cpu_flags
from hwq.errors import HwqError, ModelError
from hwq.host import original_session, run_session
from hwq.onnx_load import load_model, runnable
from hwq.onnx_qonnx import qonnx_nodes
from hwq.oracle import lsb_histogram
from hwq.program import HostNodeInfo, Program
from hwq.rungs import Array, Rung
from hwq.runners import HardwareRunner, MachineRunner, Oracle, Values, concatenated, start_memory

DEFAULT_TARGETS = ("reference", "machine", "verilator")
DEFAULT_SAMPLES = 4

ORACLE = "onnxruntime"
"""Name of the ladder's top."""

_BATCH = 8
"""Samples whose intermediate tensors are held at once."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done and the samples done and to do; (text, 0, 0) where there are none to count."""


@dataclass
class Report:
    """What `verify` found.

    Members
    -------
    model, arch : str
    samples, seed : int
    targets : tuple of str
    rungs : list of Rung
        One for each target.
    macs, cycles_predicted : int
        Of one sample.
    cycles_measured : int or None
        None without a target that has a clock.
    utilisation : float
        ``macs / (cycles * rows * cols)``, 0..1; up to 2 with 4-bit weights.
    layers : list of LayerCost
    host_bytes, pages, load_bytes : int
        As in `hwq.costs.Estimate`.
    host_nodes : list of HostNodeInfo
    rewrites : list of str
        What the reader changed on the way to integer operators.
    lsb_histogram : dict or None
        For each output, the oracle's difference from the original model as ONNX Runtime runs it, in steps, to the
        number of elements; information, not a rung. None where there is no original or ONNX Runtime refuses it.
    cpu_flags : list of str
        Of the processor ONNX Runtime ran on.
    outputs : dict of str to (dict of str to array)
        For each rung's name, and ``onnxruntime``, the model's outputs, samples concatenated; not part of the JSON.
    """

    model: str
    arch: str
    samples: int
    seed: int
    targets: tuple[str, ...]
    rungs: list[Rung]
    macs: int
    cycles_predicted: int
    cycles_measured: int | None
    utilisation: float
    layers: list[LayerCost]
    host_bytes: int
    pages: int
    load_bytes: int
    host_nodes: list[HostNodeInfo]
    rewrites: list[str]
    lsb_histogram: dict[str, dict[str, int]] | None
    cpu_flags: list[str]
    outputs: dict[str, Values] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every rung agrees in every element, and every layer took the predicted cycles."""
        exact = cycles_agree(self.layers, self.cycles_predicted, self.cycles_measured)
        return exact and not any(rung.mismatches for rung in self.rungs)

    def to_dict(self) -> dict[str, Any]:
        """Return the report, ready for JSON."""
        return {
            "model": self.model,
            "arch": self.arch,
            "samples": self.samples,
            "seed": self.seed,
            "targets": list(self.targets),
            "ok": self.ok,
            "rungs": [rung.to_dict() for rung in self.rungs],
            "macs": self.macs,
            "cycles_predicted": self.cycles_predicted,
            "cycles_measured": self.cycles_measured,
            "utilisation": self.utilisation,
            "layers": [asdict(layer) for layer in self.layers],
            "host_bytes": self.host_bytes,
            "pages": self.pages,
            "load_bytes": self.load_bytes,
            "host_nodes": [asdict(node) for node in self.host_nodes],
            "rewrites": self.rewrites,
            "lsb_histogram": self.lsb_histogram,
            "cpu_flags": self.cpu_flags,
        }


def verify(
    model: Model,
    arch: str | Path | ArrayConfig,
    *,
    weights: str | Mapping[str, str] = "auto",
    inputs: Mapping[str, Array] | None = None,
    samples: int | None = None,
    seed: int = 0,
    targets: Sequence[str] = DEFAULT_TARGETS,
    bisect: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Run `model` on every rung of the ladder down to `targets` and compare them.

    Parameters
    ----------
    model : path, onnx.ModelProto or Graph
    arch : preset name, architecture file or ArrayConfig
    weights : str or mapping of str to str
        How they are stored, as `hwq.compile` has it.
    inputs : mapping of str to array, optional
        Samples along the first dimension; otherwise random ones over the inputs' full range.
    samples : int, optional
        How many: 4 random ones or all of `inputs` by default.
    seed : int
        Of the random samples, and of what activation memory holds before the first one.
    targets : sequence of str
        From `hwq.runtime.TARGETS`.
    bisect : bool
        On hardware, find the first wrong layer, tile and element by running up to each layer; the other rungs always
        name them.
    progress : callable, optional

    Raises
    ------
    HwqError
        Bad input, a missing tool, or hardware that stopped. A mismatch isn't an error: see `Report.ok`.

    Examples
    --------
    >>> from hwq import demo
    >>> report = verify(demo.model_path(), "sim-4x4", samples=1, targets=["reference", "machine"])
    >>> [(rung.name, rung.against, rung.mismatches) for rung in report.rungs]
    [('reference', 'onnxruntime', 0), ('machine', 'reference', 0)]
    """
    graph = load(model)
    targets = _checked_targets(targets)
    feeds, count = _feeds(graph, inputs, samples, seed)
    tell = progress or (lambda what, done, total: None)
    program = compile(graph, arch, golden=False, weights=weights)
    ladder = _Ladder(graph, program, targets, seed, bisect, tell)
    try:
        for first in range(0, count, _BATCH):
            tell(f"Comparing on {', '.join(targets)}", first, count)
            ladder.run(first, _rows(graph, feeds, first, min(first + _BATCH, count)))
    finally:
        ladder.close()
    report = ladder.report(count, seed)
    report.lsb_histogram = _histogram(model, graph, feeds, count, report.outputs[ORACLE])
    return report


def _checked_targets(targets: Sequence[str]) -> tuple[str, ...]:
    for target in targets or [""]:
        runtime.parse_target(target)
    return tuple(dict.fromkeys(targets))


def _feeds(
    graph: ir.Graph, inputs: Mapping[str, Array] | None, samples: int | None, seed: int
) -> tuple[Mapping[str, Array], int]:
    if samples is not None and samples < 1:
        raise HwqError(f"The number of samples must be at least 1, not {samples}")
    if inputs is None:
        count = samples or DEFAULT_SAMPLES
        return random_feeds(graph, count, seed), count
    there = reference.count_samples(graph, inputs)
    return inputs, min(samples or there, there)


def _rows(graph: ir.Graph, feeds: Mapping[str, Array], first: int, end: int) -> Values:
    """Return samples `first` to `end`, the end excluded."""
    return {name: _slice(graph.tensors[name], feeds[name], first, end) for name in graph.inputs}


def _slice(tensor: ir.Tensor, value: Array, first: int, end: int) -> Array:
    return np.asarray(value)[first * tensor.shape[0] : end * tensor.shape[0]] if tensor.shape else np.asarray(value)


class _Ladder:
    """One compiled model on its oracle, the reference and its targets."""

    def __init__(
        self,
        graph: ir.Graph,
        program: Program,
        targets: Sequence[str],
        seed: int,
        bisect: bool,
        tell: Progress,
    ):
        self._graph, self._targets, self._program = graph, targets, program
        self._arranged, _ = split(graph, program.config)
        memory = start_memory(program, seed)
        self._oracle = Oracle(graph)
        self._reference = Rung("reference", ORACLE)
        self._machine = MachineRunner(self._program, self._arranged, memory)
        self._hardware: dict[str, HardwareRunner] = {}
        try:
            for target in targets:
                if target not in ("reference", "machine"):
                    tell(f"Opening {target} for {program.config.name} (a simulator is built once and cached)", 0, 0)
                    self._hardware[target] = HardwareRunner(target, self._program, memory, bisect=bisect)
        except BaseException:
            self.close()
            raise
        self._rows: dict[str, list[Values]] = {name: [] for name in (ORACLE, "reference", "machine", *self._hardware)}

    def run(self, first: int, feeds: Values) -> None:
        """Run a batch of samples, the first one being number `first`, through every rung."""
        start = time.perf_counter()
        values = reference.run(self._graph, feeds, keep=self._oracle.names)
        self._reference.seconds += time.perf_counter() - start
        arranged: Values = {}
        below = "machine" in self._targets or self._hardware
        if below:
            arranged = reference.run(self._arranged, feeds, keep=self._machine.needed)
        for row in range(reference.count_samples(self._graph, feeds)):
            sample = {name: _slice(self._graph.tensors[name], value, row, row + 1) for name, value in feeds.items()}
            outputs = self._run_reference(first + row, sample, _sample(self._graph, values, row))
            if below:
                self._run_below(first + row, sample, _sample(self._arranged, arranged, row) | outputs)

    def _run_reference(self, number: int, sample: Values, got: Values) -> Values:
        expected = self._oracle.run(sample)
        for name in self._oracle.names:
            self._reference.compare(number, name, got[name], expected[name])
        outputs = {name: got[name] for name in self._graph.outputs}
        self._rows[ORACLE].append({name: expected[name] for name in self._graph.outputs})
        self._rows["reference"].append(outputs)
        return outputs

    def _run_below(self, number: int, sample: Values, expected: Values) -> None:
        outputs = self._machine.run(number, sample, expected)
        self._rows["machine"].append(outputs)
        for target, hardware in self._hardware.items():
            self._rows[target].append(hardware.run(number, sample, outputs, self._machine))

    def report(self, samples: int, seed: int) -> Report:
        """Return what was found."""
        rungs = {"reference": self._reference, "machine": self._machine.rung}
        rungs |= {name: hardware.rung for name, hardware in self._hardware.items()}
        costs = estimate(self._program)
        clocked = next((hardware for hardware in self._hardware.values() if hardware.counters), None)
        if clocked is not None:
            costs = measured(costs, self._program.config, clocked.counters, clocked.slots)
        return Report(
            model=self._graph.name,
            arch=self._program.config.name,
            samples=samples,
            seed=seed,
            targets=tuple(self._targets),
            rungs=[rungs[target] for target in self._targets],
            macs=costs.macs,
            cycles_predicted=costs.cycles_predicted,
            cycles_measured=costs.cycles_measured,
            utilisation=costs.utilisation,
            layers=list(costs.layers),
            host_bytes=costs.host_bytes,
            pages=costs.pages,
            load_bytes=costs.load_bytes,
            host_nodes=list(self._program.host_nodes),
            rewrites=list(self._program.rewrites),
            lsb_histogram=None,
            cpu_flags=cpu_flags(),
            outputs={name: concatenated(rows) for name, rows in self._rows.items() if rows},
        )

    def close(self) -> None:
        """Release the targets."""
        for hardware in self._hardware.values():
            hardware.close()


def _sample(graph: ir.Graph, values: Mapping[str, Array], row: int) -> Values:
    """Return row number `row` of values that `reference.run` made of several samples."""
    out = {}
    for name, value in values.items():
        shape = graph.tensors[name].shape
        out[name] = value[row * shape[0] : (row + 1) * shape[0]] if shape else np.atleast_1d(value)[row]
    return out


def _histogram(
    model: Model, graph: ir.Graph, feeds: Mapping[str, Array], samples: int, oracle: Values
) -> dict[str, dict[str, int]] | None:
    """Return how far the oracle is from the model as its user's ONNX Runtime runs it; see `Report.lsb_histogram`."""
    if isinstance(model, ir.Graph):
        return None
    source = model if isinstance(model, onnx.ModelProto) else load_model(model)
    try:
        session = original_session(runnable(source, graph.name) if qonnx_nodes(source) else source)
        each = (_rows(graph, feeds, sample, sample + 1) for sample in range(samples))
        rows = [run_session(session, inputs, list(oracle)) for inputs in each]
    except ModelError:
        return None
    original = concatenated(rows)
    counts = lsb_histogram(original, oracle)
    return {
        name: {str(step): count for step, count in steps.items()} for name, steps in zip(oracle, counts, strict=True)
    }
