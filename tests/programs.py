"""Random programs: descriptors that are legal on a given configuration, and memories to run them on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hwq import isa
from hwq.config import ArrayConfig
from hwq.driver import Driver
from hwq.machine import Machine

Maker = Callable[[ArrayConfig, np.random.Generator], dict[str, int]]

TINY = {"act_bytes": 4096, "weight_words": 2048, "param_words": 128, "slots": 16, "tables": 3}


LEAST = {"act_ports": 1, "adder": 0, "vector": 0, "monitor": 0, "tables": 0}
LEAST |= {"count_bits": 10, "sum_bits": 24, "small": 1}
"""What makes `tiny` as small as it can be."""


def tiny(rows: int, cols: int, fetch_bytes: int, lanes: int, **sizes: int) -> ArrayConfig:
    """Return a small configuration for tests."""
    name = f"test-{rows}x{cols}-f{fetch_bytes}-l{lanes}"
    return ArrayConfig(name=name, rows=rows, cols=cols, fetch_bytes=fetch_bytes, lanes=lanes, **(TINY | sizes))


def widths(shapes: Sequence[tuple[int, ...]]) -> list[tuple[tuple[int, ...], dict[str, int]]]:
    """Return `shapes` (rows, cols, fetch_bytes, lanes), each with all widths of weights and activations it can have."""
    return [
        (
            shape,
            {"weight_bits": weight_bits, "act_bits": act_bits, "codebooks": int(weight_bits == 4)}
            | {"block_scales": int(weight_bits == 4), "sum_bytes": int(weight_bits == 4)},
        )
        for shape in shapes
        for weight_bits, act_bits in ((8, 8), (4, 8), (4, 4))
        if act_bits == 8 or shape[3] >= 2
    ]


def random_memories(config: ArrayConfig, rng: np.random.Generator) -> Machine:
    """Return a machine with random memories and an empty program."""
    machine = Machine(config)
    machine.act[:] = rng.integers(-128, 128, machine.act.shape)
    machine.weights[:] = rng.integers(-128, 128, machine.weights.shape)
    machine.tables[:] = rng.integers(-128, 128, machine.tables.shape)
    for word in machine.params.reshape(-1, isa.PARAM_LANE_WORDS):
        exponent = int(rng.integers(20, 40))
        offset = int(rng.integers(-511, 512)) if rng.random() < 0.3 else 0  # read by `truncate`
        word[:] = isa.encode(
            isa.PARAM,
            isa.PARAM_LANE_WORDS,
            {
                "bias": int(rng.integers(-(1 << 15), 1 << 15)) + (offset << 22),
                "offset_high": int(rng.integers(0, 4)),
                "mantissa": int(rng.integers(1 << 23, 1 << 24)),
                "shift": exponent,
            },
        )
    return machine


def set_program(machine: Machine, descriptors: Sequence[Mapping[str, int]]) -> None:
    """Write `descriptors` and HALT at slot 0."""
    machine.program[:] = 0
    for slot, d in enumerate(descriptors):
        words = isa.encode(isa.DESCRIPTOR, isa.DESCRIPTOR_WORDS, d)
        machine.program[slot * isa.SLOT_WORDS :][: isa.DESCRIPTOR_WORDS] = words


def random_machine(config: ArrayConfig, rng: np.random.Generator, layers: int) -> Machine:
    """Return a machine with random memories and a program of `layers` random layers and HALT at slot 0."""
    machine = random_memories(config, rng)
    set_program(machine, random_layers(config, rng, layers))
    return machine


def random_layers(config: ArrayConfig, rng: np.random.Generator, layers: int) -> list[dict[str, int]]:
    """Return the descriptors of `layers` random layers."""
    descriptors: list[dict[str, int]] = []
    half = config.act_bytes // 2
    for _ in range(layers):
        d = rng.choice([*mesh_makers(config), random_conv, *[random_vector] * config.vector])(config, rng)
        if descriptors:
            before = descriptors[-1]
            # what a layer reads must not be what the one before it writes
            apart = (before["ofm_base"] < half) == (d["ofm_base"] < half)
            on_mesh = isa.Opcode.VECTOR not in (before["opcode"], d["opcode"])
            # after second operands, and taps with scales, it has no effect
            if apart and on_mesh and not config.one_port:
                d["early"] = int(rng.integers(0, 2))
        descriptors.append(d)
    return descriptors


def load(driver: Driver, machine: Machine) -> None:
    """Write all of `machine`'s memories."""
    driver.load_program(machine.program)
    driver.load_params(machine.params)
    driver.load_weights(machine.weights)
    if machine.config.tables:
        driver.load_tables(machine.tables)
    driver.write_act(0, machine.act)


