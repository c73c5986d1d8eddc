"""Program files with anything changed: each is read as a program, or refused in one sentence."""

from __future__ import annotations

import atexit
import copy
import functools
import json
import shutil
import struct
import tempfile
from pathlib import Path

import numpy as np

from hwq import compile, demo
from hwq.errors import ProgramError
from hwq.program import Program
from tests.campaigns.campaign import Campaign
from tests.test_capacity import ARRAY, depthwise
from tests.test_packing import chain, narrow

NONSENSE = (None, True, -1, 0, 1, 2, 127, 128, 255, 1 << 16, 1 << 31, 1 << 40, 1 << 64, -(1 << 63), 1.5, 1e308, "")
NONSENSE += (
    "x",
    "\0",
    "int8",
    "float32",
    "reshape",
    "../../etc/passwd",
    [],
    [[]],
    {},
    [0],
    [1 << 40, 1 << 40],
    {"": 0},
)

DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "U16", "U32", "U64", "BOOL", "F8_E4M3", "X")


@functools.cache
def originals() -> tuple[bytes, ...]:
    """Return good files: the demo, one of several pages, one whose channels lie two in a byte."""
    programs = (
        compile(demo.model_path(), "sim-4x4"),
        compile(depthwise(), ARRAY),
        compile(chain([3, 4, 5]), narrow((4, 4, 4, 2))),
    )
    path, files = Path(_folder()) / "original.hwq", []
    for program in programs:
        program.save(path)
        files.append(path.read_bytes())
    return tuple(files)


@functools.cache
def _folder() -> str:
    folder = tempfile.mkdtemp(prefix="hwq-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    atexit.register(shutil.rmtree, folder)
    return folder


def taken_apart(data: bytes) -> tuple[dict, dict, bytes]:
    """Return a file's safetensors header, the JSON in it, and what follows."""
    (size,) = struct.unpack("<Q", data[:8])
    entries = json.loads(data[8 : 8 + size])
    return entries, json.loads(entries["__metadata__"]["hwq"]), data[8 + size :]


def put_together(entries: dict, body: object, rest: bytes) -> bytes:
    """Return the file of its parts."""
    entries["__metadata__"] = {"hwq": body if isinstance(body, str) else json.dumps(body)}
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + rest


def places(node: object) -> list[tuple[dict | list, object]]:
    """Return every container of a JSON document with each of its keys."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    return [place for key in keys for place in ((node, key), *places(node[key]))]


def change_value(body: dict, rng: np.random.Generator) -> str:
    """Change one value of a JSON document; return how."""
    found = places(body)
    if not found:
        return "nothing"
    container, key = found[rng.integers(len(found))]
    old = container[key]
    how = rng.integers(6)
    if how == 0 and type(old) is int:
        container[key] = old + int(rng.choice([-1, 1, -4, 4, 1 << int(rng.integers(40))]))
        return "number"
    if how == 1:
        del container[key]
        return "removed"
    if how == 2:
        other, at = found[rng.integers(len(found))]
        container[key] = copy.deepcopy(other[at])
        return "another's"
    if how == 3 and isinstance(container, list):
        container.insert(key, copy.deepcopy(old))
        return "repeated"
    if how == 4 and isinstance(container, dict):
        container[str(rng.choice(["slot", "x", "view", "packed", "part", ""]))] = container.pop(key)
        return "renamed"
    container[key] = copy.deepcopy(NONSENSE[rng.integers(len(NONSENSE))])
    return "nonsense"


def change_tensor(entries: dict, rng: np.random.Generator) -> str:
    """Change what the file says of one tensor; return how."""
    name = str(rng.choice([name for name in entries if name != "__metadata__"] or ["weights"]))
    entry = entries.get(name)
    if not isinstance(entry, dict) or rng.random() < 0.2:
        entries.pop(name, None)
        return "tensor removed"
    how = rng.integers(4)
    if how == 0:
        entry["dtype"] = str(rng.choice(DTYPES))
    elif how == 1:
        entry["shape"] = [int(value) for value in rng.choice([0, 1, 2, 4, 256, 1 << 33], int(rng.integers(4)))]
    elif how == 2:
        entry["data_offsets"] = [int(value) for value in rng.integers(0, 1 << int(rng.integers(1, 40)), 2)]
    else:
        entries[str(rng.choice(["host.1", "constant.9", "golden.x", "weights", "y"]))] = entries.pop(name)
    return "tensor"


def changed(rng: np.random.Generator) -> tuple[bytes, str]:
    """Return a good file with something changed, and what."""
    files = originals()
    data = files[rng.integers(len(files))]
    how = rng.random()
    if how < 0.15:  # bytes, half of them in the header
        broken, end = bytearray(data), 8 + struct.unpack("<Q", data[:8])[0]
        for _ in range(int(rng.integers(1, 5))):
            broken[int(rng.integers(0, end if rng.random() < 0.5 else len(data)))] = int(rng.integers(256))
        return bytes(broken), "bytes"
    if how < 0.2:
        cut = int(rng.integers(len(data)))
        return (data[:cut], "cut") if rng.random() < 0.5 else (data[:cut] + rng.bytes(7) + data[cut:], "inserted")
    entries, body, rest = taken_apart(data)
    if how < 0.25:  # the JSON's text
        text = json.dumps(body)
        at = int(rng.integers(len(text)))
        text = text[:at] + str(rng.choice(list('0123456789-"[]{}.,:eantx\\'))) + text[at + 1 :]
        return put_together(entries, text, rest), "text"
    if how < 0.4:
        kinds = [change_tensor(entries, rng)]
    else:
        kinds = [change_value(body, rng) for _ in range(int(rng.choice([1, 1, 1, 2, 4])))]
    return put_together(entries, body, rest), kinds[0]


def trial(rng: np.random.Generator) -> list[str]:
    """Read a changed file; what is read is written and read again."""
    data, kind = changed(rng)
    path = Path(_folder()) / "p.hwq"
    path.write_bytes(data)
    try:
        program = Program.load(path)
    except ProgramError as error:
        message = str(error)
        assert message.startswith(str(path)), message
        assert "\n" not in message, message
        return [f"{kind}: refused"]
    program.save(path)
    again = Program.load(path)
    assert (again.steps, again.sizes, again.inputs) == (program.steps, program.sizes, program.inputs)
    for step in program.array_steps:
        assert program.page(step).words.size
        assert program.descriptors(step.slot)
    return [f"{kind}: read"]


CAMPAIGN = Campaign("program-files", "changed Program files: read, or refused in one sentence", 1, trial)
