"""Files that other quantizers wrote: each is made by a script of its own in `fixtures/exporters`, and verifies."""

from pathlib import Path

import onnx
import pytest

import hwq
from hwq.compiler import load, split
from hwq.config import load_arch

FOLDER = Path(__file__).parent / "fixtures" / "exporters"

LAYERS = {
    # exporter: operators of its file, those of them on the array
    "torchao": (["Conv", "Conv", "Conv", "AveragePool", "Gemm"], 4),
    "nncf": (["Conv", "Conv", "Conv", "AveragePool", "Gemm"], 4),
    "brevitas": (["Conv", "Conv", "Conv", "Conv"], 4),
}


def test_every_file_has_its_script():
    assert {path.stem for path in FOLDER.glob("*.onnx")} == LAYERS.keys()
    assert {path.stem.removeprefix("make_") for path in FOLDER.glob("make_*.py")} == LAYERS.keys()
    assert all(path.stat().st_size < 50_000 for path in FOLDER.glob("*.onnx"))


@pytest.mark.system
@pytest.mark.parametrize("exporter", LAYERS)
def test_it_imports_and_verifies(exporter):
    model = onnx.load(FOLDER / f"{exporter}.onnx")
    kinds, on_array = LAYERS[exporter]
    graph, _ = split(load(model), load_arch("sim-4x4"))
    found = [op.kind if op.kind != "HostNode" else op.node.op_type for op in graph.ops]
    assert [kind for kind in found if kind in ("Conv", "AveragePool", "Gemm")] == kinds
    assert sum(op.kind in kinds for op in graph.ops) == on_array
    checked = hwq.verify(model, "sim-4x4", samples=4, targets=["reference", "machine", "verilator"])
    assert [rung.mismatches for rung in checked.rungs] == [0, 0, 0]
    assert all(rung.elements > 1000 for rung in checked.rungs)
    assert checked.cycles_measured == checked.cycles_predicted
