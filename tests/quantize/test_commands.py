"""``hwq quantize`` and ``hwq sensitivity`` as their users type them."""

import json
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest

from hwq import cli
from hwq.costs import estimate
from hwq.quantize import Recipe, quantize, quantize_dynamic, sensitivities
from tests.quantize.networks import convnet, samples


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("quantize")
    onnx.save(convnet(), path / "float.onnx")
    np.savez(path / "x.npz", x=samples(6), y=np.arange(6) % 5)
    np.savez(path / "nan.npz", x=np.full((1, 3, 8, 8), np.nan))
    return path


@pytest.fixture
def command(capfd, folder):
    def run(*arguments):
        status = cli.run_command(
            [str(folder / a) if "." in str(a) and "=" not in str(a) else str(a) for a in arguments]
        )
        return status, *capfd.readouterr()

    return run


def test_quantize_writes_what_the_function_returns(command, folder):
    status, out, _ = command("quantize", "float.onnx", "--calib", "x.npz", "-o", "q.onnx", "--weights", "int4")
    assert status == 0
    assert "100.0% of the channels need one product and one shift." in out
    assert "(Softmax)" in out
    made = quantize(folder / "float.onnx", {"x": samples(6)}, Recipe(weights="int4"))
    assert (folder / "q.onnx").read_bytes() == made.SerializeToString(deterministic=True)
    assert command("verify", "q.onnx", "--arch", "sim-4x4", "--samples", "1", "--targets", "machine")[0] == 0
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []


def test_quantize_reports_in_json(command):
    arguments = [
        "--method",
        "percentile",
        "--percentile",
        "99",
        "--equalize",
        "--nearest",
        "--keep-bias",
        "--json",
        "-",
    ]
    status, out, _ = command("quantize", "float.onnx", "--calib", "x.npz", "-o", "q8.onnx", *arguments)
    assert status == 0
    report = json.loads(out)
    assert report["lattice_share"] == 1
    assert [layer["bits"] for layer in report["layers"]] == [8, 8, 8, 0, 8]
    assert [node["op"] for node in report["host_nodes"]] == ["QuantizeLinear", "DequantizeLinear", "Softmax"]


def test_sensitivity_lists_layers(command):
    status, out, _ = command("sensitivity", "float.onnx", "--calib", "x.npz", "--labels", "y")
    assert status == 0
    assert "SQNR, dB" in out
    status, out, _ = command("sensitivity", "float.onnx", "--calib", "x.npz", "--json", "-")
    layers = json.loads(out)["layers"]
    assert len(layers) == 8
    assert layers[0]["sqnr_db"] < layers[-1]["sqnr_db"]


def test_dynamic_needs_no_samples(command, folder):
    assert command("quantize", "float.onnx", "-o", "d.onnx", "--dynamic", "--weights", "int4")[0] == 0
    made = quantize_dynamic(folder / "float.onnx", Recipe(weights="int4"))
    assert (folder / "d.onnx").read_bytes() == made.SerializeToString(deterministic=True)
    assert command("verify", "d.onnx", "--arch", "sim-4x4", "--samples", "1", "--targets", "machine")[0] == 0


def test_search_prints_and_draws_the_front(command, folder):
    arguments = ["search", "float.onnx", "--calib", "x.npz", "--arch", "sim-4x4", "--labels", "y", "--points", "3"]
    arguments += ["--plot", "front.svg", "--resume", "front.jsonl"]
    status, out, _ = command(*arguments)
    assert status == 0
    assert "assignments measured on 6 samples" in out
    status, out, _ = command(*arguments, "--json", "-")
    report = json.loads(out)
    assert report["chosen"] in report["front"]
    drawn = ElementTree.parse(folder / "front.svg").getroot()
    dots = [entry for entry in drawn.iter() if entry.tag.endswith("circle")]
    outside = sum(point not in report["front"] and len(set(point["weights"])) > 1 for point in report["points"])
    assert len(dots) == len(report["front"]) + 2 + outside + 1


