"""ONNX's own code on untrusted models: in a child process with limits on memory and time.

The checker, the inliner, the version converter, shape inference and ONNX Runtime are C++ that a hostile file may crash,
fill memory with or keep busy for ever. The child is one `python -m hwq.onnx_guard`, started by the first call, which
answers until it is stopped or this process ends; nothing it sends is ever executed or unpickled.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import numpy as np
import onnx
from onnx import inliner, shape_inference, version_converter

from hwq.errors import HwqError
from hwq.host import first_line, run_once
from hwq.ir import Array

TIME_LIMIT_S = 60.0
"""Seconds for one call; shape inference of a network of 100 MB takes less than one."""

MEMORY_LIMIT = 4 << 30
"""Bytes of address space the child may have beyond `MODEL_COPIES` copies of the model it works on."""

MODEL_COPIES = 8

_LENGTH = struct.Struct("<Q")


class GuardError(HwqError):
    """ONNX refused the model, or didn't survive it; the message is one line without the file's name.

    Members
    ---
    kind : str
        The class of ONNX's exception, "" where there was none.
    """

    def __init__(self, message: str, kind: str = ""):
        super().__init__(message)
        self.kind = kind


def check(model: onnx.ModelProto) -> None:
    """Run ONNX's checker.

    Raises
    ------
    GuardError
        As for all functions here: ONNX's message, or that it crashed, ran out of memory or took too long.
    """
    _call("check", model)


def inline(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with the bodies of its local functions in their calls' places."""
    return _model(_call("inline", model))


def convert(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return `model` in operators of another operator set."""
    return _model(_call("convert", model, opset=opset))


def infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with all shapes that ONNX can infer."""
    return _model(_call("infer", model))


def run(model: onnx.ModelProto, feeds: Mapping[str, Array], names: Sequence[str] | None = None) -> dict[str, Array]:
    """Run `model` in ONNX Runtime and return the named outputs, or all of them."""
    blocks, rest = _call("run", model, *_pack(feeds), names=names)
    return _unpack(blocks, rest)


def types(model: onnx.ModelProto, feeds: Mapping[str, Array], names: Sequence[str]) -> dict[str, Any]:
    """Run `model` and return each named output's shape and dtype name, or None where it isn't a tensor."""
    return dict(_call("types", model, *_pack(feeds), names=names)[0])


# The parent's end --------------------------------------------------------------------------------------------------


class _Child:
    """The child process; calls take turns."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def call(self, head: dict[str, Any], body: bytes) -> tuple[Any, bytes]:
        """Return the answer to one request."""
        with self._lock:
            process = self._running()
            deadline = time.monotonic() + TIME_LIMIT_S
            try:
                answer = _exchange(process, _framed(head, body), deadline)
            except BaseException:  # an interrupt too: the next call must not read this one's answer
                self.stop()
                raise
        if "error" in answer[0]:
            raise GuardError(answer[0]["error"], answer[0]["kind"])
        return answer[0]["result"], answer[1]

    def stop(self) -> None:
        """End the child; the next call starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is the parent's
                env=os.environ | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
            )
        return self._process


_CHILD = _Child()
atexit.register(_CHILD.stop)


def _call(
    task: str, model: onnx.ModelProto, blocks: Any = None, rest: bytes = b"", **options: Any
) -> tuple[Any, bytes]:
    try:
        data = model.SerializeToString()
    except Exception as error:  # the class depends on the protobuf backend
        raise GuardError(f"it can't be written as a file, whose limit is 2 GiB: {first_line(error)}") from error
    return _CHILD.call({"task": task, "model": len(data), "blocks": blocks} | options, data + rest)


def _exchange(process: subprocess.Popen[bytes], request: bytes, deadline: float) -> tuple[Any, bytes]:
    """Send a request and read the answer, whichever of both the child is ready for."""
    assert process.stdin is not None
    assert process.stdout is not None
    out, into = process.stdin.fileno(), process.stdout.fileno()
    os.set_blocking(out, False)
    left, answer = memoryview(request), bytearray()
    while True:
        seconds = deadline - time.monotonic()
        readable, writable, _ = select.select([into], [out] if left else [], [], max(0.0, seconds))
        if not readable and not writable:
            raise GuardError(f"ONNX hasn't finished with it after {TIME_LIMIT_S:.0f} s")
        try:
            left = left[os.write(out, left[: 1 << 16]) :] if writable else left
        except BrokenPipeError:
            left = left[:0]  # it has died, as reading will tell
        if readable:
            if not (piece := os.read(into, 1 << 20)):
                raise GuardError(f"ONNX crashed on it ({_ending(process.wait())})")
            answer += piece
            if (parsed := _parsed(answer)) is not None:
                return parsed


