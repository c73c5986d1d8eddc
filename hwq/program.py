"""Program: a network compiled for one architecture, in one safe file.

The file is safetensors: memory images as tensors, everything else as JSON in its metadata, nothing executable. Loading
treats it as untrusted: sizes, dtypes, ranges and names are checked before anything is used.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from hwq import isa
from hwq.config import ArrayConfig
from hwq.errors import ArchError, ProgramError
from hwq.layout import View, ViewChain
from hwq.nibbles import channel_axis, packed_shape

Array = npt.NDArray[Any]

FORMAT = "hwq-program-1"
"""Value of the entry ``format`` of the metadata's JSON."""

_DTYPES = (
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
    "bool",
)


@dataclass(frozen=True)
class TensorInfo:
    """Name, static shape and numpy dtype name of an input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class PortImage:
    """How a tensor crosses between host and activation memory.

    Members
    -------
    tensor : str
    dtype : str
        ``int8`` or ``uint8``; a uint8 value u is stored as the signed byte u - 128.
    shape : tuple of int
        The tensor's own shape.
    chain : ViewChain
        Reshapes, transposes and slices from the tensor to what is stored (inputs), or back (outputs).
    address, size_bytes : int
        Bytes the host transfers in one run.
    fill : int
        Signed byte of the bytes in that run that hold no element.
    view : View
        Where the elements lie, or the bytes of two channels each.
    packed : int or None
        Label of a tensor that lies two channels a byte (see `hwq.nibbles`), None of bytes.
    """

    tensor: str
    dtype: str
    shape: tuple[int, ...]
    chain: ViewChain
    address: int
    size_bytes: int
    fill: int
    view: View
    packed: int | None = None


@dataclass(frozen=True)
class HostStep:
    """Operators that ONNX Runtime runs between array steps: an ONNX model, its inputs and outputs."""

    model: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class LayerInfo:
    """One layer for reports: its slots (end excluded), and the tensor it writes, as the host would read it.

    Members
    -------
    name, op : str
    first_slot, end_slot : int
    output : PortImage
    macs : int
        Of the operator; what another layer computes as well, as it does a halo, counts once.
    part : tuple of (axis, start, size)
        Of the tensor `output` names, what the layer writes: one slice of it after another; all of it where empty.
    """

    name: str
    op: str
    first_slot: int
    end_slot: int
    output: PortImage
    macs: int
    part: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class ArrayStep:
    """A run of the accelerator: start at `slot` after writing `inputs`, then read `outputs`."""

    slot: int
    inputs: tuple[PortImage, ...]
    outputs: tuple[PortImage, ...]
    layers: tuple[LayerInfo, ...]


@dataclass(frozen=True)
class HostNodeInfo:
    """A node that runs on the host, and why."""

    name: str
    op: str
    reason: str


@dataclass(frozen=True)
class PageSizes:
    """How much of each of the program's images belongs to one page: slots, words, tables, and constants by number."""

    slots: int
    params: int
    weights: int
    tables: int
    constants: int


@dataclass(frozen=True, eq=False)
class Page:
    """What the accelerator's memories hold at one time; members as those of `Program`.

    A program that exceeds a memory has several pages, and the host loads each before the steps that need it.
    Descriptors name weights, parameters and tables as they lie in memory.
    """

    first_slot: int
    words: npt.NDArray[np.uint32]
    params: npt.NDArray[np.uint32]
    weights: npt.NDArray[np.int8]
    tables: npt.NDArray[np.int8]
    constants: tuple[tuple[int, npt.NDArray[np.int8]], ...]

    @property
    def size_bytes(self) -> int:
        """What loading it moves."""
        images: list[Array] = [self.words, self.params, self.weights, self.tables]
        return sum(image.nbytes for image in (*images, *(data for _, data in self.constants)))


