"""The examples, run as a reader runs them: what they print, and that a wrong result is a failure."""

import importlib
import re
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient

import hwq
from hwq import demo
from tests.conftest import ROOT

EXAMPLES = ROOT / "examples"
SCRIPTS = ("post_training", "trained", "mixed_precision")
ROW = re.compile(r"(\S.*?) {2,}([\d.]+)%(?: +([\d,]+) +[\d,]+ +(\d+))?")
"""A name and an accuracy [%]; of a quantized network, cycles and mismatches as well."""
PAGE = {row[1]: row for row in map(ROW.fullmatch, (EXAMPLES / "README.md").read_text("utf-8").splitlines()) if row}

pytestmark = pytest.mark.system


def run(name, folder):
    """Run a script in an empty folder; return accuracies, cycles and mismatches by row, which are those of the page."""
    command = [sys.executable, "-W", "error", EXAMPLES / f"{name}.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(folder.iterdir())
    rows = [row for row in map(ROW.fullmatch, done.stdout.splitlines()) if row]
    for row in rows:
        shown = PAGE[row[1]]
        assert abs(float(row[2]) - float(shown[2])) < 1.5, "trained on another processor, a few images"
        assert row[0].partition("%")[2] == shown[0].partition("%")[2] or row[1].startswith("mixed")
    return done.stdout, {
        row[1]: (float(row[2]), *(int(entry.replace(",", "")) for entry in row.groups()[2:] if entry)) for row in rows
    }


@pytest.mark.slow
def test_after_training(tmp_path):
    _, rows = run("post_training", tmp_path)
    assert list(rows) == ["float", "int8 weights, uint8", "int4 weights, uint8", "int4 weights, uint4"]
    (before,), (wide, cycles, _), (_, fewer, _), (narrow, _, _) = rows.values()
    assert [row[2] for row in list(rows.values())[1:]] == [0, 0, 0]
    assert before > 95
    assert abs(before - wide) < 1.5
    assert narrow > 90
    assert fewer < 0.7 * cycles


@pytest.mark.slow
def test_by_training(tmp_path):
    _, rows = run("trained", tmp_path)
    assert list(rows) == ["float", "int4 weights, uint4, trained", "int2 weights, uint8, trained"]
    (before,), (four, cycles, _), (two, same, _) = rows.values()
    assert [row[2] for row in list(rows.values())[1:]] == [0, 0]
    assert before - four < 2
    assert before - two < 4
    assert cycles == same


@pytest.mark.slow
def test_within_a_limit_on_cycles(tmp_path):
    printed, rows = run("mixed_precision", tmp_path)
    (before,), (mixed, cycles, mismatches) = rows.values()
    assert mismatches == 0
    assert before - mixed < 1.5
    front = re.findall(r"^ +([\d,]+) +(\S+e-\d+) (.) ([48 ]+)$", printed, re.MULTILINE)
    found = [(int(cycle.replace(",", "")), float(kl)) for cycle, kl, _, _ in front]
    assert len(found) > 2
    assert found == sorted(set(found))
    assert [kl for _, kl in found] == sorted((kl for _, kl in found), reverse=True)
    assert max(cycle for cycle, _ in found if cycle <= 8000) == cycles
    assert [cycle for cycle, _, mark, _ in front if mark == "*"] == [f"{cycles:,}"]
    assert "4" in front[0][3]


@pytest.mark.slow
def test_notebook():
    notebook = nbformat.read(EXAMPLES / "digits.ipynb", nbformat.NO_CONVERT)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": EXAMPLES}}).execute()
    by_cell = [cell.get("outputs", ()) for cell in notebook.cells]
    outputs = [output for outputs in by_cell for output in outputs]
    printed = [[output for output in outputs if "data" not in output] for outputs in by_cell]
    assert {(output.output_type, output.name) for outputs in printed for output in outputs} == {("stream", "stdout")}
    assert sum(map(bool, printed)) == 3  # in as many pieces as the kernel likes
    plots = [output.data["image/svg+xml"] for output in outputs if "data" in output]
    titles = [
        "Training with 4 bits everywhere",
        "Mixed precision of model on sim-4x4",
        "Errors",
        "Cycles of each layer",
    ]
    assert len(plots) == len(titles)
    assert all(title in plot for title, plot in zip(titles, plots, strict=True))
    compared = re.findall(r"(\d+) of [\d,]+ differ on (\w+)", "".join(o.text for o in outputs if "text" in o))
    assert compared == [("0", rung) for rung in ("reference", "machine", "verilator")] * 5


def test_notebook_is_kept_without_results():
    notebook = nbformat.read(EXAMPLES / "digits.ipynb", nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.fixture
def examples(monkeypatch):
    """The examples as modules, by name."""
    monkeypatch.syspath_prepend(EXAMPLES)
    names = ("digits", *SCRIPTS)
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("agreed", [True, False])
def test_a_mismatch_is_an_exit_status(examples, monkeypatch, name, agreed):
    script, point = examples[name], SimpleNamespace(cycles=1, kl=0.0, weights=())
    found = SimpleNamespace(front=[point], chosen=point, weights={}, storage="auto", layers=())
    for called, result in (("float_network", None), ("show_float", None), ("quantize", None), ("search", found)):
        monkeypatch.setattr(script, called, lambda *_, result=result, **__: result, raising=False)
    if name == "trained":
        monkeypatch.setattr(script.qat, "train", lambda *_: SimpleNamespace(model=None), raising=False)
    answers = iter([True, agreed, True] if name == "post_training" else [agreed, True])
    monkeypatch.setattr(script, "show", lambda *_: next(answers))
    assert script.main() == (0 if agreed else 1)


def test_show_says_whether_all_agree(examples, monkeypatch, capsys):
    digits, (images, labels) = examples["digits"], demo.load_samples()
    verify, samples, cycles = hwq.verify, digits.Samples(images[:2], labels[:2]), []

    def planted(*arguments, **options):
        report = verify(*arguments, **options, targets=["reference", "machine"])
        cycles.append(f"{report.cycles_predicted:,}")
        report.outputs["verilator"], report.cycles_measured = report.outputs["machine"], report.cycles_predicted
        report.rungs[1].mismatches = 3 * wrong
        return report

    monkeypatch.setattr(hwq, "verify", planted)
    for wrong in (0, 1):
        assert digits.show("name", demo.model_path(), samples) is not bool(wrong)
        assert ROW.fullmatch(capsys.readouterr().out.strip()).groups() == ("name", "100.0", cycles[-1], str(3 * wrong))
