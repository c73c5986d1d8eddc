"""Mixed precision as an integer program: each layer's costs measured alone, taken to add up, checked afterwards.

As HAWQ-V3 (Yao et al., 2021) has it, on exact cycles. What is minimized is the sum of the losses that single changes
from the first of the problem's kinds make; what is limited are the sums of their cycles and bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hwq.errors import MissingToolError
from hwq.ir import Array
from hwq.quantize.search.problem import Assignment, Limits, Point, Problem


@dataclass(frozen=True, eq=False)
class Table:
    """What it changes to give one layer one kind of weights, all else being of the first kind.

    Members
    -------
    loss : float64 (layers, kinds)
    cycles, weight_bytes : int64 (layers, kinds)
    first : Point
        What is changed.
    """

    loss: Array
    cycles: Array
    weight_bytes: Array
    first: Point


def measure_table(problem: Problem) -> Table:
    """Return the table of a problem; a run of the network for each of its entries."""
    base = problem.uniform(problem.kinds[0])
    first = problem.measure(base)
    shape = len(problem.layers), len(problem.kinds)
    loss, cycles, weight_bytes = np.zeros(shape), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    total = shape[0] * (shape[1] - 1)
    for layer in range(shape[0]):
        for kind in range(1, shape[1]):
            problem.progress("Measuring layers", layer * (shape[1] - 1) + kind - 1, total)
            point = problem.measure((*base[:layer], problem.kinds[kind], *base[layer + 1 :]))
            loss[layer, kind] = problem.loss(point) - problem.loss(first)
            cycles[layer, kind] = point.cycles - first.cycles
            weight_bytes[layer, kind] = point.weight_bytes - first.weight_bytes
    return Table(loss, cycles, weight_bytes, first)


def solve(table: Table, limits: Limits) -> Array | None:
    """Return each layer's kind, int (layers,), with the least sum of losses within `limits`; None: there is none.

    The limit on accuracy isn't looked at.

    Raises
    ------
    MissingToolError
        SciPy isn't installed.
    """
    try:
        from scipy import optimize
    except ModuleNotFoundError as error:
        raise MissingToolError("the integer program needs scipy; install it with: pip install 'hwq[search]'") from error
    layers, kinds = table.loss.shape
    one_each = np.kron(np.eye(layers), np.ones((1, kinds)))
    constraints = [optimize.LinearConstraint(one_each, 1, 1)]
    for changes, before, limit in (
        (table.cycles, table.first.cycles, limits.max_cycles),
        (table.weight_bytes, table.first.weight_bytes, limits.max_bytes),
    ):
        if limit is not None:
            constraints.append(optimize.LinearConstraint(changes.reshape(1, -1), -np.inf, limit - before))
    found = optimize.milp(
        table.loss.reshape(-1) / max(float(np.abs(table.loss).max()), 1e-300),
        integrality=np.ones(table.loss.size),
        bounds=optimize.Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0},
    )
    return None if found.x is None else found.x.reshape(layers, kinds).argmax(axis=1)


def search(problem: Problem, limits: Limits, points: int) -> None:
    """Measure the integer program's answers for `points` limits between the cheapest and the dearest assignment.

    Where costs don't add up and an answer exceeds its limit, the limit is lowered by as much and the program solved
    again.
    """
    table = measure_table(problem)
    changes: Array = getattr(table, limits.axis)
    before = getattr(table.first, limits.axis)
    name = {"cycles": "max_cycles", "weight_bytes": "max_bytes"}[limits.axis]
    ends = before + changes.min(axis=1).sum(), before + changes.max(axis=1).sum()
    wanted = {int(budget) for budget in np.linspace(*ends, points)}
    given = getattr(limits, name)
    if given is not None:
        wanted = {budget for budget in wanted if budget < given} | {given}
    for index, budget in enumerate(sorted(wanted)):
        problem.progress("Solving integer programs", index, len(wanted))
        least = budget
        while (choice := solve(table, replace(limits, **{name: least}))) is not None:
            excess = getattr(problem.measure(named(problem, choice)), limits.axis) - budget
            if excess <= 0:
                break
            least -= excess


def named(problem: Problem, choice: Array) -> Assignment:
    """Return kinds by their numbers, (layers,), as an assignment."""
    return tuple(problem.kinds[kind] for kind in choice)
