"""Tables as the accelerator holds them: signed bytes, by the signed byte they are the image of."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt

from hwq import ir

Entries = npt.NDArray[np.int8]


def table_entries(op: ir.Table, graph: ir.Graph) -> Entries:
    """Return the table of `op` in table memory's order: entry i is the stored image of the stored byte i - 128.

    A uint8 value u is stored as u - 128, so both types index alike.
    """
    label = 128 if graph.tensors[op.outputs[0]].dtype == "uint8" else 0
    return (op.table.astype(np.int16) - label).astype(np.int8)


def clamp_bounds(entries: Entries) -> tuple[int, int] | None:
    """Return the bounds where a table does no more than clamp (ReLU, Clip), None where it does more.

    >>> clamp_bounds(np.arange(-128, 128).clip(-5, 100).astype(np.int8))
    (-5, 100)
    >>> clamp_bounds(np.arange(127, -129, -1).astype(np.int8)) is None
    True
    """
    lo, hi = int(entries.min()), int(entries.max())
    return (lo, hi) if np.array_equal(entries, np.arange(-128, 128).clip(lo, hi)) else None


def tables_by_use(graph: ir.Graph) -> list[bytes]:
    """Return the different tables that `graph` needs, those that most operators share first."""
    tables = [table_entries(op, graph) for op in graph.ops if isinstance(op, ir.Table)]
    uses = Counter(entries.tobytes() for entries in tables if clamp_bounds(entries) is None)
    return [entries for entries, _ in uses.most_common()]


def carries_table(op: ir.Op) -> bool:
    """Whether the layer of `op` can map its output through a table on the way to memory."""
    return isinstance(op, ir.Conv | ir.Gemm | ir.Pair | ir.MaxPool | ir.AveragePool)
