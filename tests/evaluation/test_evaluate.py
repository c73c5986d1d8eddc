"""The evaluation of a network, as a function, a command and a page."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import onnx
import pytest

import hwq
from hwq import cli
from hwq.evaluation.evaluate import evaluate
from hwq.quantize import Recipe, quantize
from tests.quantize.networks import convnet, run, samples

COUNT = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("evaluate")
    onnx.save(convnet(), path / "float.onnx")
    onnx.save(quantize(convnet(), {"x": samples(8)}, Recipe(weights="int4", fit=False)), path / "q.onnx")
    x = samples(COUNT, seed=4)
    labels = run(convnet(), x)[0].argmax(axis=1)
    labels[:4] = (labels[:4] + 1) % 5  # what even the float network gets wrong
    np.savez(path / "x.npz", x=x, y=labels)
    np.savez(path / "z.npz", x=10 * samples(6, seed=5))
    return path


def stored(folder, name="x.npz"):
    with np.load(folder / name) as file:
        return {key: file[key] for key in file.files}


def test_figures_are_those_of_the_networks_outputs(folder):
    data = stored(folder)
    found = evaluate(folder / "q.onnx", data, data["y"], floats=folder / "float.onnx", unknown=stored(folder, "z.npz"))
    session = hwq.InferenceSession(folder / "q.onnx", arch="sim-4x4", target="machine")
    outputs = {"float": run(convnet(), data["x"])[0], "quantized": session.run(None, {"x": data["x"]})[0]}
    right = {name: values.argmax(axis=1) == data["y"] for name, values in outputs.items()}
    for name, values in outputs.items():
        network = found.networks[name]
        assert network.accuracy == np.mean(right[name])
        assert network.brier == pytest.approx(np.square(values - np.eye(5)[data["y"]]).sum(axis=1).mean(), abs=1e-6)
        for entry in network.classes:
            own = data["y"] == entry.label
            assert (entry.samples, entry.accuracy) == (own.sum(), np.mean(right[name][own]))
        assert sum(entry.samples for entry in network.classes) == COUNT
        assert set(network.unknown) == {"given samples", "uniform noise", "shuffled samples"}
        assert {len(values) for values in network.corrupted.values()} == {5}
    assert found.networks["float"].accuracy == 20 / 24
    assert found.agreement == np.mean(outputs["float"].argmax(axis=1) == outputs["quantized"].argmax(axis=1))
    assert found.lost == (right["float"] & ~right["quantized"]).sum()
    assert found.gained == (right["quantized"] & ~right["float"]).sum()
    assert found == evaluate(
        folder / "q.onnx", data, data["y"], floats=folder / "float.onnx", unknown=stored(folder, "z.npz")
    )


def test_given_unknown_samples_are_what_is_told_apart(folder):
    data = stored(folder)
    found = evaluate(folder / "float.onnx", data, data["y"], unknown={"x": data["x"]}, robustness=False)
    (network,) = found.networks.values()
    assert network.unknown == {"given samples": 0.5}  # the same ones
    assert network.corrupted == {}
    assert found.agreement is None


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.addresses = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for key, value in attrs if key in ("src", "href")]


@pytest.fixture
def command(capfd, folder):
    def run(*arguments):
        status = cli.run_command([str(folder / a) if "." in str(a) else str(a) for a in arguments])
        return status, *capfd.readouterr()

    return run


def test_command_writes_a_page_that_fetches_nothing(command, folder):
    arguments = ["evaluate", "q.onnx", "--samples", "x.npz", "--float", "float.onnx", "--unknown", "z.npz"]
    status, out, _ = command(*arguments, "--html", "p.html", "--json", "r.json")
    assert status == 0
    assert "calibration error (ECE)" in out
    report = json.loads((folder / "r.json").read_text())
    assert set(report["networks"]) == {"quantized", "float"}
    assert "curves" not in report
    text = (folder / "p.html").read_text()
    page = Page()
    page.feed(text)
    assert page.tags.count("svg") == 2 + 7 + 3
    assert page.addresses == []
    assert not re.search(r"@import|url\(", text)
    assert f"{100 * report['networks']['quantized']['accuracy']:.1f}%" in text
    assert command(*arguments, "--html", "again.html")[0] == 0
    assert (folder / "again.html").read_text() == text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["q.onnx", "--samples", "no.npz"], "there is no such file"),
        (["q.onnx", "--samples", "x.npz", "--labels", "z"], "has no array 'z' (it has 'x', 'y')"),
        (["q.onnx", "--samples", "x.npz", "--labels", "x"], "give one whole number a sample"),
        (["q.onnx", "--samples", "x.npz", "--unknown", "bad.npz"], "the samples have no input 'x'"),
        (["q.onnx", "--samples", "short.npz"], "input 'x' has shape (3, 3, 8): the quantized network takes samples of"),
        (["q.onnx", "--samples", "high.npz"], "labels are 0 to 9: the output has 5 classes"),
        (["q.onnx", "--samples", "few.npz"], "give one whole number a sample"),
        (["q.onnx", "--samples", "single.npz"], "give one whole number a sample"),
        (["q.onnx", "--samples", "none.npz"], "give one whole number a sample"),
    ],
)
def test_refusals(command, folder, arguments, sentence):
    np.savez(folder / "bad.npz", other=np.zeros(3))
    np.savez(folder / "short.npz", x=np.zeros((3, 3, 8), np.float32), y=np.zeros(3, int))
    np.savez(folder / "high.npz", x=np.zeros((2, 3, 8, 8), np.float32), y=np.array([0, 9]))
    np.savez(folder / "few.npz", x=np.zeros((2, 3, 8, 8), np.float32), y=np.array([0]))
    np.savez(folder / "single.npz", x=np.zeros((1, 3, 8, 8), np.float32), y=np.array(0))
    np.savez(folder / "none.npz", x=np.zeros((0, 3, 8, 8), np.float32), y=np.zeros(0, int))
    status, out, err = command("evaluate", *arguments)
    assert (status, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
    assert "internal error" not in err
