"""Exact cycle counts from descriptors alone, by the architecture's rules.

A CONV layer is a recurrence over the parts that the fetch unit launches and the steps that the issue unit takes; see
`rtl.fetch`, `rtl.issue` and `rtl.drain` for the hardware it mirrors. All tiles of a block of channels are alike, so
once two neighbouring tiles end in the same relative state the rest of the block is known without walking it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hwq import isa, pipeline, weights
from hwq.config import ArrayConfig


@dataclass(frozen=True)
class LayerTiming:
    """Cycles of one descriptor.

    Members
    -------
    slot : int
    cycles : int
        From the end of the layer before to the end of this one, as `Region.PROFILE` counts them.
    macs : int
        Multiply-accumulates the mesh did for existing pixels and channels, 0 for VECTOR.
    bound : str
        ``mac``, ``weight``, ``fetch``, ``output`` or ``vector``: what sets the tile period; see `bound`.
    first_cycle, end_cycle : int
        The cycles since the program's start in which its mesh steps, or vector reads, are issued, and before them the
        reads of a codebook; the end excluded.
    """

    slot: int
    cycles: int
    macs: int
    bound: str
    first_cycle: int
    end_cycle: int


@dataclass(frozen=True)
class Timing:
    """Cycles of a program from start to done: its `layers` and the `total`, reading HALT included."""

    layers: tuple[LayerTiming, ...]
    total: int


def predict(descriptors: Iterable[Mapping[str, int]], config: ArrayConfig, first_slot: int = 0) -> Timing:
    """Return the cycles of `descriptors` (decoded, up to and including HALT) on `config`, from start to done."""
    layers = []
    go = pipeline.descriptor_load(config)
    ended = ended_before = loaded = 0
    before: _Walk | None = None  # the layer of the mesh ahead, in cycles since the program's start
    for slot, d in enumerate(descriptors, first_slot):
        if d["opcode"] == isa.Opcode.HALT:
            break
        start = go + 1
        first = start + 1
        if d["opcode"] == isa.Opcode.VECTOR:
            first += pipeline.BACK_START
            issued = first + vector_reads(d)
            end, before = start + _vector_cycles(d, config), None
        else:
            walk = _Walk(config, d)
            if before is not None and d["early"] and config.overlaps:
                early = max(before.next_step + 1, before.launch + 1, loaded, ended_before + 2)
                if early < ended:
                    go, start = early, early + 1
                    walk.follow(before, start)
            walk.layer()
            first = start + 1
            walk.shift(start)
            issued, end, before = walk.next_step, walk.end, None if d["scaled"] or d["residual"] else walk
        macs = pixels(d) * (weight_words(d) << d["ifm_int4"]) * channels(d, config) * (d["opcode"] != isa.Opcode.VECTOR)
        layers.append(LayerTiming(slot, end - ended, macs, bound(d, config), first, issued))
        ended_before, ended = ended, end
        loaded = (go if config.overlaps else end) + pipeline.descriptor_load(config)
        go = max(end + 1, loaded)
    return Timing(tuple(layers), go)


def cycles(fields: Mapping[str, int], config: ArrayConfig) -> int:
    """Return the cycles of one descriptor from its start to its end, with fields that aren't named 0."""
    d = isa.complete(fields)
    if d["opcode"] == isa.Opcode.VECTOR:
        return _vector_cycles(d, config)
    walk = _Walk(config, d)
    walk.layer()
    return walk.end


def pixels(d: Mapping[str, int]) -> int:
    """Return the output pixels of a descriptor."""
    return d["pixels"] * d["strips"] - d["short_strip"] * d["pixels"] // 2 if d["strips"] else d["pixels"]


def weight_words(d: Mapping[str, int]) -> int:
    """Return K, the weights of one output of a CONV or DEPTHWISE descriptor: the steps of a tile that have one."""
    inner = d["taps_x"] * d["span"]
    if d["opcode"] == isa.Opcode.DEPTHWISE:
        return sum(run_spans(d))
    return d["taps_y"] * inner


def memory_words(d: Mapping[str, int], config: ArrayConfig) -> int:
    """Return the words of weight memory of a CONV or DEPTHWISE descriptor."""
    form = weights.Form.of(d)
    width, last = config.block_channels(d), d["last_channels"]
    return weights.layer_words(weight_words(d), d["blocks"], width, last, config.cols, form)


