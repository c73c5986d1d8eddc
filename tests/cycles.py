"""What the tests of cycle counts share: predicted beside measured, descriptor by descriptor."""

from __future__ import annotations

from hwq import timing
from hwq.profile import Profile


def descriptors(run: Profile) -> list[tuple[int, int, int | None]]:
    """Return (slot, cycles predicted, cycles measured) of every descriptor of a run."""
    rows = []
    for step in run.program.array_steps:
        predicted = timing.predict(run.program.descriptors(step.slot), run.program.config, step.slot)
        rows += [(layer.slot, layer.cycles, run.slots.get(layer.slot)) for layer in predicted.layers]
    return rows


def differences(run: Profile) -> list[str]:
    """Return a line for every descriptor, layer and total whose measured cycles aren't the predicted ones."""
    rows = [(f"slot {slot}", predicted, measured) for slot, predicted, measured in descriptors(run)]
    rows += [(layer.name, layer.cycles_predicted, layer.cycles_measured) for layer in run.costs.layers]
    rows += [("total", run.costs.cycles_predicted, run.costs.cycles_measured)]
    return [
        f"{name}: {predicted} predicted, {measured} measured"
        for name, predicted, measured in rows
        if predicted != measured
    ]
