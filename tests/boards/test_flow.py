"""Steps of a build: done once, whole or not at all, and stopped with their tools; the tools are stand-ins here."""

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest

from boards import flow, tools
from boards.build import build_core, plan_core
from boards.flow import Plan
from boards.registry import BOARDS, find
from boards.report import Use, missed, overfull, timing
from boards.tools import Tool, ToolError
from hwq.errors import HwqError, MissingToolError
from tests.boards.link_memory import LinkMemory

TOOL = """
    import os, pathlib, sys, time

    def run(arguments):
        with open(os.environ["FAKE_CALLS"], "a") as calls:
            print(*arguments, file=calls)
        if os.environ.get("FAKE_SLEEP"):
            pathlib.Path(os.environ["FAKE_SLEEP"]).write_text(str(os.getpid()))
            time.sleep(100)
        if "--pack-only" in arguments:
            pathlib.Path("top.tim").write_text("Info: ICESTORM_LC:  12/  7680  1%")
            return 1
        for name in ("top.json", "top.rpt", "top.asc", "report.json", "top.tim", "top.bin"):
            if os.environ.get("FAKE_MISSING") != name:
                pathlib.Path(name).write_text(" ".join(arguments))
        print("ERROR: no such thing" if "FAKE_STATUS" in os.environ else "fine")
        return int(os.environ.get("FAKE_STATUS", 0))
"""

PLAN = Plan(
    "iCE40HX8K",
    {"top.il": b"design", "top.pcf": b"pins"},
    ("yosys", "top.ys"),
    ("nextpnr-ice40", "--json", "top.json", "--asc", "top.asc"),
    ("icepack", "top.asc", "top.bin"),
)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Put stand-ins in the tools' place and return the file that lists their calls."""
    (tmp_path / "fake_tool.py").write_text(textwrap.dedent(TOOL))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("HWQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FAKE_CALLS", str(tmp_path / "calls"))
    for name in flow.TOOLS:
        monkeypatch.setitem(flow.TOOLS, name, Tool("fake_tool", "run", "fake.wasm"))
    monkeypatch.setattr(Tool, "version", lambda self: "1")
    return tmp_path / "calls"


def build_all(seeds=(1, 2)):
    netlist = flow.synthesize(PLAN)
    uses = flow.fit(PLAN, netlist)
    routed = flow.route_all(PLAN, netlist, seeds, lambda what, done, total: None)
    return uses, routed, flow.pack(PLAN, routed[seeds[-1]])


def test_a_rerun_calls_no_tool(fake):
    uses, routed, bitstream = build_all()
    assert uses == {"ICESTORM_LC": (12, 7680)}
    assert "--seed 2 --timing-allow-fail --report report.json" in (routed[2] / "top.asc").read_text()
    assert bitstream.read_text() == "top.asc top.bin"
    assert len(fake.read_text().splitlines()) == 5
    assert build_all()[2] == bitstream
    assert len(fake.read_text().splitlines()) == 5
    build_all((1, 3))
    assert len(fake.read_text().splitlines()) == 7  # a seed and its bitstream


@pytest.mark.parametrize("change", ["files", "synthesis", "version"])
def test_another_input_is_another_step(fake, monkeypatch, change):
    first = flow.synthesize(PLAN)
    plan = PLAN
    if change == "files":
        plan = replace(PLAN, files={**PLAN.files, "top.il": b"other"})
    elif change == "synthesis":
        plan = replace(PLAN, synthesis=(*PLAN.synthesis, "-q"))
    else:
        monkeypatch.setattr(Tool, "version", lambda self: "2")
    assert flow.synthesize(plan) != first


@pytest.mark.parametrize(("name", "value"), [("FAKE_STATUS", "1"), ("FAKE_MISSING", "top.json")])
def test_a_refusal_says_why_and_leaves_nothing(fake, monkeypatch, tmp_path, name, value):
    monkeypatch.setenv(name, value)
    said = "no such thing" if name == "FAKE_STATUS" else "exit status 0"
    with pytest.raises(ToolError, match=f"^yosys failed: {said}$"):
        flow.synthesize(PLAN)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_one_seed_may_fail(fake, monkeypatch):
    netlist = flow.synthesize(PLAN)
    good = flow.route(PLAN, netlist, 1)
    monkeypatch.setenv("FAKE_STATUS", "125")
    routed = flow.route_all(PLAN, netlist, (1, 2), lambda what, done, total: None)
    assert routed[1] == good
    assert isinstance(routed[2], ToolError)


