"""Program files: the same program gives the same bytes, and a broken file raises ProgramError and nothing else."""

import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hwq import compile, demo, isa, reference
from hwq.compiler import load
from hwq.errors import ProgramError
from hwq.program import FORMAT, HostStep, Program, write_whole
from hwq.runtime import InferenceSession

ROOT = Path(__file__).resolve().parent.parent
FLIPS = 3000


@pytest.fixture(scope="module")
def program():
    return compile(demo.model_path(), "sim-4x4")


@pytest.fixture(scope="module")
def data(program, tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "p.hwq"
    program.save(path)
    return path.read_bytes()


def opened(path, data):
    """Load `data`; return the program, or None where it was refused as it should be."""
    path.write_bytes(data)
    try:
        return Program.load(path)
    except ProgramError as error:
        message = str(error)
    assert message.startswith(str(path))
    return None


def header(data):
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def forged(data, change):
    """Return `data` with its metadata changed by `change(body)`."""
    entries, rest = header(data)
    body = json.loads(entries["__metadata__"]["hwq"])
    change(body)
    entries["__metadata__"]["hwq"] = json.dumps(body)
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + rest


def test_saving_what_was_loaded_gives_the_same_bytes(data, tmp_path):
    loaded = opened(tmp_path / "a.hwq", data)
    loaded.save(tmp_path / "b.hwq")
    assert (tmp_path / "b.hwq").read_bytes() == data


def test_loaded_program_computes_the_same(program, data, tmp_path):
    loaded = opened(tmp_path / "p.hwq", data)
    images, _ = demo.load_samples()
    expected = InferenceSession(program).run(None, {"image": images[:3]})
    np.testing.assert_array_equal(InferenceSession(loaded).run(None, {"image": images[:3]}), expected)


def test_golden_sample_is_the_references(data, tmp_path):
    golden = opened(tmp_path / "p.hwq", data).golden
    expected = reference.run(load(demo.model_path()), {"image": golden["image"]})
    np.testing.assert_array_equal(golden["logits"], expected["logits"])


def test_compiling_is_deterministic_over_processes(data):
    code = (
        "import hwq, sys; from hwq import demo; hwq.compile(demo.model_path(), 'sim-4x4').save(sys.argv[1]);"
        "import hashlib; print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest())"
    )
    digests = set()
    for seed in ("0", "1", "4242"):
        target = f"{os.environ.get('TMPDIR', '/tmp')}/hwq-{os.getpid()}-{seed}.hwq"
        try:
            command = [sys.executable, "-W", "ignore::ResourceWarning", "-c", code, target]
            environment = {**os.environ, "PYTHONHASHSEED": seed}
            done = subprocess.run(command, cwd=ROOT, env=environment, check=True, text=True, capture_output=True)
        finally:
            Path(target).unlink(missing_ok=True)
        digests.add(done.stdout.strip())
    assert digests == {hashlib.sha256(data).hexdigest()}


# Broken files


def test_files_that_are_no_programs(tmp_path):
    path = tmp_path / "p.hwq"
    with pytest.raises(ProgramError, match="no such file"):
        Program.load(path)
    with pytest.raises(ProgramError, match="not an hwq program"):
        Program.load(tmp_path)
    assert opened(path, b"") is None
    assert opened(path, b"\xff" * 64) is None
    assert opened(path, demo.model_path().read_bytes()) is None


def test_every_truncation_is_refused(data, tmp_path):
    rng = np.random.default_rng(1)
    sizes = {0, 1, 7, 8, 9, len(data) - 1, *rng.integers(0, len(data), 200).tolist()}
    assert all(opened(tmp_path / "p.hwq", data[:size]) is None for size in sizes)
    assert opened(tmp_path / "p.hwq", data + b"\0") is None


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_dtypes_that_numpy_lacks_are_refused(data, tmp_path, dtype):
    entries, rest = header(data)
    start, end = entries["golden.image"]["data_offsets"]
    entries["golden.image"] |= {"dtype": dtype, "shape": [end - start]}
    text = json.dumps(entries).encode()
    assert opened(tmp_path / "p.hwq", struct.pack("<Q", len(text)) + text + rest) is None


def test_flipped_bytes_never_raise_anything_else(data, tmp_path):
    """Half of them in the header, which the decoder reads; a flipped byte of weights can't be noticed."""
    rng = np.random.default_rng(2)
    head = 8 + struct.unpack("<Q", data[:8])[0]
    refused = 0
    for flip in range(FLIPS):
        broken = bytearray(data)
        position = int(rng.integers(0, head if flip % 2 else len(data)))
        broken[position] ^= int(rng.integers(1, 256))
        refused += opened(tmp_path / "p.hwq", bytes(broken)) is None
    assert FLIPS // 4 < refused < FLIPS


def test_flipped_metadata_never_raises_anything_else(data, tmp_path):
    """Changes of the JSON inside the header that leave it valid JSON, so that they reach every check."""
    rng = np.random.default_rng(3)
    entries, _ = header(data)
    text = entries["__metadata__"]["hwq"]
    accepted = 0
    for _ in range(FLIPS):
        position = int(rng.integers(0, len(text)))
        new = text[:position] + str(rng.choice(list('0123456789-"[]{}.,:eantx'))) + text[position + 1 :]
        try:
            body = json.loads(new)
        except ValueError:
            continue

        def replaced(old, body=body):
            if isinstance(body, dict):
                old.clear()
                old.update(body)

        accepted += opened(tmp_path / "p.hwq", forged(data, replaced)) is not None
    assert accepted  # names and reasons may be anything


def walk(node, path=()):
    """Yield the path of every value in a JSON document."""
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from walk(value, (*path, key))


@pytest.mark.parametrize("value", [None, -1, 0, 1 << 40, "x", [], {}, 1.5, True, [[]], "\0"])
def test_every_value_replaced_by_nonsense(data, tmp_path, value):
    entries, _ = header(data)
    paths = [path for path in walk(json.loads(entries["__metadata__"]["hwq"])) if path]
    rng = np.random.default_rng(4)
    for index in rng.choice(len(paths), min(len(paths), 150), replace=False):

        def change(body, path=paths[index]):
            for key in path[:-1]:
                body = body[key]
            body[path[-1]] = value

        loaded = opened(tmp_path / "p.hwq", forged(data, change))
        if loaded is not None:
            loaded.save(tmp_path / "again.hwq")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda body: body["arch"].update(rows=8), "digest"),
        (lambda body: body["arch"].update(rows=0), "rows"),
        (lambda body: body["arch"].update({"m\nitor\x1b": 1}), r"'m\\nitor\\x1b'"),
        (lambda body: body.update(constants=[-1]), "constant"),
        (lambda body: body["steps"][1].update(slot=1 << 20), "slot"),
        (lambda body: body["steps"][1]["inputs"][0].update(address=1 << 24), "outside activation memory"),
        (lambda body: body["steps"][1]["inputs"][0].update(dtype="float32"), "port dtype"),
        (lambda body: body["steps"][1]["outputs"][0]["view"].update(address=1 << 20), "view outside its bytes"),
        (lambda body: body["steps"][1]["layers"][0].update(end_slot=1 << 20), "layer slots"),
        (lambda body: body["inputs"][0].update(dtype="object"), "dtype"),
        (lambda body: body["inputs"][0].update(shape=[1 << 40]), "size"),
        (lambda body: body.pop("steps"), "steps"),
    ],
)
def test_forged_metadata_is_refused(data, tmp_path, change, message):
    path = tmp_path / "p.hwq"
    path.write_bytes(forged(data, change))
    with pytest.raises(ProgramError, match=message):
        Program.load(path)


