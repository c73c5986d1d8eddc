"""What random programs have reached: bins over descriptors and data, each of a clause of the instruction set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from hwq import isa, timing, weights
from hwq.config import ArrayConfig
from tests.campaigns.cores import ARRAYS
from tests.campaigns.edges import end, param_words, runs


@dataclass(frozen=True)
class Seen:
    """A layer that has run: its descriptor, the layer before it, and the least and largest byte it has written."""

    config: ArrayConfig
    d: Mapping[str, int]
    before: Mapping[str, int] | None
    least: int
    most: int


@dataclass(frozen=True)
class Point:
    """Bins of a clause, and which of them a layer falls into; the clause is a part of `hwq.isa` or a README's section.

    What isn't one of the bins is a mistake.
    """

    name: str
    clause: str
    bins: Sequence[str]
    of: Callable[[Seen], Iterable[str]]

    def hit(self, seen: Seen) -> set[str]:
        """Return the bins of a layer."""
        found = set(self.of(seen))
        if not found <= set(self.bins):
            raise ValueError(f"{self.name} has no bins {sorted(found - set(self.bins))}")
        return found


def kind(d: Mapping[str, int]) -> str:
    """Return what a layer is."""
    if d["opcode"] == isa.Opcode.VECTOR:
        return "VECTOR product" if d["product"] else f"VECTOR {isa.Reduce(d['reduce']).name}"
    return "strips" if d["strips"] else isa.Opcode(d["opcode"]).name


def form(d: Mapping[str, int]) -> str:
    """Return how a layer's weights are stored."""
    book = isa.Codebook(d["codebook"])
    stored = "4 bits" if d["int4"] else "bytes" if book is isa.Codebook.NONE else f"{book.name} book"
    return stored + (" by 4 bits" if d["ifm_int4"] else " scaled" if d["scaled"] else "")


KINDS = ("CONV", "DEPTHWISE", "strips", "VECTOR MAX", "VECTOR SUM", "VECTOR product")
MESH = KINDS[:3]
STEPS = tuple(field.name for field in isa.DESCRIPTOR if field.name.endswith("_step") and field.signed)
STORED = ("bytes", "4 bits", "LAYER book", "BLOCK book")


def _cross(*parts: Iterable[str]) -> tuple[str, ...]:
    out = [""]
    for part in parts:
        out = [f"{head}, {tail}" if head else tail for head in out for tail in part]
    return tuple(out)


def _size(value: int, whole: int) -> str:
    """Return where a count lies beside the number that is done at once."""
    if value == 1 or value in (whole - 1, whole, whole + 1):
        return {1: "1", whole - 1: "one less", whole: "full", whole + 1: "one more"}[value]
    return "less" if value < whole else "several" if value % whole == 0 else "several and a rest"


SIZES = ("1", "one less", "full", "one more", "less", "several", "several and a rest")


def _weights(seen: Seen) -> Iterable[str]:
    if seen.d["opcode"] != isa.Opcode.VECTOR:
        yield f"{kind(seen.d)}, {form(seen.d)}"


def _bound(seen: Seen) -> Iterable[str]:
    yield f"{kind(seen.d).split()[0]}, {timing.bound(seen.d, seen.config)}"


def _pixels(seen: Seen) -> Iterable[str]:
    d, config = seen.d, seen.config
    whole = 2 * config.strip_columns if d["strips"] else config.rows
    name = kind(d).split()[0]
    if not d["strips"]:
        yield f"{name}, {_size(d['pixels'], whole)}"
    else:
        yield f"strips, {_size(d['pixels'] // 2, config.strip_columns)}"


def _span(seen: Seen) -> Iterable[str]:
    d, config = seen.d, seen.config
    if d["opcode"] == isa.Opcode.CONV:
        yield f"CONV, {_size(d['span'], config.fetch_bytes)}"
    elif d["strips"]:
        yield f"strips, {'widest' if d['span'] == config.strip_columns else '1' if d['span'] == 1 else 'other'}"
    elif d["opcode"] == isa.Opcode.DEPTHWISE:
        yield f"DEPTHWISE, {d['span']}"


