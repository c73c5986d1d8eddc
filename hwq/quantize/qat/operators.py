"""What stands between layers, on integers: moves, maxima, averages, functions of one tensor and of two.

Integers have their zero points subtracted. Every tensor has an axis of samples before ONNX's own axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch.nn import functional

from hwq.errors import ModelError
from hwq.host import run_model
from hwq.ir import Array, Tensor
from hwq.onnx_load import value_info
from hwq.onnx_values import attribute
from hwq.onnx_windows import Window, read_window
from hwq.pairs import pair_table
from hwq.quantize.network import Network
from hwq.quantize.prepare import OPSET
from hwq.quantize.qat.fake import quantize, through


@dataclass(frozen=True)
class Form:
    """How a tensor is quantized.

    Members
    -------
    root : str
        The tensor whose step it shares.
    zero_point : int
        Even.
    top : int
        The greatest integer; the least is 0, zero point included.
    shape : tuple of int
    """

    root: str
    zero_point: int
    top: int
    shape: tuple[int, ...]

    @property
    def low(self) -> int:
        """The least integer, zero point subtracted."""
        return -self.zero_point

    @property
    def high(self) -> int:
        """The greatest integer, zero point subtracted."""
        return self.top - self.zero_point


class Moved:
    """Operators that move values: which element goes where is what ONNX Runtime does to their positions."""

    def __init__(self, network: Network, node: onnx.NodeProto, constants: dict[str, Array], output: str):
        names = [name for name in node.input if name in network.tensors]
        self.shape = network.shapes[output]
        start, feeds = 0, {}
        for name in dict.fromkeys(names):
            shape = network.shapes[name]
            size = int(np.prod(shape))
            feeds[name] = np.arange(start, start + size, dtype=np.float32).reshape(shape) + 1
            start += size
        moved = run_model(one_node(node, feeds, constants), feeds, [output])[output].reshape(-1)
        self.positions = torch.from_numpy(moved.astype(np.int64))
        self.plain = len(feeds) == 1 and np.array_equal(moved, np.arange(1, start + 1))

    def __call__(self, inputs: Sequence[Any]) -> Any:
        """Return the moved integers; where nothing went, there is the zero point."""
        if not self.plain:
            rows = [values.flatten(1) for values in inputs]
            inputs = [torch.cat([torch.zeros_like(rows[0][:, :1]), *rows], 1)[:, self.positions]]
        return inputs[0].reshape(len(inputs[0]), *self.shape)


class MaxPool:
    """Maxima of windows, padded with the least integer."""

    def __init__(self, network: Network, node: onnx.NodeProto, form: Form):
        self.window, self.form = _window(network, node), form

    def __call__(self, inputs: Sequence[Any]) -> Any:
        """Return the maxima."""
        window = self.window
        image = _image(inputs[0], window, self.form.low)
        result = functional.max_pool2d(image, window.kernel, window.strides, 0, window.dilations)
        return result.reshape(len(inputs[0]), *self.form.shape)


class Average:
    """Sums of windows, requantized; padding counts, as 0."""

    def __init__(self, network: Network, node: onnx.NodeProto, form: Form):
        self.form = form
        if node.op_type == "GlobalAveragePool":
            size = network.shapes[node.input[0]][2:]
            node = helper.make_node("AveragePool", node.input, node.output, node.name, kernel_shape=size)
        self.window = _window(network, node)
        uncounted = any(self.window.pads) and not attribute(node, "count_include_pad", 0)
        if uncounted or any(self.window.overhang):
            raise ModelError(
                f"node {node.name!r} (AveragePool) divides by less at its edges: set count_include_pad, not ceil_mode"
            )
        self.count = float(np.prod(self.window.kernel))

    def __call__(self, inputs: Sequence[Any], x_step: Any, y_step: Any, low: float, high: float) -> Any:
        """Return the requantized averages, by `hwq.multipliers.average_multiplier`."""
        image = _image(inputs[0], self.window, 0)
        sums = functional.avg_pool2d(image, self.window.kernel, self.window.strides, divisor_override=1)
        sums = sums.reshape(len(inputs[0]), *self.form.shape)
        return quantize(sums.float() * (x_step / (y_step * self.count)), low, high)


PAIRS = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul}
"""Functions of two tensors."""


class Pair:
    """Add, Sub and Mul of two tensors; exactly what `hwq.pairs.pair_table` says where that is asked for."""

    def __init__(self, kind: str, a: Form, b: Form, y: Form):
        self.kind, self.forms = kind, (a, b, y)
        self.smooth = PAIRS[kind]

    def __call__(self, inputs: Sequence[Any], steps: Sequence[Any], low: float, high: float, exact: bool) -> Any:
        """Return the results of operands of the first two of `steps`, in the third."""
        a, b = (
            values.reshape(len(values), *[1] * (len(self.forms[2].shape) - len(form.shape)), *form.shape)
            for values, form in zip(inputs, self.forms, strict=False)
        )
        if not exact:
            return quantize(self.smooth(a * steps[0], b * steps[1]) / steps[2], low, high)
        tensors = [
            Tensor("", form.shape, "uint8", step.item(), form.zero_point)
            for form, step in zip(self.forms, steps, strict=True)
        ]
        table = torch.from_numpy(pair_table(self.kind, *tensors).astype(np.int64)) + 128
        first, second = (values.long() + form.zero_point for values, form in zip((a, b), self.forms, strict=False))
        return torch.clamp(table[first, second] - self.forms[2].zero_point, low, high).to(a.dtype)


class Function:
    """A function of one tensor's elements, tabulated by ONNX Runtime; its slope is the table's."""

    def __init__(self, node: onnx.NodeProto, constants: dict[str, Array], x: Form, y: Form):
        (self.name,) = (name for name in node.input if name and name not in constants)
        self.node, self.constants, self.forms = node, constants, (x, y)

    def __call__(self, inputs: Sequence[Any], x_step: Any, y_step: Any, low: float, high: float) -> Any:
        """Return the results, those of DequantizeLinear, the node and QuantizeLinear."""
        x, (output,) = self.forms[0], self.node.output
        feeds = {self.name: np.arange(x.low, x.high + 1).astype(np.float32) * np.float32(x_step.item())}
        made = run_model(one_node(self.node, feeds, self.constants), feeds, [output])[output]
        values, slopes = torch.from_numpy(made), torch.from_numpy(np.gradient(made, feeds[self.name]))
        places = inputs[0].detach().long() - x.low
        smooth = through(inputs[0] * x_step * slopes[places], values[places])
        return quantize(smooth / y_step, low, high)


def one_node(node: onnx.NodeProto, feeds: dict[str, Array], constants: dict[str, Array]) -> onnx.ModelProto:
    """Return `node` alone as a model, of inputs like `feeds`."""
    graph = helper.make_graph(
        [node],
        "node",
        [value_info(name, value.shape, value.dtype.name) for name, value in feeds.items()],
        [onnx.ValueInfoProto(name=name) for name in node.output],
        [numpy_helper.from_array(constants[name], name) for name in dict.fromkeys(node.input) if name in constants],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def _window(network: Network, node: onnx.NodeProto) -> Window:
    x, y = (Tensor(name, network.shapes[name], "float32") for name in (node.input[0], node.output[0]))
    return read_window(node, x, y, ())


def _image(values: Any, window: Window, fill: float) -> Any:
    """Return images, (N, C, H, W), padded for `window`."""
    image = values.flatten(0, 1)
    image = image if image.ndim == 4 else image.unsqueeze(2)
    top, left, bottom, right = window.pads
    return functional.pad(
        image, (left, right + window.overhang[1], top, bottom + window.overhang[0]), value=float(fill)
    )
