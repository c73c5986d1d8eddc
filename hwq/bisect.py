"""Where a wrong byte comes from: the layer, the descriptor, the tile and the element of the array."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hwq import isa, timing
from hwq.addresses import output_addresses, strip_grid
from hwq.config import ArrayConfig
from hwq.host import run_model
from hwq.layout import follow
from hwq.nibbles import channel_axis
from hwq.program import ArrayStep, HostStep, LayerInfo, Page, PortImage, Program
from hwq.rungs import Fault, differs
from hwq.runtime import Accelerator, Backend, MachineBackend, load_page, unpack

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Place:
    """Who writes a byte of activation memory.

    Members
    -------
    address : int
    tile : tuple of (str, int)
        ``slot``, the descriptor, and on the mesh ``column block``, ``row block``, ``PE row`` and ``PE column``; in
        strips ``strip``, ``x`` and ``strip row`` in place of rows; for a vector layer ``pixel``, ``group``, ``lane``.
    """

    address: int
    tile: tuple[tuple[str, int], ...]


def locate(program: Program, layer: LayerInfo, wrong: npt.NDArray[np.bool_]) -> Place | None:
    """Return the first byte, in the hardware's order, that `layer` writes and `wrong` (act_bytes,) marks."""
    for slot, d in enumerate(_descriptors(program, layer), layer.first_slot):
        addresses = _written(d, program.config)
        pixels, channels = np.nonzero(wrong[addresses])
        if pixels.size:
            names, keys = _coordinates(d, program.config, pixels, channels)
            chosen = int(np.lexsort([keys[name] for name in reversed(names)])[0])
            tile = tuple((name, int(keys[name][chosen])) for name in names if not name.startswith("_"))
            return Place(int(addresses[pixels[chosen], channels[chosen]]), (("slot", slot), *tile))
    return None


def _descriptors(program: Program, layer: LayerInfo) -> Iterator[dict[str, int]]:
    for slot in range(layer.first_slot, layer.end_slot):
        first = slot * isa.SLOT_WORDS
        yield isa.decode(isa.DESCRIPTOR, program.words[first : first + isa.DESCRIPTOR_WORDS].tolist())


def _written(d: Mapping[str, int], config: ArrayConfig) -> Array:
    """Return the addresses (pixels, channels) that descriptor `d` writes."""
    return output_addresses(d)[:, None] + np.arange(timing.pixel_bytes(d, config))


