"""Fit a network to memories it exceeds: layers in pieces, array parts one after another, images in pages.

- A layer whose weights or parameters exceed their memory is computed in blocks of channels.
- A layer whose operands and result exceed activation memory is computed in bands of rows (else of columns, channels),
  together with as few of its neighbours as make every band fit beside the chain's operands and results. Where none do,
  the host hands the bands over and puts their results together.
- An array part that still exceeds a memory is cut where the fewest bytes cross to the host and back.
- Parts share a page while their images fit; each further page is loaded before its first part runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hwq.config import ArrayConfig
from hwq.errors import CapacityError
from hwq.images import Images
from hwq.ir import Concat, Conv, Expand, Graph, Op, Reshape, Slice, Transpose
from hwq.onnx_writer import boundary, write_subgraph
from hwq.passes.partition import ArrayPart, HostPart, Part
from hwq.passes.split import CHANNELS, even, split, split_axes
from hwq.plan import is_cut, is_depthwise
from hwq.schedule import Schedule, schedule
from hwq.weights import Storage

_LONGEST_CHAIN = 8
"""Layers that are computed band by band together, at most."""

_CHAINS_TRIED = 6
"""Chains for which bands through the host are considered, those with the fewest bytes."""

_MOST_WORK = 1.5
"""Elements a chain may compute in bands, halos again for each, over those it has; more only where nothing else fits."""


class Unfit(Exception):
    """The operator that makes tensor `output` can't be made to fit, in whatever pieces."""

    def __init__(self, output: str):
        super().__init__(output)
        self.output = output


@dataclass(frozen=True)
class Pages:
    """A network in pages.

    Members
    -------
    graph : Graph
        With layers in pieces.
    parts : list of Part
        In the order they run.
    pages : list of (Images, list of Schedule)
        The array parts' schedules, in their order, and the images that several of them share.
    unfit : frozenset of str
        Tensors that the host makes because the array's memories are too small.
    """

    graph: Graph
    parts: list[Part]
    pages: list[tuple[Images, list[Schedule]]]
    unfit: frozenset[str] = frozenset()

    def cycles(self) -> int:
        """Return the cycles of all array parts."""
        return sum(images.cycles() for images, _ in self.pages)


def one_page(
    graph: Graph,
    parts: Sequence[ArrayPart],
    config: ArrayConfig,
    storage: Storage,
    compact: bool,
    shared: bool = False,
) -> tuple[Images, list[Schedule]]:
    """Return images of all `parts`, made for few cycles, or for little memory where that alone fits, and the schedules.

    What is concatenated lies in its place or is copied there, whichever takes fewer cycles: channels that lie apart in
    a larger tensor are read less well.

    Parameters
    ----------
    storage, compact, shared
        As `hwq.images.Images` has them.

    Raises
    ------
    CapacityError
        Where they exceed a memory of `config` either way.
    """
    ways = []
    try:
        for nested in (True, False) if any(isinstance(op, Concat) for part in parts for op in part.ops) else (True,):
            images = Images(config, storage, compact, shared, nested)
            ways.append((images, schedule(graph, parts, config, images)))
    except CapacityError as error:
        if not ways and (compact or error.member == "act_bytes"):
            raise
    if not ways:
        return one_page(graph, parts, config, storage, True, shared)
    return min(ways, key=lambda way: way[0].cycles())


def fit(graph: Graph, parts: Sequence[Part], config: ArrayConfig, storage: Storage, compact: bool) -> Pages:
    """Return `parts` of `graph` cut so that each fits `config`, in as few pages as their order allows.

    Parameters
    ----------
    storage, compact
        As `hwq.images.Images` has them, for the operators of `graph`.

    Raises
    ------
    Unfit
        Naming what only the host can run.
    """
    return _Fit(graph, parts, config, storage, compact).run()


