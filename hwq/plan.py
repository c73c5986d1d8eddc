"""Plan of an array part: which steps run in which order, and where every tensor lies.

Views cost nothing: a Reshape, Transpose, Slice or Expand names the same bytes with other strides. Where strides can't
say it, the host reads the result, or a consumer needs another arrangement or halo, a copy is planned. An Add or Sub
whose operand comes from a convolution or matrix product of its own runs in that layer's output path, and so does a
Table whose operand a layer makes for it alone. Layers write what is concatenated into its place (`hwq.nesting`).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

import numpy as np

from hwq import ir
from hwq.images import Images
from hwq.layout import View, ViewChain
from hwq.nesting import Place, along_channels, nested_tensors, union
from hwq.nibbles import packed_shape
from hwq.packing import packed_tensors
from hwq.passes.partition import ArrayPart
from hwq.tables import carries_table
from hwq.tiling import Buffer, image_shape, tensor_view

Pads = tuple[int, int, int, int]
"""Top, left, bottom, right [pixel]."""


@dataclass(frozen=True)
class Step:
    """One layer: `op`, then `add` and `table` in its output path, from the tensors `reads` to the tensor `writes`."""

    op: ir.Op
    reads: tuple[str, ...]
    writes: str
    add: ir.Pair | None = None
    table: ir.Table | None = None

    @property
    def ops(self) -> tuple[ir.Op, ...]:
        """The operator and those it carries."""
        return (self.op, *(op for op in (self.add, self.table) if op is not None))

    @property
    def name(self) -> str:
        """Name for reports: that of the operator, and of those it carries."""
        return "+".join(op.name for op in self.ops)


@dataclass(frozen=True)
class Port:
    """A tensor the host writes before or reads after the part.

    Members
    -------
    tensor : str
        Of the graph.
    stored : str
        The tensor in activation memory that `chain` leads to (inputs) or starts from (outputs).
    chain : ViewChain
        Between the two.
    """

    tensor: str
    stored: str
    chain: ViewChain


@dataclass
class Plan:
    """Steps, ports and storage of an array part; see `make_plan`.

    `packed` has the labels of the tensors that lie two channels a byte; see `hwq.nibbles`.
    """

    graph: ir.Graph
    tensors: dict[str, ir.Tensor]
    steps: list[Step] = field(default_factory=list)
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    packed: dict[str, int] = field(default_factory=dict)
    _where: dict[str, tuple[Buffer, View]] = field(default_factory=dict)

    def buffer(self, name: str) -> Buffer:
        """Return the buffer that holds tensor `name`."""
        return self._where[name][0]

    def view(self, name: str) -> View:
        """Return where tensor `name` lies, in its own shape, or if `packed` where its bytes do, in theirs."""
        buffer, view = self._where[name]
        return View(view.address + buffer.address, view.shape, view.strides)

    def stored(self, name: str) -> ir.Tensor:
        """Return tensor `name` with the shape of its bytes."""
        tensor = self.tensors[name]
        return dataclasses.replace(tensor, shape=packed_shape(tensor.shape)) if name in self.packed else tensor

    def zero_point(self, name: str) -> int:
        """Return the byte, or half of one, that stands for the real value 0 in tensor `name`."""
        tensor = self.tensors[name]
        return tensor.zero_point - self.packed[name] if name in self.packed else stored_zero_point(tensor)

    def fill(self, name: str) -> int:
        """Return the signed byte that pads tensor `name` with the real value 0."""
        zero = self.zero_point(name)
        return zero << 4 | zero & 15 if name in self.packed else zero


def stored_zero_point(tensor: ir.Tensor) -> int:
    """Return the signed byte that stands for the real value 0."""
    return tensor.zero_point - (128 if tensor.dtype == "uint8" else 0)


def is_depthwise(op: ir.Op) -> TypeGuard[ir.Conv]:
    """Whether `op` is a convolution in which every channel has one output, made from that channel alone."""
    return isinstance(op, ir.Conv) and op.groups > 1 and op.weight.shape[:2] == (op.groups, 1)


def aliased(op: ir.Op, view: View, shape: Sequence[int]) -> View | None:
    """Return where the elements of a view's result of `shape` lie within its input's `view`; None if it is no view."""
    if isinstance(op, ir.Transpose):
        return view.transpose(op.perm)
    if isinstance(op, ir.Reshape):
        return view.reshape(shape)
    if isinstance(op, ir.Expand):
        return view.broadcast(shape)
    assert isinstance(op, ir.Slice)
    for axis, (begin, step, size) in enumerate(zip(op.begin, op.steps, shape, strict=True)):
        view = view.slice(axis, begin, size, step)
    return view


def make_plan(graph: ir.Graph, part: ArrayPart, images: Images) -> Plan:
    """Order the part's operators into steps, give their tensors buffers, and put constants into `images`.

    The buffers have addresses after `hwq.tiling.allocate`.

    Raises
    ------
    CapacityError
        Where constants don't fit activation memory.
    """
    plan = Plan(graph, dict(graph.tensors))
    ops = list(part.ops)
    for name in part.inputs:
        links = _leading_views(name, ops, part.outputs)
        ops = [op for op in ops if op not in links]
        stored = links[-1].outputs[0] if links else name
        plan.inputs.append(Port(name, stored, _chain(graph, links)))
    for name in part.outputs:
        links = _trailing_views(name, ops)
        stored = links[0].inputs[0] if links else name
        plan.outputs.append(Port(name, stored, _chain(graph, links)))
    wanted = {port.stored for port in plan.outputs}
    live = _without_idle_views(ops, wanted)
    steps = _with_tables(_fused(graph, live, wanted), wanted)
    inputs = [(port.tensor, port.stored) for port in plan.inputs]
    plan.packed = packed_tensors(steps, inputs, wanted, graph, images.config, images.may_pack_inputs)
    _Planner(plan, images).run(steps)
    return plan


def _is_view(op: ir.Op) -> bool:
    return isinstance(op, ir.Reshape | ir.Transpose)


def is_cut(op: ir.Op) -> TypeGuard[ir.Slice]:
    """Whether `op` takes consecutive elements along every axis, so that the host can write its result alone."""
    return isinstance(op, ir.Slice) and set(op.steps) == {1}


def _chain(graph: ir.Graph, views: Sequence[ir.Op]) -> ViewChain:
    """Return what `views` do, one after another."""
    links: list[tuple[str, tuple[int, ...]]] = []
    for op in views:
        if isinstance(op, ir.Transpose):
            links.append(("transpose", op.perm))
        elif isinstance(op, ir.Slice):
            shape, y = graph.tensors[op.inputs[0]].shape, graph.tensors[op.outputs[0]].shape
            cut = [axis for axis, size in enumerate(shape) if size != y[axis]]
            links += [("slice", (axis, op.begin[axis], y[axis])) for axis in cut]
        else:
            links.append(("reshape", graph.tensors[op.outputs[0]].shape))
    return tuple(links)


def _leading_views(name: str, ops: Sequence[ir.Op], kept: Sequence[str]) -> list[ir.Op]:
    """Return the views that follow the input `name` one after another, each the only reader of the one before."""
    views: list[ir.Op] = []
    while name not in kept:
        readers = [op for op in ops if name in op.inputs]
        if len(readers) != 1 or not (_is_view(readers[0]) or is_cut(readers[0])):
            break
        views.append(readers[0])
        name = readers[0].outputs[0]
    return views


def _trailing_views(name: str, ops: Sequence[ir.Op]) -> list[ir.Op]:
    """Return the views that end in the output `name`, first one first."""
    views: list[ir.Op] = []
    while True:
        writer = next((op for op in ops if name in op.outputs), None)
        if writer is None or not _is_view(writer):
            return views
        views.insert(0, writer)
        name = writer.inputs[0]


def _without_idle_views(ops: Sequence[ir.Op], wanted: set[str]) -> list[ir.Op]:
    """Return `ops` less the views whose output nobody reads."""
    out: list[ir.Op] = []
    read = set(wanted)
    for op in reversed(ops):
        if not _is_view(op) or op.outputs[0] in read:
            out.insert(0, op)
            read |= set(op.inputs)
    return out


def _fused(graph: ir.Graph, ops: Sequence[ir.Op], wanted: set[str]) -> list[Step]:
    """Return one step an operator, a sum and the mesh layer that feeds only it being one step in the sum's place."""
    writer = {op.outputs[0]: op for op in ops}
    steps: list[Step] = []
    taken: set[ir.Op] = set()
    for add in ops:
        if not isinstance(add, ir.Add | ir.Sub) or add.inputs[0] == add.inputs[1]:
            continue
        for own, other in (add.inputs, add.inputs[::-1])[::-1]:
            op = writer.get(own)
            if not isinstance(op, ir.Conv | ir.Gemm) or is_depthwise(op):
                continue
            alone = own not in wanted and sum(own in reader.inputs for reader in ops) == 1
            same = graph.tensors[own].shape == graph.tensors[add.outputs[0]].shape
            if alone and same and _channels_match(graph, op, other):
                taken |= {op, add}
                steps.append(Step(op, (op.inputs[0], other), add.outputs[0], add))
                break
    fused = {step.add: step for step in steps}
    out = []
    for op in ops:
        if op in fused:
            out.append(fused[op])
        elif op not in taken:
            out.append(Step(op, op.inputs, op.outputs[0]))
    return out


