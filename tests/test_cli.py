"""The command line: what it prints, what it writes, how it fails."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from hwq import cli, demo, reference
from hwq.compiler import load
from hwq.program import Program
from hwq.quantize.codebook import share_weights
from tests.onnx_models import Builder

ROOT = Path(__file__).resolve().parent.parent
DIGITS = str(demo.model_path())
COMMANDS = [
    "demo",
    "check",
    "quantize",
    "sensitivity",
    "compile",
    "run",
    "verify",
    "estimate",
    "profile",
    "arch",
    "rtl",
]


def process(*arguments, **options):
    """Start hwq as its user does."""
    command = [sys.executable, "-m", "hwq", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


@pytest.fixture
def hwq(capfd, monkeypatch):
    """Run a command line; return status, standard output and standard error."""
    monkeypatch.delenv("COLUMNS", raising=False)  # a test runner's terminal

    def run(*arguments):
        status = cli.run_command([str(argument) for argument in arguments])
        return status, *capfd.readouterr()

    return run


@pytest.fixture
def refused(hwq):
    """Run a command line that must fail with status 2 and one sentence, and return the sentence."""

    def run(*arguments):
        status, out, err = hwq(*arguments)
        assert (status, out) == (2, "")
        assert err.startswith("hwq: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        assert "internal error" not in err
        return err.removeprefix("hwq: ").strip()

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a program, samples and two small architectures."""
    path = tmp_path_factory.mktemp("cli")
    images, _ = demo.load_samples()
    np.savez(path / "x.npz", image=images[:3])
    sizes = "rows = 2\ncols = 2\nfetch_bytes = 4\nlanes = 1\nparam_words = 512\nslots = 64\n"
    (path / "tiny.toml").write_text(f"{sizes}act_bytes = 8192\nweight_words = 8192\n")
    (path / "small.toml").write_text(f"{sizes}act_bytes = 256\nweight_words = 8192\n")
    (path / "starved.toml").write_text(f"{sizes}act_bytes = 8192\nweight_words = 64\n")
    assert cli.run_command(["compile", DIGITS, "--arch", "sim-4x4", "-o", str(path / "p.hwq")]) == 0
    return path


# Help


@pytest.mark.parametrize("arguments", [[], *([command] for command in COMMANDS)])
def test_help_lists_what_there_is(hwq, arguments):
    status, out, err = hwq(*arguments, "--help")
    assert (status, err) == (0, "")
    assert "Usage: hwq" in out
    if not arguments:
        assert [command for command in COMMANDS if command not in out] == []


