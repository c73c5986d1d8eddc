"""The search for mixed precision: the integer program against all assignments, and each searcher's own promises."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from hwq.costs import estimate
from hwq.errors import HwqError, InputError
from hwq.quantize import Recipe, quantize
from hwq.quantize.emit import emit
from hwq.quantize.journal import Journal
from hwq.quantize.search import evolution, integer, policy
from hwq.quantize.search import problem as problems
from hwq.quantize.search.integer import Table
from hwq.quantize.search.mixed import Limits, Searcher, search
from hwq.quantize.search.problem import Point
from hwq.quantize.solve import calibrate, solve
from tests.quantize.networks import convnet, run, samples
from tests.quantize.test_sensitivity import inputs, planted

KINDS = ("int8", "int4", "codebook")
DATA = {"x": samples(4)}


class Steps:
    """A problem without a network: costs that add up, or don't."""

    def __init__(self, loss, cycles, extra=0):
        self.kinds, self.layers = KINDS[: loss.shape[1]], tuple(map(str, range(len(loss))))
        self.table, self.extra, self.points = (loss, cycles), extra, {}

    def progress(self, what, done, total):
        pass

    def uniform(self, kind):
        return (kind,) * len(self.layers)

    def loss(self, point):
        return point.kl

    @property
    def size(self):
        return len(self.kinds) ** len(self.layers)

    def measure(self, weights):
        if weights not in self.points:
            chosen = [self.kinds.index(kind) for kind in weights]
            loss, cycles = (sum(row[kind] for row, kind in zip(t, chosen, strict=True)) for t in self.table)
            changed = sum(kind > 0 for kind in chosen)
            cycles += self.extra * (changed > 1)  # one change alone is as the table says
            self.points[weights] = Point(weights, int(cycles), int(3 * cycles), 0.0, float(loss), None)
        return self.points[weights]


def random_costs(seed, layers=5, kinds=3):
    rng = np.random.default_rng(seed)
    loss, cycles = rng.uniform(0, 1, (layers, kinds)), rng.integers(100, 200, (layers, kinds))
    loss[:, 0], cycles[:, 0] = 0, 200
    return loss, cycles


def everything(problem):
    return [problem.measure(weights) for weights in itertools.product(problem.kinds, repeat=len(problem.layers))]


@pytest.mark.parametrize("seed", range(4))
def test_integer_program_finds_what_trying_all_finds(seed):
    loss, cycles = random_costs(seed)
    found = Steps(loss, cycles)
    integer.search(found, Limits(), 20)
    every = everything(Steps(loss, cycles))
    table = integer.measure_table(Steps(loss, cycles))
    for budget in range(sum(row.min() for row in cycles), 1000, 17):
        best = min(point.kl for point in every if point.cycles <= budget)
        choice = integer.solve(table, Limits(max_cycles=budget))
        assert found.measure(integer.named(found, choice)).cycles <= budget
        assert found.measure(integer.named(found, choice)).kl == pytest.approx(best, abs=1e-12)
    assert integer.solve(table, Limits(max_cycles=sum(row.min() for row in cycles) - 1)) is None


def test_both_limits_at_once():
    loss, cycles = random_costs(0)
    table = integer.measure_table(Steps(loss, cycles))
    reversed_bytes = np.random.default_rng(9).integers(-500, 0, loss.shape)
    table = dataclasses.replace(table, weight_bytes=np.where(np.arange(3) > 0, reversed_bytes, 0))
    limits = Limits(max_cycles=880, max_bytes=table.first.weight_bytes - 700)
    choice = integer.solve(table, limits)
    every = [np.array(kinds) for kinds in itertools.product(range(3), repeat=5)]

    def total(of, kinds):
        return of[np.arange(5), kinds].sum()

    inside = [k for k in every if total(table.cycles, k) <= 880 - 1000 and total(table.weight_bytes, k) <= -700]
    assert 0 < len(inside) < len(every)
    assert total(table.loss, choice) == min(total(table.loss, kinds) for kinds in inside)