def _coordinates(
    d: Mapping[str, int], config: ArrayConfig, pixels: Array, channels: Array
) -> tuple[list[str], dict[str, Array]]:
    """Return the coordinates of results by name, and the names in the order the hardware counts them."""
    if d["opcode"] == isa.Opcode.VECTOR:
        group, lane = np.divmod(channels, config.lanes)
        return ["pixel", "group", "lane"], {"pixel": pixels, "group": group, "lane": lane}
    column_block, channel = np.divmod(channels, config.block_channels(d))
    keys = {"column block": column_block, "_group": channel // config.lanes, "PE column": channel % config.cols}
    if d["strips"]:
        strip, row, x = (part[pixels] for part in strip_grid(d))
        names = ["column block", "strip", "x", "strip row", "PE column"]
        return names, keys | {"strip": strip, "strip row": row, "x": x}
    if d["opcode"] == isa.Opcode.CONV:
        row_block, row = np.divmod(pixels, config.rows)
    else:  # a tile ends with its row of pixels
        y, x = np.divmod(pixels, d["row_pixels"])
        row_block, row = y * -(-d["row_pixels"] // config.rows) + x // config.rows, x % config.rows
    return ["column block", "row block", "_group", "PE row", "PE column"], keys | {
        "row block": row_block,
        "PE row": row,
    }


def _addresses(port: PortImage) -> Array:
    """Return the address of every element of the port's tensor, in the tensor's own shape."""
    addresses = port.view.offsets()
    if port.packed is not None:
        axis = channel_axis(addresses.shape)
        addresses = addresses.repeat(2, axis).take(range(port.shape[axis]), axis)
    return follow(port.chain, addresses).reshape(port.shape)


def tensor_fault(
    program: Program, layer: LayerInfo, sample: int, got: Array, expected: Array, tensor: str = ""
) -> Fault | None:
    """Return the first difference, in the hardware's order, between two values of the tensor `layer` writes."""
    different = differs(got, expected)
    if not different.any():
        return None
    addresses = _addresses(layer.output)
    wrong = np.zeros(program.config.act_bytes, np.bool_)
    wrong[addresses[different]] = True
    place = locate(program, layer, wrong)
    at = np.argwhere(different if place is None else addresses == place.address)[0]
    index = tuple(int(i) for i in at)
    return Fault(
        sample,
        tensor or layer.output.tensor,
        index,
        expected[index].item(),
        got[index].item(),
        layer.name,
        layer.op,
        place.tile if place is not None else (),
    )


def memory_fault(
    program: Program, layers: Sequence[LayerInfo], sample: int, got: Bytes, expected: Bytes
) -> Fault | None:
    """Return the first difference between two images of activation memory, taken after `layers` have run.

    It is blamed on the first layer that was the last to write a wrong byte: a layer may spoil the one before it.
    """
    wrong = got != expected
    if not wrong.any():
        return None
    later = np.zeros(wrong.size, np.bool_)
    blamed: list[tuple[LayerInfo, Place]] = []
    for layer in reversed(layers):
        place = locate(program, layer, wrong & ~later)
        if place is not None:
            blamed.append((layer, place))
        for d in _descriptors(program, layer):
            later[_written(d, program.config)] = True
    if not blamed:
        address = int(np.flatnonzero(wrong)[0])
        return Fault(sample, "memory", (address,), int(expected[address]), int(got[address]))
    layer, place = blamed[-1]
    port = layer.output
    at = np.argwhere(_addresses(port) == place.address)
    if not at.size:  # its halo
        values = int(expected[place.address]), int(got[place.address])
        return Fault(sample, "memory", (place.address,), *values, layer.name, layer.op, place.tile)
    value, wanted = (unpack(port, image[port.address :][: port.size_bytes]) for image in (got, expected))
    index = tuple(int(i) for i in at[0])
    return Fault(
        sample, port.tensor, index, wanted[index].item(), value[index].item(), layer.name, layer.op, place.tile
    )


def first_wrong_layer(
    program: Program, backend: Backend, feeds: Mapping[str, Array], memory: Bytes, sample: int
) -> Fault | None:
    """Run `program` on `backend` and on the machine up to each layer in turn; return the first difference in memory.

    A run is cut short by a HALT in place of the next layer's descriptor, so the layers before it overlap as they do in
    a whole run. Program memory is restored afterwards.

    Parameters
    ----------
    program : Program
    backend : Backend
        Loaded with `program`; whether its memories hold what was loaded is part of the question, unless there are
        several pages, which are loaded again.
    feeds : mapping of str to array
        One sample.
    memory : int8 (act_bytes,)
        What both activation memories hold to begin with, constants included.
    sample : int
        For the report.

    Returns
    -------
    Fault or None
        None where memory is equal after every layer.
    """
    machine = MachineBackend(program.config)
    expected = Accelerator(program, machine)
    machine.write_act(0, memory)
    values = dict(feeds)
    for step in program.steps:
        if isinstance(step, HostStep):
            values |= run_model(step.model, {name: values[name] for name in step.inputs}, step.outputs)
            continue
        page = program.page(step)
        if len(program.pages) > 1:
            load_page(page, backend)
        expected.turn_to(page)
        expected.write_inputs(step, values)
        try:
            fault = _first_in_step(step, page, backend, machine, program, sample)
        finally:
            backend.load_program(page.words)
            machine.load_program(page.words)
        if fault is not None:
            return fault
        values |= {port.tensor: expected.read(port) for port in step.outputs}
    return None


def _first_in_step(
    step: ArrayStep, page: Page, backend: Backend, machine: MachineBackend, program: Program, sample: int
) -> Fault | None:
    start = machine.read_act(0, program.config.act_bytes)
    for count, layer in enumerate(step.layers, 1):
        words = page.words.copy()
        words[(layer.end_slot - page.first_slot) * isa.SLOT_WORDS :][: isa.SLOT_WORDS] = 0  # all zeros is HALT
        for one in (backend, machine):
            one.load_program(words)
            one.write_act(0, start)
            one.start(step.slot - page.first_slot)
        fault = memory_fault(program, step.layers[:count], sample, backend.read_act(0, start.size), machine.machine.act)
        if fault is not None:
            return fault
    return None
