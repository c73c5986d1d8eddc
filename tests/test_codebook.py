"""Codebooks found by k-means, and NF4: how near the weights they are, and networks that use them."""

import itertools

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import hwq
from hwq import demo
from hwq.compiler import compile
from hwq.ladder import verify
from hwq.quantize.codebook import encode, kmeans, share, share_weights
from hwq.weights import NF4
from tests import programs
from tests.onnx_models import Builder

ROOM = {"act_bytes": 1 << 16, "weight_words": 1 << 14, "param_words": 2048, "slots": 64, "weight_bits": 4}

EXACT_NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
"""As bitsandbytes has them."""


def error(values, book):
    """Return the mean squared distance of `values` from their nearest entries, each looked for among all."""
    return float((np.abs(values.reshape(-1, 1) - np.asarray(book, float)).min(axis=1) ** 2).mean())


def draw(kind, count, seed=0):
    rng = np.random.default_rng(seed)
    values = {
        "gaussian": lambda: rng.normal(0, 30, count),
        "laplace": lambda: rng.laplace(0, 18, count),
        "uniform": lambda: rng.uniform(-128, 128, count),
        "two humps": lambda: rng.normal(0, 10, count) + rng.choice([-70, 60], count),
        "mostly zero": lambda: rng.normal(0, 40, count) * (rng.random(count) < 0.1),
    }[kind]()
    return np.clip(np.rint(values), -128, 127).astype(np.int8)


# Books


@pytest.mark.parametrize("entries", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(8))
def test_kmeans_finds_the_best_of_all_books(seed, entries):
    rng = np.random.default_rng(seed)
    values = rng.choice(rng.integers(-9, 10, 8), 40)
    values = values + [0, 3, 8, -7][seed % 4]
    book = kmeans(values, entries)
    if len(set(values.tolist())) <= entries:
        assert book.tolist() == sorted(set(values.tolist()))
        return
    others = [number for number in range(-17, 18) if number]
    best = min(error(values, [0, *chosen]) for chosen in itertools.combinations(others, entries - 1))
    assert 0 in book
    assert len(book) <= entries
    assert error(values, book) == best


@pytest.mark.parametrize("kind", ["gaussian", "laplace", "uniform", "two humps", "mostly zero"])
def test_no_entry_of_a_large_book_is_better_elsewhere(kind):
    values = draw(kind, 5000)
    book = kmeans(values)
    assert len(book) == 16
    assert 0 in book
    assert (np.diff(book) > 0).all()
    for index in np.flatnonzero(book):
        for step in (-1, 1):
            other = book.copy()
            other[index] += step
            assert error(values, other) >= error(values, book)
    assert np.array_equal(kmeans(values[::-1].reshape(50, -1)), book), "order and shape don't matter"
    assert error(values, book) < error(values, np.linspace(-128, 127, 16))


@pytest.mark.parametrize("values", [[5], [-128, 127], [*range(-128, -112)], [3, 3, 3, 9]])
def test_weights_that_fit_a_book_stay(values):
    weight = np.resize(np.array(values, np.int8), (8, 4))
    assert kmeans(weight).tolist() == sorted(set(values))
    assert np.array_equal(share(weight), weight)


def test_encode_takes_the_nearest_entry():
    values = np.arange(-140, 141)
    distances = np.abs(values[:, None] - NF4.astype(int))
    assert np.array_equal(encode(values, NF4), distances.argmin(axis=1))


def test_groups_of_channels_have_books_of_their_own():
    weight = draw("gaussian", 10 * 200).reshape(10, 200)
    weight[4:8] //= 4
    shared = share(weight, 0, 4)
    for first, end in ((0, 4), (4, 8), (8, 10)):
        assert len(np.unique(shared[first:end])) <= 16
        assert np.array_equal(shared[first:end], share(weight[first:end]))
    assert len(np.unique(shared)) > 16
    assert np.array_equal(share(weight.T, 1, 4), shared.T)
    assert error_between(weight, shared) < error_between(weight, share(weight))


def error_between(weight, shared):
    return float(((weight.astype(float) - shared) ** 2).mean())


def test_gaussian_weights_in_blocks_of_64():
    blocks = np.random.default_rng(0).standard_normal((1 << 15, 64))
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    unit = largest / 127
    errors = {
        "nf4": ((NF4[encode(blocks / unit, NF4)] * unit - blocks) ** 2).mean(),
        "int4": ((np.clip(np.rint(blocks / largest * 7), -8, 7) * largest / 7 - blocks) ** 2).mean(),
    }
    book = kmeans(blocks / unit)
    errors["k-means"] = ((book[encode(blocks / unit, book)] * unit - blocks) ** 2).mean()
    exact = np.array(EXACT_NF4)
    ideal = ((exact[encode(blocks / largest, exact)] * largest - blocks) ** 2).mean()
    assert errors["nf4"] < 1.006 * ideal
    assert ideal == pytest.approx(0.00845, rel=0.005)
    assert errors["int4"] == pytest.approx(0.01158, rel=0.005)
    assert errors["k-means"] < errors["nf4"]