@pytest.mark.parametrize("seed", range(4))
def test_limits_hold_where_costs_do_not_add_up(seed):
    """Whatever changes more than one layer takes 30 cycles more than the changes alone: a limit 30 lower finds it."""
    loss, cycles = random_costs(seed)
    problem, limit = Steps(loss, cycles, extra=30), 850
    integer.search(problem, Limits(max_cycles=limit), 2)
    best = min(point.kl for point in everything(Steps(loss, cycles, extra=30)) if point.cycles <= limit)
    assert min(point.kl for point in problem.points.values() if point.cycles <= limit) == pytest.approx(best, abs=1e-12)


def test_parents_are_within_limits_and_outermost():
    problem = Steps(*random_costs(3))
    every = everything(problem)
    limits = Limits(max_cycles=820)
    found = evolution.ranked(problem, limits)
    inside = [point for point in every if point.cycles <= 820]
    assert 0 < len(inside) < len(every)
    outermost = [
        p for p in inside if not any(q.cycles <= p.cycles and q.kl <= p.kl and q != p for q in inside)
    ]  # fmt: skip
    assert set(found[: len(outermost)]) == set(outermost)
    rest = found[sum(point.cycles <= 820 for point in found) :]
    assert [point.cycles for point in rest] == sorted(point.cycles for point in every if point.cycles > 820)


@pytest.fixture(scope="module")
def enumerated():
    """Every assignment of a real network, its cycles from a compiled program."""
    layers, every = search(convnet(), DATA, "sim-4x4", points=2).layers, {}
    for weights in itertools.product(("int8", "int4"), repeat=4):
        made = quantize(convnet(), DATA, Recipe(weights=dict(zip(layers, weights, strict=True))))
        every[weights] = estimate(made, "sim-4x4").cycles_predicted
    return every


def test_integer_program_agrees_with_all_assignments_of_a_network(enumerated):
    """Losses of single changes added up, cycles of every assignment compiled: the best within any limit."""
    found = search(convnet(), DATA, "sim-4x4", points=40)
    known = {point.weights: point for point in found.points}
    assert all(known[weights].cycles == enumerated[weights] for weights in known)
    base = ("int8",) * 4
    single = [known[(*base[:i], "int4", *base[i + 1 :])].kl - known[base].kl for i in range(4)]

    def added(weights):
        return sum(loss for loss, kind in zip(single, weights, strict=True) if kind == "int4")

    for limit in sorted(set(enumerated.values())):
        best = min(added(weights) for weights in enumerated if enumerated[weights] <= limit)
        at = search(convnet(), DATA, "sim-4x4", points=2, limits=Limits(max_cycles=limit))
        measured = [point.weights for point in at.points if point.cycles <= limit]
        assert min(map(added, measured)) == pytest.approx(best, abs=1e-15)
        assert at.chosen.cycles <= limit


def test_every_sample_judges_what_was_fitted_without_it():
    model, x = convnet(6), samples(6)
    (wanted,) = run(model, x)
    labels, got = wanted.argmax(axis=1), np.zeros((6, 5))
    assert len(set(labels)) > 1
    found = search(model, {"x": x}, "sim-4x4", labels=labels, points=2)
    calibrated, point = calibrate(model, "model", {"x": x}, Recipe(), lambda *_: None), found.points[1]
    assert set(point.weights) == {"int4"}
    for half in (0, 1):
        network, fitted = calibrated.network(), dataclasses.replace(calibrated, feeds=calibrated.feeds[half::2])
        grid = solve(fitted, network, dict(zip(found.layers, point.weights, strict=True)), lambda *_: None)
        (got[1 - half :: 2],) = run(emit(network, grid), x[1 - half :: 2])
    assert point.kl == pytest.approx(float((wanted * np.log(wanted / got)).sum(axis=1).mean()), rel=1e-4)
    assert point.accuracy == np.mean(got.argmax(axis=1) == labels)
    assert found.samples == 6


@pytest.fixture(scope="module")
def small_front():
    """The front of a small network, from all its assignments."""
    return search(convnet(), DATA, "sim-4x4", searchers=[Searcher.evolution], evaluations=16).front