def test_an_interrupt_ends_the_tools_and_leaves_nothing_half_made(fake, tmp_path):
    script = f"""
        from tests.boards.test_flow import PLAN, flow
        from boards.tools import Tool
        for name in flow.TOOLS:
            flow.TOOLS[name] = Tool("fake_tool", "run", "fake.wasm")
        Tool.version = lambda self: "1"
        from pathlib import Path
        folder = Path({str(tmp_path)!r})
        (folder / "top.json").write_text("netlist")
        flow.route_all(PLAN, folder, (1,), lambda *_: None)
    """
    pid_file, root = tmp_path / "pid", str(Path(__file__).parents[2])
    environment = {**os.environ, "FAKE_SLEEP": str(pid_file), "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (pid_file.exists() and pid_file.read_text()) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert b"KeyboardInterrupt" in said
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_missing_tool_names_its_package():
    with pytest.raises(
        MissingToolError, match=r"^no-such-tool isn't installed; get it with `pip install 'hwq\[boards\]'`"
    ):
        Tool("no_such_tool", "run", "x.wasm").version()


def test_every_tool_is_there():
    for tool in tools.TOOLS.values():
        files = importlib.metadata.files(tool.package)
        wanted = tool.program or f"{tool.module.rpartition('.')[2]}.py"
        assert any(path.name == wanted for path in files)


def test_an_unknown_board_is_refused():
    with pytest.raises(HwqError, match=r"^No board 'ulx3'; did you mean ulx3s\?$"):
        find("ulx3")
    with pytest.raises(HwqError, match=rf"^No board 'x'; boards are {', '.join(BOARDS)}$"):
        find("x")
    with pytest.raises(HwqError, match=r"^Name a board with --board: icebreaker, "):
        find("")


@pytest.mark.parametrize("name", BOARDS)
def test_every_board_puts_its_pins_where_its_platform_says(name, tmp_path):
    board = find(name)
    plan = plan_core(board, LinkMemory, board.clock())
    limits = next(data.decode() for file, data in plan.files.items() if file.endswith(flow.LIMITS))
    for resource in ("uart_0__rx", "uart_0__tx", "_".join(map(str, board.input))):
        assert resource in limits
    assert len(board.leds) in (0, 1, 2, 3)
    assert set(plan.tools) <= set(tools.TOOLS)


def test_the_worst_resource_leads_the_sentence():
    uses = {"LUT": Use(200, 100), "DSP": Use(30, 10), "RAM": Use(1, 10)}
    assert overfull("X", uses) == (
        "X is overfull: 30 of 10 DSP (20 too many), 200 of 100 LUT (100 too many); "
        "choose a smaller array (rows, cols, lanes), or a larger board"
    )
    assert overfull("X", {"LUT": Use(100, 100)}) is None


def test_a_clock_met_exactly_is_met():
    assert missed(30.0, 30.0, 1) is None
    assert missed(30.0, 29.99, 1)


def test_timing_is_the_slowest_clock(tmp_path):
    step = {"from": {"cell": "a", "port": "Q"}, "to": {"cell": "b", "port": "D"}}
    path = [{"type": "logic", "delay": 0.5, **step}, {"type": "routing", "delay": 1.25, **step}]
    report = {
        "fmax": {"fast": {"achieved": 200.0}, "slow": {"achieved": 50.0}},
        "critical_paths": [
            {"from": "posedge fast", "to": "posedge fast", "path": []},
            {"from": "posedge slow", "to": "posedge fast", "path": []},
            {"from": "posedge slow", "to": "posedge slow", "path": path},
        ],
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    found = timing(tmp_path / "report.json")
    assert (found.fmax_mhz, found.start, found.end, found.logic_ns, found.routing_ns) == (50.0, "a.Q", "b.D", 0.5, 1.25)


BUILD = """
    import sys
    from pathlib import Path
    from boards.build import build, build_core
    from boards.registry import find
    from tests.boards.link_memory import LinkMemory

    out, board = Path(sys.argv[1]), sys.argv[2]
    build(board, out, seeds=1) if board else build_core(find("ice40-hx8k"), LinkMemory, out, seeds=1)
"""

BOARD = os.environ.get("HWQ_BOARD", "")
"""Whose own accelerator is built twice: minutes to hours."""


@pytest.mark.slow
def test_a_build_is_the_same_in_every_folder_and_with_every_hash_seed(tmp_path):
    """The serial link with a memory behind it, on an iCE40HX8K, or `BOARD`: the tools proper, each step made anew."""
    builds = []
    for number in range(2):
        folder = tmp_path / f"{'long-' * number}folder{number}"
        folder.mkdir()
        environment = {
            **os.environ,
            "HWQ_CACHE": str(folder / "cache"),
            "PYTHONHASHSEED": str(number),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        command = [sys.executable, "-c", textwrap.dedent(BUILD), str(folder / "out"), BOARD]
        builds.append((folder / "out", subprocess.Popen(command, cwd=folder, env=environment)))
    assert [process.wait(timeout=36000 if BOARD else 300) for _, process in builds] == [0, 0]
    first, second = (folder for folder, _ in builds)
    assert (first / "report.json").read_bytes() == (second / "report.json").read_bytes()
    report = json.loads((first / "report.json").read_text())
    assert (first / report["bitstream"]).read_bytes() == (second / report["bitstream"]).read_bytes()
    if BOARD:
        return
    assert report["ok"]
    assert 0 < report["resources"]["LUT"]["used"] < 1500
    assert report["seeds"]["1"] > report["clock_mhz"] == 30


@pytest.mark.slow
def test_what_is_too_large_or_too_slow_is_said(tmp_path):
    board = find("ice40-hx8k")
    large = build_core(board, lambda divisor: LinkMemory(divisor, words=8192), tmp_path, seeds=1)
    assert large.problem == (
        "iCE40HX8K is overfull: 66 of 32 RAM (34 too many); "
        "choose smaller memories (act_bytes, weight_words, param_words, slots)"
    )
    assert not large.seeds
    slow = build_core(board, LinkMemory, tmp_path, clock_mhz=200, seeds=1)
    assert slow.problem.startswith("The clock of 201 MHz is missed by ")  # the nearest to 200 that 12 MHz make
    assert not slow.ok
    assert slow.bitstream == "top.bin"
