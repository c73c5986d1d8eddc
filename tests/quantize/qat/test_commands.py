"""``hwq qat`` as its users type it."""

import json
import sys

import numpy as np
import onnx
import pytest

from hwq import cli
from hwq.errors import MissingToolError
from hwq.onnx_load import load_model
from hwq.quantize import qat
from hwq.quantize.qat import trainer
from tests.quantize.networks import convnet, samples


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("qat")
    onnx.save(convnet(), path / "float.onnx")
    np.savez(path / "x.npz", x=samples(32), y=np.arange(32) % 5)
    return path


@pytest.fixture
def command(capfd, folder, monkeypatch):
    monkeypatch.chdir(folder)

    def run(*arguments):
        status = cli.run_command(["qat", *map(str, arguments)])
        return status, *capfd.readouterr()

    return run


TRAINING = ("float.onnx", "--data", "x.npz", "--labels", "y", "--epochs", "3", "--batch", "16")


def test_it_writes_what_the_function_returns(command, folder):
    status, out, _ = command(*TRAINING, "-o", "q.onnx", "--distill", "0.5", "--prune", "0.25", "--seed", "7")
    assert status == 0
    assert "100.0% of the channels need one product and one shift." in out
    assert "Mean loss of the last epoch: " in out
    parts = (qat.FreezeNorms(0.5), qat.Distill(0.5, 4.0), qat.Prune(0.25))
    recipe = qat.Recipe(epochs=3, batch=16, seed=7, parts=parts)
    made = qat.train(load_model(folder / "float.onnx"), {"x": samples(32)}, np.arange(32) % 5, recipe)
    assert (folder / "q.onnx").read_bytes() == made.model.SerializeToString(deterministic=True)
    assert sorted(path.name for path in folder.iterdir()) == ["float.onnx", "q.onnx", "x.npz"]


def test_an_interrupted_command_goes_on(command, folder, monkeypatch):
    assert command(*TRAINING, "-o", "whole.onnx")[0] == 0
    calls = []

    def interrupted(self, batch, loss=trainer._Training._loss):
        calls.append(batch)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return loss(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Training, "_loss", interrupted)
        status, _, err = command(*TRAINING, "-o", "again.onnx")
    assert (status, err) == (130, "hwq: interrupted\n")
    assert (folder / "again.onnx.checkpoint").exists()
    assert not (folder / "again.onnx").exists()
    assert command(*TRAINING, "-o", "again.onnx")[0] == 0
    assert len(calls) == 5
    assert (folder / "again.onnx").read_bytes() == (folder / "whole.onnx").read_bytes()
    assert not (folder / "again.onnx.checkpoint").exists()


def test_from_scratch_with_fewer_channels_in_json(command):
    extra = ("--scratch", "--prune-channels", "0.5", "--weights", "int2", "--activations", "uint8", "--json", "-")
    status, out, _ = command(*TRAINING, "-o", "small.onnx", *extra)
    assert status == 0
    report = json.loads(out)
    assert len(report["losses"]) == 3
    assert [layer["bits"] for layer in report["layers"] if layer["weights"]] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("float.onnx", "--data", "no.npz"), "no.npz: there is no such file"),
        (("no.onnx", "--data", "x.npz"), "no.onnx: there is no such file"),
        (("float.onnx", "--data", "x.npz"), "there is nothing to learn from: give labels"),
        (("float.onnx", "--data", "x.npz", "--labels", "z"), "has no array 'z' (it has 'x', 'y')"),
        (("float.onnx", "--data", "x.npz", "--labels", "x"), "the labels are 6144 of float32: give 32 integers"),
        (("float.onnx", "--data", "x.npz", "--labels", "y", "--rate", "0"), "rate 0.0 isn't above 0"),
        (("float.onnx", "--data", "x.npz", "--labels", "y", "--checkpoint", "x.npz"), "x.npz: isn't a checkpoint"),
        (("float.onnx", "--data", "x.npz", "--labels", "y", "--weights", "int3"), "'int3' is not one of"),
    ],
)
def test_refusals(command, folder, arguments, sentence):
    status, out, err = command(*arguments, "-o", "bad.onnx")
    assert (status, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
    assert "internal error" not in err
    assert not (folder / "bad.onnx").exists()


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("hwq.quantize.qat.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingToolError, match=r"needs torch; install it with: pip install 'hwq\[train\]'"):
        qat.train  # noqa: B018