@dataclass(frozen=True, eq=False)
class Program:
    """Everything a backend needs.

    Members
    -------
    name : str
    config : ArrayConfig
    inputs, outputs : tuple of TensorInfo
    steps : tuple of HostStep and ArrayStep
    words : uint32 (slots used * SLOT_WORDS,)
        Program memory, of one page after another, as the other images; slots are counted through all of them.
    params : uint32 (n, lanes * PARAM_LANE_WORDS)
    weights : int8 (n, cols)
    constants : tuple of (address, int8 bytes)
        Written to activation memory once.
    tables : int8 (n, TABLE_ENTRIES)
    host_nodes : tuple of HostNodeInfo
    rewrites : tuple of str
        What the reader changed on the way to integers.
    sizes : tuple of PageSizes
        Where one page of the images ends and the next begins; empty for a single page.
    golden : dict of str to array
        One sample: every input, and the outputs the reference gives for it.
    """

    name: str
    config: ArrayConfig
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    steps: tuple[HostStep | ArrayStep, ...]
    words: npt.NDArray[np.uint32]
    params: npt.NDArray[np.uint32]
    weights: npt.NDArray[np.int8]
    constants: tuple[tuple[int, npt.NDArray[np.int8]], ...] = ()
    tables: npt.NDArray[np.int8] = field(default_factory=lambda: np.zeros((0, isa.TABLE_ENTRIES), np.int8))
    host_nodes: tuple[HostNodeInfo, ...] = ()
    rewrites: tuple[str, ...] = ()
    sizes: tuple[PageSizes, ...] = ()
    golden: dict[str, Array] = field(default_factory=dict)

    @property
    def array_steps(self) -> tuple[ArrayStep, ...]:
        """The runs of the accelerator."""
        return tuple(step for step in self.steps if isinstance(step, ArrayStep))

    @property
    def pages(self) -> tuple[Page, ...]:
        """The images cut into pages, one at least."""
        if not self.sizes:
            return (Page(0, self.words, self.params, self.weights, self.tables, self.constants),)
        pages = []
        slot = param = weight = table = constant = 0
        for size in self.sizes:
            pages.append(
                Page(
                    slot,
                    self.words[slot * isa.SLOT_WORDS : (slot + size.slots) * isa.SLOT_WORDS],
                    self.params[param : param + size.params],
                    self.weights[weight : weight + size.weights],
                    self.tables[table : table + size.tables],
                    self.constants[constant : constant + size.constants],
                )
            )
            slot, param, weight = slot + size.slots, param + size.params, weight + size.weights
            table, constant = table + size.tables, constant + size.constants
        return tuple(pages)

    def page(self, step: ArrayStep) -> Page:
        """Return the page that holds the descriptors of `step`."""
        return self.page_at(step.slot)

    def page_at(self, slot: int) -> Page:
        """Return the page that holds the descriptor in `slot`."""
        return next(page for page in reversed(self.pages) if page.first_slot <= slot)

    def descriptors(self, slot: int) -> list[dict[str, int]]:
        """Return the decoded descriptors from `slot` to the next HALT, HALT included."""
        out: list[dict[str, int]] = []
        for first in range(slot * isa.SLOT_WORDS, len(self.words), isa.SLOT_WORDS):
            out.append(isa.decode(isa.DESCRIPTOR, self.words[first : first + isa.DESCRIPTOR_WORDS].tolist()))
            if out[-1]["opcode"] == isa.Opcode.HALT:
                break
        return out

    def save(self, path: str | Path) -> None:
        """Write the program to `path`; the file appears whole or not at all. Same program, same bytes."""
        tensors: dict[str, Array] = {"program": self.words, "params": self.params, "weights": self.weights}
        tensors["tables"] = self.tables
        for index, (_, data) in enumerate(self.constants):
            tensors[f"constant.{index}"] = data
        tensors |= {f"golden.{name}": value for name, value in self.golden.items()}
        steps = []
        for index, step in enumerate(self.steps):
            entry = asdict(step)
            if isinstance(step, HostStep):
                tensors[f"host.{index}"] = np.frombuffer(entry.pop("model"), np.uint8)
            steps.append(entry)
        body = {
            "format": FORMAT,
            "name": self.name,
            "arch": self.config.to_dict(),
            "digest": self.config.digest(),
            "inputs": [asdict(info) for info in self.inputs],
            "outputs": [asdict(info) for info in self.outputs],
            "constants": [address for address, _ in self.constants],
            "steps": steps,
            "host_nodes": [asdict(node) for node in self.host_nodes],
            "rewrites": list(self.rewrites),
            "pages": [asdict(size) for size in self.sizes],
        }
        metadata = {"hwq": json.dumps(body, sort_keys=True)}  # one entry: safetensors writes several in any order
        tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
        write_whole(path, safetensors.numpy.save(tensors, metadata))

    @classmethod
    def load(cls, path: str | Path) -> Program:
        """Read a program.

        Raises
        ------
        ProgramError
            Where the file is missing, damaged, or not a program; names the file and what is wrong.
        """
        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise ProgramError(f"{path}: no such file") from None
        except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:  # numpy lacks some dtypes
            raise ProgramError(f"{path}: not an hwq program ({error})") from error
        try:
            body = json.loads(metadata.get("hwq", "{}"))
            if body.get("format") != FORMAT:
                raise ProgramError(f"{path}: not an hwq program of format {FORMAT}; compile the model again")
            return _decode(body, tensors)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError, ArchError) as error:
            raise ProgramError(f"{path}: damaged program ({type(error).__name__}: {error})") from error


