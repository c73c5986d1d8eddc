"""Runs a cocotb bench on a Verilated component, and fails when any test failed or didn't run.

cocotb's own runner returns normally from a bench that can't be imported, so the number of tests is part of the call.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import cocotb_tools.config
from cocotb_tools.runner import get_runner

from sim.build import FLAGS, Product, build

LOG_TAIL_LINES = 60

COCOTB = Product(
    harness=Path(cocotb_tools.config.share_dir) / "lib" / "verilator" / "verilator.cpp",
    suffix=".exe",
    verilator_flags=(*FLAGS, "--exe", "--vpi", "--public-depth", "1"),
    linker_flags=(
        f"-Wl,-rpath,{cocotb_tools.config.libs_dir}", f"-L{cocotb_tools.config.libs_dir}",
        "-lcocotbvpi_verilator", "-pthread", "-latomic",
    ),
    runtime=("verilated.cpp", "verilated_dpi.cpp", "verilated_threads.cpp", "verilated_vpi.cpp"),
)  # fmt: skip
"""The program that cocotb's runner starts: the design, the top module's signals in sight, and cocotb's main loop."""


class BenchError(Exception):
    """A bench failed, or ran another number of tests than it should; holds the end of its log."""


def run(
    verilog: str,
    toplevel: str,
    module: str,
    expected_tests: int,
    *,
    seed: int = 1,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run every test of a bench.

    Parameters
    ----------
    verilog : str
        Source of the component, as `sim.elaborate.convert` returns it.
    toplevel : str
        Its module.
    module : str
        The bench's importable name.
    expected_tests : int
        How many tests the bench holds; skipped ones don't count.
    seed : int
        Of cocotb's random numbers.
    environment : Mapping[str, str]
        Added to the bench's environment: how a caller hands it parameters.

    Raises
    ------
    BenchError
        When a test failed, or not exactly `expected_tests` were run.
    MissingToolError
        When Verilator or a C++ compiler isn't installed.
    """
    program = build(verilog, toplevel, COCOTB)
    with tempfile.TemporaryDirectory(prefix="hwq-bench-") as folder:
        work = Path(folder)
        (work / toplevel).symlink_to(program)
        results, log = work / "results.xml", work / "log"
        runner = get_runner("verilator")
        with contextlib.suppress(SystemExit, RuntimeError):  # the results and the log below say more
            runner.test(
                test_module=module,
                hdl_toplevel=toplevel,
                hdl_toplevel_lang="verilog",
                build_dir=work,
                test_dir=work,
                results_xml=str(results),
                log_file=log,
                seed=seed,
                extra_env=dict(environment or {}),
            )
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:])
        if not results.is_file():
            raise BenchError(f"{module} ran no test; its log ends with\n{tail}")
        cases = ElementTree.parse(results).getroot().findall(".//testcase")
    ran = [case for case in cases if case.find("skipped") is None]
    failed = [case.get("name") for case in ran if case.find("failure") is not None or case.find("error") is not None]
    if failed:
        raise BenchError(f"{module}: {', '.join(map(str, failed))} failed; the log ends with\n{tail}")
    if len(ran) != expected_tests:
        raise BenchError(f"{module} ran {len(ran)} tests, not {expected_tests}; its log ends with\n{tail}")
