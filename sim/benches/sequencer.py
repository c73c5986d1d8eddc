"""The sequencer: descriptors from a modelled memory, layers of random length, every kind of stop."""

from __future__ import annotations

import json
import os

import cocotb

from hwq import isa
from hwq.config import ArrayConfig
from sim.benches.bench import Bench

INPUTS = (
    "i_start", "i_pc", "i_clear", "i_watchdog", "i_progress", "i_act_range", "i_weight_range", "i_param_range",
    "i_drained", "i_layer_done", "i_word", "i_fetching",
)  # fmt: skip
UNITS = ("conv", "depthwise", "vector")


class SequencerBench(Bench):
    """Program memory with one cycle of latency, and one more where layers overlap, and a unit that runs each layer."""

    def __init__(self, dut) -> None:
        super().__init__(dut)
        self.config = config = ArrayConfig(**json.loads(os.environ["HWQ_ARCH"]))
        self.tables = config.tables
        self.has_int4, self.has_books, self.has_act_int4 = config.int4, config.codebooks == 1, config.act_int4
        self.has_scales = config.block_scales == 1
        self.most = dict(zip(UNITS, (config.cols, config.depthwise_cols, config.lanes), strict=True))
        self.slots = config.slots
        self.program = [0] * (self.slots * isa.SLOT_WORDS)
        self.words = [0] * config.overlaps  # on their way

    def layer(self, opcode: int) -> dict[str, int]:
        """Return random legal field values."""
        values = {}
        for field in isa.DESCRIPTOR:
            low, high = field.range
            kept = self.config.kept_bits(field)
            if not field.signed:
                high = (1 << kept) - 1
            values[field.name] = self.random.randint(1 if field.nonzero else low, high) if kept else 0
        values |= {"opcode": opcode, "table": self.random.randint(0, self.tables), "early": 0}
        values |= {"last_channels": self.random.randint(1, self.most[isa.Opcode(opcode).name.lower()])}
        values |= {"strips": 0, "short_strip": 0, "product": 0, "int4": 0, "codebook": 0, "ifm_int4": 0, "ofm_int4": 0}
        values |= {"scaled": 0}
        if opcode != isa.Opcode.VECTOR:
            forms = [{}, *[{"int4": 1}] * self.has_int4, *[{"codebook": 1}, {"codebook": 2}] * self.has_books]
            forms += [{"ifm_int4": 1}] * (self.has_act_int4 and opcode == isa.Opcode.CONV)
            values |= self.random.choice(forms)
        if opcode == isa.Opcode.CONV and self.has_scales:
            values |= {"scaled": self.random.randint(0, 1)}
        if opcode == isa.Opcode.CONV and self.has_act_int4:
            values |= {"ofm_int4": self.random.randint(0, 1)}
        if opcode == isa.Opcode.DEPTHWISE:
            values |= {"residual": 0, "short_from": 0}
        return values

    def store(self, slot: int, values: dict[str, int]) -> None:
        """Write a descriptor; the words of the slot that hold no field are random."""
        words = isa.encode(isa.DESCRIPTOR, isa.DESCRIPTOR_WORDS, values)
        spare = [self.random.getrandbits(32) for _ in range(isa.SLOT_WORDS - isa.DESCRIPTOR_WORDS)]
        self.program[slot * isa.SLOT_WORDS : (slot + 1) * isa.SLOT_WORDS] = words + spare

    def descriptor(self, port: str) -> dict[str, int]:
        """Return the fields on `port`."""
        word, out = self.get(port), {}
        for field in isa.DESCRIPTOR:
            # counts of pixels are held with a sign, less one more than a tile has
            excess = self.config.rows + 1 if field.name in ("row_pixels", "pixels") else 0
            width = (self.config.kept_bits(field) or field.width) + (excess > 0)
            out[field.name] = (word + excess) & ((1 << width) - 1)
            word >>= width
        return out

    def kept(self, slot: int) -> dict[str, int]:
        """Return the bits of a slot's fields that the array keeps."""
        fields = isa.decode(isa.DESCRIPTOR, self.program[slot * isa.SLOT_WORDS :][: isa.DESCRIPTOR_WORDS])
        return {field.name: fields[field.name] & ((1 << self.config.kept_bits(field)) - 1) for field in isa.DESCRIPTOR}

    async def begin(self) -> None:
        await self.start(**dict.fromkeys(INPUTS, 0))

    async def tick(self, **inputs: int) -> None:
        """One cycle; program memory answers an address of before, pulses fall again."""
        address = self.get("o_address")
        self.set(**inputs)
        await self.cycle()
        self.words.append(self.program[address] if address < len(self.program) else 0)
        self.set(i_word=self.words.pop(0))
        self.set(**dict.fromkeys(inputs, 0))

    async def run(self, slot: int, most_cycles: int = 40) -> list[tuple[int, str]]:
        """Start at `slot`; return (slot, unit) of each layer that ran until the sequencer stopped."""
        ran: list[tuple[int, str]] = []
        expected: list[dict[str, int]] = []
        backs = 0
        await self.tick(i_start=1, i_pc=slot)
        left = -1
        for _ in range(10_000):
            if not self.get("o_busy"):
                assert backs == len(ran)
                return ran
            units = [name for name in UNITS if self.get(f"o_{name}")]
            if units:
                assert left < 0, "a layer started while another was running"
                assert len(units) == 1
                ran.append((self.get("o_pc"), units[0]))
                expected.append(self.kept(ran[-1][0]))
                assert self.descriptor("o_front") == expected[-1]
                left = self.random.randint(1, most_cycles)
            if self.get("o_back"):
                assert self.descriptor("o_descriptor") == expected[backs]
                backs += 1
            left -= 1
            await self.tick(i_layer_done=left == 0, i_progress=1)
        raise AssertionError("the sequencer never stopped")

    async def until_layer(self) -> None:
        """Start at slot 0 and wait for its layer."""
        await self.tick(i_start=1)
        for _ in range(100):
            if self.get("o_layer"):
                return
            await self.tick()
        raise AssertionError("no layer started")

    def assert_stopped(self, error: isa.ErrorCode, slot: int) -> None:
        assert (self.get("o_error"), self.get("o_pc")) == (error, slot)
        assert self.get("o_done") == (error is isa.ErrorCode.NONE)