def write_whole(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` through a temporary file beside it, so that an interrupted run leaves no half a file."""
    path = Path(path).resolve()  # a symbolic link stays one
    if path.exists() and not path.is_file():
        raise ProgramError(f"{path}: can't be written (it isn't a regular file)")
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise ProgramError(f"{path}: can't be written ({error.strerror})") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _decode(body: dict[str, Any], tensors: dict[str, Array]) -> Program:
    """Build a program from file contents, checking everything a backend relies on."""
    config = ArrayConfig(**body["arch"])
    _require(body["digest"] == config.digest(), "its architecture's digest doesn't match this version of hwq")
    words, params, weights = tensors["program"], tensors["params"], tensors["weights"]
    _require(words.dtype == np.uint32 and words.ndim == 1 and len(words) % isa.SLOT_WORDS == 0, "program image")
    slots = len(words) // isa.SLOT_WORDS
    _require(
        params.dtype == np.uint32 and params.shape[1:] == (config.lanes * isa.PARAM_LANE_WORDS,), "parameter image"
    )
    _require(weights.dtype == np.int8 and weights.shape[1:] == (config.cols,), "weight image")
    tables = tensors["tables"]
    _require(tables.dtype == np.int8 and tables.shape[1:] == (isa.TABLE_ENTRIES,), "table image")
    constants = []
    for index, address in enumerate(body["constants"]):
        data = tensors[f"constant.{index}"]
        _require(data.dtype == np.int8 and data.ndim == 1, "constant image")
        _require(type(address) is int and 0 <= address <= config.act_bytes - data.size, "constant address")
        constants.append((address, data))
    sizes = tuple(PageSizes(**_ints(entry, *PageSizes.__dataclass_fields__)) for entry in body.get("pages", []))
    whole = PageSizes(slots, len(params), len(weights), len(tables), len(constants))
    bounds = _page_bounds(sizes or (whole,), whole, words, config)
    steps: list[HostStep | ArrayStep] = []
    for index, entry in enumerate(body["steps"]):
        if "slot" in entry:
            _require(type(entry["slot"]) is int and 0 <= entry["slot"] < slots, "slot")
            ports = {
                key: tuple(_port(port, config, inward=key == "inputs") for port in entry[key])
                for key in ("inputs", "outputs")
            }
            layers = tuple(_layer(layer, config) for layer in entry["layers"])
            first, end = next((a, b) for a, b in bounds if a <= entry["slot"] < b)
            _require(all(first <= i.first_slot <= i.end_slot <= end for i in layers), "layer slots")
            _require(all(i.macs >= 0 for i in layers), "layer MACs")
            steps.append(ArrayStep(entry["slot"], **ports, layers=layers))
        else:
            model = tensors[f"host.{index}"]
            _require(model.dtype == np.uint8 and model.ndim == 1, "host model")
            steps.append(HostStep(model.tobytes(), _names(entry["inputs"]), _names(entry["outputs"])))
    golden = {name.removeprefix("golden."): value for name, value in tensors.items() if name.startswith("golden.")}
    inputs, outputs = (tuple(_info(info) for info in body[key]) for key in ("inputs", "outputs"))
    _check_flow([info.name for info in inputs], steps, [info.name for info in outputs])
    return Program(
        name=str(body["name"]),
        config=config,
        inputs=inputs,
        outputs=outputs,
        steps=tuple(steps),
        words=words,
        params=params,
        weights=weights,
        constants=tuple(constants),
        tables=tables,
        host_nodes=tuple(HostNodeInfo(**_strings(node, "name", "op", "reason")) for node in body["host_nodes"]),
        rewrites=_names(body["rewrites"]),
        sizes=sizes,
        golden=golden,
    )


def _layer(entry: dict[str, Any], config: ArrayConfig) -> LayerInfo:
    text, slots = _strings(entry, "name", "op"), _ints(entry, "first_slot", "end_slot", "macs")
    output = _port(entry["output"], config, inward=False)
    part = tuple(_triple(values) for values in entry.get("part", []))
    return LayerInfo(text["name"], text["op"], slots["first_slot"], slots["end_slot"], output, slots["macs"], part)


def _triple(values: list[int]) -> tuple[int, int, int]:
    axis, start, size = _sizes(values, 0)
    return axis, start, size


def _page_bounds(
    sizes: Sequence[PageSizes], whole: PageSizes, words: npt.NDArray[np.uint32], config: ArrayConfig
) -> list[tuple[int, int]]:
    """Return each page's first slot and end; together the pages must be the images, and each one must fit."""
    end = 0
    bounds = []
    for size in sizes:
        _require(min(astuple(size)) >= 0, "a page's size is negative")
        _require(1 <= size.slots <= config.slots, f"{size.slots} slots")
        fits = size.params <= config.param_words and size.weights <= config.weight_words
        _require(fits, "image larger than its memory")
        _require(size.tables <= config.tables, f"{size.tables} tables")
        bounds.append((end, end + size.slots))
        end += size.slots
        _require(end <= whole.slots, "the pages aren't the whole program")
        halt = int(words[(end - 1) * isa.SLOT_WORDS]) & 0xFF
        _require(halt == isa.Opcode.HALT, "the last descriptor isn't HALT")
    totals = tuple(map(sum, zip(*map(astuple, sizes), strict=True)))
    _require(totals == astuple(whole), "the pages aren't the whole program")
    return bounds


def _check_flow(inputs: list[str], steps: list[HostStep | ArrayStep], outputs: list[str]) -> None:
    """Check that every step, and the caller, reads only what is there by then."""
    known = set(inputs)
    for step in steps:
        read, made = (step.inputs, step.outputs) if isinstance(step, HostStep) else _tensors(step)
        _require(known.issuperset(read), "a step reads a tensor that nothing writes")
        known.update(made)
    _require(known.issuperset(outputs), "nothing writes an output")


def _tensors(step: ArrayStep) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(port.tensor for port in step.inputs), tuple(port.tensor for port in step.outputs)


def _strings(entry: dict[str, Any], *keys: str) -> dict[str, str]:
    _require(all(type(entry[key]) is str for key in keys), f"{', '.join(keys)} must be strings")
    return {key: entry[key] for key in keys}


def _ints(entry: dict[str, Any], *keys: str) -> dict[str, int]:
    _require(all(type(entry[key]) is int for key in keys), f"{', '.join(keys)} must be integers")
    return {key: entry[key] for key in keys}


def _names(values: list[str]) -> tuple[str, ...]:
    _require(isinstance(values, list) and all(type(value) is str for value in values), "names must be strings")
    return tuple(values)


def _sizes(values: list[int], least: int = 1) -> tuple[int, ...]:
    _require(isinstance(values, list) and len(values) <= 32, "a shape must be a list")
    _require(all(type(value) is int and least <= value < 1 << 32 for value in values), "a size is out of range")
    return tuple(values)


def _info(entry: dict[str, Any]) -> TensorInfo:
    _require(entry["dtype"] in _DTYPES, f"dtype {entry['dtype']!r}")
    return TensorInfo(_strings(entry, "name")["name"], _sizes(entry["shape"]), entry["dtype"])


def _port(entry: dict[str, Any], config: ArrayConfig, *, inward: bool) -> PortImage:
    shape = _sizes(entry["shape"])
    _require(entry["dtype"] in ("int8", "uint8"), f"port dtype {entry['dtype']!r}")
    numbers = _ints(entry, "address", "size_bytes", "fill")
    address, size = numbers["address"], numbers["size_bytes"]
    _require(address >= 0 and size > 0 and address + size <= config.act_bytes, "port outside activation memory")
    _require(-128 <= numbers["fill"] <= 127, "port fill")
    raw = entry["view"]
    view = View(_ints(raw, "address")["address"], _sizes(raw["shape"]), _sizes(raw["strides"], 0))
    reach = view.address + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True))
    _require(address <= view.address and reach < address + size, "port view outside its bytes")
    _require(math.prod(view.shape) <= config.act_bytes, "port shape")
    chain = [(_chain_kind(kind), _sizes(values, 0)) for kind, values in entry["chain"]]
    packed, stored = entry["packed"], view.shape
    if packed is not None:
        _require(type(packed) is int and -128 <= packed <= 255, "port label")
        axis, elements = channel_axis(stored), _chained(shape, chain) if inward else shape
        _require(len(elements) == len(stored) > 0, "port shape")
        stored = (*stored[:axis], elements[axis], *stored[axis + 1 :])
        _require(packed_shape(stored) == view.shape, "port shape")
    ends = (shape, stored) if inward else (stored, shape)
    _require(_chained(ends[0], chain) == ends[1], "port chain")
    name = _strings(entry, "tensor")["tensor"]
    return PortImage(name, entry["dtype"], shape, tuple(chain), view=view, packed=packed, **numbers)


def _chain_kind(kind: str) -> str:
    _require(kind in ("reshape", "transpose", "slice"), f"chain step {kind!r}")
    return kind


def _chained(shape: tuple[int, ...], chain: Sequence[tuple[str, tuple[int, ...]]]) -> tuple[int, ...]:
    """Return the shape that the views of `chain` make of `shape`."""
    for kind, values in chain:
        if kind == "transpose":
            _require(sorted(values) == list(range(len(shape))), "a transpose isn't a permutation")
            shape = tuple(shape[axis] for axis in values)
        elif kind == "slice":
            axis, start, size = _triple(list(values))
            _require(axis < len(shape) and size > 0 and start + size <= shape[axis], "a slice leaves its tensor")
            shape = (*shape[:axis], size, *shape[axis + 1 :])
        else:
            _require(math.prod(values) == math.prod(shape), "a reshape changes the size")
            shape = values
    return shape
