"""Random quantized graphs: what they mean in ONNX Runtime's integer operators = reference = machine, and a share = RTL.

A trial is a graph that hypothesis draws out of the trial's bytes, so a failure is shrunk before it is shown. Each is
written twice (`tests.twins`): hwq reads one model, and ONNX Runtime runs the other, which is made without hwq.
"""

from __future__ import annotations

import functools

import numpy as np
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.database import InMemoryExampleDatabase

from hwq import ir, runtime
from hwq.compiler import load
from hwq.config import PRESETS
from hwq.errors import CapacityError
from hwq.host import oracle_session
from hwq.ladder import verify
from tests import programs
from tests.campaigns.campaign import Campaign, Hang, allow
from tests.random_graphs import Drawn, graphs

ROOM = {"act_bytes": 1 << 17, "weight_words": 1 << 14, "param_words": 2048, "slots": 256, "tables": 16}
WIDE = {"weight_bits": 4, "act_bits": 4, "codebooks": 1, "block_scales": 1}

CONFIGS = (
    PRESETS["ecp5-8x16"],
    PRESETS["ice40-4x4"],
    PRESETS["ecp5-4x4"],
    programs.tiny(3, 5, 4, 1, **ROOM),
    programs.tiny(6, 8, 8, 4, **ROOM, **WIDE),
    programs.tiny(4, 4, 4, 1, **ROOM | {"tables": 0}, sum_bytes=1),
)

RTL = (
    programs.tiny(4, 4, 4, 1, tables=4),
    programs.tiny(8, 16, 16, 8, tables=3),
    programs.tiny(3, 5, 4, 1, tables=0),
    programs.tiny(6, 4, 4, 2, tables=16),
    PRESETS["sim-4x4"],
)
"""Arrays whose simulators `tests.test_cycles` and `tests.test_verify` build as well."""

ONE_IN_RTL = 40
BYTES = 8192
"""What a graph may be drawn from: as much as hypothesis reads of a trial."""

SAMPLES = 2
SHRINK_SECONDS = 300
BUILD_SECONDS = 600
RTL_SECONDS = 120


def samples(graph: ir.Graph, drawn: Drawn) -> dict[str, np.ndarray]:
    """Return the samples of a graph: floats are multiples of half a step, so every second one is a tie."""
    rng = np.random.default_rng(drawn.seed)
    feeds = {}
    for name in graph.inputs:
        tensor = graph.tensors[name]
        integers = tensor.dtype in ("int8", "uint8")
        quantized = tensor if integers else graph.tensors[next(graph.consumers(name)).outputs[0]]
        halves = _halves(drawn.inputs, quantized, (SAMPLES * tensor.shape[0], *tensor.shape[1:]), rng)
        if integers:
            feeds[name] = np.clip(halves // 2, *quantized.range).astype(tensor.dtype)
        else:
            feeds[name] = (halves - 2 * quantized.zero_point) * np.float32(quantized.scale / 2)
            feeds[name] = feeds[name].astype(np.float32)
    return feeds


def _halves(kind: str, tensor: ir.Tensor, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return samples in halves of a quantized tensor's steps."""
    (low, high), zero_point = tensor.range, tensor.zero_point
    if kind == "constant":
        return np.full(shape, rng.integers(2 * low, 2 * high + 1))
    if kind == "ends":
        return rng.choice([2 * low, 2 * high], shape)
    if kind == "near zero point":
        return rng.integers(2 * zero_point - 6, 2 * zero_point + 7, shape)
    return rng.integers(2 * low - 20, 2 * high + 21, shape)


def expected(drawn: Drawn, graph: ir.Graph, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what ONNX Runtime makes of the graph in integer operators."""
    session, rows = oracle_session(drawn.oracle), []
    for sample in range(SAMPLES):
        batch = {name: graph.tensors[name].shape[0] for name in feeds}
        part = {name: value[sample * batch[name] :][: batch[name]] for name, value in feeds.items()}
        rows.append(session.run(list(graph.outputs), part))
    return {name: np.concatenate(values) for name, *values in zip(graph.outputs, *rows, strict=True)}


def run(drawn: Drawn, target: str) -> set[str]:
    """Run a graph on every rung; return what it had, and what ran where."""
    configs = RTL if target == "verilator" else CONFIGS
    config = configs[drawn.arch % len(configs)]
    graph = load(drawn.read)
    feeds = samples(graph, drawn)
    targets = ["reference", "machine", *([target] if target == "verilator" else [])]
    try:
        report = verify(graph, config, inputs=feeds, targets=targets, bisect=False)
    except CapacityError:
        return {*drawn.bins, f"too large for {config.name}"}
    for name, wanted in expected(drawn, graph, feeds).items():
        for rung in targets:
            got = report.outputs[rung][name]
            assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape), f"{name} of the {rung}"
            wrong = np.argwhere(got != wanted)
            assert not wrong.size, (
                f"{name} of the {rung} on {config.name}: {len(wrong)} of {wanted.size} elements differ from ONNX "
                f"Runtime's, the first at {tuple(map(int, wrong[0]))}: {got[tuple(wrong[0])]}, "
                f"not {wanted[tuple(wrong[0])]}"
            )
    assert report.ok, f"on {config.name}: {[(rung.name, rung.mismatches, rung.first) for rung in report.rungs]}"
    if target == "verilator":
        assert report.cycles_measured == report.cycles_predicted
    host = {f"host: {node.reason}" for node in report.host_nodes}
    return {*drawn.bins, *host, *(f"array: {layer.op}" for layer in report.layers), f"{target}: {config.name}"}


FOUND: set[str] = set()
"""The last graph's bins."""


@functools.cache
def check(target: str):
    """Return the test of a graph that hypothesis draws."""
    number = len(RTL if target == "verilator" else CONFIGS)
    quiet = settings(
        database=InMemoryExampleDatabase(),
        deadline=None,
        phases=[Phase.reuse, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
        print_blob=False,
    )

    @quiet
    @given(graphs(number))
    def one(drawn: Drawn) -> None:
        FOUND.clear()
        FOUND.update(run(drawn, target))

    return one


@functools.cache
def build(index: int) -> None:
    """Build the simulator of an array, which takes longer than a trial may."""
    allow(BUILD_SECONDS)
    runtime.open_backend("verilator", RTL[index]).close()


def trial(rng: np.random.Generator) -> list[str]:
    """Draw a graph and run it."""
    target = "machine" if rng.integers(ONE_IN_RTL) else "verilator"
    if target == "verilator":
        for index in range(len(RTL)):
            build(index)
        allow(RTL_SECONDS)
    try:
        drawn = check(target).hypothesis.fuzz_one_input(rng.bytes(BYTES))
    except Hang:
        raise
    except Exception as error:
        allow(SHRINK_SECONDS)
        raise AssertionError(shrunk(target)) from error
    return sorted(FOUND) if drawn is not None else ["nothing drawn"]


def shrunk(target: str) -> str:
    """Return the failure that the last one shrinks to, with its graph."""
    try:
        check(target)()
    except Exception as error:
        return "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])
    return "the failure didn't show again"


CAMPAIGN = Campaign("graphs", "random graphs against ONNX Runtime's integer operators", 9, trial)