def _with_tables(steps: Sequence[Step], wanted: set[str]) -> list[Step]:
    """Return the steps with every Table that can be in the step that feeds it."""
    readers = Counter(name for step in steps for name in step.reads)
    out: dict[str, Step] = {}
    for step in steps:
        feeder = out.get(step.reads[0])
        alone = readers[step.reads[0]] == 1 and step.reads[0] not in wanted
        if isinstance(step.op, ir.Table) and feeder and alone and carries_table(feeder.op) and not feeder.table:
            # In the feeder's place: nothing between the two reads what the feeder wrote.
            table = dataclasses.replace(feeder, writes=step.writes, table=step.op)
            out = {table.writes if name == step.reads[0] else name: s for name, s in out.items()}
            out[table.writes] = table
        else:
            out[step.writes] = step
    return list(out.values())


def _channels_match(graph: ir.Graph, op: ir.Conv | ir.Gemm, other: str) -> bool:
    """Whether `other` has a value of its own for each of the channels `op` writes, so that they are read as a run."""
    shape = graph.tensors[other].shape
    if isinstance(op, ir.Conv):
        return len(shape) == 4 and shape[1] == op.weight.shape[0]
    rows = graph.tensors[op.outputs[0]].shape
    return 1 <= len(shape) <= 3 and shape[-1] == op.weight.shape[1] and (shape == rows or set(shape[:-1]) <= {1})


