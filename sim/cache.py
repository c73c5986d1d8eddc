"""A directory of build results, each made once.

A result's name is the hash of everything it was made from, so nothing in here is ever out of date and all of it may
be deleted at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path


def cache_dir() -> Path:
    """Return the directory of build results: $HWQ_CACHE, or ``hwq`` in the user's cache directory."""
    named = os.environ.get("HWQ_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hwq"


def digest(parts: Iterable[str | bytes]) -> str:
    """Return 32 hexadecimal digits that name `parts`; ``["ab", "c"]`` and ``["a", "bc"]`` differ.

    >>> digest(["ab", "c"]) == digest(["a", "bc"])
    False
    """
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()[:32]


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """Return the path of result `name`, made by `make` when it isn't there yet.

    `make` gets an empty directory and leaves a file or directory called `name` in it, which then moves into place in
    one step: other processes see all of it or nothing. A second process that wants the same result waits for the
    first. What an interrupted `make` left behind is removed before the next one.

    Parameters
    ----------
    name : str
        File name, unique to the contents: hold a `digest` in it.
    make : Callable[[Path], None]
        Its exceptions pass through and leave no result.
    """
    final = cache_dir() / name
    if final.exists():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    work = final.with_name(f"{name}.partial")
    with final.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if final.exists():
            return final
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            make(work)
            (work / name).rename(final)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return final