def test_mixed_keeps_a_limit(command, folder):
    arguments = ["--calib", "x.npz", "--weights", "mixed", "--arch", "sim-4x4"]
    _, out, _ = command("search", "float.onnx", "--calib", "x.npz", "--arch", "sim-4x4", "--points", "2", "--json", "-")
    ends = [point["cycles"] for point in json.loads(out)["points"][:2]]
    limit = sum(ends) // 2
    assert command("quantize", "float.onnx", "-o", "m.onnx", *arguments, "--max-cycles", limit)[0] == 0
    assert estimate(folder / "m.onnx", "sim-4x4").cycles_predicted <= limit < max(ends)
    assert command("quantize", "float.onnx", "-o", "m.onnx", *arguments, "--max-bytes", "600")[0] == 0
    costs = estimate(folder / "m.onnx", "sim-4x4", weights="codebook")
    assert sum(layer.weight_bytes for layer in costs.layers) <= 600


def test_sensitivity_goes_on_and_draws(command, folder, monkeypatch):
    arguments = ["sensitivity", "float.onnx", "--calib", "x.npz", "--resume", "s.jsonl", "--json", "-"]
    first = command(*arguments)
    monkeypatch.setattr(sensitivities, "emit", None)  # nothing is measured again
    again = command(*arguments, "--plot", "s.svg")
    assert again[:2] == first[:2]
    bars = [entry for entry in ElementTree.parse(folder / "s.svg").getroot().iter() if entry.tag.endswith("rect")]
    assert len(bars) == 1 + 2 + 8  # the ground, the legend, two widths of four layers


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["quantize", "float.onnx", "-o", "n.onnx"], "give samples to calibrate on (--calib X.npz), or --dynamic"),
        (["quantize", "float.onnx", "-o", "n.onnx", "--dynamic", "--weights", "mixed"], "one kind of weights for all"),
        (["quantize", "float.onnx", "--calib", "x.npz", "-o", "n.onnx", "--max-cycles", "9"], "give --weights mixed"),
        (
            ["quantize", "float.onnx", "--calib", "x.npz", "-o", "n.onnx", "--weights", "mixed", "--max-cycles", "9"],
            "no assignment that was measured is within the limits; the nearest one has",
        ),
        (["search", "float.onnx", "--calib", "x.npz", "--arch", "sim-4x4", "--min-accuracy", "1"], "needs labels"),
        (["sensitivity", "float.onnx", "--calib", "x.npz", "--resume", "x.npz"], "isn't a file of results"),
        (["quantize", "float.onnx", "--calib", "no.npz", "-o", "n.onnx"], "no.npz: there is no such file"),
        (["quantize", "no.onnx", "--calib", "x.npz", "-o", "n.onnx"], "no.onnx: there is no such file"),
        (["quantize", "x.npz", "--calib", "x.npz", "-o", "n.onnx"], "isn't an ONNX model"),
        (["quantize", "float.onnx", "--calib", "nan.npz", "-o", "n.onnx"], "input 'x' holds NaN or infinity"),
        (["quantize", "float.onnx", "--calib", "x.npz", "-o", "n.onnx", "--keep-float", "a"], "there is no layer 'a'"),
        (["quantize", "float.onnx", "--calib", "x.npz", "-o", "n.onnx", "--weights", "int3"], "'int3' is not one of"),
        (["quantize", "float.onnx", "--calib", "x.npz", "-o", "n.onnx", "--arch", "none"], "none"),
        (["sensitivity", "float.onnx", "--calib", "x.npz", "--labels", "z"], "has no array 'z' (it has 'x', 'y')"),
        (["sensitivity", "float.onnx", "--calib", "x.npz", "--labels", "x"], "labels have shape (6, 3, 8, 8)"),
    ],
)
def test_refusals(command, folder, arguments, sentence):
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
    assert "internal error" not in err
    assert not (folder / "n.onnx").exists()
