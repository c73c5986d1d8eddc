"""Predicted cycles beside those the hardware's own counters measured, and a trace of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hwq.compiler import Model, compile, load, random_feeds
from hwq.costs import Estimate, estimate, measured
from hwq.errors import HwqError
from hwq.program import Program
from hwq.runtime import Accelerator, open_backend
from hwq.trace import chrome_trace

COUNTERS = {
    "cycles_mesh": "the mesh took a step",
    "cycles_fetch": "the mesh waited for activations",
    "cycles_output": "the mesh waited for the output path",
    "cycles_vector": "the vector path read an operand",
    "cycles_tail": "last results were on their way to memory",
    "cycles_setup": "a descriptor was being read",
}
"""The hardware's counters and what happened in the cycles they count."""


@dataclass(frozen=True)
class Profile:
    """One sample's run: `costs` with measured cycles, and the cycles of every descriptor slot."""

    program: Program
    costs: Estimate
    slots: dict[int, int] = field(default_factory=dict)

    def chrome_trace(self) -> dict[str, Any]:
        """Return the run as a Chrome trace, its counters included; see `hwq.trace`."""
        events = chrome_trace(self.program, self.slots)
        return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": self.costs.counters}


def profile(
    model: Model,
    arch: Any,
    *,
    target: str = "verilator",
    seed: int = 0,
    weights: str | Mapping[str, str] = "auto",
) -> Profile:
    """Run one random sample of `model`, `weights` stored as `hwq.compile` takes it; cycles don't depend on the data.

    Raises
    ------
    HwqError
        As `hwq.compile` raises them, or where `target` has no clock.
    """
    if target in ("reference", "machine"):
        raise HwqError(f"Target {target!r} has no clock to measure; use verilator, amaranth or serial:PORT")
    graph = load(model)
    program = compile(graph, arch, weights=weights, golden=False)
    accelerator = Accelerator(program, open_backend(target, program.config))
    try:
        accelerator.run(random_feeds(graph, 1, seed))
    finally:
        accelerator.close()
    costs = measured(estimate(program), program.config, accelerator.counters, accelerator.profile)
    return Profile(program, costs, accelerator.profile)
