"""What long work has measured so far, in a file of JSON lines, so that it can go on where it was interrupted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hwq.errors import HwqError
from hwq.program import write_whole

_KIND = "hwq journal"


def digest(parts: Iterable[bytes | str]) -> str:
    """Return what tells work from other work: a hash of all that its results depend on."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()


class Journal:
    """Results by key, kept in a file from the moment they are there; the file is whole at every moment.

    Parameters
    ----------
    path : Path or None
        Read if it is there. None: kept in memory only.
    work : str
        The work's `digest`.

    Raises
    ------
    HwqError
        The file holds something else, or the results of other work; or it can't be written.
    """

    def __init__(self, path: Path | None, work: str):
        self._path = path
        self._lines = [json.dumps({"kind": _KIND, "work": work})]
        self._known: dict[str, dict[str, Any]] = {}
        if path is None or not path.exists():
            return
        try:
            head, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            kind, theirs = head["kind"], head["work"]
            self._known = {line["key"]: line["result"] for line in lines}
        except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise HwqError(f"{path}: isn't a file of results to go on from; name another one") from error
        except OSError as error:
            raise HwqError(f"{path}: can't be read ({error.strerror})") from error
        if kind != _KIND or theirs != work:
            raise HwqError(f"{path}: holds results of another model, other samples or options; name another file")
        self._lines += [_line(key, result) for key, result in self._known.items()]

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the result stored under `key`."""
        return self._known.get(key)

    def put(self, key: str, result: dict[str, Any]) -> None:
        """Store a result."""
        self._known[key] = result
        self._lines.append(_line(key, result))
        if self._path is not None:
            write_whole(self._path, "".join(f"{line}\n" for line in self._lines).encode())


def _line(key: str, result: dict[str, Any]) -> str:
    return json.dumps({"key": key, "result": result})
