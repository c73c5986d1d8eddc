"""Mixed precision by evolution: assignments no other one betters are crossed and mutated, one child at a time."""

from __future__ import annotations

import numpy as np

from hwq.ir import Array
from hwq.quantize.search.problem import Limits, Point, Problem, front

PARENTS = 24
"""How many of the best are parents."""


def search(problem: Problem, limits: Limits, evaluations: int, seed: int) -> None:
    """Measure up to `evaluations` assignments more, from those already measured and the uniform ones on.

    Parents are the points within the limits, or nearest to them, that the fewest fronts lie before (Deb et al., 2002).
    A child takes each layer's weights from either of two and changes about one layer.
    """
    rng = np.random.default_rng(seed)
    end = min(len(problem.points) + evaluations, problem.size)
    for kind in problem.kinds:
        problem.measure(problem.uniform(kind))
    begin = len(problem.points)
    while len(problem.points) < end:
        problem.progress("Evolving", len(problem.points) - begin, end - begin)
        parents = ranked(problem, limits)[:PARENTS]
        problem.measure(_child(problem, [parents[index].weights for index in rng.integers(len(parents), size=2)], rng))


def ranked(problem: Problem, limits: Limits) -> list[Point]:
    """Return the measured points, those within the limits first, and of them those of the outermost fronts."""
    rest, found = list(problem.points.values()), list[Point]()
    inside = [point for point in rest if limits.excess(point) == 0]
    outside = sorted((point for point in rest if limits.excess(point) > 0), key=limits.excess)
    while inside and len(found) < PARENTS:
        outermost = front(inside, problem, limits.axis)
        found += outermost
        inside = [point for point in inside if point not in outermost]
    return found + outside


def _child(problem: Problem, parents: list[tuple[str, ...]], rng: np.random.Generator) -> tuple[str, ...]:
    """Return an assignment that hasn't been measured."""
    both: Array = np.array(parents)
    layers = len(problem.layers)
    child = np.where(rng.random(layers) < 0.5, both[0], both[1])
    child = np.where(rng.random(layers) < 1 / layers, rng.choice(problem.kinds, layers), child)
    while tuple(child.tolist()) in problem.points:
        child[rng.integers(layers)] = rng.choice(problem.kinds)
    return tuple(child.tolist())
