"""What the commands print: tables on standard output, progress on standard error, reports in files.

Nothing but the table itself goes to standard output, and with ``--json -`` nothing but the JSON.
"""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwq.errors import HwqError, InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from rich.console import Console
    from rich.table import Table

    from hwq.costs import Estimate
    from hwq.ladder import Report

_PIPE_WIDTH = 160
"""Columns of a table that doesn't go to a terminal."""

_LABEL_WIDTH = 44
"""Characters of a layer's or node's name in a table."""

_PATIENCE_SECONDS = 1.0
"""What takes longer is announced, where there is no terminal to draw a progress bar on."""


def console(*, stderr: bool = False) -> Console:
    """Return a console on standard output or error: plain and wide where that is no terminal."""
    from rich.console import Console

    class Pipe(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # Rich would exit with status 1, which means that a check failed

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return Pipe(file=stream, width=width, highlight=False, soft_wrap=not stream.isatty())


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, numbers: Sequence[str] = ()) -> Table:
    """Return a table; the columns named in `numbers` are aligned right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    out = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        out.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        out.add_row(*(Text(text(cell)) for cell in row))
    return out


def text(value: Any) -> str:
    """Return a cell's text: grouped digits, nothing for None.

    >>> text(1234567), text(None), text("conv")
    ('1,234,567', '', 'conv')
    """
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def labels(names: Sequence[str]) -> list[str]:
    """Return names that fit a column: some exporters join the names of all that a node was fused from.

    Long names lose the path they share, then their middles.

    >>> labels(["x", "net/block/conv_1/Relu;net/block/conv_1/BatchNorm/FusedBatchNormV3;net/block/conv_1/BiasAdd",
    ...         "net/block/conv_2/Relu;net/block/conv_2/BatchNorm/FusedBatchNormV3;net/block/conv_2/BiasAdd"])
    ['x', '…conv_1/Relu;net/block/conv_1/BatchN…BiasAdd', '…conv_2/Relu;net/block/conv_2/BatchN…BiasAdd']
    """
    paths = {name: name.split("/") for name in names if len(name) > _LABEL_WIDTH}
    steps = enumerate(zip(*paths.values(), strict=False))
    shared = next((depth for depth, step in steps if len(set(step)) > 1), 0)
    cut = {name: "/".join(["…" * bool(shared) + path[shared], *path[shared + 1 :]]) for name, path in paths.items()}
    return [_shorter(cut[name]) if name in cut else name for name in names]


def _shorter(name: str) -> str:
    head, tail = _LABEL_WIDTH - 8, 7
    return name if len(name) <= _LABEL_WIDTH else f"{name[:head]}…{name[-tail:]}"


def percent(value: float) -> str:
    """Return a fraction in percent.

    >>> percent(0.8466)
    '84.7%'
    """
    return f"{100 * value:.1f}%"


def bus_traffic(costs: Estimate | Report) -> str:
    """Return a sentence on what crosses the bus for one inference."""
    loaded = f" and loads {costs.load_bytes:,} bytes of {costs.pages} pages" if costs.load_bytes else ""
    return f"For one inference the host moves {costs.host_bytes:,} bytes of activations{loaded}."


def bar(value: float, width: int = 32) -> str:
    """Return a fraction as a bar; `width` characters are 1.

    >>> bar(0.5, 8)
    '████····'
    """
    full = round(min(max(value, 0.0), 1.0) * width)
    return "█" * full + "·" * (width - full)


def write_report(path: Path | None, report: Mapping[str, Any]) -> None:
    """Write `report` as JSON to `path`, whole or not at all; ``-`` is standard output, None nowhere."""
    if path is None:
        return
    data = json.dumps(report, indent=2, allow_nan=False) + "\n"
    if str(path) == "-":
        sys.stdout.write(data)
    else:
        write_file(path, data.encode())


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all.

    Raises
    ------
    HwqError
        Where it can't be written.
    """
    from hwq.program import write_whole

    try:
        write_whole(path, data)
    except OSError as error:
        raise HwqError(f"{path}: can't be written ({error.strerror or error})") from error


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read an ``.npz`` file of plain arrays.

    Raises
    ------
    InputError
        Where it is missing, damaged, holds Python objects, or isn't an ``.npz`` file.
    """
    import zipfile

    import numpy as np

    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: isn't an .npz file, or is damaged; write it with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: np.asarray(file[name]) for name in file.files}
    except Exception as error:  # zipfile, zlib and numpy raise half a dozen unrelated classes on damaged data
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "pickle" in reason:
            reason = "it holds Python objects, which hwq doesn't load"
        raise InputError(f"{path}: can't be read as arrays: {reason}") from error


def read_labelled(path: Path, labels: str | None) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[Any] | None]:
    """Read samples, and of them the array `labels`, if it is named.

    Raises
    ------
    InputError
        As `read_arrays` raises it, or where there is no such array.
    """
    samples = read_arrays(path)
    if labels is not None and labels not in samples:
        raise InputError(f"{path}: has no array {labels!r} (it has {', '.join(map(repr, samples))})")
    return samples, None if labels is None else samples[labels]


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an ``.npz`` file of plain arrays, whole or not at all."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]
    write_file(path, buffer.getvalue())


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function (what, done, total) that shows progress on standard error while the block runs.

    A terminal gets a bar, or a spinner where `total` is 0. Anything else gets one line for each thing that takes longer
    than a second.
    """
    with _bar() if sys.stderr.isatty() else _lines() as show:
        yield show


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        yield show


@contextmanager
def _lines() -> Iterator[Callable[[str, int, int], None]]:
    timer: threading.Timer | None = None
    current = ""

    def show(what: str, done: int, total: int) -> None:
        nonlocal timer, current
        if what == current:
            return
        if timer is not None:
            timer.cancel()
        current = what
        timer = threading.Timer(_PATIENCE_SECONDS, lambda: print(f"hwq: {what} ...", file=sys.stderr, flush=True))
        timer.daemon = True
        timer.start()

    try:
        yield show
    finally:
        if timer is not None:
            timer.cancel()
