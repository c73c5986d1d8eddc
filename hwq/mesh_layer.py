"""Convolutions and matrix products as CONV descriptors, weights and parameters."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwq import ir, isa
from hwq.channel_order import channel_order
from hwq.config import ArrayConfig
from hwq.errors import CapacityError
from hwq.images import Images, rounding_params, truncating_params
from hwq.layout import View
from hwq.mesh_parts import Part, ways
from hwq.multipliers import multipliers
from hwq.pairs import pair_parameters
from hwq.plan import Plan, Step
from hwq.scaled_taps import scaled_taps
from hwq.timing import cycles, memory_words
from hwq.truncations import truncations
from hwq.weights import BYTES, Form, dot_bytes, dot_weights

Fields = dict[str, int]


@dataclass(frozen=True)
class Run:
    """A part as one descriptor an image: its `fields` less bases, and its weights (K, channels) in reading order.

    `scales` (taps, channels) are its taps', or None.
    """

    part: Part
    fields: Fields
    matrix: npt.NDArray[np.int8]
    scales: npt.NDArray[np.uint8] | None = None

    def weight_sums(self) -> npt.NDArray[np.int64]:
        """Return what each channel's sum grows by if every input byte does by one."""
        matrix = (dot_weights(self.matrix) if self.part.ifm_int4 else self.matrix).astype(np.int64)
        if self.scales is None:
            return matrix.sum(0)
        return (matrix.reshape(len(self.scales), -1, matrix.shape[1]).sum(1) * self.scales).sum(0)


def conv_runs(plan: Plan, step: Step, images: Images) -> list[Run]:
    """Return the parts of a Conv or Gemm step in the fastest way, or where memory is short in the smallest."""
    op, config = step.op, images.config
    assert isinstance(op, ir.Conv | ir.Gemm)
    layer, groups = (_conv(plan, step, op), op.groups) if isinstance(op, ir.Conv) else (_gemm(plan, step, op), 1)
    output = output_fields(plan, step)
    candidates = [[_best(part, output, images, op.name) for part in way] for way in ways(layer, groups, config)]
    possible = [[run for run in runs if run is not None] for runs in candidates if None not in runs]
    if not possible:
        raise CapacityError(
            f"Layer {step.name!r} doesn't fit: a kernel row spans more than {config.most_counted} bytes of its input, "
            "or groups lie at odd addresses; choose weights with a zero point in the middle, or an arch with 2 "
            "act_ports"
        )
    return min(possible, key=lambda runs: _rank(runs, images, op.name))


def _rank(runs: Sequence[Run], images: Images, name: str) -> tuple[bool, float, int]:
    """Return what the best way to run operator `name` has least of."""
    fields = [run.fields for run in runs]
    asked = images.storage.of(name) == "codebook"
    return asked and any(Form.of(d) == BYTES for d in fields), cost(fields, images), len(runs)


def cost(descriptors: Sequence[Fields], images: Images) -> float:
    """Return the cycles of an image's descriptors, or where memory is short the share of memory they take."""
    config = images.config
    if not images.compact:
        return sum(_cycles(frozenset(fields.items()), config) for fields in descriptors)
    complete = [isa.complete(fields) for fields in descriptors]
    words = sum(memory_words(d, config) for d in complete)
    return words / config.weight_words + len(complete) / config.slots


_cycles = functools.lru_cache(maxsize=4096)(lambda fields, config: cycles(dict(fields), config))


def conv_descriptors(plan: Plan, step: Step, images: Images) -> Iterator[Fields]:
    """Yield the descriptors of a Conv or Gemm step."""
    return run_descriptors(conv_runs(plan, step, images), plan, step, images)


def run_descriptors(runs: Sequence[Run], plan: Plan, step: Step, images: Images) -> Iterator[Fields]:
    """Yield the descriptors of a step's parts, image by image."""
    op = step.op
    assert isinstance(op, ir.Conv | ir.Gemm)
    zero_point = plan.zero_point(op.inputs[0])
    bases = []
    for run in runs:
        channels, width = run.part.channels, images.config.block_channels(run.fields)
        folded = op.bias[channels].astype(np.int64) - zero_point * run.weight_sums()
        weight_base = images.add_weights(run.matrix, step.name, width, Form.of(run.fields), run.scales)
        param_base = images.add_params(channel_params(plan, op, folded, channels), step.name, width)
        bases.append({"weight_base": weight_base, "param_base": param_base})
    for image in range(runs[0].part.y.shape[0]):
        for run, base in zip(runs, bases, strict=True):
            yield {**run.fields, **base, **_walks(run.part, image)}


