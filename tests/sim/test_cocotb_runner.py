"""The runner tells a bench that passed from one that failed, ran too little, or never ran."""

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sim.elaborate import convert

pytestmark = pytest.mark.usefixtures("tools")

BENCH = """
import cocotb
from sim.benches.bench import Bench

@cocotb.test
async def increments(dut):
    bench = Bench(dut)
    await bench.start(i=41)
    await bench.cycle()
    assert bench.get("o") == {expected}
"""


class Increment(wiring.Component):
    i: In(8)
    o: Out(8)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.o.eq(self.i + 1)
        return m


@pytest.fixture
def run_bench(tmp_path, monkeypatch, request):
    from sim.cocotb_runner import run

    monkeypatch.syspath_prepend(tmp_path)

    def run_text(text, expected_tests):
        (tmp_path / "generated_bench.py").write_text(text)
        run(convert(Increment()), "top", "generated_bench", expected_tests)

    return run_text


def test_a_bench_that_passes_returns(run_bench):
    run_bench(BENCH.format(expected=42), 1)


def test_a_failing_test_raises(run_bench):
    from sim.cocotb_runner import BenchError

    with pytest.raises(BenchError, match=r"(?s)increments failed; the log ends with.*assert 42 == 43"):
        run_bench(BENCH.format(expected=43), 1)


@pytest.mark.parametrize("text", ["import a_module_that_is_not_there", "raise ValueError", "1 +"])
def test_a_bench_that_cannot_be_imported_raises(run_bench, text):
    from sim.cocotb_runner import BenchError

    with pytest.raises(BenchError, match=r"generated_bench ran no test|generated_bench ran 0 tests"):
        run_bench(f"{text}\n{BENCH.format(expected=42)}", 1)


def test_a_bench_without_tests_raises(run_bench):
    from sim.cocotb_runner import BenchError

    with pytest.raises(BenchError, match="generated_bench ran"):
        run_bench("", 1)


def test_another_number_of_tests_raises(run_bench):
    from sim.cocotb_runner import BenchError

    with pytest.raises(BenchError, match="ran 1 tests, not 2"):
        run_bench(BENCH.format(expected=42), 2)


def test_a_skipped_test_does_not_count(run_bench):
    from sim.cocotb_runner import BenchError

    with pytest.raises(BenchError, match="ran 0 tests, not 1"):
        run_bench(BENCH.format(expected=42).replace("@cocotb.test", "@cocotb.test(skip=True)"), 1)


def test_a_bench_that_kills_the_simulator_raises(run_bench):
    from sim.cocotb_runner import BenchError

    with pytest.raises(BenchError, match=r"ran no test|failed|ran 0"):
        run_bench(BENCH.format(expected=42).replace("await bench.cycle()", "import os; os._exit(0)"), 1)
