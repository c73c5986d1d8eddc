"""Properties of what makes addresses: tensors aren't left, and tiles come back to where they began."""

from amaranth.asserts import AnyConst
from amaranth.hdl import Assert, Assume, Cover, Module, Mux, Signal

from rtl.layouts import tile_excess
from tests import programs
from tests.proofs.harness import drive, proof

CONFIG = programs.tiny(4, 4, 4, 1, act_bytes=16)


def constants(m: Module, *ports, below: int = 0, less: int = 0) -> None:
    """Let `ports` have any value that doesn't change: with `below`, `less` under one from 1 to below it."""
    for port in ports:
        m.d.comb += Assume(port == AnyConst(port.shape()))
        if below:
            m.d.comb += Assume((port > -less) & (port < below - less))


@proof(
    "rtl.walker",
    bug=("Mux(control.row_final, self.i_row_pixels, row_left - 1)", "Mux(control.row_final, row_left, row_left - 1)"),
    depth=9,
    bounded=True,
    slow=True,
)
def pixel_walker_is_its_formula(m, rtl):
    """The address is base + y * pitch + x * step of pixel n = y * row + x, which goes as told to the last; 9 cycles."""
    m.submodules.dut = dut = rtl.PixelWalker(CONFIG)
    drive(m, dut)
    control = dut.control
    constants(m, dut.i_row_pixels, dut.i_pixels, below=8, less=tile_excess(CONFIG))
    row, pixels = (Signal(3, name=name) for name in ("row", "pixels"))
    m.d.comb += [row.eq(dut.i_row_pixels + tile_excess(CONFIG)), pixels.eq(dut.i_pixels + tile_excess(CONFIG))]
    constants(m, dut.i_x_step, dut.i_y_step)
    n, tile, base, started = Signal(3), Signal(3), Signal.like(control.base), Signal()
    following = Signal(3)
    m.d.comb += following.eq(Mux(control.step & (n + 1 < pixels), n + 1, n))
    m.d.comb += Assume(~(control.rewind & control.commit))
    with m.If(control.start):
        m.d.sync += [started.eq(1), n.eq(0), tile.eq(0), base.eq(control.base)]
    with m.Elif(control.rewind):
        m.d.sync += n.eq(tile)
    with m.Else():
        m.d.sync += n.eq(following)
        with m.If(control.commit):
            m.d.sync += tile.eq(following)
    x, y = n % row, n // row
    pitch = (row - 1) * dut.i_x_step + dut.i_y_step
    address = Signal.like(control.address)
    m.d.comb += address.eq(base + y * pitch + x * dut.i_x_step)
    left, row_left = (pixels - n)[:3], (row - x)[:3]
    with m.If(started):
        m.d.comb += [
            Assert(control.address == address),
            Assert(control.final == (left == 1)),
            Assert(control.more == (left > CONFIG.rows)),
            Assert(control.near == Mux(left > CONFIG.rows, CONFIG.rows, left)),
            Assert(control.row_final == (row_left == 1)),
            Assert(control.row_near == Mux(row_left > CONFIG.rows, CONFIG.rows, row_left)),
            Cover((y == 2) & (x == 1) & (tile == 3)),
        ]


@proof(
    "rtl.taps",
    bug=("control.inner.eq(Mux(control.row_end, 0, after))", "control.inner.eq(Mux(control.end, 0, after))"),
    depth=11,
    bounded=True,
)
def tap_walker_is_its_formula(m, rtl):
    """The offset of tap (y, x) is y * pitch + x * step, and the last ones are told; any 11 cycles."""
    m.submodules.dut = dut = rtl.TapWalker(CONFIG)
    drive(m, dut)
    control = dut.control
    constants(m, dut.i_taps_x, dut.i_taps_y, below=4)
    constants(m, dut.i_x_step, dut.i_y_step)
    number, started = Signal(4), Signal()
    columns = dut.i_taps_x[:2]
    last = columns * dut.i_taps_y[:2] - 1
    with m.If(control.start):
        m.d.sync += [started.eq(1), number.eq(0)]
    with m.Elif(control.step):
        m.d.sync += number.eq(number + 1)
    m.d.comb += Assume(~control.step | control.start | (number < last))
    x, y = number % columns, number // columns
    pitch = (columns - 1) * dut.i_x_step + dut.i_y_step
    offset = Signal.like(control.offset)
    m.d.comb += offset.eq(y * pitch + x * dut.i_x_step)
    with m.If(started):
        m.d.comb += [
            Assert(control.offset == offset),
            Assert(control.inner == x),
            Assert(control.row_end == (x == columns - 1)),
            Assert(control.end == (number == last)),
            Cover((y == 2) & (x == 2)),
        ]