def _conv(plan: Plan, step: Step, op: ir.Conv) -> Part:
    weight = op.weight.astype(np.int16) - op.weight_zero_point.astype(np.int16)[:, None, None, None]
    if op.groups == 1:
        weight = weight[:, channel_order(plan, step.reads[0])]
    packed = step.reads[0] in plan.packed
    if packed:
        weight = dot_bytes(weight, 1)
    return Part(
        weight.transpose(2, 3, 1, 0),
        np.arange(len(op.weight)),
        plan.view(step.reads[0]),
        plan.view(step.writes),
        _second_operand(plan, step),
        op.strides,
        op.dilations,
        (-op.pads[0], -op.pads[1]),
        packed,
        step.writes in plan.packed,
        op.block_scales,
    )


def _gemm(plan: Plan, step: Step, op: ir.Gemm) -> Part:
    weight = op.weight.astype(np.int16) - op.weight_zero_point.astype(np.int16)
    weight = weight[None, None, channel_order(plan, step.reads[0])]
    packed = step.reads[0] in plan.packed
    if packed:
        weight = dot_bytes(weight, 2)
    second = _second_operand(plan, step)
    return Part(
        weight,
        np.arange(weight.shape[3]),
        _as_image(plan.view(step.reads[0])),
        _as_image(plan.view(step.writes)),
        None if second is None else _as_image(second),
        ifm_int4=packed,
        ofm_int4=step.writes in plan.packed,
        block_scales=op.block_scales,
    )