def test_program_without_a_final_halt_is_refused(program, tmp_path):
    words = program.words.copy()
    words[-isa.SLOT_WORDS] = isa.Opcode.CONV
    broken = Program(**{**vars(program), "words": words})
    broken.save(tmp_path / "p.hwq")
    with pytest.raises(ProgramError, match="isn't HALT"):
        Program.load(tmp_path / "p.hwq")


def test_other_formats_are_refused(data, tmp_path):
    new = data.replace(FORMAT.encode(), FORMAT.replace("-1", "-9").encode())
    (tmp_path / "p.hwq").write_bytes(new)
    with pytest.raises(ProgramError, match="compile the model again"):
        Program.load(tmp_path / "p.hwq")


def test_host_model_that_cannot_run_is_a_model_error(program):
    from hwq.errors import ModelError

    steps = tuple(HostStep(b"no model", s.inputs, s.outputs) if isinstance(s, HostStep) else s for s in program.steps)
    broken = Program(**{**vars(program), "steps": steps})
    with pytest.raises(ModelError):
        InferenceSession(broken).run(None, {"image": np.zeros((1, 1, 8, 8), np.float32)})


# Writing


def test_write_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "f"
    write_whole(path, b"first")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"second")
    monkeypatch.undo()
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"first"]
    with pytest.raises(ProgramError, match="can't be written"):
        write_whole(tmp_path / "no" / "f", b"")
    with pytest.raises(ProgramError, match="isn't a regular file"):
        write_whole(tmp_path, b"")