# Models


def stored(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_only_weights_change():
    path = demo.model_path()
    before, after = stored(onnx.load(path)), stored(share_weights(path))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert len(changed) >= 4
    for name in changed:
        assert before[name].dtype == after[name].dtype == np.int8
        assert before[name].ndim > 1
        assert len(np.unique(after[name])) == 16
    weights = [name for name in before if before[name].dtype == np.int8 and before[name].ndim > 1]
    assert max(len(np.unique(after[name])) for name in weights) == 16


@pytest.mark.parametrize("zero_point", [0, 131])
def test_unsigned_weights_of_an_operator_model(zero_point):
    rng, model = np.random.default_rng(3), Builder()
    x = model.quantize(model.input("x", (1, 6, 5, 5)), 0.05, 3, "uint8")
    weight = rng.integers(0, 256, (9, 6, 3, 3)).astype(np.uint8)
    names = [model.constant(weight, name="w"), *model.params(0.01, zero_point, "uint8")]
    inputs = [x, *model.params(0.05, 3, "uint8"), *names, *model.params(0.4, 99, "uint8")]
    graph = share_weights(model.model(model.node("QLinearConv", inputs)), 4)
    shared = stored(graph)["w"]
    assert [len(np.unique(shared[first : first + 4])) for first in (0, 4, 8)] == [16, 16, 16]
    assert zero_point in shared
    assert error_between(weight, shared) < 40, "of bins 16 wide, at most 21"
    config = programs.tiny(4, 4, 4, 1, **ROOM | {"codebooks": 1})
    assert verify(graph, config, weights="codebook", samples=2, targets=["reference", "machine"]).ok


def test_matrices_share_along_their_channels():
    rng, model = np.random.default_rng(4), Builder()
    x = model.dequantize(model.quantize(model.input("x", (2, 60)), 0.05, 3), 0.05, 3)
    values = [rng.integers(-128, 128, shape).astype(np.int8) for shape in ((60, 12), (8, 12))]
    y = model.node("MatMul", [x, model.weight(values[0], np.full(12, 0.01), axis=1)])
    y = model.dequantize(model.quantize(y, 0.3, -5), 0.3, -5)
    z = model.node("Gemm", [y, model.weight(values[1], np.full(8, 0.01), axis=0)], transB=1)
    model = model.model(model.dequantize(model.quantize(z, 0.3, -5), 0.3, -5))
    after = [array for array in stored(share_weights(model, 4)).values() if array.ndim == 2]
    assert [len(np.unique(after[0][:, first : first + 4])) for first in (0, 4, 8)] == [16, 16, 16]
    assert [len(np.unique(after[1][first : first + 4])) for first in (0, 4)] == [16, 16]


def test_weights_that_are_no_initializer_stay():
    model = Builder()
    x = model.dequantize(model.quantize(model.input("x", (1, 40)), 0.05, 3), 0.05, 3)
    w = model.dequantize(model.quantize(model.input("w", (40, 3)), 0.05, 3), 0.05, 3)
    graph = model.model(model.node("MatMul", [x, w]))
    assert share_weights(graph) == graph
    zero_points = np.array([0, 1, 2], np.int8)
    dequantize = helper.make_node("DequantizeLinear", ["v", "s", "z"], ["y"], axis=1)
    values = np.arange(120, dtype=np.int8).reshape(40, 3)
    named = {"v": values, "s": np.ones(3, np.float32), "z": zero_points}
    tensors = [numpy_helper.from_array(array, name) for name, array in named.items()]
    nodes = [dequantize, helper.make_node("MatMul", ["x", "y"], ["o"])]
    several = helper.make_model(helper.make_graph(nodes, "several", [], [], tensors))
    assert share_weights(several) == several


# Networks


def test_the_demo_takes_half_the_memory_and_classifies_as_well():
    model = share_weights(demo.model_path())
    narrow = compile(model, "ecp5-8x16", golden=False, weights="codebook")
    wide = compile(model, "ecp5-8x16", golden=False, weights="int8")
    assert narrow.weights.size <= 0.5 * 1.03 * wide.weights.size
    images, labels = demo.load_samples()
    (logits,) = hwq.InferenceSession(narrow, target="machine").run(None, {"image": images[:100]})
    assert (logits.argmax(axis=1) == labels[:100]).mean() >= 0.98


@pytest.mark.system
@pytest.mark.parametrize("group", [None, 16])
@pytest.mark.parametrize("arch", ["ecp5-8x16", "sim-4x4"])
def test_the_demo_is_equal_on_every_rung(arch, group):
    model = share_weights(demo.model_path(), group)
    report = verify(model, arch, weights="codebook", samples=3, seed=1)
    assert [(rung.name, rung.mismatches) for rung in report.rungs] == [
        ("reference", 0),
        ("machine", 0),
        ("verilator", 0),
    ]
    assert report.ok