def _taps(seen: Seen) -> Iterable[str]:
    d = seen.d
    yield f"{kind(d).split()[0]}, {'n' if d['taps_y'] > 1 else '1'} by {'n' if d['taps_x'] > 1 else '1'}"


def _channels(seen: Seen) -> Iterable[str]:
    d = seen.d
    width = seen.config.block_channels(d)
    blocks = "1 block" if d["blocks"] == 1 else "blocks"
    last = d["last_channels"]
    yield f"{kind(d).split()[0]}, {blocks}, {'full' if last == width else '1' if last == 1 else 'part'}"


def _pairs(seen: Seen) -> Iterable[str]:
    d, config = seen.d, seen.config
    if d["opcode"] == isa.Opcode.CONV and d["int4"] and not d["scaled"]:
        last = "two a column" if weights.is_paired(d["last_channels"], config.cols) else "one"
        yield f"last block {last}, {'behind others' if d['blocks'] > 1 else 'alone'}"


def _runs(seen: Seen) -> Iterable[str]:
    d = seen.d
    if d["opcode"] != isa.Opcode.DEPTHWISE:
        return
    if d["strips"]:
        yield f"{'one strip' if d['strips'] == 1 else 'strips'}, last {'short' if d['short_strip'] else 'whole'}"
    else:
        yield f"repeats {d['repeats']}"
        yield "short taps" if d["short_from"] else "equal taps"


def _requantized(seen: Seen) -> Iterable[str]:
    d = seen.d
    rule = "towards zero" if d["truncate"] else "as float32"
    byte = f"byte {d['byte']}" if d["bytewise"] else "sum"
    yield f"{kind(d).split()[0]}, {rule}, {byte}"


def _second(seen: Seen) -> Iterable[str]:
    d = seen.d
    if not d["residual"]:
        yield f"{kind(d)}, none"
        return
    shift = {0: "shift 0", 31: "shift 31"}.get(d["add_shift"], "shift")
    yield f"{kind(d)}, {shift}"
    for name in ("factor_a", "factor_b"):
        sign = (d[name] > 0) - (d[name] < 0)
        yield f"{name} {'-0+'[sign + 1]}"


def _table(seen: Seen) -> Iterable[str]:
    d = seen.d
    which = {0: "none", 1: "first", seen.config.tables: "last"}.get(d["table"], "other")
    yield f"{kind(d).split()[0]}, {which}"


def _nibbles(seen: Seen) -> Iterable[str]:
    d = seen.d
    if d["opcode"] == isa.Opcode.CONV:
        count = timing.channels(d, seen.config)
        yield f"{'4 bits' if d['ofm_int4'] else 'bytes'}, {'odd' if count % 2 else 'even'}"


def _clamped(seen: Seen) -> Iterable[str]:
    d = seen.d
    if d["table"] or d["ofm_int4"]:
        return
    low, high = (d["add_lo"], d["add_hi"]) if d["residual"] else (d["lo"], d["hi"])
    after = "after the second operand" if d["residual"] else "after requantizing"
    reached = [name for name, hit in (("low", seen.least == low), ("high", seen.most == high)) if hit]
    yield f"{after}, {' and '.join(reached) or 'neither'}"
    if low >= high:
        yield f"{after}, {'one value' if low == high else 'crossed'}"
    if d["zero_point"] in (-128, 127):
        yield f"zero point {d['zero_point']}"


def _places(seen: Seen) -> Iterable[str]:
    d, config = seen.d, seen.config
    for name, run in runs(d, config).items():
        if int(run[0].min()) == 0:
            yield f"{name} from the first byte"
        if end(run) == config.act_bytes:
            yield f"{name} to the last byte"
        if (run[0] % config.fetch_bytes + run[1] > config.fetch_bytes).any():
            yield f"{name} across words"
    if d["param_base"] + param_words(d, config) == config.param_words:
        yield "parameters to the last word"
    if d["opcode"] != isa.Opcode.VECTOR:
        if d["weight_base"] + timing.memory_words(d, config) == config.weight_words:
            yield "weights to the last word"
        if d["weight_base"] == 0:
            yield "weights from the first word"