@pytest.mark.parametrize("arguments", [[], ["verify"], ["arch", "show"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys; from hwq import cli; status = cli.run_command(sys.argv[1:]);"
        "heavy = {'onnx', 'onnxruntime', 'numpy', 'amaranth', 'safetensors'} & set(sys.modules);"
        "assert status == 0 and not heavy, (status, heavy)"
    )
    command = [sys.executable, "-c", code, *arguments, "--help"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def test_a_command_without_arguments_prints_its_help(hwq):
    for arguments in ([], ["arch"]):
        status, out, err = hwq(*arguments)
        assert (status, err) == (2, "")
        assert "Usage: hwq" in out


def test_commands_that_are_not_there_are_refused(refused):
    assert refused("make") == "No such command 'make' (see hwq --help)"
    assert refused("verify") == "Missing argument 'MODEL' (see hwq verify --help)"
    assert refused("demo", "--samples", "0").startswith("Invalid value for '--samples': ")


def test_importing_hwq_imports_nothing():
    code = "import sys, hwq; assert not {'numpy', 'onnx', 'typer'} & set(sys.modules); hwq.__version__"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_public_names_resolve():
    import hwq

    assert all(callable(getattr(hwq, name)) for name in hwq.__all__ if name != "__version__")
    assert set(hwq.__all__) <= set(dir(hwq))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = hwq.nothing


# Reports


def test_arch_lists_and_shows(hwq, folder, tmp_path):
    status, out, err = hwq("arch", "list")
    assert (status, err) == (0, "")
    assert "ecp5-8x16" in out
    assert hwq("arch", "show", folder / "tiny.toml", "--json", tmp_path / "a.json")[0] == 0
    report = json.loads((tmp_path / "a.json").read_text())
    assert (report["name"], report["macs_per_cycle"], report["weight_bytes"]) == ("tiny", 4, 16384)
    assert len(report["digest"]) == 64


def test_json_to_standard_output_is_nothing_but_json(hwq):
    for command in (["estimate", DIGITS, "--arch", "sim-4x4"], ["check", DIGITS], ["arch", "list"]):
        status, out, err = hwq(*command, "--json", "-")
        assert (status, err) == (0, "")
        assert json.loads(out)


def test_check_says_where_every_node_runs(hwq, tmp_path):
    path = tmp_path / "check.json"
    status, out, _ = hwq("check", DIGITS, "--arch", "ecp5-8x16", "--json", path)
    assert status == 0
    assert "It fits ecp5-8x16." in out
    report = json.loads(path.read_text())
    where = {node["op"]: node["where"] for node in report["nodes"]}
    assert where["Conv"] == where["Gemm"] == "array"
    assert where["QuantizeLinear"] == "host"
    assert all(node["reason"] for node in report["nodes"] if node["where"] == "host")


def test_check_names_the_rule_that_sends_a_node_to_the_host(hwq, tmp_path):
    path, model = tmp_path / "padded.onnx", Builder()
    x = model.dequantize(model.input("x", (1, 4, 6, 6), "int8"), 0.1, 0)
    weight = model.weight(np.ones((4, 4, 3, 3), np.int8), [0.1] * 4)
    onnx.save(model.model(model.quantize(model.node("Conv", [x, weight], pads=[3, 0, 0, 0]), 0.2, 0)), path)
    status, out, _ = hwq("check", path)
    assert status == 0
    assert "Padding must be smaller than the dilated kernel." in " ".join(out.split())


def test_check_names_the_rule_that_keeps_bytes(hwq, tmp_path):
    b = Builder()
    x = b.dequantize(b.quantize(b.input("x", (1, 8192)), 0.1, 0), 0.1, 0)
    y = b.node("MatMul", [x, b.weight(np.full((8192, 17), -8, np.int8), np.full(17, 0.1), axis=1)], "y")
    onnx.save(b.model(b.dequantize(b.quantize(y, 0.1, 0), 0.1, 0)), tmp_path / "deep.onnx")
    status, out, _ = hwq("check", tmp_path / "deep.onnx", "--json", "-")
    (node,) = (node for node in json.loads(out)["nodes"] if node["name"] == "n_y")
    assert (status, node["where"]) == (0, "array")
    assert node["reason"].startswith("Stored as bytes: sums of these 4-bit weights need more than 24 bits; split")


def test_check_says_what_exceeds_the_memories(hwq, folder, tmp_path):
    path = tmp_path / "check.json"
    status, out, err = hwq("check", DIGITS, "--arch", folder / "small.toml", "--json", path)
    assert (status, err) == (0, "")
    assert "act_bytes" in out
    reasons = [node["reason"] for node in json.loads(path.read_text())["nodes"] if node["op"] == "Conv"]
    assert any(reason.startswith("Not even a small piece of this layer fits") for reason in reasons)
    status, out, _ = hwq("check", DIGITS, "--arch", folder / "starved.toml", "--json", path)
    report = json.loads(path.read_text())
    assert (status, report["fits"]) == (0, False)
    assert f"It runs on starved in {report['pages']} pages, loaded in turn." in out


def test_estimate_adds_up(hwq, tmp_path):
    path = tmp_path / "e.json"
    assert hwq("estimate", DIGITS, "--arch", "ecp5-8x16", "--json", path)[0] == 0
    report = json.loads(path.read_text())
    assert report["macs"] == sum(layer["macs"] for layer in report["layers"])
    spare = report["cycles_predicted"] - sum(layer["cycles_predicted"] for layer in report["layers"])
    assert 0 <= spare < 64  # reading HALT
    assert report["utilisation"] == pytest.approx(report["macs"] / report["cycles_predicted"] / 128)
    assert report["cycles_measured"] is None
    first = report["layers"][0]
    assert {"name", "op", "macs", "cycles_predicted", "cycles_measured", "utilisation", "bound"} <= set(first)
    # conv1: 64 pixels of 9 bytes and the halo's copies read, 64 pixels of 16 channels and the halo written.
    assert first["weight_bytes"] == 9 * 16


def test_compile_stores_weights_as_it_is_told(hwq, tmp_path):
    assert hwq("compile", DIGITS, "--arch", "sim-4x4", "-o", tmp_path / "p.hwq", "--weights", "int8")[0] == 0
    program = Program.load(tmp_path / "p.hwq")
    assert not any(d["int4"] for step in program.array_steps for d in program.descriptors(step.slot))


def test_compact_programs_take_no_more_memory(hwq, tmp_path):
    sizes = []
    for options in ([], ["--compact"]):
        assert hwq("compile", DIGITS, "--arch", "ecp5-8x16", "-o", tmp_path / "p.hwq", *options)[0] == 0
        sizes.append(Program.load(tmp_path / "p.hwq").weights.size)
    assert sizes[1] <= sizes[0]


def test_compile_reports_memory_and_run_reads_the_program(hwq, folder, tmp_path):
    program, outputs, report = tmp_path / "p.hwq", tmp_path / "y.npz", tmp_path / "c.json"
    status, out, _ = hwq("compile", DIGITS, "--arch", "sim-4x4", "-o", program, "--json", report)
    assert status == 0
    values = json.loads(report.read_text())
    memory = values["memory"]
    assert f"{values['cycles_predicted']:,} cycles predicted" in out
    assert all(0 < use["used"] <= use["there"] for use in memory.values())
    images, _ = demo.load_samples()
    expected = reference.run(load(DIGITS), {"image": images[:3]})["logits"]
    for model, target in ((program, "machine"), (DIGITS, "reference")):
        assert hwq("run", model, "-i", folder / "x.npz", "-o", outputs, "-t", target)[0] == 0
        with np.load(outputs) as values:
            np.testing.assert_array_equal(values["logits"], expected)


@pytest.mark.parametrize("command", ["verify", "estimate", "profile"])
def test_weights_are_stored_as_is_told(hwq, tmp_path, command):
    onnx.save(share_weights(DIGITS), tmp_path / "shared.onnx")
    sizes = []
    for weights in ("auto", "codebook"):
        path = tmp_path / f"{weights}.json"
        arguments = ["--arch", "sim-4x4", "--weights", weights, "--json", path]
        arguments += ["--targets", "machine", "--samples", 1] if command == "verify" else []
        assert hwq(command, tmp_path / "shared.onnx", *arguments)[0] == 0
        sizes.append(sum(layer["weight_bytes"] for layer in json.loads(path.read_text())["layers"]))
    assert sizes[1] <= 0.5 * 1.03 * sizes[0]


def test_verify_writes_the_report(hwq, tmp_path):
    path = tmp_path / "v.json"
    arguments = ["--arch", "sim-4x4", "--targets", "reference,machine", "--samples", 2, "--seed", 3, "--json", path]
    status, out, _ = hwq("verify", DIGITS, *arguments)
    assert status == 0
    assert "Equal on every rung." in out
    report = json.loads(path.read_text())
    keys = {"model", "arch", "samples", "ok", "rungs", "macs", "cycles_predicted", "cycles_measured", "utilisation"}
    assert keys | {"host_nodes", "layers", "rewrites", "seed", "cpu_flags"} <= set(report)
    assert (report["ok"], report["samples"], report["seed"]) == (True, 2, 3)
    for rung in report["rungs"]:
        assert {"name", "against", "elements", "mismatches", "max_abs_diff"} <= set(rung)
        assert rung["elements"] > 0
        assert rung["mismatches"] == 0


def test_output_is_plain_without_a_terminal(hwq):
    for command in (["arch", "list"], ["check", DIGITS]):
        assert "\x1b" not in hwq(*command)[1]


def test_names_are_short_in_tables_and_whole_in_json(hwq, folder, tmp_path):
    model = onnx.load(DIGITS)
    for node in model.graph.node:
        node.name = f"exporter/model/{node.name};{'model/batch_normalization/FusedBatchNormV3;' * 5}{node.name}"
    onnx.save(model, tmp_path / "long.onnx")
    for command in ("estimate", "check"):
        status, out, _ = hwq(command, tmp_path / "long.onnx", "--arch", "sim-4x4", "--json", tmp_path / "r.json")
        assert status == 0
        report = json.loads((tmp_path / "r.json").read_text())
        rows = report["layers"] if command == "estimate" else report["nodes"]
        assert all(len(row["name"]) > 200 for row in rows)
        lines = [line for line in out.splitlines() if "…" in line]
        assert len(lines) == len({line.split()[0] for line in lines}) == len(rows), "a line and a name of its own each"


@pytest.mark.rtl
def test_profile_measures_what_was_predicted(hwq, folder, tmp_path):
    report, trace = tmp_path / "p.json", tmp_path / "t.json"
    status, out, _ = hwq("profile", DIGITS, "--arch", "sim-4x4", "--json", report, "--trace", trace)
    assert status == 0
    assert "the mesh waited for activations" in out
    for title in ("Roofline", "What holds the layers", "Where the cycles went"):
        assert title in out
    layers = json.loads(report.read_text())["layers"]
    assert all(layer["cycles_measured"] == layer["cycles_predicted"] for layer in layers)
    assert json.loads(trace.read_text())["traceEvents"]


@pytest.mark.rtl
def test_rtl_writes_verilog_with_the_digest(hwq, tmp_path):
    from hwq.config import load_arch

    assert hwq("rtl", "--arch", "sim-4x4", "-o", tmp_path / "out")[0] == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["digest"] == load_arch("sim-4x4").digest()
    assert "module top" in (tmp_path / "out" / "top.v").read_text()


@pytest.mark.rtl
def test_demo_is_equal_on_every_rung(hwq, tmp_path):
    status, out, _ = hwq("demo", "--samples", 6, "--json", tmp_path / "d.json")
    assert status == 0
    assert "Equal on every rung." in out
    report = json.loads((tmp_path / "d.json").read_text())
    assert report["ok"]
    for arch in report["archs"]:
        assert arch["cycles_measured"] == arch["cycles_predicted"]
        assert set(arch["accuracy"]) == {"onnxruntime", "reference", "machine", "verilator"}


# Refusals


def test_missing_and_foreign_files(refused, tmp_path):
    assert refused("estimate", "nothing.onnx", "--arch", "sim-4x4") == "nothing.onnx: there is no such file"
    text = tmp_path / "text.onnx"
    text.write_text("this is no model\n")
    assert f"{text}: isn't an ONNX model" in refused("check", text)
    assert "isn't an ONNX model" in refused("verify", os.devnull, "--arch", "sim-4x4")
    assert "directory" in refused("compile", tmp_path, "--arch", "sim-4x4", "-o", tmp_path / "p.hwq").lower()


def test_truncated_model(refused, tmp_path):
    data, path = demo.model_path().read_bytes(), tmp_path / "cut.onnx"
    for size in (1, len(data) // 3, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        assert str(path) in refused("compile", path, "--arch", "sim-4x4", "-o", tmp_path / "p.hwq")


@pytest.mark.parametrize("size", [-1, 0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_dimensions_below_one(refused, tmp_path, size, axis):
    model, path = onnx.load(DIGITS), tmp_path / "dims.onnx"
    model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    onnx.save(model, path)
    assert f"has size {size} on axis {axis}" in refused("estimate", path, "--arch", "sim-4x4")


def test_operator_that_nothing_can_run(refused, tmp_path):
    path, model = tmp_path / "custom.onnx", Builder()
    y = model.node("Mystery", [model.input("x", (1, 4))], domain="org.example")
    proto = model.model(y)
    proto.opset_import.append(onnx.helper.make_opsetid("org.example", 1))
    onnx.save(proto, path)
    for command in (["check"], ["estimate", "--arch", "sim-4x4"], ["verify", "--arch", "sim-4x4"]):
        assert "Mystery" in refused(command[0], path, *command[1:])


def test_architectures_that_are_broken_or_unknown(refused, tmp_path):
    assert "did you mean sim-4x4?" in refused("estimate", DIGITS, "--arch", "sim4x4")
    (tmp_path / "bad.toml").write_text("rows = ")
    assert "not valid TOML" in refused("estimate", DIGITS, "--arch", tmp_path / "bad.toml")
    (tmp_path / "few.json").write_text('{"rows": 4}')
    assert "missing field" in refused("estimate", DIGITS, "--arch", tmp_path / "few.json")
    assert "nothing.toml" in refused("estimate", DIGITS, "--arch", "nothing.toml")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"picture": np.zeros((1, 1, 8, 8), np.float32)}, "has no input 'picture': its inputs are image"),
        ({}, "input 'image' is missing"),
        ({"image": np.zeros((1, 1, 8, 9), np.float32)}, "input 'image' must have shape (1, 1, 8, 8)"),
        ({"image": np.zeros((8, 8), np.float32)}, "input 'image' must have shape (1, 1, 8, 8)"),
        ({"image": np.zeros((0, 1, 8, 8), np.float32)}, "at least 1"),
        ({"image": np.zeros((1, 1, 8, 8))}, "input 'image' must be float32, not float64"),
        ({"image": np.zeros((1, 1, 8, 8), np.int8)}, "input 'image' must be float32, not int8"),
    ],
)
def test_wrong_inputs(refused, folder, tmp_path, arrays, message):
    path, output = tmp_path / "x.npz", tmp_path / "y.npz"
    np.savez(path, **arrays)
    for model, target in ((folder / "p.hwq", "machine"), (DIGITS, "reference")):
        assert message in refused("run", model, "-i", path, "-o", output, "-t", target)
    assert message in refused("verify", DIGITS, "--arch", "sim-4x4", "--inputs", path)
    assert not output.exists()


def test_damaged_inputs(refused, folder, tmp_path):
    path, output = tmp_path / "x.npz", tmp_path / "y.npz"
    whole = (folder / "x.npz").read_bytes()
    arguments = ("run", folder / "p.hwq", "-i", path, "-o", output)
    assert "there is no such file" in refused(*arguments)
    path.write_bytes(b"")
    assert "isn't an .npz file" in refused(*arguments)
    path.write_bytes(whole[: len(whole) // 2])
    assert "isn't an .npz file" in refused(*arguments)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    path.write_bytes(flipped)
    assert "can't be read as arrays" in refused(*arguments)
    np.save(tmp_path / "x.npy", np.zeros(3))
    assert "isn't an .npz file" in refused("run", folder / "p.hwq", "-i", tmp_path / "x.npy", "-o", output)
    np.savez(path, image=np.array([{"a": 1}], dtype=object))
    assert "holds Python objects" in refused(*arguments)


def test_program_for_another_architecture(refused, folder, tmp_path):
    arguments = ("run", folder / "p.hwq", "-i", folder / "x.npz", "-o", tmp_path / "y.npz")
    message = refused(*arguments, "--arch", "ecp5-8x16")
    assert "was compiled for arch 'sim-4x4'" in message
    assert "not for 'ecp5-8x16'" in message
    assert "runs models, not compiled programs" in refused(*arguments, "--target", "reference")


def test_damaged_program(refused, folder, tmp_path):
    data, path = (folder / "p.hwq").read_bytes(), tmp_path / "cut.hwq"
    path.write_bytes(data[: len(data) // 2])
    assert str(path) in refused("run", path, "-i", folder / "x.npz", "-o", tmp_path / "y.npz")
    missing = tmp_path / "nothing.hwq"
    assert f"{missing}: no such file" in refused("run", missing, "-i", folder / "x.npz", "-o", tmp_path / "y.npz")


def test_unknown_targets(refused, folder, tmp_path):
    arguments = ("run", folder / "p.hwq", "-i", folder / "x.npz", "-o", tmp_path / "y.npz", "--target")
    for target in ("fpga", "serial", "serial:", "verilator:1", "pins:", "netlist:"):
        assert f"No target {target!r}" in refused(*arguments, target)
        assert f"No target {target!r}" in refused("verify", DIGITS, "--arch", "sim-4x4", "--targets", target)
    assert "No target ''" in refused("verify", DIGITS, "--arch", "sim-4x4", "--targets", "")
    assert "has no clock" in refused("profile", DIGITS, "--arch", "sim-4x4", "--target", "machine")
    assert "needs an architecture" in refused("run", DIGITS, *arguments[2:], "machine")


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_outputs_that_cannot_be_written(refused, tmp_path):
    assert "isn't a regular file" in refused("estimate", DIGITS, "--arch", "sim-4x4", "--json", tmp_path)
    nowhere = tmp_path / "no" / "where"
    assert "there is no folder" in refused("compile", DIGITS, "--arch", "sim-4x4", "-o", nowhere)
    os.mkfifo(tmp_path / "pipe")
    for command in (["compile", DIGITS, "-o"], ["estimate", DIGITS, "--json"]):
        assert "isn't a regular file" in refused(*command, tmp_path / "pipe", "--arch", "sim-4x4")
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "file").write_text("")
    assert "can't be made" in refused("rtl", "--arch", "sim-4x4", "-o", tmp_path / "file" / "out")


def test_missing_simulator_says_what_to_install(refused, monkeypatch, folder, tmp_path):
    monkeypatch.setitem(sys.modules, "sim.verilator_bus", None)
    monkeypatch.setitem(sys.modules, "sim.build", None)
    message = refused("verify", DIGITS, "--arch", "sim-4x4")
    assert "install it with: pip install 'hwq[sim]'" in message
    assert "pip install 'hwq[sim]'" in refused("rtl", "--arch", "sim-4x4", "-o", tmp_path / "out")


# Interruption


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(
    ("number", "ends"), [(signal.SIGINT, (130, "hwq: interrupted\n")), (signal.SIGTERM, (143, ""))]
)
def test_interrupted_run_leaves_its_output_alone(folder, tmp_path, number, ends):
    samples, output = tmp_path / "x.npz", tmp_path / "y.npz"
    np.savez(samples, image=np.zeros((200_000, 1, 8, 8), np.float32))
    output.write_text("what was there before")
    before = set(tmp_path.iterdir())
    child = process("run", folder / "p.hwq", "-i", samples, "-o", output)
    assert child.stderr.readline().startswith("hwq: Running on machine")  # said once it has taken a second
    child.send_signal(number)
    _, err = child.communicate(timeout=30)
    assert (child.returncode, err) == ends
    assert output.read_text() == "what was there before"
    assert set(tmp_path.iterdir()) == before


def test_symbolic_link_to_an_output_stays_one(hwq, tmp_path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    assert hwq("arch", "list", "--json", tmp_path / "link.json")[0] == 0
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["archs"]


def test_interrupted_write_leaves_the_old_file_alone(hwq, monkeypatch, tmp_path):
    output = tmp_path / "p.hwq"
    output.write_text("what was there before")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    status, _, err = hwq("compile", DIGITS, "--arch", "sim-4x4", "-o", output)
    assert (status, err) == (130, "hwq: interrupted\n")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["what was there before"]


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_reader_that_leaves_early_is_no_failure():
    with process("estimate", DIGITS, "--arch", "sim-4x4") as child:
        child.stdout.close()
        assert child.stderr.read() == ""
    assert child.returncode == 0


def test_unforeseen_errors_are_one_line_too(hwq, monkeypatch):
    from hwq import costs

    def broken(*_, **__):
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr(costs, "estimate", broken)
    status, _, err = hwq("estimate", DIGITS, "--arch", "sim-4x4")
    assert status == 2
    assert err == "hwq: internal error: ZeroDivisionError: first line second line; HWQ_TRACEBACK=1 shows where\n"
    monkeypatch.setenv("HWQ_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        hwq("estimate", DIGITS, "--arch", "sim-4x4")


@pytest.mark.slow
def test_every_help_is_quick():
    for command in ([], *([name] for name in COMMANDS)):
        start = time.perf_counter()
        child = process(*command, "--help")
        child.communicate(timeout=30)
        assert child.returncode == 0
        assert time.perf_counter() - start < 5  # a second on an idle machine; the suite shares its cores
