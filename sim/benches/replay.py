"""Any component: inputs and the one output ``o`` of every cycle, from the .npz file whose path is HWQ_CASE."""

from __future__ import annotations

import os

import cocotb
import numpy as np

from sim.benches.bench import Bench


@cocotb.test
async def outputs_are_as_recorded(dut) -> None:
    case = np.load(os.environ["HWQ_CASE"])
    inputs = [name for name in case.files if name != "o"]
    bench = Bench(dut)
    await bench.start(**dict.fromkeys(inputs, 0))
    stimulus = {name: case[name].tolist() for name in inputs}
    for cycle, want in enumerate(case["o"].tolist()):
        bench.set(**{name: values[cycle] for name, values in stimulus.items()})
        await bench.cycle()
        assert bench.get("o") == want, f"cycle {cycle}"
