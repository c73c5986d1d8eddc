"""What Yosys is told of memories and devices, by what it makes of it."""

import json

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from boards.build import plan_core
from boards.flow import step
from boards.registry import BOARDS, find
from boards.synthesis import options, unordered
from rtl.unordered import UNORDERED
from tests.boards.link_memory import LinkMemory


class Memories(wiring.Component):
    """A memory for each of `kinds`, all at the same addresses, with the attributes `kinds` has."""

    def __init__(self, kinds, transparent=False):
        self._kinds, self._transparent = kinds, transparent
        super().__init__(
            {"i_read": In(8), "i_write": In(8), "i_data": In(16), "i_en": In(1), "o": Out(16).array(len(kinds))}
        )

    def elaborate(self, platform):
        m = Module()
        for index, attributes in enumerate(self._kinds):
            m.submodules[f"memory_{index}"] = memory = Memory(shape=16, depth=256, init=[], attrs=attributes)
            write = memory.write_port()
            read = memory.read_port(transparent_for=[write] if self._transparent else [])
            m.d.comb += [
                write.addr.eq(self.i_write), write.data.eq(self.i_data), write.en.eq(self.i_en),
                read.addr.eq(self.i_read), self.o[index].eq(read.data),
            ]  # fmt: skip
        return m


def cells(design, family):
    """Return the cells that Yosys makes of `design`, by type."""
    script = f"read_rtlil top.il\nsynth_{family} -top top\ntee -q -o stat.json stat -json\n"
    inputs = {"top.il": unordered(rtlil.convert(design, name="top")).encode(), "top.ys": script.encode()}
    folder = step("cells", ("yosys", "-q", "top.ys"), inputs, ["stat.json"])
    return json.loads((folder / "stat.json").read_text())["design"]["num_cells_by_type"]


@pytest.mark.parametrize(
    ("family", "ram", "register"), [("ice40", "SB_RAM40_4K", "SB_DFF"), ("ecp5", "DP16KD", "TREL")]
)
def test_only_reads_of_ordered_memories_take_registers(family, ram, register):
    def counted(*kinds):
        found = cells(Memories(kinds), family)
        return found[ram], sum(count for name, count in found.items() if name.startswith(register))

    rams, registers = counted({})
    assert (rams, registers > 16) == (1, True)
    assert counted(UNORDERED) == (1, 0)
    assert counted(UNORDERED, {"other": 1}, UNORDERED | {"other": 1}) == (3, registers)
    assert counted({"other": 1} | UNORDERED, {}) == (2, registers)


def test_a_read_that_sees_the_write_keeps_seeing_it():
    seen = cells(Memories([{}], transparent=True), "ice40")
    assert cells(Memories([UNORDERED], transparent=True), "ice40") == seen != {"SB_RAM40_4K": 1}


@pytest.mark.parametrize("name", BOARDS)
def test_a_device_has_its_family_s_options(name):
    board = find(name)
    platform, plan = board.open_platform(), plan_core(board, LinkMemory, board.clock())
    lines = [line.split() for line in plan.files["top.ys"].decode().splitlines()]
    (synthesis,) = [words for words in lines if words and words[0].startswith("synth_")]
    wanted = {"ecp5": ["-nowidelut"], "iCE40": ["-dffe_min_ce_use", "4"]}.get(platform.family, [])
    assert synthesis[1 : len(wanted) + 3] == [*wanted, "-top", "top"]
    assert options(platform).split() == wanted