@cocotb.test
async def layers_run_in_order_until_halt(dut) -> None:
    bench = SequencerBench(dut)
    await bench.begin()
    for _ in range(6):
        first, layers = bench.random.randrange(3), bench.random.randint(0, 4)
        want = []
        for slot in range(first, first + layers):
            unit = bench.random.choice(UNITS)
            bench.store(slot, bench.layer(isa.Opcode[unit.upper()]))
            want.append((slot, unit))
        bench.store(first + layers, {"opcode": isa.Opcode.HALT})
        assert await bench.run(first) == want
        bench.assert_stopped(isa.ErrorCode.NONE, first + layers)


@cocotb.test
async def every_illegal_descriptor_stops(dut) -> None:
    bench = SequencerBench(dut)
    await bench.begin()
    bench.store(0, bench.layer(isa.Opcode.VECTOR))
    for opcode in (4, 0x55, 0xFF):
        bench.store(1, {"opcode": opcode})
        assert await bench.run(0) == [(0, "vector")]
        bench.assert_stopped(isa.ErrorCode.ILLEGAL_OPCODE, 1)
    for unit in UNITS:
        opcode = isa.Opcode[unit.upper()]
        wrong = [{field.name: 0} for field in isa.DESCRIPTOR if field.nonzero]
        wrong += [
            {"last_channels": bench.most[unit] + 1, "int4": 0, "codebook": 0},
            {"table": bench.tables + 1},
            {"strips": 1},
        ]
        wrong += [{"product": 1, "residual": 0}, {"product": 1, "reduce": isa.Reduce.SUM}]
        if opcode == isa.Opcode.CONV:
            wrong += [
                {"last_channels": 2 * bench.most[unit] + 1, "int4": 1, "codebook": 0},
                {"last_channels": bench.most[unit] + 1, "int4": 1, "codebook": 0, "scaled": 1},
                {"product": 1, "residual": 1},
            ]
        if opcode != isa.Opcode.CONV or not bench.has_scales:
            wrong += [{"scaled": 1}]
        wrong += [{"codebook": 3}, {"int4": 1, "codebook": 1}, {"int4": 1, "codebook": 2}]
        if opcode == isa.Opcode.VECTOR or not bench.has_int4:
            wrong += [{"int4": 1, "codebook": 0, "ifm_int4": 0}]
        if opcode == isa.Opcode.VECTOR or not bench.has_books:
            wrong += [{"int4": 0, "codebook": 1, "ifm_int4": 0}, {"int4": 0, "codebook": 2, "ifm_int4": 0}]
        if opcode != isa.Opcode.CONV or not bench.has_act_int4:
            wrong += [{"ifm_int4": 1, "int4": 0, "codebook": 0}, {"ofm_int4": 1}]
        if opcode == isa.Opcode.CONV:
            wrong += [{"ifm_int4": 1, "int4": 1, "codebook": 0}, {"ifm_int4": 1, "int4": 0, "codebook": 1}]
        if opcode == isa.Opcode.DEPTHWISE:
            wrong += [{"residual": 1}, {"span": 1, "short_from": 1}]
        for change in wrong:
            bench.store(1, bench.layer(opcode) | change)
            assert await bench.run(0) == [(0, "vector")], change
            bench.assert_stopped(isa.ErrorCode.ILLEGAL_FIELD, 1)
        for word, mask in enumerate(bench.config.legal_masks()):
            if mask != 0xFFFF_FFFF:
                bench.store(1, bench.layer(opcode))
                stray = bench.random.choice([bit for bit in range(32) if not mask >> bit & 1])
                bench.program[isa.SLOT_WORDS + word] |= 1 << stray
                assert await bench.run(0) == [(0, "vector")], (word, stray)
                bench.assert_stopped(isa.ErrorCode.ILLEGAL_FIELD, 1)


