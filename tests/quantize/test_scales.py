"""Scales that the array can run with: shared where values are only moved, widened where the adder has no integers."""

import numpy as np
import pytest

from hwq import ir
from hwq.compiler import load
from hwq.multipliers import multipliers, on_lattice
from hwq.pairs import pair_parameters
from hwq.quantize import Recipe, quantize, scales
from hwq.quantize.recipe import Method
from hwq.quantize.scales import _paired
from hwq.residual import fit_add
from tests.onnx_models import Builder
from tests.quantize.networks import convnet, samples


def layered(build, x, gain):
    weight = build.constant(np.random.default_rng(7).normal(0, gain, (4, 3, 1, 1)), np.float32)
    return build.node("Conv", [x, weight])


def test_operators_that_move_values_share_their_scale():
    """Two branches of which one reaches eight times as far; what joins them covers both."""
    build = Builder()
    x = build.input("x", (1, 3, 8, 8))
    pooled = build.node("MaxPool", [layered(build, x, 0.1)], kernel_shape=[2, 2], strides=[2, 2])
    wide = build.node("MaxPool", [layered(build, x, 0.8)], kernel_shape=[2, 2], strides=[2, 2])
    joined = build.node("Concat", [pooled, wide], axis=1)
    model = build.model(build.node("Transpose", [joined], perm=[0, 2, 3, 1]))
    graph = load(quantize(model, {"x": samples(4)}, Recipe(method=Method.minmax)))
    made = [op for op in graph.ops if isinstance(op, ir.Conv)]
    assert len({graph.tensors[op.outputs[0]].scale for op in made}) == 1
    assert not any(isinstance(op, ir.Table) for op in graph.ops)


def test_an_average_has_a_scale_of_its_own_on_the_lattice():
    build = Builder()
    hidden = build.node("Relu", [layered(build, build.input("x", (1, 3, 8, 8)), 0.3)])
    model = build.model(build.node("AveragePool", [hidden], kernel_shape=[7, 7]))
    graph = load(quantize(model, {"x": samples(4)}, Recipe(method=Method.minmax)))
    (pool,) = (op for op in graph.ops if isinstance(op, ir.AveragePool))
    assert on_lattice(multipliers(graph, pool)).all()
    assert graph.tensors[pool.outputs[0]].scale < graph.tensors[pool.inputs[0]].scale


def test_the_result_of_an_add_is_widened_until_the_adder_has_integers():
    steps = [np.float32(value) for value in (0.3216366469860077, 0.027656085789203644, 0.5014296770095825)]
    stored = [122, 228, 70]
    signed = [zero - 128 for zero in stored]
    operands = [part for pair in zip(steps[:2], signed[:2], strict=True) for part in pair]
    assert fit_add(*operands, steps[2], signed[2], -128, 127, unsigned=True) is None
    wider, zero = _paired("Add", list(zip(steps, stored, strict=True)))
    assert zero == stored[2]
    assert steps[2] < wider < 1.05 * steps[2]
    assert fit_add(*operands, wider, signed[2], -128, 127, unsigned=True) is not None


def test_adds_of_a_network_are_asked_for(monkeypatch):
    tries = iter([None, None])
    plain = load(quantize(convnet(), {"x": samples(4)}))
    monkeypatch.setattr(scales, "pair_parameters", lambda op, graph: next(tries, pair_parameters(op, graph)))
    widened = load(quantize(convnet(), {"x": samples(4)}))
    (before,), (after,) = (
        [g.tensors[op.outputs[0]].scale for op in g.ops if op.kind == "Add"] for g in (plain, widened)
    )
    assert after == np.float32(np.float32(np.float32(before) * (257 / 256)) * (257 / 256))


@pytest.mark.parametrize("method", Method)
def test_every_method_makes_a_model(method):
    build = Builder()
    model = build.model(layered(build, build.input("x", (1, 3, 8, 8)), 0.3))
    graph = load(quantize(model, {"x": samples(4)}, Recipe(method=method)))
    assert [op.kind for op in graph.ops if isinstance(op, ir.Conv)] == ["Conv"]