def _ending(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _model(answer: tuple[Any, bytes]) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(answer[1])


# Messages ----------------------------------------------------------------------------------------------------------


def _framed(head: Any, body: bytes) -> bytes:
    text = json.dumps(head).encode()
    return _LENGTH.pack(len(text)) + _LENGTH.pack(len(body)) + text + body


def _parsed(data: bytearray) -> tuple[Any, bytes] | None:
    """Return a message's head and body once it is whole."""
    if len(data) < 2 * _LENGTH.size:
        return None
    head, body = (_LENGTH.unpack_from(data, at)[0] for at in (0, _LENGTH.size))
    start = 2 * _LENGTH.size
    if len(data) < start + head + body:
        return None
    return json.loads(data[start : start + head]), bytes(data[start + head : start + head + body])


def _pack(arrays: Mapping[str, Any]) -> tuple[list[Any], bytes]:
    """Return descriptions of arrays and their bytes; strings are part of the description."""
    blocks, rest = [], []
    for name, value in arrays.items():
        if value.dtype == object:
            blocks.append([name, "object", value.shape, [str(text) for text in value.ravel()]])
        else:
            blocks.append([name, value.dtype.name, value.shape, None])
            rest.append(np.ascontiguousarray(value).tobytes())
    return blocks, b"".join(rest)


def _unpack(blocks: list[Any], rest: bytes) -> dict[str, Array]:
    arrays, start = {}, 0
    for name, dtype, shape, strings in blocks:
        if strings is not None:
            arrays[name] = np.array(strings, object).reshape(shape)
            continue
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(rest, np.dtype(dtype), count, start).reshape(shape).copy()
        start += arrays[name].nbytes
    return arrays


# The child's end ---------------------------------------------------------------------------------------------------


def _check(model: onnx.ModelProto, **_: Any) -> tuple[Any, bytes]:
    onnx.checker.check_model(model)
    return None, b""


def _inline(model: onnx.ModelProto, **_: Any) -> tuple[Any, bytes]:
    return None, inliner.inline_local_functions(model).SerializeToString()


def _convert(model: onnx.ModelProto, opset: int, **_: Any) -> tuple[Any, bytes]:
    return None, version_converter.convert_version(model, opset).SerializeToString()


def _infer(model: onnx.ModelProto, **_: Any) -> tuple[Any, bytes]:
    inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    return None, inferred.SerializeToString()


def _run(model: onnx.ModelProto, feeds: dict[str, Array], names: list[str] | None, **_: Any) -> tuple[Any, bytes]:
    return _pack({name: np.asarray(value) for name, value in run_once(model, feeds, names).items()})


def _types(model: onnx.ModelProto, feeds: dict[str, Array], names: list[str], **_: Any) -> tuple[Any, bytes]:
    values = run_once(model, feeds, names).items()
    return {n: (v.shape, v.dtype.name) if isinstance(v, np.ndarray) else None for n, v in values}, b""


_TASKS: dict[str, Callable[..., tuple[Any, bytes]]] = {
    "check": _check,
    "inline": _inline,
    "convert": _convert,
    "infer": _infer,
    "run": _run,
    "types": _types,
}


def _answer(head: dict[str, Any], body: bytes) -> bytes:
    size = head.pop("model")
    feeds = _unpack(head.pop("blocks") or [], body[size:])
    try:
        result, rest = _TASKS[head.pop("task")](onnx.ModelProto.FromString(body[:size]), feeds=feeds, **head)
        return _framed({"result": result}, rest)
    except Exception as error:  # C++ exceptions have no common class
        text = first_line(error)
        if isinstance(error, MemoryError) or "bad_alloc" in text or "Failed to allocate" in text:
            text = f"ONNX needs more than {MEMORY_LIMIT >> 30} GiB for it"
        return _framed({"error": text, "kind": type(error).__name__}, b"")


def _limit(size: int) -> None:
    """Limit this process's memory, and its time should the parent no longer be there to do so."""
    try:
        import resource
    except ImportError:  # Windows: the parent's clock alone limits it
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    limits = {
        resource.RLIMIT_AS: MEMORY_LIMIT + MODEL_COPIES * size,
        resource.RLIMIT_CPU: int(used.ru_utime + used.ru_stime + 2 * TIME_LIMIT_S),
    }
    for limit, most in limits.items():
        resource.setrlimit(limit, (most, resource.getrlimit(limit)[1]))


def _serve(into: IO[bytes], out: IO[bytes]) -> None:
    while lengths := into.read(2 * _LENGTH.size):
        head, body = (_LENGTH.unpack_from(lengths, at)[0] for at in (0, _LENGTH.size))
        _limit(body)
        out.write(_answer(json.loads(into.read(head)), into.read(body)))
        out.flush()


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    _serve(sys.stdin.buffer, answers)