def random_chain(config: ArrayConfig, rng: np.random.Generator, layers: int) -> list[dict[str, int]]:
    """Return layers of the mesh, each of which reads the half of activation memory that the one before writes."""
    descriptors: list[dict[str, int]] = []
    half = config.act_bytes // 2
    while len(descriptors) < layers:
        d = rng.choice(mesh_makers(config))(config, rng)
        if not descriptors or (descriptors[-1]["ofm_base"] < half) != (d["ofm_base"] < half):
            descriptors.append(d)
    return descriptors


def mesh_makers(config: ArrayConfig) -> list[Maker]:
    """Return what makes the layers that run on the mesh."""
    strips = [random_strips] if config.strip_columns else []
    return [random_conv, random_depthwise, *strips]


def _narrow(config: ArrayConfig, rng: np.random.Generator, share: float) -> dict[str, int]:
    """Return the fields of how weights are stored; the share `share` of layers, by chance, has two in a byte."""
    forms = [{"int4": 1, "codebook": 0}] * (config.weight_bits == 4)
    forms += [{"int4": 0, "codebook": 1}, {"int4": 0, "codebook": 2}] * config.codebooks
    return rng.choice(forms) if forms and rng.random() < share else {"int4": 0, "codebook": 0}


def _books(config: ArrayConfig, codebook: int, blocks: int) -> int:
    """Return the weight words of a layer's books."""
    return -(-16 // config.cols) * (0, 1, blocks)[codebook]


def _post(config: ArrayConfig, rng: np.random.Generator, residual: bool, product: bool = False) -> dict[str, int]:
    """Return the fields of the output path."""
    lo, hi = sorted(int(x) for x in rng.integers(-128, 128, 2))
    out = {"zero_point": int(rng.integers(-128, 128)), "lo": min(lo, -20), "hi": max(hi, 20), "residual": int(residual)}
    if config.adder:
        out |= {"add_lo": -128, "add_hi": 127, "factor_a": 1}
    if residual:
        shift = int(rng.integers(8, 32 if product else 25))
        offset = int(rng.integers(-(1 << (shift + 5)), 1 << (shift + 5)))
        out |= {
            **{name: _factor(rng, shift - 8 * (product and name[-1] == "b")) for name in ("factor_a", "factor_b")},
            "offset_low": offset & 0xFFFFFFFF,
            "offset_high": offset >> 32,
            "add_shift": shift,
        }
    if rng.random() < 0.3 and not config.small:
        out["truncate"] = 1
    if config.sum_bytes and rng.random() < 0.3:
        out |= {"bytewise": 1, "byte": int(rng.integers(0, 4))}
    if rng.random() < 0.5:
        out["table"] = int(rng.integers(0, config.tables + 1))
    return out


def _factor(rng: np.random.Generator, bits: int) -> int:
    """Return a factor of the adder, of at most `bits` bits and a sign."""
    limit = 1 << min(bits, 25)
    return int(rng.integers(-limit, limit))


def _grain(config: ArrayConfig, run: int) -> int:
    """Return what the addresses of runs of so many bytes are multiples of."""
    return 2 if config.one_port and run > 1 else 1


def _map(
    rng: np.random.Generator, rows: int, columns: int, run: int, where: tuple[int, int], spread: int, grain: int = 1
) -> dict | None:
    """Return base, x_step, y_step of a map of rows x columns runs of bytes inside `where`, or None if it can't fit.

    All are multiples of `grain`.
    """
    x_step = -(-(run + int(rng.integers(0, spread + 1))) // grain) * grain
    row_gap = -(-(run + int(rng.integers(0, spread + 1))) // grain) * grain
    extent = (rows - 1) * ((columns - 1) * x_step + row_gap) + (columns - 1) * x_step + run
    low, high = where
    if extent > high - low:
        return None
    base = low + int(rng.integers(0, high - low - extent + 1)) // grain * grain
    return {"base": base, "x_step": x_step, "y_step": row_gap}


def _halves(config: ArrayConfig, rng: np.random.Generator) -> tuple[tuple[int, int], tuple[int, int]]:
    half = config.act_bytes // 2
    both = ((0, half), (half, config.act_bytes))
    return both if rng.random() < 0.5 else both[::-1]


def _named(prefix: str, values: dict[str, int]) -> dict[str, int]:
    return {f"{prefix}_{key}": value for key, value in values.items()}


def random_conv(config: ArrayConfig, rng: np.random.Generator) -> dict[str, int]:
    """Return a legal CONV whose operands lie in one half of activation memory and whose output lies in the other."""
    while True:
        source, target = _halves(config, rng)
        rows, columns = int(rng.integers(1, 9)), int(rng.integers(1, 12))
        last_row = int(rng.integers(1, columns + 1))
        pixels = (rows - 1) * columns + last_row
        taps_y, taps_x = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        span = int(rng.integers(1, 3 * config.fetch_bytes))
        form = _narrow(config, rng, 0.7)
        ifm_int4, ofm_int4 = (config.act_bits == 4 and bool(rng.random() < 0.5) for _ in range(2))
        if ifm_int4:
            form = {"int4": 0, "codebook": 0}
        scaled = not ifm_int4 and bool(config.block_scales) and bool(rng.random() < 0.5)
        width = config.cols * (2 if form["int4"] and not scaled else 1)
        blocks, last = int(rng.integers(1, 4)), int(rng.integers(1, width + 1))
        channels = (blocks - 1) * width + last
        depth = taps_y * taps_x * span
        if scaled:
            words = blocks * taps_y * taps_x * (1 + (-(-span // 2) if any(form.values()) else span))
        else:
            halves = [form["codebook"] > 0] * (blocks - 1) + [any(form.values()) and last <= config.cols]
            words = sum(-(-depth // 2) if half else depth for half in halves)
        words += _books(config, form["codebook"], blocks)
        written = -(-channels // 2) if ofm_int4 else channels
        grain, grain_out = _grain(config, span), _grain(config, channels)
        tap_x_step = int(rng.integers(0, 2 * span)) // grain * grain
        tap_y_step = int(rng.integers(0, 40)) // grain * grain
        reach = (taps_y - 1) * ((taps_x - 1) * tap_x_step + tap_y_step) + (taps_x - 1) * tap_x_step + span
        residual = bool(rng.random() < 0.4) and bool(config.adder)
        ifm = _map(rng, rows, columns, reach, source, 3, grain)
        no_map = {"base": 0, "x_step": 0, "y_step": 0}
        res = _map(rng, rows, columns, channels, source, 3, grain_out) if residual else no_map
        ofm = _map(rng, rows, columns, written, target, 3, grain_out)
        params = (blocks - 1) * width // config.lanes + -(-last // config.lanes)
        if ifm is None or res is None or ofm is None or words > config.weight_words or params > config.param_words:
            continue
        if rng.random() < 0.5:  # overlapping windows, as convolutions have
            ifm["x_step"] = int(rng.integers(0, ifm["x_step"])) // grain * grain
        return {
            "opcode": isa.Opcode.CONV,
            **form,
            "scaled": int(scaled),
            "ifm_int4": int(ifm_int4),
            "ofm_int4": int(ofm_int4),
            "row_pixels": columns,
            "pixels": pixels,
            "taps_y": taps_y,
            "taps_x": taps_x,
            "span": span,
            "tap_y_step": tap_y_step,
            "tap_x_step": tap_x_step,
            "weight_base": int(rng.integers(0, config.weight_words - words + 1)),
            "param_base": int(rng.integers(0, config.param_words - params + 1)),
            "blocks": blocks,
            "last_channels": last,
            **_named("ifm", ifm),
            **_named("res", res),
            **_named("ofm", ofm),
            **_post(config, rng, residual),
        }


def random_depthwise(config: ArrayConfig, rng: np.random.Generator) -> dict[str, int]:
    """Return a legal DEPTHWISE, operands and output in different halves of activation memory."""
    while True:
        source, target = _halves(config, rng)
        rows, columns = int(rng.integers(1, 5)), int(rng.integers(1, 2 * config.rows + 3))
        pixels = (rows - 1) * columns + int(rng.integers(1, columns + 1))
        taps_y, taps_x, span = (int(rng.integers(1, 4)) for _ in range(3))
        short_from = int(rng.integers(0, taps_x)) if span > 1 else 0
        blocks, last = int(rng.integers(1, 4)), int(rng.integers(1, config.depthwise_cols + 1))
        channels = (blocks - 1) * config.depthwise_cols + last
        grain = _grain(config, channels)
        tap_x_step = int(rng.integers(0, 9)) // grain * grain
        tap_y_step = int(rng.integers(0, 40)) // grain * grain
        x_step = int(rng.integers(0, channels + 3)) // grain * grain
        reach = (taps_y - 1) * ((taps_x - 1) * tap_x_step + tap_y_step) + (taps_x - 1) * tap_x_step + channels
        ifm = _map(rng, rows, columns + span, max(reach, x_step), source, 0, grain)
        ofm = _map(rng, rows, columns, channels, target, 3, grain)
        repeats = int(rng.choice([0, 0, 1, 2]))
        depth = (repeats + 1) * taps_y * taps_x * span
        form = _narrow(config, rng, 0.6)
        words = blocks * (-(-depth // 2) if any(form.values()) else depth) + _books(config, form["codebook"], blocks)
        if ifm is None or ofm is None or words > config.weight_words:
            continue
        ifm["x_step"] = x_step
        groups = config.depthwise_cols // config.lanes
        return {
            "opcode": isa.Opcode.DEPTHWISE,
            "row_pixels": columns,
            "pixels": pixels,
            "taps_y": taps_y,
            "taps_x": taps_x,
            "span": span,
            "short_from": short_from,
            "repeats": repeats,
            "tap_y_step": tap_y_step,
            "tap_x_step": tap_x_step,
            **form,
            "weight_base": int(rng.integers(0, config.weight_words - words + 1)),
            "param_base": int(rng.integers(0, config.param_words - blocks * groups + 1)),
            "blocks": blocks,
            "last_channels": last,
            **_named("ifm", ifm),
            **_named("ofm", ofm),
            **_post(config, rng, False),
        }


def random_strips(config: ArrayConfig, rng: np.random.Generator) -> dict[str, int]:
    """Return a legal DEPTHWISE in strips, operands and output in different halves of activation memory."""
    while True:
        source, target = _halves(config, rng)
        rows, columns = int(rng.integers(1, 6)), int(rng.integers(1, 3 * config.strip_columns))
        taps_y, span = int(rng.integers(1, 4)), int(rng.integers(1, config.strip_columns + 1))
        blocks, last = int(rng.integers(1, 4)), int(rng.integers(1, config.depthwise_cols + 1))
        channels = (blocks - 1) * config.depthwise_cols + last
        x_step = channels + int(rng.integers(0, 4))
        ifm = _map(rng, rows + taps_y - 1, columns + span - 1, x_step, source, 0)
        ofm = _map(rng, rows, columns, channels, target, 3)
        form, depth = _narrow(config, rng, 0.6), taps_y * span
        words = blocks * (-(-depth // 2) if any(form.values()) else depth) + _books(config, form["codebook"], blocks)
        if ifm is None or ofm is None or words > config.weight_words:
            continue
        pitch = (columns - 1) * ofm["x_step"] + ofm["y_step"]
        strips = -(-rows // 2)
        return {
            "opcode": isa.Opcode.DEPTHWISE,
            "row_pixels": 2,
            "pixels": 2 * columns,
            "strips": strips,
            "short_strip": rows % 2,
            "taps_y": taps_y,
            "taps_x": 1,
            "span": span,
            "tap_y_step": (columns + span - 2) * ifm["x_step"] + ifm["y_step"],
            **form,
            "weight_base": int(rng.integers(0, config.weight_words - words + 1)),
            "param_base": int(rng.integers(0, config.param_words - blocks * config.depthwise_cols // config.lanes + 1)),
            "blocks": blocks,
            "last_channels": last,
            "ifm_base": ifm["base"],
            "ifm_x_step": ifm["x_step"],
            "ofm_base": ofm["base"],
            "ofm_x_step": pitch,
            "ofm_y_step": ofm["x_step"] - pitch,
            "res_x_step": 2 * pitch,
            **_post(config, rng, False),
        }


def random_vector(config: ArrayConfig, rng: np.random.Generator) -> dict[str, int]:
    """Return a legal VECTOR whose operands lie in one half of activation memory and whose output lies in the other."""
    while True:
        source, target = _halves(config, rng)
        rows, columns = int(rng.integers(1, 6)), int(rng.integers(1, 8))
        pixels = (rows - 1) * columns + int(rng.integers(1, columns + 1))
        taps_y, taps_x = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        blocks, last = int(rng.integers(1, 5)), int(rng.integers(1, config.lanes + 1))
        channels = (blocks - 1) * config.lanes + last
        tap_x_step, tap_y_step = int(rng.integers(0, 9)), int(rng.integers(0, 40))
        reach = (taps_y - 1) * ((taps_x - 1) * tap_x_step + tap_y_step) + (taps_x - 1) * tap_x_step + channels
        residual = bool(rng.random() < 0.4) and bool(config.adder)
        ifm = _map(rng, rows, columns, reach, source, 3)
        res = _map(rng, rows, columns, channels, source, 3) if residual else {"base": 0, "x_step": 0, "y_step": 0}
        ofm = _map(rng, rows, columns, channels, target, 3)
        if ifm is None or res is None or ofm is None:
            continue
        product = {"reduce": int(rng.integers(0, 2))}
        if residual and rng.random() < 0.5:
            product = {"reduce": isa.Reduce.MAX, "product": 1}
        for name in ("ifm_zero_point", "res_zero_point") if config.adder else ():  # nobody reads them without a product
            product[name] = int(rng.choice([*range(-128, 128), *[-128, 127] * 20]))
        return {
            "opcode": isa.Opcode.VECTOR,
            **product,
            "param_step": int(rng.integers(0, 2)),
            "row_pixels": columns,
            "pixels": pixels,
            "taps_y": taps_y,
            "taps_x": taps_x,
            "span": 1,
            "tap_y_step": tap_y_step,
            "tap_x_step": tap_x_step,
            "param_base": int(rng.integers(0, config.param_words - blocks + 1)),
            "blocks": blocks,
            "last_channels": last,
            **_named("ifm", ifm),
            **_named("res", res),
            **_named("ofm", ofm),
            **_post(config, rng, residual, "product" in product),
        }


def decoded(machine: Machine, first: int = 0) -> list[dict[str, int]]:
    """Return the machine's descriptors from slot `first` up to and including HALT."""
    out = []
    for slot in range(first, machine.config.slots):
        words = machine.program[slot * isa.SLOT_WORDS :][: isa.DESCRIPTOR_WORDS]
        out.append(isa.decode(isa.DESCRIPTOR, words.tolist()))
        if out[-1]["opcode"] == isa.Opcode.HALT:
            break
    return out
