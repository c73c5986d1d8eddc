"""``hwq build``, ``hwq build --estimate`` and ``hwq flash``: exit status, sentences, files."""

import json

import pytest

from boards import build, estimate, results
from boards.build import BuildReport
from boards.estimate import FEATURES
from boards.registry import BOARDS, find
from boards.report import Timing, Use
from hwq.cli import run_command
from hwq.config import PRESETS
from tests.programs import tiny


def report(problem="", bitstream="top.bit"):
    return BuildReport(
        board="ulx3s", device="LFE5U-85F", arch="x", digest="0", inputs="1", clock_mhz=100.0,
        resources={"LUT": Use(10, 100)}, lut_per_pe=2.5, seeds={1: 90.0}, best_seed=1,
        timing=Timing(90.0, "a.Q", "b.D", 1.0, 2.0), bitstream=bitstream, problem=problem,
    )  # fmt: skip


@pytest.mark.parametrize(("problem", "status"), [("", 0), ("The clock is missed by 10 MHz", 1)])
def test_a_problem_is_a_sentence_and_status_1(monkeypatch, capsys, tmp_path, problem, status):
    asked = {}

    def fake(board, out, **options):
        asked.update(options, board=board, out=out)
        return report(problem)

    monkeypatch.setattr(build, "build", fake)
    arguments = ["build", "--board", "ulx3s", "-o", str(tmp_path), "--clock", "90", "--seeds", "2"]
    assert run_command([*arguments, "--json", str(tmp_path / "r.json")]) == status
    out, err = capsys.readouterr()
    assert err == (f"hwq: {problem}\n" if problem else "")
    assert "2.5 LUT for each multiplier" in out
    assert "1 ns in cells and 2 ns in wires, from a.Q to b.D" in out
    assert (asked["board"], asked["clock_mhz"], asked["seeds"], asked["arch"]) == ("ulx3s", 90.0, 2, None)
    found = json.loads((tmp_path / "r.json").read_text())
    assert (found["ok"], found["problem"], found["resources"]) == (
        not problem,
        problem,
        {"LUT": {"used": 10, "there": 100}},
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["build"], f"Name a board with --board: {', '.join(BOARDS)}"),
        (["build", "--board", "ulx"], "No board 'ulx'; did you mean ulx3s?"),
        (["build", "--board", "ulx3s"], "a build needs a folder: --output DIR"),
        (["build", "--board", "ulx3s", "-o", "DIR", "--arch", "x"], "No architecture 'x'"),
        (["build", "--board", "ulx3s", "-o", "DIR", "--clock", "900"], "The PLL makes 10 to 400 MHz, not 900"),
        (["flash", "DIR", "--board", "ulx3s"], "holds no build; make one with: hwq build --board ulx3s -o "),
    ],
)
def test_bad_input_is_a_sentence_and_status_2(capsys, tmp_path, arguments, sentence):
    assert run_command([str(tmp_path) if argument == "DIR" else argument for argument in arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_flash_says_what_to_run_where_it_cannot(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "report.json").write_text(json.dumps(report().to_dict()))
    assert run_command(["flash", str(tmp_path), "--board", "ulx3s"]) == 2
    assert f"{tmp_path} holds no bitstream: the file is missing" in capsys.readouterr().err
    (tmp_path / "top.bit").write_bytes(b"bits")
    assert run_command(["flash", str(tmp_path), "--board", "ulx3s"]) == 2
    assert f"install it and run: openFPGALoader --board ulx3s {tmp_path}/top.bit" in capsys.readouterr().err
    assert run_command(["flash", str(tmp_path), "--board", "ecpix5"]) == 2
    assert "was built for ulx3s, not for ecpix5" in capsys.readouterr().err


@pytest.mark.parametrize("status", [0, 3])
def test_flash_runs_the_loader(monkeypatch, capfd, tmp_path, status):
    (tmp_path / "report.json").write_text(json.dumps(report().to_dict()))
    (tmp_path / "top.bit").write_bytes(b"bits")
    loader = tmp_path / "openFPGALoader"
    loader.write_text(f'#!/bin/sh\necho "loading $*"\nexit {status}\n')
    loader.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert run_command(["flash", str(tmp_path), "--board", "ulx3s"]) == (2 if status else 0)
    out, err = capfd.readouterr()
    assert f"loading --board ulx3s {tmp_path}/top.bit" in out
    assert err == ("hwq: openFPGALoader failed with exit status 3; what it printed says why\n" if status else "")


def made_up(config):
    """Resources that are linear in what the models are linear in."""
    pes = config.rows * config.cols
    lut = 900 + 70 * pes + 25 * pes * (config.weight_bits == 4) + 300 * config.lanes + 10 * config.lanes * config.tables
    counts = {"LUT": lut, "FF": lut + 5, "DSP": 2 + pes + 3 * config.lanes, "RAM": 7}
    there = {"LUT": 83640, "FF": 83640, "DSP": 156, "RAM": 208}
    return {kind: {"used": count, "there": there[kind]} for kind, count in counts.items()}


def rows():
    shapes = [(2, 2, 4, 1, 8, 0), (4, 4, 4, 1, 8, 0), (4, 4, 4, 1, 4, 1), (4, 4, 4, 2, 8, 2), (4, 8, 8, 2, 8, 1),
              (4, 8, 8, 4, 4, 2), (8, 8, 8, 4, 8, 0)]  # fmt: skip
    configs = [tiny(r, c, f, lanes, weight_bits=bits, tables=tables) for r, c, f, lanes, bits, tables in shapes]
    seeds = {"1": 101.5, "2": 98.25}
    return [
        {"board": "ulx3s", "device": "LFE5U-85F", "config": c.to_dict(), "resources": made_up(c), "seeds": seeds}
        for c in configs
    ]


def test_an_estimate_finds_the_model_that_made_the_rows(monkeypatch, capsys):
    monkeypatch.setattr(estimate, "rows", rows)
    config = tiny(8, 16, 16, 8, weight_bits=4, tables=2)
    found = estimate.estimate("ulx3s", config)
    assert {kind: use.used for kind, use in found.resources.items() if kind != "RAM"} == {
        kind: use["used"] for kind, use in made_up(config).items() if kind != "RAM"
    }
    assert max(error for kind, error in found.error.items() if kind != "RAM") < 1e-6
    assert found.fmax_mhz == (98.25, 101.5)
    assert not found.problem
    assert run_command(["build", "--board", "ulx3s", "--estimate"]) == 0
    assert "reach 98 to 102 MHz" in capsys.readouterr().out


def test_an_estimate_says_what_does_not_fit(monkeypatch, capsys):
    monkeypatch.setattr(estimate, "rows", rows)
    assert run_command(["build", "--board", "ulx3s", "--arch", "sim-16x16", "--estimate"]) == 1
    assert "hwq: by estimate, LFE5U-85F is overfull: 282 of 156 DSP (126 too many)" in capsys.readouterr().err


def test_an_estimate_counts_block_ram_as_yosys_does():
    kept = {"act_bytes": 49152, "weight_words": 8192, "param_words": 1024, "slots": 32}
    memories = [(8, 12288, 6)] * 4 + [(32, 8192, 16), (64, 1024, 4), (32, 1024, 2)]
    assert estimate._features(tiny(4, 4, 4, 1, **kept), ("blocks",), "ecp5") == [sum(count for *_, count in memories)]
    assert all(estimate.blocks(width, depth, "ecp5") == count for width, depth, count in memories)
    assert [estimate.blocks(32, depth, "iCE40") for depth in (16, 256, 257)] == [2, 2, 4]
    small = PRESETS["ice40-4x4"]
    assert estimate._features(small, ("single_port",), "iCE40") == [4]


def test_an_estimate_without_builds_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(estimate, "rows", lambda: rows()[:2])
    assert run_command(["build", "--board", "ulx3s", "--estimate"]) == 2
    assert (
        "holds 2 builds of the family of board 'ulx3s', and an estimate needs 6, one of them for LFE5U-85F"
        in capsys.readouterr().err
    )


def test_results_name_boards_and_architectures_as_they_are():
    for row in results.rows():
        assert row["board"] in BOARDS
        assert {"LUT", "FF", "RAM"} <= set(row["resources"]) <= set(FEATURES)
        if "clock_mhz" in row:
            assert row["config"]["name"] == find(row["board"]).arch in PRESETS
            assert bool(row["seeds"]) or row["problem"]