def _steps(seen: Seen) -> Iterable[str]:
    d = seen.d
    for name in STEPS:
        if d["residual"] or not name.startswith("res"):
            yield f"{name} {'-0+'[(d[name] > 0) - (d[name] < 0) + 1]}"


def _parameters(seen: Seen) -> Iterable[str]:
    d = seen.d
    if d["opcode"] == isa.Opcode.VECTOR and d["blocks"] > 1:
        yield "a word a group" if d["param_step"] else "one word"


def _overlap(seen: Seen) -> Iterable[str]:
    if seen.before is not None:
        early = ", early" if seen.d["early"] else ""
        yield f"{kind(seen.before).split()[0]} then {kind(seen.d).split()[0]}{early}"
    if seen.before is not None and seen.d["early"]:
        for name in ("residual", "scaled"):
            if seen.before[name]:
                yield f"early after {name}"


def _product(seen: Seen) -> Iterable[str]:
    if seen.d["product"]:
        for name in ("ifm_zero_point", "res_zero_point"):
            value = seen.d[name]
            yield f"{name} {value if value in (-128, 127) else 'other'}"


_PLAIN = tuple(dict.fromkeys(name.split()[0] for name in KINDS))
_FORMS = [*_cross(MESH, STORED), *_cross(["CONV"], [f"{stored} scaled" for stored in STORED]), "CONV, bytes by 4 bits"]
_SPANS = [*_cross(["CONV"], SIZES), *_cross(["strips"], ["1", "other", "widest"]), *_cross(["DEPTHWISE"], "123")]
_TAPS = [*_cross(["CONV", "DEPTHWISE", "VECTOR"], ["1 by 1", "1 by n", "n by 1", "n by n"])]
_TAPS += _cross(["strips"], ["1 by 1", "n by 1"])
_RUNS = [*(f"repeats {count}" for count in range(4)), "short taps", "equal taps"]
_RUNS += _cross(["one strip", "strips"], ["last short", "last whole"])
_BYTES = ["sum", *(f"byte {byte}" for byte in range(4))]
_SECOND = [*_cross(["CONV", *KINDS[3:]], ["shift 0", "shift", "shift 31"]), *_cross(KINDS[:5], ["none"])]
_SECOND += [f"factor_{which} {sign}" for which in "ab" for sign in "-0+"]
_ZEROS = [f"{name}_zero_point {value}" for name in ("ifm", "res") for value in ("-128", "127", "other")]
_CLAMPS = [*_cross(["after requantizing", "after the second operand"], ["low and high", "low", "high", "neither"])]
_CLAMPS += _cross(["after requantizing", "after the second operand"], ["one value", "crossed"])
_CLAMPS += ["zero point -128", "zero point 127"]
_MAPS = ("ifm", "res", "ofm")
_PLACES = [f"{name} {at}" for name in _MAPS for at in ("from the first byte", "to the last byte", "across words")]
_PLACES += ["weights from the first word", "weights to the last word", "parameters to the last word"]
_STEPS = [f"{name} {sign}" for name in STEPS for sign in "-0+" if not (name.startswith("tap") and sign == "-")]
_ORDERS = [f"{one} then {other}" for one in _PLAIN for other in _PLAIN]
_ORDERS += [f"{one} then {other}, early" for one in MESH for other in MESH]
_ORDERS += ["early after residual", "early after scaled"]
_BOUNDS = [*_cross(["CONV"], ["mac", "weight", "fetch", "output"]), *_cross(["DEPTHWISE"], ["mac", "fetch", "output"])]
_BOUNDS += ["strips, fetch", "VECTOR, vector"]