class _Planner:
    """Gives every tensor a buffer and a view, planning copies on the way."""

    def __init__(self, plan: Plan, images: Images):
        self._plan = plan
        self._images = images
        self._halos: dict[str, tuple[Pads, int]] = {}
        self._margins: dict[str, Pads] = {}  # of its buffer's halo, what lies at the edges of a slice
        self._places: dict[str, Place] = {}
        self._grain = images.config.grain

    def run(self, steps: Sequence[Step]) -> None:
        plan = self._plan
        fixed = {port.stored for port in (*plan.inputs, *plan.outputs)}
        slices = {step.writes: step for step in steps if isinstance(step.op, ir.Slice) and step.writes not in fixed}
        for step in steps:
            needed = _needed_halo(step.op, plan)
            name = step.reads[0]
            if needed is None:
                continue
            while name in slices and self._at_edges(slices[name], needed[0]):
                name = slices[name].reads[0]
            pads, fill = self._halos.get(name, ((0, 0, 0, 0), needed[1]))
            if fill == needed[1]:
                self._halos[name] = (union(pads, needed[0]), fill)
        if self._images.nested:
            self._places = nested_tensors(steps, plan.tensors, self._halos, fixed, self._grain)
        self._unify_halos()
        for port in plan.inputs:
            self._store(port.stored, first=-1)
        for step in steps:
            reads = tuple(self._readable(name, step, position) for position, name in enumerate(step.reads))
            partial = isinstance(step.op, ir.Slice | ir.Expand)
            if _is_view(step.op) or (partial and step.writes not in {port.stored for port in plan.outputs}):
                self._alias(step)
                continue
            outside = [name for name in reads if name not in self._places or self._places[name].within != step.writes]
            if outside or not isinstance(step.op, ir.Concat):
                self._append(dataclasses.replace(step, reads=reads))
        for port in plan.outputs:
            plan.buffer(port.stored).last = len(plan.steps)

    def _at_edges(self, step: Step, pads: Pads) -> bool:
        """Whether the halo `pads` around a slice is one around what the Slice `step` reads."""
        shapes = [self._plan.tensors[name].shape for name in (*step.reads, step.writes)]
        assert isinstance(step.op, ir.Slice)
        return _margin(pads, step.op, shapes[0], shapes[1]) == pads

    def _unify_halos(self) -> None:
        """Give tensors of one shape and fill one halo, so that they can share a place."""
        united: dict[tuple[tuple[int, ...], int], Pads] = {}
        for name, (pads, fill) in self._halos.items():
            key = self._plan.tensors[name].shape, fill
            united[key] = union(united.get(key, pads), pads)
        for name, (_, fill) in self._halos.items():
            self._halos[name] = united[self._plan.tensors[name].shape, fill], fill

    def _append(self, step: Step) -> None:
        index = len(self._plan.steps)
        self._plan.steps.append(step)
        for name in step.reads:
            self._plan.buffer(name).last = index
        if step.writes not in self._plan._where:
            self._store(step.writes, first=index)

    def _store(self, name: str, first: int) -> None:
        """Give `name` its place in another tensor, or a buffer of its own: an image with the halo its readers need."""
        plan, tensor = self._plan, self._plan.tensors[name]
        if place := self._places.get(name):
            if place.within not in plan._where:
                self._store(place.within, first)
            buffer, view = plan._where[place.within]
            plan._where[name] = (buffer, view.slice(place.axis, place.start, tensor.shape[place.axis]))
            return
        pads, fill = self._halos.get(name, ((0, 0, 0, 0), None))
        self._keep(name, Buffer(name, image_shape(plan.stored(name)), pads, fill, first, first, grain=self._grain))

    def _keep(self, name: str, buffer: Buffer) -> None:
        buffer.address = 0
        self._plan.buffers.append(buffer)
        self._plan._where[name] = (buffer, tensor_view(buffer.view(), self._plan.stored(name)))

    def _constant(self, name: str) -> None:
        """Place the constant `name` at the end of activation memory."""
        tensor, value = self._plan.tensors[name], self._plan.graph.constants[name]
        data = (value.astype(np.int16) - (128 if tensor.dtype == "uint8" else 0)).astype(np.int8)
        shape = image_shape(tensor)
        if len(tensor.shape) == 4:
            data = data.transpose(0, 2, 3, 1)
        buffer = Buffer(name, shape, grain=self._grain)
        buffer.address = 0
        view = tensor_view(buffer.view(), tensor)
        rows = np.pad(data.reshape(-1, shape[3]), ((0, 0), (0, buffer.pixel_pitch - shape[3])))
        buffer.address = self._images.add_constant(rows, name)
        self._plan._where[name] = (buffer, view)

    def _readable(self, name: str, step: Step, position: int) -> str:
        """Return the tensor `step` reads in place of `name`: itself, or a copy arranged as the operator needs it."""
        plan = self._plan
        if name not in plan._where:
            self._constant(name)
        op = step.op
        if position and step.add is not None:
            view = plan._where[name][1]
            axis = 1 if isinstance(op, ir.Conv) else -1
            together = view.strides[axis] == 1 or view.shape[axis] == 1
            return name if together and self._even(view, axis) else self._copied(name, f"{name}#{step.name}")
        if position or not isinstance(op, ir.Conv | ir.MaxPool | ir.AveragePool | ir.Gemm):
            return name
        buffer, view = plan._where[name]
        if isinstance(op, ir.Gemm):
            matrix = view.reshape((-1, view.shape[-1]))
            together = matrix is not None and matrix.strides[-1] in ((1,) if view.shape[-1] > 1 else (0, 1))
            if together and self._even(view, -1):
                return name
        else:
            needed = _needed_halo(op, plan)
            pads_fit = needed is None or (
                buffer.fill == needed[1] and union(self._own_pads(name), needed[0]) == self._own_pads(name)
            )
            if pads_fit and (view.strides[1] == 1 or view.shape[1] == 1) and self._even(view, 1):
                return name
        copy = f"{name}#{op.name}"
        if (needed := _needed_halo(op, plan)) is not None:
            self._halos[copy] = needed
        return self._copied(name, copy)

    def _even(self, view: View, channels: int) -> bool:
        """Whether every pixel of `view`, whose axis `channels` is the innermost, may be read as a run."""
        axes = zip(view.shape, view.strides, strict=True)
        steps = [stride for size, stride in axes if size > 1]
        if view.shape[channels] > 1:
            steps.remove(1)
        return all(step % self._grain == 0 for step in (view.address, *steps))

    def _own_pads(self, name: str) -> Pads:
        """Return what of its buffer's halo lies around tensor `name`."""
        buffer, place = self._plan.buffer(name), self._places.get(name)
        if name == buffer.name or (place is not None and along_channels(place, self._places)):
            return buffer.pads
        return self._margins.get(name, (0, 0, 0, 0))

    def _copied(self, name: str, copy: str) -> str:
        """Copy the tensor `name` into an image, the tensor `copy`; return that name."""
        plan = self._plan
        plan.tensors[copy] = dataclasses.replace(plan.tensors[name], name=copy)
        if name in plan.packed:
            plan.packed[copy] = plan.packed[name]
        self._append(Step(ir.Copy(name=copy, inputs=(name,), outputs=(copy,)), (name,), copy))
        return copy

    def _alias(self, step: Step) -> None:
        """Name the bytes of a view's input anew, or copy them where strides can't say it: to an image, or row-major."""
        plan, source = self._plan, step.reads[0]
        buffer, view = plan._where[source]
        tensor = plan.tensors[step.writes]
        if isinstance(step.op, ir.Slice):
            self._margins[step.writes] = _margin(self._own_pads(source), step.op, view.shape, tensor.shape)
        alias = aliased(step.op, view, plan.stored(step.writes).shape)
        if alias is not None:
            plan._where[step.writes] = (buffer, alias)
            return
        image = Buffer("", image_shape(tensor), grain=self._grain)
        if tensor_view(image.view(), tensor).reshape(view.shape) is not None:
            self._append(step)
            return
        dense = Buffer(step.writes, (1, 1, 1, plan.tensors[step.writes].size), first=len(plan.steps))
        dense.address = 0
        plan.buffers.append(dense)
        plan._where[step.writes] = (dense, View.dense(0, tensor.shape))
        self._append(step)


def _margin(pads: Pads, op: ir.Slice, whole: tuple[int, ...], part: tuple[int, ...]) -> Pads:
    """Return what of the halo `pads` around an image of shape `whole` lies at the edges of its slice `part`."""
    if len(whole) != 4:
        return (0, 0, 0, 0)
    top, left, bottom, right = pads
    first = [op.steps[axis] == 1 and op.begin[axis] == 0 for axis in (2, 3)]
    last = [op.steps[axis] == 1 and op.begin[axis] + part[axis] == whole[axis] for axis in (2, 3)]
    return (top * first[0], left * first[1], bottom * last[0], right * last[1])


def _needed_halo(op: ir.Op, plan: Plan) -> tuple[Pads, int] | None:
    """Return the padding `op` reads around its input and the signed byte it holds, None without padding."""
    if not isinstance(op, ir.Conv | ir.MaxPool | ir.AveragePool) or not any(op.pads):
        return None
    fill = -128 if isinstance(op, ir.MaxPool) else plan.fill(op.inputs[0])
    return op.pads, fill
