"""Weights that a model keeps in files beside it: read only from plain files in the model's own folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

import onnx

from hwq.errors import ModelError

_LARGEST = 1 << 34
"""Bytes read for one tensor."""


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's data lies in another file."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def read_external(tensor: onnx.TensorProto, folder: Path, name: str) -> None:
    """Put a tensor's external data inside it.

    The file must lie in `folder`, under a plain name or path without a link on the way, and be a regular file that has
    no other name; anything else could be a file its author was never meant to see.

    Parameters
    ----------
    tensor : onnx.TensorProto
        Changed in place.
    folder : path
        The model's.
    name : str
        The model's name, for messages.

    Raises
    ------
    ModelError
        The entry is malformed, or the file isn't such a file or is too short.
    """

    def error(message: str) -> ModelError:
        return ModelError(f"{name}: external data of tensor {tensor.name!r}: {message}")

    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    numbers = {}
    for key in ("offset", "length"):
        text = entries.get(key, "0" if key == "offset" else "")
        if text and not (text.isascii() and text.isdigit()):
            raise error(f"{key} is {text!r}: it must be a number of at least 0")
        numbers[key] = int(text) if text else None
    offset = numbers["offset"] or 0
    try:
        file = _opened(folder, location)
    except (OSError, ValueError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) else str(failure)
        raise error(f"file {location!r} can't be used: {reason}") from failure
    with file:
        size = os.fstat(file.fileno()).st_size
        length = size - offset if numbers["length"] is None else numbers["length"]
        if offset + length > size or length < 0:
            raise error(f"file {location!r} has {size} bytes: too few for {max(length, 0)} at {offset}")
        if length > _LARGEST:
            raise error(f"it has {length} bytes: more than {_LARGEST}")
        file.seek(offset)
        tensor.raw_data = file.read(length)
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]


def _opened(folder: Path, location: str) -> BinaryIO:
    """Open a regular file below `folder` without following a link or waiting for another process."""
    parts = Path(location).parts
    if not parts or Path(location).is_absolute() or ".." in parts or "\\" in location:
        raise ValueError("it must be a path below the model's folder")
    at = folder
    for part in parts:
        at /= part
        if at.is_symlink():
            raise ValueError("a link is in the way")
    descriptor = os.open(at, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    file = os.fdopen(descriptor, "rb")
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        file.close()
        raise ValueError("it isn't a plain file")
    if status.st_nlink > 1:
        file.close()
        raise ValueError("it has another name elsewhere (a hard link)")
    return file
