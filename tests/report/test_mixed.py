"""Mixed precision beside uniform weights: what is claimed of the measurements that are kept, and how they are made."""

import itertools
import json
import sys

import numpy as np
import onnx
import pytest

import hwq
from hwq.onnx_load import load_model
from hwq.quantize import Recipe, quantize
from hwq.quantize.network import analyse
from hwq.quantize.prepare import prepare
from hwq.report import mixed
from tests.quantize.networks import convnet

ROWS = json.loads(mixed.RESULTS.read_text(encoding="utf-8"))


def both_halves(network, weights, beside=None, share=None):
    key = network, weights, beside, share
    rows = [row for row in ROWS if (row["network"], row["weights"], row.get("beside"), row.get("share")) == key]
    assert [row["half"] for row in rows] == [0, 1]
    return rows


def total(rows, key):
    return sum(row[key] for row in rows)


def divergence(rows):
    return sum(row["kl"] * row["samples"] for row in rows) / total(rows, "samples")


def test_every_assignment_is_measured_on_both_halves():
    for network in mixed.NETWORKS:
        for weights in ("float", *mixed.UNIFORM):
            both_halves(network, weights)
        for beside, share in mixed.LIMITS:
            for found, uniform in zip(
                both_halves(network, "mixed", beside, share), both_halves(network, beside), strict=True
            ):
                assert found["cycles"] <= share * uniform["cycles"]
    assert len(ROWS) == 2 * len(mixed.NETWORKS) * (1 + len(mixed.UNIFORM) + len(mixed.LIMITS))


def test_every_network_has_been_equal_on_the_rtl():
    for row in ROWS:
        assert row["weights"] == "float" or (row["elements"] > 100_000 and row["mismatches"] == 0)


@pytest.mark.parametrize("network", mixed.NETWORKS)
@pytest.mark.parametrize("kind", mixed.UNIFORM)
def test_mixed_beats_uniform_weights_at_equal_cycles(network, kind):
    """But for int8, where nothing is as good in as many cycles: there it must be found itself."""
    found, uniform = both_halves(network, "mixed", kind, 1.0), both_halves(network, kind)
    if kind == "int8" and all(set(row["layers"].split()) == {kind} for row in found):
        assert [row["kl"] for row in found] == [row["kl"] for row in uniform]
    else:
        assert divergence(found) < divergence(uniform)
    assert total(found, "as_in_floats") >= total(uniform, "as_in_floats")
    if kind != "codebook":  # slower than int8, and one image of 300 ahead of it as the float network is
        assert total(found, "right") >= total(uniform, "right")


@pytest.mark.system
@pytest.mark.parametrize("network", mixed.NETWORKS)
def test_rows_are_what_the_compiler_gives_today(network, workloads):
    """Cycles depend on how many bits weights have, not on what they are: these needn't be fitted."""
    source = mixed.NETWORKS[network]
    model, images = workloads / source.model, source.load(workloads)[0][:1]
    names, known = list(analyse(prepare(load_model(model), "model")).layers), {}
    for row in ROWS:
        if row["network"] == network and row["weights"] not in ("float", "codebook"):
            kinds = row["layers"].split() if "layers" in row else [row["weights"]] * len(names)
            assert known.setdefault(tuple(kinds), row["cycles"]) == row["cycles"]
    assert len(known) > 4
    for kinds, cycles in known.items():
        recipe = Recipe(weights=dict(zip(names, kinds, strict=True)), fit=False, correct_bias=False)
        made = quantize(model, {mixed.INPUT: images}, recipe)
        assert hwq.estimate(made, mixed.ARCH).cycles_predicted == cycles


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A small network in place of the real ones, and their results."""
    onnx.save(convnet(), tmp_path / "small.onnx")
    images = np.random.default_rng(0).integers(0, 255, (10, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "small.npz", x=images, y=np.arange(10) % 5)
    monkeypatch.setattr(mixed, "NETWORKS", {"small": mixed.Labelled("small.onnx", "small.npz", 255)})
    monkeypatch.setattr(mixed, "INPUT", "x")
    monkeypatch.setattr(mixed, "ARCH", "sim-4x4")
    monkeypatch.setattr(mixed, "LIMITS", mixed.LIMITS[:3])
    monkeypatch.setattr(mixed, "RESULTS", tmp_path / "mixed.json")
    monkeypatch.setattr(sys, "argv", ["mixed", str(tmp_path), "--resume", str(tmp_path)])
    return tmp_path


def test_the_half_that_judges_is_not_seen(small, monkeypatch):
    """Neither by what quantizes, nor by the search: its results of before are of the same samples still."""
    given = []

    def spied(model, data, recipe):
        given.append(data["x"])
        return quantize(model, data, recipe)

    monkeypatch.setattr(hwq.quantize, "quantize", spied)
    with np.load(small / "small.npz") as stored:
        images, labels = stored["x"].copy(), stored["y"]
    as_given = (images.transpose(0, 3, 1, 2) / np.float32(255)).astype(np.float32)
    mixed.main()
    assert [len(rows) for rows in given] == [5] * 12
    for half in (0, 1):
        assert all(np.array_equal(rows, as_given[half::2]) for rows in given[6 * half : 6 * half + 6])
    before = mixed.rows()
    images[1::2] = 255 - images[1::2]
    np.savez(small / "small.npz", x=images, y=labels)
    (small / "small-1.jsonl").unlink()  # of the samples that have changed
    mixed.main()
    chosen = [[row.get("layers") for row in rows if row["half"] == 0] for rows in (before, mixed.rows())]
    assert chosen[0] == chosen[1]


def test_interrupted_measurements_keep_the_rows_there_are(small, monkeypatch):
    mixed.main()
    whole = mixed.rows()
    assert [row["half"] for row in whole] == [0] * 7 + [1] * 7
    table = mixed.table()
    assert f"| {whole[3]['cycles']:,} |" in table
    assert f"{50 * (whole[3]['right'] + whole[10]['right']) / 5:.1f}% " in table

    measured = mixed.measure

    def interrupted(*arguments):
        yield from itertools.islice(measured(*arguments), 3)
        raise KeyboardInterrupt

    monkeypatch.setattr(mixed, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mixed.main()
    assert mixed.rows() == whole[:3] + whole[7:]
