"""The reference's speed beside ONNX Runtime's, on the same integer model: ``python -m hwq.report.speed MODEL``.

Both are single-threaded and measured in turns, in one run; each counts with its best turn, which is what the machine
can do when nothing else asks for it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hwq.compiler import Model

# Read when numpy loads, which is why this module imports what needs numpy only inside its functions.
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Speed:
    """Samples a second on one thread.

    Members
    -------
    model : str
    samples : int
        How many a turn takes.
    onnxruntime : float
        The oracle graph in ONNX Runtime, one sample at a time, as its static shapes have it.
    reference : float
        `hwq.reference.run` on all samples together.
    reference_single : float
        `hwq.reference.run` on one sample at a time.
    """

    model: str
    samples: int
    onnxruntime: float
    reference: float
    reference_single: float

    @property
    def ratio(self) -> float:
        """Throughput of the reference over ONNX Runtime's."""
        return self.reference / self.onnxruntime

    @property
    def ratio_single(self) -> float:
        """The same with one sample at a time on both sides."""
        return self.reference_single / self.onnxruntime

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.model}: {self.samples} samples, one thread, samples/s and ratio",
                f"  onnxruntime, one at a time {self.onnxruntime:10.0f}",
                f"  reference, together        {self.reference:10.0f}  {self.ratio:.2f}",
                f"  reference, one at a time   {self.reference_single:10.0f}  {self.ratio_single:.2f}",
            ]
        )


def measure(model: Model, samples: int = 250, turns: int = 3, seed: int = 0) -> Speed:
    """Measure a model on random samples.

    BLAS takes the number of threads it was started with: ``OPENBLAS_NUM_THREADS=1`` makes it one.

    Parameters
    ----------
    model : path, onnx.ModelProto or Graph
    samples, turns : int
        At least 1.
    seed : int

    Raises
    ------
    ModelError
        As `hwq.onnx_reader.read`, or ONNX Runtime refuses the oracle graph.
    """
    import numpy as np

    from hwq import reference
    from hwq.compiler import load, random_feeds
    from hwq.host import oracle_session
    from hwq.onnx_writer import write

    graph = load(model)
    rows = [random_feeds(graph, 1, seed + number) for number in range(samples)]
    together = {name: np.concatenate([np.atleast_1d(row[name]) for row in rows]) for name in graph.inputs}
    session = oracle_session(write(graph))

    def onnxruntime() -> None:
        for row in rows:
            session.run(None, row)

    def one_at_a_time() -> None:
        for row in rows:
            reference.run(graph, row)

    ways: list[Callable[[], object]] = [onnxruntime, lambda: reference.run(graph, together), one_at_a_time]
    best = [float("inf")] * len(ways)
    for _ in range(turns):
        best = [min(seconds, _seconds(way)) for seconds, way in zip(best, ways, strict=True)]
    return Speed(graph.name, samples, *(samples / seconds for seconds in best))


def _seconds(way: Callable[[], object]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def main(argv: Sequence[str] | None = None) -> int:
    """Print what `measure` finds; return 2 for a model that can't be used."""
    parser = argparse.ArgumentParser(prog="python -m hwq.report.speed", description="Speed beside ONNX Runtime.")
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("-n", "--samples", type=int, default=250)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args(argv)
    if min(arguments.samples, arguments.turns) < 1:
        parser.error("--samples and --turns must be at least 1")
    for name in _THREADS:
        os.environ.setdefault(name, "1")
    from hwq.errors import HwqError

    try:
        print(measure(arguments.model, arguments.samples, arguments.turns))
    except HwqError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