@cocotb.test
async def words_of_an_aborted_program_are_forgotten(dut) -> None:
    bench = SequencerBench(dut)
    await bench.begin()
    bench.program[: isa.SLOT_WORDS] = [0xFFFF_FFFF] * isa.SLOT_WORDS
    bench.store(1, bench.layer(isa.Opcode.CONV))
    for cycles in range(isa.DESCRIPTOR_WORDS + 8):
        await bench.tick(i_start=1, i_pc=0)
        for _ in range(cycles):
            await bench.tick()
        await bench.tick(i_clear=1)
        await bench.tick()  # the bus takes two cycles from one write to the next
        assert await bench.run(1) == [(1, "conv")], cycles
        assert (bench.get("o_error"), bench.get("o_done")) == (isa.ErrorCode.NONE, 1), cycles


@cocotb.test
async def running_past_the_last_slot_stops(dut) -> None:
    bench = SequencerBench(dut)
    await bench.begin()
    bench.store(bench.slots - 1, bench.layer(isa.Opcode.CONV))
    assert await bench.run(bench.slots - 1) == [(bench.slots - 1, "conv")]
    assert (bench.get("o_error"), bench.get("o_done")) == (isa.ErrorCode.PC_RANGE, 0)


@cocotb.test
async def a_unit_can_stop_a_layer(dut) -> None:
    bench = SequencerBench(dut)
    await bench.begin()
    bench.store(0, bench.layer(isa.Opcode.CONV))
    for name in ("act", "weight", "param"):
        await bench.until_layer()
        for _ in range(bench.random.randint(0, 50)):
            await bench.tick(i_progress=1)
        bench.set(**{f"i_{name}_range": 1})
        await bench.tick(**{f"i_{name}_range": 1})
        assert not bench.get("o_busy")
        bench.assert_stopped(isa.ErrorCode[f"{name.upper()}_RANGE"], 0)


@cocotb.test
async def the_watchdog_counts_cycles_without_progress(dut) -> None:
    bench = SequencerBench(dut)
    await bench.begin()
    bench.store(0, bench.layer(isa.Opcode.CONV))
    bench.set(i_watchdog=20)
    await bench.until_layer()
    for _ in range(10):
        for _ in range(bench.random.randint(1, 18)):
            await bench.tick()
        await bench.tick(i_progress=1)
    assert bench.get("o_busy")
    for _ in range(22):
        await bench.tick()
    assert not bench.get("o_busy")
    bench.assert_stopped(isa.ErrorCode.WATCHDOG, 0)


@cocotb.test
async def clear_aborts_and_a_start_works_again(dut) -> None:
    bench = SequencerBench(dut)
    await bench.begin()
    bench.store(0, bench.layer(isa.Opcode.VECTOR))
    bench.store(1, {"opcode": isa.Opcode.HALT})
    for wait in (0, 5, 26, 40):
        await bench.tick(i_start=1)
        for _ in range(wait):
            await bench.tick(i_progress=1)
        await bench.tick(i_clear=1)
        assert (bench.get("o_busy"), bench.get("o_done"), bench.get("o_error")) == (0, 0, 0)
        assert await bench.run(0) == [(0, "vector")]
        bench.assert_stopped(isa.ErrorCode.NONE, 1)


@cocotb.test
async def an_early_layer_starts_ahead_of_the_output_path(dut) -> None:
    bench = SequencerBench(dut)
    await bench.begin()
    first, second = bench.layer(isa.Opcode.CONV) | {"residual": 0}, bench.layer(isa.Opcode.CONV) | {"early": 1}
    bench.store(0, first)
    bench.store(1, second)
    bench.store(2, {"opcode": isa.Opcode.HALT})
    await bench.until_layer()
    for _ in range(60):
        await bench.tick(i_progress=1, i_fetching=1)
        assert not bench.get("o_conv")
    starts = 0
    for _ in range(5):
        await bench.tick(i_progress=1)
        starts += bench.get("o_conv")
    assert (starts, bench.get("o_back"), bench.get("o_pc")) == (1, 0, 0)
    assert bench.descriptor("o_descriptor")["ifm_base"] == first["ifm_base"], (
        "the drain unit stays with the first layer"
    )
    await bench.tick(i_drained=1)
    assert (bench.get("o_back"), bench.get("o_layer"), bench.get("o_pc")) == (1, 1, 0)
    assert bench.descriptor("o_descriptor")["ifm_base"] == second["ifm_base"]
    await bench.tick(i_layer_done=1)
    assert (bench.get("o_back"), bench.get("o_layer"), bench.get("o_pc")) == (0, 1, 1)
    await bench.tick(i_layer_done=1)
    for _ in range(40):
        await bench.tick()
    bench.assert_stopped(isa.ErrorCode.NONE, 2)
