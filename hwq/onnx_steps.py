"""The elementwise nodes after an integer layer, as one function of its accumulator.

Each is computed as ONNX Runtime computes it, rounding to float32 where it does, and none decreases where its input
grows; so the whole chain doesn't either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from hwq.ir import Array
from hwq.onnx_load import Source
from hwq.onnx_values import attribute, operand

_TYPES = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT32: "int32", onnx.TensorProto.INT64: "int64"}
_ARITHMETIC = ("Mul", "Add", "Sub", "Div")


@dataclass(frozen=True, slots=True)
class Step:
    """One node: an operator, its constant and the type of its result.

    Members
    -------
    op_type : str
        Mul and Div (by positive constants), Add, Sub (of a constant), Cast, Floor, Relu or Clip.
    constant : array or None
        Scalar, or (channels, 1); of Clip, its two bounds.
    dtype : str
    """

    op_type: str
    constant: Array | None
    dtype: str

    def __call__(self, x: Array) -> Array:
        """Return the node's result for `x` (channels, n)."""
        if self.op_type == "Cast":
            return x.astype(self.dtype)
        if self.op_type == "Floor":
            return np.floor(x)
        if self.op_type == "Relu":
            return np.maximum(x, 0)
        assert self.constant is not None
        if self.op_type == "Clip":
            return np.clip(x, self.constant[0], self.constant[1])
        if self.op_type == "Div" and x.dtype.kind == "i":
            return np.sign(x) * (np.abs(x) // self.constant)  # C++'s, towards 0
        return {"Mul": np.multiply, "Add": np.add, "Sub": np.subtract, "Div": np.divide}[self.op_type](x, self.constant)

    def is_whole(self, before: bool) -> bool:
        """Whether results are integers, given whether the inputs are."""
        if self.op_type == "Floor" or self.dtype != "float32":
            return True
        if self.constant is None:
            return before
        return before and self.op_type != "Div" and bool(np.all(self.constant == np.rint(self.constant)))

    def holds(self, x: Array) -> bool:
        """Whether the result for `x` fits the node's type, with room to spare; checked in float64."""
        limit = {"float32": 2.0**126, "int32": 2.0**30, "int64": 2.0**62}[self.dtype]
        wide = x.astype(np.float64)
        if self.op_type in _ARITHMETIC:
            assert self.constant is not None
            wide = Step(self.op_type, self.constant.astype(np.float64), "float64")(wide)
        return bool(np.all(np.abs(wide) < limit))


@dataclass(frozen=True, slots=True)
class StepChain:
    """Nodes from an integer layer's output down to a Clip, each the only reader of the one before."""

    nodes: list[onnx.NodeProto]
    steps: list[Step]

    @classmethod
    def follow(cls, source: Source, layer: onnx.NodeProto, channels: int) -> StepChain | None:
        """Return the chain after `layer`, whose channels lie on axis 1 (Conv) or the last; None if there is none."""
        name = layer.output[0]
        rank = len(source.types[name][0])
        channel_shape = (channels, *(1,) * (rank - 2)) if layer.op_type == "Conv" else (channels,)
        chain = cls([], [])
        while (node := _only_reader(source, name)) is not None:
            step = _step(source, node, name, channel_shape)
            if step is None:
                return None
            chain.nodes.append(node)
            chain.steps.append(step)
            name = node.output[0]
            if node.op_type == "Clip":
                return chain
        return None

    def levels(self, acc: Array) -> Array:
        """Return the chain's integer results for accumulators (channels, n)."""
        value = acc.astype(np.float32)
        for step in self.steps:
            value = step(value)
        return value.astype(np.int64)

    def exact_levels(self, acc: Array) -> Array:
        """Return the results without float32's roundings, of a chain that `is_integer`."""
        value = acc.astype(np.int64)
        for step in self.steps:
            if step.op_type not in ("Cast", "Floor"):
                constant = None if step.constant is None else step.constant.astype(np.int64)
                value = Step(step.op_type, constant, "int64")(value)
        return value

    @property
    def is_integer(self) -> bool:
        """Whether the chain only holds integers, which float32 may carry: its constants are, and it divides as such."""
        return all(
            (step.constant is None or bool(np.all(step.constant == np.rint(step.constant))))
            and (step.op_type, step.dtype) != ("Div", "float32")
            for step in self.steps
        )

    @property
    def bounds(self) -> tuple[int, int]:
        """The Clip's integers, where the chain `makes_levels`."""
        assert self.steps[-1].constant is not None
        low, high = self.steps[-1].constant
        return int(low), int(high)

    def makes_levels(self, most: int) -> bool:
        """Whether the chain rounds, and its result is an integer of 0 to `most` whatever the accumulator."""
        whole, rounds = True, False
        for step in self.steps:
            whole = step.is_whole(whole)
            rounds |= step.op_type == "Floor" or step.dtype != "float32"
        bounds = self.steps[-1].constant
        assert bounds is not None
        return whole and rounds and bool(0 <= bounds[0] <= bounds[1] <= most)

    def holds(self, low: Array, high: Array) -> bool:
        """Whether nothing overflows on the way for accumulators from `low` to `high`, one of each a channel."""
        value = np.stack([low, high], axis=1).astype(np.float32)
        for step in self.steps:
            if not step.holds(value):
                return False
            value = step(value)
        return True


def _only_reader(source: Source, name: str) -> onnx.NodeProto | None:
    if name in source.outputs or name in source.captured:
        return None
    readers = [node for node in source.nodes for read in node.input if read == name]
    return readers[0] if len(readers) == 1 else None


def _step(source: Source, node: onnx.NodeProto, x: str, channel_shape: tuple[int, ...]) -> Step | None:
    """Return what `node` does to its input `x`, None if it isn't monotone or not elementwise with constants."""
    dtype = source.types[node.output[0]][1]
    if node.domain or dtype not in _TYPES.values():
        return None
    if node.op_type == "Cast":
        return Step("Cast", None, dtype) if attribute(node, "to", 0) in _TYPES else None
    if node.op_type in ("Floor", "Relu"):
        return Step(node.op_type, None, dtype)
    if node.op_type == "Clip" and dtype == "float32" and node.input[0] == x:
        low, high = (source.constants.get(operand(node, position)) for position in (1, 2))
        if low is None or high is None or (low.size, high.size) != (1, 1):
            return None
        return Step("Clip", np.concatenate([low.reshape(-1), high.reshape(-1)]), dtype)
    if node.op_type not in _ARITHMETIC or (node.op_type in ("Sub", "Div") and node.input[0] != x):
        return None
    constant = source.constants.get(node.input[1] if node.input[0] == x else node.input[0])
    if constant is None or (node.op_type in ("Mul", "Div") and not np.all(constant > 0)):
        return None
    if constant.size == 1:
        return Step(node.op_type, constant.reshape(1, 1), dtype) if constant.ndim <= len(channel_shape) + 1 else None
    trimmed = constant.reshape(constant.shape[next((i for i, n in enumerate(constant.shape) if n > 1), 0) :])
    return Step(node.op_type, constant.reshape(-1, 1), dtype) if trimmed.shape == channel_shape else None