@pytest.mark.parametrize("searcher", Searcher)
def test_searchers_find_the_ends_of_a_front(searcher, small_front):
    found = search(convnet(), DATA, "sim-4x4", searchers=[searcher], points=40, evaluations=72)
    assert {point.cycles for point in found.front} >= {small_front[0].cycles, small_front[-1].cycles}


@pytest.mark.parametrize(
    "searchers", [[Searcher.evolution], [Searcher.policy], [Searcher.integer, Searcher.evolution]], ids=str
)
def test_searchers_find_a_front(searchers, small_front):
    """An integer program alone may miss a point: what several layers lose together isn't the sum of what each loses."""
    found = search(convnet(), DATA, "sim-4x4", searchers=searchers, points=40, evaluations=72)
    assert len(set(found.front) & set(small_front)) >= len(small_front) - 1


@pytest.mark.parametrize("searcher", Searcher)
@pytest.mark.parametrize("at", range(3))
def test_planted_layer_keeps_eight_bits(searcher, at):
    """Of five equal layers all but one can be int4: it is the one that can't do without."""
    recipe = Recipe(fit=False)
    everywhere = search(planted(at), {"x": inputs()}, "ecp5-8x16", recipe=recipe, points=2, kinds=["int8", "int4"])
    ends = [point.weight_bytes for point in everywhere.points[:2]]
    limits = Limits(max_bytes=ends[1] + (ends[0] - ends[1]) // 4)
    found = search(
        planted(at), {"x": inputs()}, "ecp5-8x16", recipe=recipe, limits=limits, kinds=["int8", "int4"],
        searchers=[searcher], evaluations=40,
    )  # fmt: skip
    assert found.chosen.weight_bytes <= limits.max_bytes
    assert [layer.split("_")[-1] for layer, kind in found.weights.items() if kind == "int8"] == [f"layer{at}"]


def test_policy_gradient_is_that_of_the_mean_reward():
    """Against finite differences of the exact mean: of all assignments, weighted by their probability."""
    rng = np.random.default_rng(0)
    logits, every = rng.normal(0, 1, (2, 3)), np.array(list(itertools.product(range(3), repeat=2)))
    earned = rng.normal(0, 1, len(every))

    def mean(logits):
        return float((policy.softmax(logits)[np.arange(2), every].prod(axis=1) * earned).sum())

    steps = 1e-6 * np.eye(6).reshape(6, 2, 3)
    wanted = np.array([(mean(logits + step) - mean(logits - step)) / 2e-6 for step in steps]).reshape(2, 3)
    draws = np.stack([policy.draw(policy.softmax(logits), rng) for _ in range(60000)])
    place = draws[:, 0] * 3 + draws[:, 1]
    got = policy.gradient(draws, 3, earned[place].tolist()) * earned[place].std()
    assert np.abs(got - wanted).max() < 0.01


def test_policy_learns_the_cheap_good_ones():
    loss, cycles = random_costs(2)
    problem = Steps(loss + 1e-3, cycles)
    policy.search(problem, Limits(max_cycles=800), 480, seed=0)
    best = min(point.kl for point in everything(Steps(loss + 1e-3, cycles)) if point.cycles <= 800)
    assert min(point.kl for point in problem.points.values() if point.cycles <= 800) <= 1.2 * best
    late = list(problem.points.values())[-1]
    assert late.cycles <= 800


def test_the_same_again_whether_interrupted_or_not(tmp_path, monkeypatch):
    path, options = tmp_path / "r.jsonl", {"searchers": list(Searcher), "evaluations": 8, "points": 4}
    whole = search(convnet(), DATA, "sim-4x4", **options)
    calls = itertools.count()
    judged = problems.compare

    def interrupted(*values):
        if next(calls) == 7:
            raise KeyboardInterrupt
        return judged(*values)

    monkeypatch.setattr(problems, "compare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search(convnet(), DATA, "sim-4x4", resume=path, **options)
    assert len(path.read_text().splitlines()) == 1 + 7
    assert search(convnet(), DATA, "sim-4x4", resume=path, **options) == whole
    assert next(calls) == 8 + len(whole.points) - 7
    assert search(convnet(), DATA, "sim-4x4", resume=path, **options) == whole
    assert next(calls) == 8 + len(whole.points) - 6


def test_costs_are_today_s_whatever_the_journal_has(tmp_path):
    path, options = tmp_path / "r.jsonl", {"evaluations": 4, "points": 3}
    whole = search(convnet(), DATA, "sim-4x4", resume=path, **options)
    head, *lines = path.read_text().splitlines()
    older = [json.loads(line) for line in lines]
    for entry in older:
        entry["result"] |= {"cycles": 1, "weight_bytes": 1}
    path.write_text("\n".join([head, *map(json.dumps, older)]) + "\n")
    assert search(convnet(), DATA, "sim-4x4", resume=path, **options) == whole


def test_journal_has_what_was_put(tmp_path):
    path = tmp_path / "j.jsonl"
    journal = Journal(path, "work")
    assert journal.get("a") is None
    journal.put("a", {"value": 0.1})
    assert journal.get("a") == Journal(path, "work").get("a") == {"value": 0.1}
    path.write_text(path.read_text()[:-5])
    with pytest.raises(HwqError, match="isn't a file of results"):
        Journal(path, "work")


def test_journal_of_other_work_is_refused(tmp_path):
    path = tmp_path / "r.jsonl"
    search(convnet(), DATA, "sim-4x4", resume=path, points=2)
    with pytest.raises(HwqError, match=r"r\.jsonl: holds results of another model, other samples or options"):
        search(convnet(1), DATA, "sim-4x4", resume=path, points=2)
    path.write_text("[1]\n")
    with pytest.raises(HwqError, match=r"r\.jsonl: isn't a file of results"):
        search(convnet(), DATA, "sim-4x4", resume=path, points=2)


def test_least_accuracy_gives_the_cheapest_that_reaches_it():
    labels = np.arange(4)
    found = search(convnet(), DATA, "sim-4x4", labels=labels, points=6, searchers=list(Searcher), evaluations=16)
    best = max(point.accuracy for point in found.points)
    limits = Limits(min_accuracy=best)
    again = search(
        convnet(), DATA, "sim-4x4", labels=labels, points=6, searchers=list(Searcher), evaluations=16, limits=limits
    )
    assert again.chosen.cycles == min(point.cycles for point in again.points if point.accuracy >= best)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"limits": Limits(max_cycles=9)}, r"within the limits; the nearest one has [\d,]+ cycles, [\d,]+ bytes$"),
        ({"limits": Limits(min_accuracy=0.5)}, "a least accuracy needs labels"),
        ({"kinds": ["int8", "int3"]}, "from int8, int3: name int8, int4, codebook, nf4, each at most once"),
        ({"kinds": ["int8", "int8"]}, "each at most once"),
        ({"kinds": ["int8", "nf4"], "arch": "ecp5-8x16"}, "ecp5-8x16 leaves nf4 to the host: name other kinds"),
        ({"labels": np.zeros(3)}, r"labels have shape \(3,\)"),
    ],
)
def test_refusals(options, sentence):
    with pytest.raises((HwqError, InputError), match=sentence):
        search(convnet(), DATA, **{"arch": "sim-4x4", "points": 2} | options)


def test_report_is_json(tmp_path):
    found = search(convnet(), DATA, "sim-4x4", kinds=["int8", "codebook"], points=3)
    report = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert report["chosen"]["weights"] == list(found.weights.values())
    assert report["samples"] == 4
    assert report["storage"] == found.storage
    assert len(report["points"]) == len(found.points)


def test_table_without_changes():
    first = Point(("int8",), 100, 10, 0.0, 0.0, None)
    table = Table(np.zeros((1, 2)), np.array([[0, 0]]), np.array([[0, 0]]), first)
    assert integer.solve(table, Limits(max_cycles=100)) is not None
    assert integer.solve(table, Limits(max_cycles=99)) is None