def _best(part: Part, output: Fields, images: Images, name: str) -> Run | None:
    """Return the part of operator `name` read and stored in the best way; None where there is no way."""
    channels, config = part.weight.shape[3], images.config
    shared = {
        "opcode": isa.Opcode.CONV,
        "ifm_int4": int(part.ifm_int4),
        "ofm_int4": int(part.ofm_int4),
        "row_pixels": part.y.shape[3],
        "pixels": part.y.shape[2] * part.y.shape[3],
        **output,
    }
    runs: list[Run] = []
    if any(place % config.grain for place in _walks(part, 0).values()):
        return None
    orders = tap_orders(part, config) if part.block_scales is None else scaled_taps(part, config)
    for fields, matrix, *scales in orders:
        tap = fields["span"] if scales else 0
        for form in [BYTES] if part.ifm_int4 else images.forms(name, matrix, tap=tap):
            width = config.block_channels(shared | form.fields())
            blocks = {"blocks": -(-channels // width), "last_channels": (channels - 1) % width + 1}
            runs.append(Run(part, shared | fields | form.fields() | blocks, matrix, *scales))
    return min(runs, key=lambda run: _rank([run], images, name), default=None)


def _walks(part: Part, image: int) -> Fields:
    shape = part.y.shape
    fields = walk("ifm", part.x, image, shape, part.strides, part.start) | walk("ofm", part.y, image, shape)
    return fields if part.second is None else fields | walk("res", part.second, image, shape)


def channel_params(
    plan: Plan, op: ir.Op, bias: npt.NDArray[np.int64], channels: npt.NDArray[np.intp]
) -> npt.NDArray[np.uint32]:
    """Return the parameter sets of a mesh layer's `channels`; `bias` is that of the array's sums."""
    if isinstance(op, ir.Conv | ir.Gemm) and op.floor is not None:
        parameters = truncations(op, plan.graph, plan.packed.get(op.inputs[0]))
        assert parameters is not None, op.name
        return truncating_params([parameters[channel] for channel in channels])
    multiplier = multipliers(plan.graph, op)
    chosen = multiplier[channels] if multiplier.size > 1 else np.broadcast_to(multiplier, bias.shape)
    return rounding_params(bias.astype(np.int32), chosen)


def output_fields(plan: Plan, step: Step) -> Fields:
    """Return the output path's fields: zero point, clamps, and the sum the step carries."""
    op, add = step.op, step.add
    result = plan.tensors[op.outputs[0]]
    own = 128 if result.dtype == "uint8" else 0
    label = plan.packed.get(result.name, own)
    if isinstance(op, ir.Conv | ir.Gemm | ir.AveragePool):
        fields = {"zero_point": result.zero_point - label, "lo": op.lo - label, "hi": op.hi - label}
        if not isinstance(op, ir.AveragePool) and op.floor is not None:
            fields |= {"truncate": 1, "zero_point": fields["lo"]}
        if not isinstance(op, ir.AveragePool) and op.byte is not None:
            fields |= {"bytewise": 1, "byte": op.byte}
    else:
        fields = {"zero_point": 0, "lo": -128, "hi": 127}
    if add is None:
        return fields
    label = plan.packed.get(step.writes, own)
    parameters = pair_parameters(add, plan.graph, plan.packed.get(step.writes))
    assert parameters is not None, add.name
    factors = parameters.factor_a, parameters.factor_b
    own_first = add.inputs[0] == (op.outputs[0] if op is not add else step.reads[0])
    factor_own, factor_other = factors if own_first else factors[::-1]
    return fields | {
        "residual": 1,
        "factor_a": factor_own,
        "factor_b": factor_other,
        "offset_low": parameters.offset & 0xFFFFFFFF,
        "offset_high": parameters.offset >> 32,
        "add_shift": parameters.shift,
        "add_lo": add.lo - label,
        "add_hi": add.hi - label,
    }


def _as_image(view: View) -> View:
    """Return a matrix view (..., K) as (1, K, 1, M)."""
    matrix = view.reshape((-1, view.shape[-1]))
    assert matrix is not None, view
    rows, channels = matrix.shape
    step = matrix.strides[0] if rows > 1 else 0  # an odd one, though never taken, is none for a memory of one port
    return View(view.address, (1, channels, 1, rows), (0, matrix.strides[1], 0, step))


def _second_operand(plan: Plan, step: Step) -> View | None:
    return None if step.add is None else plan.view(step.reads[1]).broadcast(plan.tensors[step.writes].shape)


def walk(
    which: str,
    view: View,
    image: int,
    grid: tuple[int, ...],
    strides: tuple[int, int] = (1, 1),
    start: tuple[int, int] = (0, 0),
) -> Fields:
    """Return base and steps of the pixel walk over an (N, C, H, W) view, for the output's `grid` of that shape."""
    return {f"{which}_base": walk_base(view, image, start), **walk_steps(which, view, grid, strides)}


def walk_base(view: View, image: int, start: tuple[int, int] = (0, 0)) -> int:
    """Return the address of an image's pixel `start` (y, x), which may lie in its halo."""
    by_image, _, by_row, by_column = view.strides
    return view.address + image * by_image + start[0] * by_row + start[1] * by_column


def walk_steps(which: str, view: View, grid: tuple[int, ...], strides: tuple[int, int] = (1, 1)) -> Fields:
    """Return the steps of the walk."""
    _, _, by_row, by_column = view.strides
    x_step = strides[1] * by_column
    return {f"{which}_x_step": x_step, f"{which}_y_step": strides[0] * by_row - (grid[3] - 1) * x_step}


def tap_orders(part: Part, config: ArrayConfig) -> Iterator[tuple[Fields, npt.NDArray[np.int8]]]:
    """Yield ways to read a part's taps: the tap fields, and the (K, channels) weights in the order they are read.

    A kernel row whose bytes are consecutive is one tap, and so is any row if the bytes between its columns get weight
    zero. Weights beyond int8, which a zero point away from the middle makes, become a sum of int8 terms: the tap is
    read once for each.
    """
    terms = int8_terms(part.weight)
    count, rows, columns, inputs, channels = terms.shape
    by_row, by_column = part.x.strides[2] * part.dilations[0], part.x.strides[3] * part.dilations[1]
    span = (columns - 1) * by_column + inputs
    if count == 1 and columns > 1 and (by_column != inputs or span > config.most_counted):
        yield _tap_fields(rows, columns, inputs, by_row, by_column), terms.reshape(-1, channels)
        fewer = -(-span // config.fetch_bytes) < columns * -(-inputs // config.fetch_bytes)
        if not fewer:
            return
    if span > config.most_counted:
        return
    whole = np.zeros((count, rows, span, channels), np.int8)
    for column in range(columns):
        whole[:, :, column * by_column : column * by_column + inputs] = terms[:, :, column]
    if count == 1 and (rows == 1 or by_row == span) and rows * span <= config.most_counted:
        yield _tap_fields(1, 1, rows * span, 0, 0), whole.reshape(-1, channels)
    else:
        yield _tap_fields(rows, count, span, by_row, 0), whole.transpose(1, 0, 2, 3).reshape(-1, channels)


def _tap_fields(rows: int, columns: int, span: int, by_row: int, by_column: int) -> Fields:
    return {
        "taps_y": rows,
        "taps_x": columns,
        "span": span,
        "tap_x_step": by_column,
        "tap_y_step": by_row - (columns - 1) * by_column,
    }


def int8_terms(weight: npt.NDArray[np.int16]) -> npt.NDArray[np.int8]:
    """Return int8 arrays, stacked, that add up to `weight` (-255..255): one where it fits, up to three."""
    terms: list[npt.NDArray[np.int8]] = []
    left = weight
    while not terms or left.any():
        term = np.clip(left, -128, 127)
        terms.append(term.astype(np.int8))
        left = left - term
    return np.stack(terms)