class _Fit:
    def __init__(
        self,
        graph: Graph,
        parts: Sequence[Part],
        config: ArrayConfig,
        storage: Storage,
        compact: bool,
    ):
        self._graph, self._parts, self._config, self._compact = graph, parts, config, compact
        self._storage = storage
        self._named = {op.outputs[0]: storage.of(op.name) for op in graph.ops if op.name in storage.named}
        self._alone: dict[Op, CapacityError | None] = {}

    def run(self) -> Pages:
        groups = [list(part.ops) for part in self._parts]
        for part, ops in zip(self._parts, groups, strict=True):
            if isinstance(part, ArrayPart):
                while (op := next((op for op in ops if self._excess(op)), None)) is not None:
                    self._split_up(op, ops)
        parts: list[Part] = []
        for part, ops in zip(self._parts, groups, strict=True):
            parts += self._cut(ops) if isinstance(part, ArrayPart) else [part]
        return Pages(self._graph, parts, self._paged([part for part in parts if isinstance(part, ArrayPart)]))

    # Layers that don't fit

    def _excess(self, op: Op) -> CapacityError | None:
        """Return why `op` doesn't fit even alone; one that makes a tensor whole needn't."""
        if _is_view(op) or self._joins(op):
            return None
        if op not in self._alone:
            self._alone[op] = self._problem(self._graph, [op])
        return self._alone[op]

    def _problem(self, graph: Graph, ops: Sequence[Op]) -> CapacityError | None:
        """Return why `ops` don't fit as a part of their own."""
        try:
            self._page(graph, [_part(graph, ops)])
        except CapacityError as error:
            return error
        return None

    def _page(self, graph: Graph, parts: Sequence[ArrayPart]) -> tuple[Images, list[Schedule]]:
        """Return one page of `parts`; a layer's pieces are stored as the layer is to be."""
        named = {}
        for op in (op for part in parts for op in part.ops):
            if (root := _root(graph, op.outputs[0])) in self._named:
                named[op.name] = self._named[root]
        storage = Storage(self._storage.default, named)
        return one_page(graph, parts, self._config, storage, self._compact, shared=True)

    def _joins(self, op: Op) -> bool:
        pieces = self._graph.pieces
        return isinstance(op, Concat) and all(
            name in pieces and pieces[name].whole.name == op.outputs[0] for name in op.inputs
        )

    def _only_joins(self, ops: Sequence[Op]) -> bool:
        """Whether `ops` put results together that the host has read, and nothing more."""
        return any(self._joins(op) for op in ops) and all(self._joins(op) or _is_view(op) for op in ops)

    def _split_up(self, op: Op, ops: list[Op]) -> None:
        """Replace `op`, which doesn't fit, and maybe neighbours, by pieces, in `ops` and the graph."""
        error = self._excess(op)
        assert error is not None
        narrow = error.member in ("weight_words", "param_words")
        ways = self._blocks(op) if narrow else self._bands(op, ops)
        for chain, new, groups in ways:
            self._graph = new
            position = ops.index(chain[-1])
            whole = next(made for made in new.ops if made.outputs == chain[-1].outputs)
            ops[position : position + 1] = [*(made for group in groups for made in group), whole]
            for gone in chain[:-1]:
                ops.remove(gone)
            return
        raise Unfit(_root(self._graph, op.outputs[0]))

    def _blocks(self, op: Op) -> Iterator[tuple[list[Op], Graph, list[list[Op]]]]:
        """Yield `op` in as few blocks of channels as make weights and parameters fit."""
        shape = self._graph.tensors[op.outputs[0]].shape
        axis = CHANNELS if len(shape) == 4 else len(shape) - 1
        if axis not in split_axes(op, self._graph):
            return
        depthwise = isinstance(op, Conv) and is_depthwise(op)
        unit = self._config.depthwise_cols if depthwise or not hasattr(op, "weight") else self._config.cols
        for ranges in _coverings(shape[axis], unit):
            new, groups = split(self._graph, [op], axis, ranges)
            error = self._problem(new, groups[0][-1:])
            if error is None or error.member not in ("weight_words", "param_words"):
                yield [op], new, groups

    def _bands(self, op: Op, ops: Sequence[Op]) -> Iterator[tuple[list[Op], Graph, list[list[Op]]]]:
        """Yield ways to compute `op` in bands: all in one part, else with the fewest bytes through the host."""
        chains = self._chains(op, ops)
        for chain in chains:
            if self._ends_bytes(chain) < self._config.act_bytes:
                for new, groups in self._banded(chain, _MOST_WORK):
                    (whole,) = (made for made in new.ops if made.outputs == chain[-1].outputs)
                    if self._problem(new, [*(made for group in groups for made in group), whole]) is None:
                        yield chain, new, groups
        for chain in sorted(chains, key=self._ends_bytes)[:_CHAINS_TRIED]:
            for new, groups in self._banded(chain, _MOST_WORK):
                if all(self._problem(new, group) is None for group in (groups[0], groups[len(groups) // 2])):
                    yield chain, new, groups
        for axis in split_axes(op, self._graph):
            for ranges in _coverings(self._graph.tensors[op.outputs[0]].shape[axis]):
                new, groups = split(self._graph, [op], axis, ranges)
                if all(self._problem(new, group) is None for group in (groups[0], groups[len(groups) // 2])):
                    yield [op], new, groups
        for axis in split_axes(op, self._graph)[:1]:  # the pieces, still too large, are split again
            size = self._graph.tensors[op.outputs[0]].shape[axis]
            yield [op], *split(self._graph, [op], axis, even(size, size))

    def _chains(self, op: Op, ops: Sequence[Op]) -> list[list[Op]]:
        """Return the chains of layers that hold `op` and can be computed in bands, the shortest ones first."""
        line = [op]
        while len(line) < _LONGEST_CHAIN and (after := self._only_reader(line[-1], ops)) is not None:
            line.append(after)
        before = 0
        while len(line) < 2 * _LONGEST_CHAIN:
            writer = next((o for o in ops if o.outputs[0] == line[0].inputs[0]), None)
            if writer is None or self._only_reader(writer, ops) is not line[0]:
                break
            line.insert(0, writer)
            before += 1
        spans = [(a, b) for a in range(before + 1) for b in range(before + 1, len(line) + 1) if b - a <= _LONGEST_CHAIN]
        chains = [line[a:b] for a, b in sorted(spans, key=lambda span: (span[1] - span[0], -span[0]))]
        return [chain for chain in chains if all(self._axis(member) is not None for member in chain)]

    def _only_reader(self, op: Op, ops: Sequence[Op]) -> Op | None:
        """Return the layer that reads what `op` makes, where there is one, and only one, in `ops` or elsewhere."""
        name = op.outputs[0]
        readers = list(self._graph.consumers(name))
        if len(readers) != 1 or name in self._graph.outputs or readers[0] not in ops:
            return None
        reader = readers[0]
        return None if _is_view(reader) or self._joins(reader) or self._joins(op) else reader

    def _axis(self, op: Op) -> int | None:
        """Return the axis along which bands of `op` run: rows of an image."""
        axes = split_axes(op, self._graph)
        return 2 if 2 in axes and len(self._graph.tensors[op.outputs[0]].shape) == 4 else None

    def _ends_bytes(self, chain: Sequence[Op]) -> int:
        """Return the bytes that enter and leave `chain`."""
        made = {op.outputs[0] for op in chain}
        read = {name for op in chain for name in op.inputs} - made
        return sum(self._graph.tensors[name].size for name in (*read, chain[-1].outputs[0]))

    def _banded(self, chain: Sequence[Op], most_work: float) -> Iterator[tuple[Graph, list[list[Op]]]]:
        """Yield `chain` in more and more bands of rows, until halos make too much work."""
        rows = self._graph.tensors[chain[-1].outputs[0]].shape[2]
        work = sum(self._graph.tensors[op.outputs[0]].size for op in chain)
        for ranges in _coverings(rows):
            new, groups = split(self._graph, chain, 2, ranges)
            layers = [op for group in groups for op in group if not isinstance(op, Slice)]
            if sum(new.tensors[op.outputs[0]].size for op in layers) > most_work * work:
                return
            yield new, groups

    # Parts that don't fit

    def _cut(self, ops: Sequence[Op]) -> list[Part]:
        """Return `ops` as parts that fit, cut where the fewest bytes cross."""
        units = _units(ops)
        reach: list[int] = []
        for first, unit in enumerate(units):
            end = max(first, reach[-1] if reach else 0)
            if end == first:
                if not self._fits([unit]) and not self._only_joins(unit):
                    raise Unfit(_root(self._graph, unit[-1].outputs[0]))
                end += 1
            while end < len(units) and self._fits(units[first : end + 1]):
                end += 1
            reach.append(end)
        best: list[tuple[int, int, int]] = [(0, 0, 0)] * (len(units) + 1)
        for first in reversed(range(len(units))):
            best[first] = min(
                (self._crossing(units[first:end]) + best[end][0], best[end][1] + 1, end)
                for end in range(first + 1, reach[first] + 1)
            )
        parts: list[Part] = []
        first = 0
        while first < len(units):
            end = best[first][2]
            parts.append(self._made_part(_flat(units[first:end])))
            first = end
        return parts

    def _fits(self, units: Sequence[Sequence[Op]]) -> bool:
        """Whether `units` can be one part: each tensor that is made whole there is made of pieces made there."""
        ops = _flat(units)
        made = {name for op in ops for name in op.outputs}
        whole = all(made.issuperset(op.inputs) for op in ops if self._joins(op))
        return whole and self._problem(self._graph, ops) is None

    def _crossing(self, units: Sequence[Sequence[Op]]) -> int:
        """Return the bytes that the host writes before and reads after `units`."""
        ops = _flat(units)
        if self._only_joins(ops):
            return 0
        inputs, outputs = boundary(self._graph, ops)
        total = sum(self._graph.tensors[name].size for name in outputs)
        for name in inputs:
            readers = [op for op in ops if name in op.inputs]
            sliced = len(readers) == 1 and is_cut(readers[0])
            total += self._graph.tensors[readers[0].outputs[0] if sliced else name].size
        return total

    def _made_part(self, ops: Sequence[Op]) -> Part:
        if self._only_joins(ops):
            inputs, outputs = boundary(self._graph, ops)
            return HostPart(write_subgraph(self._graph, ops), tuple(inputs), tuple(outputs), ())
        return _part(self._graph, ops)

    def _paged(self, parts: Sequence[ArrayPart]) -> list[tuple[Images, list[Schedule]]]:
        """Return `parts` scheduled, those that follow one another in one page while they fit."""
        pages: list[tuple[Images, list[Schedule]]] = []
        first = 0
        for end in range(1, len(parts) + 1):
            try:
                page = self._page(self._graph, parts[first:end])
            except CapacityError:
                if end - first == 1:
                    raise
                first = end - 1
                pages.append(self._page(self._graph, parts[first:end]))
                continue
            pages[-1 if first != end - 1 else len(pages) :] = [page]
        return pages


def _root(graph: Graph, name: str) -> str:
    """Return the tensor of the graph before any split that `name` is, or is a piece of."""
    while name in graph.pieces:
        name = graph.pieces[name].whole.name
    return name


def _is_view(op: Op) -> bool:
    return isinstance(op, Reshape | Transpose | Slice | Expand)


def _part(graph: Graph, ops: Sequence[Op]) -> ArrayPart:
    inputs, outputs = boundary(graph, ops)
    return ArrayPart(tuple(inputs), tuple(outputs), tuple(ops))


def _coverings(size: int, unit: int = 1) -> Iterator[list[tuple[int, int]]]:
    """Yield ranges that cover `size`, two, then more and more, to one a unit."""
    count, most = 2, -(-size // unit)
    while count <= most:
        yield even(size, count, unit)
        count = count + 1 if count < 8 or count == most else min(most, count + count // 4)


def _units(ops: Sequence[Op]) -> list[list[Op]]:
    """Return `ops` in runs between which a part may be cut: a layer and the views before it."""
    units: list[list[Op]] = [[]]
    for op in ops:
        units[-1].append(op)
        if not _is_view(op):
            units.append([])
    rest = units.pop()
    if rest and units:
        units[-1] += rest
    return units if units else [rest]


def _flat(units: Sequence[Sequence[Op]]) -> list[Op]:
    return [op for unit in units for op in unit]