POINTS = (
    Point("kind", "`isa.Opcode`, `isa.Reduce`; `opcode`, `reduce`", KINDS, lambda seen: [kind(seen.d)]),
    Point("weights", "`isa.Codebook`; `int4`, `codebook`, `scaled`, `ifm_int4`", _FORMS, _weights),
    Point("pixels", "`pixels`, `row_pixels`, `strips`", _cross(_PLAIN, SIZES), _pixels),
    Point("span", "`span`", _SPANS, _span),
    Point("taps", "`taps_y`, `taps_x`, `tap_y_step`, `tap_x_step`", _TAPS, _taps),
    Point(
        "channels", "`blocks`, `last_channels`", _cross(_PLAIN, ["1 block", "blocks"], ["1", "part", "full"]), _channels
    ),
    Point("pairs", "`int4`", _cross(["last block two a column", "last block one"], ["alone", "behind others"]), _pairs),
    Point("runs", "`short_from`, `repeats`, `strips`, `short_strip`", _RUNS, _runs),
    Point(
        "requantizing",
        "`truncate`, `bytewise`, `byte`; `isa.PARAM`, `isa.TRUNCATE_PARAM`",
        _cross(_PLAIN, ["as float32", "towards zero"], _BYTES),
        _requantized,
    ),
    Point("parameters", "`param_step`; `isa.PARAM_LANE_WORDS`", ["one word", "a word a group"], _parameters),
    Point(
        "second operand",
        "`residual`, `factor_a`, `factor_b`, `offset_low`, `offset_high`, `add_shift`",
        _SECOND,
        _second,
    ),
    Point("product", "`product`, `ifm_zero_point`, `res_zero_point`", _ZEROS, _product),
    Point("table", "`table`", _cross(_PLAIN, ["none", "first", "last", "other"]), _table),
    Point("results", "`ofm_int4`", _cross(["bytes", "4 bits"], ["odd", "even"]), _nibbles),
    Point("clamps", "`lo`, `hi`, `add_lo`, `add_hi`, `zero_point`", _CLAMPS, _clamped),
    Point(
        "places",
        "`isa.ADDRESS_BITS`; `ifm_base`, `res_base`, `ofm_base`, `weight_base`, `param_base`",
        _PLACES,
        _places,
    ),
    Point("steps", ", ".join(f"`{name}`" for name in STEPS), _STEPS, _steps),
    Point("order", "`early`", _ORDERS, _overlap),
    Point("bound", "`isa.REGISTERS`: what bounds a tile's period", _BOUNDS, _bound),
)

COUNTERS = tuple(register.name for register in isa.REGISTERS if register.name.startswith("cycles"))

FAULTS = ("opcode: ILLEGAL_OPCODE", "zero: ILLEGAL_FIELD", "excess: ILLEGAL_FIELD", "weight: WEIGHT_RANGE")
FAULTS += ("param: PARAM_RANGE", "end: PC_RANGE", *(f"{name}: ACT_RANGE" for name in (*_MAPS, "odd")))

PROGRAM_POINTS = {
    "array": ("`isa.DESCRIPTOR`: the fields an architecture has", tuple(str(index) for index in range(len(ARRAYS)))),
    "error": ("`isa.ErrorCode`", FAULTS),
    "stall": ("`isa.REGISTERS`", COUNTERS),
    "layers": ("`isa.SLOT_WORDS`", ("none", "one", "several")),
}
"""Clause and bins of what is counted once a program."""


def of_layer(seen: Seen) -> set[str]:
    """Return the bins of a layer, each behind its point's name."""
    return {f"{point.name}: {name}" for point in POINTS for name in point.hit(seen)}


def declared() -> dict[str, tuple[str, Sequence[str]]]:
    """Return the clause and the bins of every point."""
    return {point.name: (point.clause, point.bins) for point in POINTS} | PROGRAM_POINTS


def empty(counts: Mapping[str, int], points: Mapping[str, tuple[str, Sequence[str]]] | None = None) -> list[str]:
    """Return the bins that nothing has fallen into, of `points` or of all."""
    bins = [f"{name}: {bin}" for name, (_, bins) in (points or declared()).items() for bin in bins]
    return [bin for bin in bins if not counts.get(bin)]


def table(counts: Mapping[str, int]) -> str:
    """Return which clauses the bins are of and how many of them have been reached, as Markdown; the empty ones last."""
    lines = ["| point | clause | bins | reached |", "|---|---|--:|--:|"]
    missing = empty(counts)
    for name, (clause, bins) in declared().items():
        reached = sum(f"{name}: {bin}" not in missing for bin in bins)
        lines.append(f"| {name} | {clause} | {len(bins)} | {reached} |")
    return "\n".join([*lines, "", f"Empty: {'; '.join(missing) or 'none'}."])