def channels(d: Mapping[str, int], config: ArrayConfig) -> int:
    """Return the output channels of a descriptor."""
    return (d["blocks"] - 1) * config.block_channels(d) + d["last_channels"]


def pixel_bytes(d: Mapping[str, int], config: ArrayConfig) -> int:
    """Return the bytes a descriptor writes for each output pixel."""
    return -(-channels(d, config) >> d["ofm_int4"])


def has_pairs(d: Mapping[str, int], config: ArrayConfig) -> bool:
    """Return whether a layer's first block has two channels on every column."""
    first = config.block_channels(d) if d["blocks"] > 1 else d["last_channels"]
    return bool(d["int4"]) and not d["scaled"] and weights.is_paired(first, config.cols)


def mesh_steps(d: Mapping[str, int], config: ArrayConfig) -> int:
    """Return the mesh steps of a layer."""
    if d["opcode"] == isa.Opcode.VECTOR:
        return 0
    if d["opcode"] == isa.Opcode.CONV:
        return weight_words(d) * -(-d["pixels"] // config.rows) * d["blocks"]
    if d["strips"]:
        columns = d["pixels"] // 2 + d["span"] - 1
        return d["blocks"] * d["strips"] * columns * pipeline.STRIP_STEPS
    rows, rest = divmod(d["pixels"], d["row_pixels"])
    lengths = [d["row_pixels"]] * rows + ([rest] if rest else [])
    tiles = sum(-(-length // config.rows) for length in lengths)
    return d["blocks"] * sum(d["pixels"] + tiles * (span - 1) for span in run_spans(d))


def vector_reads(d: Mapping[str, int]) -> int:
    """Return the reads of a VECTOR layer, one a cycle."""
    return d["pixels"] * d["blocks"] * (d["taps_y"] * d["taps_x"] + d["residual"])


def drain_cycles(pixels: int, channels: int, config: ArrayConfig, residual: int = 0) -> int:
    """Return the cycles the output path takes to read a tile out of the mesh."""
    if config.small:
        return pixels * config.groups
    if config.one_port:
        return pixels * -(-channels // config.lanes)
    reads = config.rows * (-(-channels // config.lanes) - 1) + pixels
    return reads * pipeline.read_interval(config, residual)


def tile_period(d: Mapping[str, int], config: ArrayConfig) -> dict[str, int]:
    """Return the lower bounds of a tile's period by cause; the largest one rules."""
    width, paired = config.block_channels(d), has_pairs(d, config)
    interval = pipeline.read_interval(config, d["residual"])
    wave = pipeline.first_read(config) + pipeline.overwrite_slack(config, paired, interval)
    output = max(interval * config.rows * config.groups << paired, wave)
    writes = config.rows if config.one_port else 0  # words that take turns with the reads
    if d["opcode"] == isa.Opcode.DEPTHWISE:
        if d["strips"]:
            return {"mac": weight_words(d), "fetch": config.strip_columns * pipeline.STRIP_STEPS, "output": output}
        neighbours = min(config.rows, d["row_pixels"])
        fetch = sum(neighbours + span - 1 for span in run_spans(d)) + writes
        return {"mac": weight_words(d), "fetch": fetch, "output": output}
    parts = d["taps_y"] * d["taps_x"] * -(-d["span"] // config.fetch_bytes)
    passes = parts + (-(-width // config.fetch_bytes) if d["residual"] else 0)
    sums = d["taps_y"] * d["taps_x"] if d["scaled"] else 1
    steps = weight_words(d) + (sums if d["scaled"] else 0) + pipeline.pause(config)
    return {"mac": steps, "fetch": passes * config.rows + writes, "output": sums * output}


def bound(d: Mapping[str, int], config: ArrayConfig) -> str:
    """Return what sets the tile period: ``mac``, ``weight``, ``fetch``, ``output``, or ``vector``.

    It is ``weight`` where the mesh steps do, but a CONV has fewer pixels than the mesh has rows: then the weights come
    as fast as they can, and each is used only so often.
    """
    if d["opcode"] == isa.Opcode.VECTOR:
        return "vector"
    periods = tile_period(d, config)
    cause = max(periods, key=lambda cause: periods[cause])
    few = d["opcode"] == isa.Opcode.CONV and d["pixels"] < config.rows
    return "weight" if cause == "mac" and few else cause


def run_spans(d: Mapping[str, int]) -> list[int]:
    """Return the spans of a DEPTHWISE tile's runs."""
    inner = [d["span"] - (0 < d["short_from"] <= x) for x in range(d["taps_x"]) for _ in range(d["repeats"] + 1)]
    return inner * d["taps_y"]


def _vector_cycles(d: Mapping[str, int], config: ArrayConfig) -> int:
    """Cycles from the start pulse to the end of a VECTOR layer."""
    last_tap = vector_reads(d) - d["residual"]
    if not config.one_port:
        return pipeline.BACK_START + last_tap + pipeline.vector_out(config) + pipeline.write_back(config, d["residual"])
    taps = d["taps_y"] * d["taps_x"]
    delay = pipeline.vector_out(config) + pipeline.post_latency(config, d["residual"])
    port, now = _Port(), pipeline.BACK_START + 1
    for _ in range(d["pixels"] * d["blocks"]):
        if d["residual"]:  # its read follows the last tap's
            last_tap = port.begin(port.reads(now, taps - 1) + 1, 2)
            now = last_tap + 2
        else:
            last_tap = port.reads(now, taps)
            now = last_tap + 1
        port.write(last_tap + delay + pipeline.QUEUE_LATENCY)
    return port.finish(config)


def _parts(d: Mapping[str, int], config: ArrayConfig) -> list[list[int]]:
    """Return the bytes of the parts of each of a CONV tile's sums: one, or where taps have scales one a tap."""
    full, rest = divmod(d["span"], config.fetch_bytes)
    tap = [config.fetch_bytes] * full + ([rest] if rest else [])
    taps = d["taps_y"] * d["taps_x"]
    return [tap] * taps if d["scaled"] else [tap * taps]


class _Port:
    """Activation memory's only port: words wait until no run of reads is under way, and then go first.

    Times must be given in order. Without `write` it holds nobody up, as two ports do.
    """

    def __init__(self) -> None:
        self._waiting: deque[int] = deque()  # from when on each word can be written
        self._free = 0  # when the last run of reads or write has ended

    def write(self, ready: int) -> None:
        """Let a word be ready."""
        self._waiting.append(ready)

    def begin(self, at: int, reads: int) -> int:
        """Return when a run of `reads` begins that may from `at` on; nothing comes between them."""
        while self._waiting and (turn := max(self._waiting[0], self._free)) <= at:
            self._waiting.popleft()
            self._free = turn + 1
            at = max(at, self._free)
        self._free = at + reads
        return at

    def reads(self, at: int, count: int) -> int:
        """Return the cycle of the last of `count` single reads that may go from `at` on."""
        last = at + count - 1
        while self._waiting and (turn := max(self._waiting[0], self._free)) <= last:
            self._waiting.popleft()
            self._free = turn + 1
            last += turn >= at
        return last

    def finish(self, config: ArrayConfig) -> int:
        """Return when all words are in memory."""
        for ready in self._waiting:
            self._free = max(ready, self._free) + 1
        self._waiting.clear()
        return self._free - 1 + pipeline.write_latency(config)

    def events(self, since: int) -> tuple[int, ...]:
        """Return all that is known, relative to `since`."""
        return (self._free - since, *(ready - since for ready in self._waiting))

    def shift(self, cycles: int) -> None:
        """Move every event by `cycles`."""
        self._free += cycles
        self._waiting = deque(ready + cycles for ready in self._waiting)


class _Walk:
    """Event times of fetch, issue and drain of a layer of the mesh, relative to the start pulse."""

    def __init__(self, config: ArrayConfig, d: Mapping[str, int]):
        self._config, self._d = config, d
        self._parts = _parts(d, config) if d["opcode"] == isa.Opcode.CONV else []
        self._interval = pipeline.read_interval(config, d["residual"])
        self._first_read = pipeline.first_read(config) + (pipeline.strip_skew(config) if d["strips"] else 0)
        self._paired = False  # the block has two channels on every column
        self.launch = 1  # earliest next pass
        self.vacant = 1  # when the waiting half was last free again
        self.next_step = 1  # earliest next step
        self.offered = 1 + pipeline.STEP_LATENCY  # when a DEPTHWISE layer's next step is at hand
        self.last_step = 0  # the last tile's last step
        self.hold = 0  # earliest next last step
        self.free = 0  # when the drain has read everything
        self.turn = 0  # cycles it waits then, if it has ended a map
        self.drained = [0] * pipeline.RESIDUAL_BUFFERS  # when the last tiles' buffers came free
        self.end = 0  # when the last result is in memory
        self._port = _Port()

    def follow(self, before: _Walk, start: int) -> None:
        """Begin at `start` while the output path still works for the layer `before`."""
        self.hold = before.hold - start
        self.free = before.free + pipeline.BACK_CHANGE - start

    def layer(self) -> None:
        """Walk all tiles."""
        d, width = self._d, self._config.block_channels(self._d)
        for block in range(d["blocks"]):
            channels = d["last_channels"] if block == d["blocks"] - 1 else width
            self._paired = bool(d["int4"]) and not d["scaled"] and weights.is_paired(channels, self._config.cols)
            if weights.has_book(d["codebook"], block):
                self.next_step += pipeline.BOOK_LOAD
            elif d["opcode"] == isa.Opcode.DEPTHWISE and block == 0:
                self.next_step += pipeline.STEP_LATENCY
            if d["opcode"] == isa.Opcode.CONV:
                self._conv_block(channels)
                self.launch += pipeline.TURN
            elif d["strips"]:
                self._strips_block(channels)
            else:
                self._rows_block(channels)
            self.turn = pipeline.turn_wait(self._config, self._interval)
        if self._config.one_port:
            self.end = self._port.finish(self._config)
        else:
            scales = pipeline.SCALE_LATENCY if d["scaled"] else 0
            read_out = pipeline.read_out(self._config) + pipeline.write_back(self._config, d["residual"])
            self.end = self.free - self._interval + read_out + scales

    def _conv_block(self, channels: int) -> None:
        slices = -(-channels // self._config.fetch_bytes) if self._d["residual"] else 0
        previous: tuple[int, ...] | None = None
        left, rest = divmod(self._d["pixels"], self._config.rows)
        residual = self._d["residual"]
        drain = drain_cycles(self._config.rows, channels, self._config, residual)
        while left:
            before = self.last_step
            self._tile(slices, drain, self._config.rows)
            left -= 1
            state = self._relative()
            if state == previous:
                self.shift(left * (self.last_step - before))
                left = 0
            previous = state
        if rest:
            self._tile(slices, drain_cycles(rest, channels, self._config, residual), rest)

    def _strips_block(self, channels: int) -> None:
        columns, span = self._d["pixels"] // 2, self._d["span"]
        steps = (columns + span - 1) * pipeline.STRIP_STEPS
        full, rest = divmod(columns, self._config.strip_columns)
        tiles = [self._config.strip_columns] * full + ([rest] if rest else [])
        drains = [drain_cycles(2 * width, channels, self._config) for width in tiles]
        for _ in range(self._d["strips"]):
            self._strip(steps, span * pipeline.STRIP_STEPS - 1, drains)
            self.turn = pipeline.turn_wait(self._config, self._interval)

    def _rows_block(self, channels: int) -> None:
        d, runs = self._d, run_spans(self._d)
        rows, rest = divmod(d["pixels"], d["row_pixels"])
        lengths = [d["row_pixels"]] * rows + ([rest] if rest else [])
        previous: tuple[int, ...] | None = None
        left = len(lengths)
        while left:
            before = self.last_step
            length = lengths[len(lengths) - left]
            for first in range(0, length, self._config.rows):
                pixels = min(self._config.rows, length - first)
                self._row_tile(pixels, runs, drain_cycles(pixels, channels, self._config))
            left -= 1
            state = self._relative()
            same = left - bool(rest)
            if state == previous and same > 0:
                self.shift(same * (self.last_step - before))
                left -= same
            previous = state
        # while the unit turns back to the map's first pixel, what is left is the steps it has offered since the begin
        if pixels + runs[-1] - 2 > (0 if self._config.one_port else 1):
            self.offered += pipeline.TURN

    def _tile(self, slices: int, drain: int, pixels: int) -> None:
        """Advance by one tile of `pixels` pixels with `slices` passes of second operands."""
        ready = 0
        for _ in range(slices):
            launch = self._port.begin(max(self.launch, self.drained[0]), self._config.rows)
            self.launch = launch + self._config.rows
            ready = launch + self._config.rows + pipeline.read_latency(self._config)
        for index, parts in enumerate(self._parts):
            self.next_step += self._d["scaled"]
            for count in parts[:-1]:
                take = self._take()
                self.vacant, self.next_step = take + pipeline.part_latency(self._config), take + count
            take, final = self._take(), index == len(self._parts) - 1
            step = max(take + parts[-1] - 1, self.hold, ready if final else 0)
            self.vacant = (step if parts[-1] == 1 else take) + pipeline.part_latency(self._config)
            self.next_step = step + 1 + pipeline.pause(self._config)
            self._end_sum(step, drain, pixels, final)

    def _take(self) -> int:
        """Launch a part; return when it is taken."""
        launch = self._port.begin(max(self.launch, self.vacant), self._config.rows)
        self.launch = launch + self._config.rows
        return max(launch + pipeline.part_latency(self._config), self.next_step)

    def _row_tile(self, pixels: int, runs: list[int], drain: int) -> None:
        """Advance by one tile of `pixels` pixels of a DEPTHWISE layer; its last run begins once it can end."""
        now = max(self.next_step, self.offered)
        for span in runs[:-1]:
            now = self._port.begin(now, pixels + span - 1) + pixels + span - 1
        lead = pixels + runs[-1] - 2
        asked = max(self.offered if len(runs) == 1 else now, self.last_step + 2)
        known = pixels - 1 if self._config.small else lead
        step = self._port.begin(max(now, asked + 1, self.hold - known), lead + 1) + lead
        self.offered = step + 1
        self.next_step = step + 1 + pipeline.pause(self._config)
        self._end_sum(step, drain, pixels)

    def _strip(self, steps: int, lead: int, drains: Sequence[int]) -> None:
        """Advance by one strip, which begins once the output path can take all its tiles without a wait."""
        asked = max(self.offered, self.last_step + 2)
        begin = max(self.next_step, asked + 1, self.hold - lead, self.free + self.turn - self._first_read - lead)
        for tile, drain in enumerate(drains):
            period = self._config.strip_columns * pipeline.STRIP_STEPS
            self._end_sum(begin + lead + tile * period, drain, 2 * self._config.strip_columns)
        self.offered = self.next_step = begin + steps

    def _end_sum(self, step: int, drain: int, pixels: int, final: bool = True) -> None:
        """Let the last step of a sum of a tile of `pixels` pixels be at `step`; it is its tile's `final` one."""
        self.last_step = step
        start_in, self.turn = max(self._first_read, self.free + self.turn - step), 0
        self.hold = step + start_in + pipeline.overwrite_slack(self._config, self._paired, self._interval)
        self.free = step + start_in + drain
        if self._config.one_port:
            latency = pipeline.post_latency(self._config, self._d["residual"])
            delay = pipeline.read_out(self._config) + latency + pipeline.QUEUE_LATENCY
            for pixel in reversed(range(pixels)):
                self._port.write(self.free - 1 - pixel * (drain // pixels) + delay)
        if final:
            self.drained = [*self.drained[1:], self.free + 1 - self._interval]

    def _relative(self) -> tuple[int, ...]:
        """Return all that later tiles depend on, relative to the last step."""
        events = (self.launch, self.vacant, self.next_step, self.offered, self.hold, self.free, *self.drained)
        return (*(event - self.last_step for event in events), *self._port.events(self.last_step))

    def shift(self, cycles: int) -> None:
        """Move every event by `cycles`."""
        self.launch += cycles
        self.vacant += cycles
        self.next_step += cycles
        self.offered += cycles
        self.last_step += cycles
        self.hold += cycles
        self.free += cycles
        self.drained = [time + cycles for time in self.drained]
        self.end += cycles
        self._port.shift(cycles)
