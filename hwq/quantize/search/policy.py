"""Mixed precision by reinforcement: a policy draws assignments and moves towards those that were rewarded (REINFORCE).

As HAQ (Wang et al., 2019) it is rewarded for what the network does, and pays for cycles beyond its limit, which come
from the hardware's own timing. The policy is a table: of a layer it knows nothing but which one it is.
"""

from __future__ import annotations

import math

import numpy as np

from hwq.ir import Array
from hwq.quantize.search.problem import Limits, Point, Problem

BATCH = 8
"""Assignments drawn between two steps of the policy."""

RATE = 0.5
"""Step of the logits."""

PENALTY = 20.0
"""Taken off the reward for exceeding a limit by as much as the limit."""


def search(problem: Problem, limits: Limits, evaluations: int, seed: int) -> None:
    """Draw `evaluations` assignments, `BATCH` a step, and measure them.

    Without a limit on `limits.axis` three policies share them, whose limits lie between the uniform assignments.
    """
    rng = np.random.default_rng(seed)
    ends = sorted(getattr(problem.measure(problem.uniform(kind)), limits.axis) for kind in problem.kinds)
    given = limits.max_bytes if limits.axis == "weight_bytes" else limits.max_cycles
    shares = (0.25, 0.5, 0.75)
    targets = [given] if given is not None else [ends[0] + share * (ends[-1] - ends[0]) for share in shares]
    steps = max(evaluations // (BATCH * len(targets)), 1)
    for number, target in enumerate(targets):
        logits = np.zeros((len(problem.layers), len(problem.kinds)))
        for step in range(steps):
            problem.progress("Training a policy", number * steps + step, len(targets) * steps)
            draws = np.stack([draw(softmax(logits), rng) for _ in range(BATCH)])
            points = [problem.measure(tuple(problem.kinds[kind] for kind in row)) for row in draws]
            earned = [reward(problem, limits, point, target) for point in points]
            logits += RATE * gradient(draws, len(problem.kinds), earned)
        problem.measure(tuple(problem.kinds[kind] for kind in logits.argmax(axis=1)))


def reward(problem: Problem, limits: Limits, point: Point, target: float) -> float:
    """Return what an assignment earns: the negative logarithm of its loss, less `PENALTY` for what it exceeds."""
    over = max(0.0, getattr(point, limits.axis) / target - 1) + limits.excess(point)
    return -math.log(max(problem.loss(point), 1e-12)) - PENALTY * over


def gradient(draws: Array, kinds: int, rewards: list[float]) -> Array:
    """Return the policy gradient, (layers, kinds), of the mean reward, its own mean and deviation for a baseline.

    Rewards less their mean add up to 0, so what the policy expects of a draw drops out.

    Parameters
    ----------
    draws : int (n, layers)
    kinds : int
    rewards : list of n floats
    """
    advantage = (np.array(rewards) - np.mean(rewards)) / max(float(np.std(rewards)), 1e-9)
    return (advantage[:, np.newaxis, np.newaxis] * np.eye(kinds)[draws]).mean(axis=0)


def draw(probabilities: Array, rng: np.random.Generator) -> Array:
    """Return a kind for each layer, int (layers,), drawn with `probabilities` (layers, kinds)."""
    return (rng.random(len(probabilities))[:, np.newaxis] > probabilities.cumsum(axis=1)[:, :-1]).sum(axis=1)


def softmax(logits: Array) -> Array:
    """Return the probabilities of each row's logits."""
    values = np.exp(logits - logits.max(axis=1, keepdims=True))
    return values / values.sum(axis=1, keepdims=True)
