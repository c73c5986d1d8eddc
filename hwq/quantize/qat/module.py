"""A float ONNX network as a PyTorch module that computes with the integers it will be quantized to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from hwq.errors import ModelError
from hwq.ir import Array
from hwq.onnx_constraints import StaysOnHost
from hwq.onnx_tables import ELEMENTWISE
from hwq.quantize.emit import Grid, Weights, emit
from hwq.quantize.network import CARRIERS, POOLS, Network, clamp_bounds
from hwq.quantize.prepare import constants
from hwq.quantize.qat.fake import quantize, scaled_gradient, step_gradient
from hwq.quantize.qat.layers import TrainedLayer
from hwq.quantize.qat.norms import Normalized
from hwq.quantize.qat.operators import PAIRS, Average, Form, Function, MaxPool, Moved, Pair
from hwq.quantize.scales import Scales, on_array

_LEAST = 2.0**-40
"""No step gets smaller."""

Values = dict[str, Any]
"""Integers by tensor, zero points subtracted, an axis of samples before ONNX's own."""


class QuantizedNetwork(nn.Module):
    """Fake quantization as the array computes: every tensor is integers and a step.

    In training, sums are float32 and gradients pass roundings straight through; in evaluation every integer is exactly
    that of `export`'s model.

    Parameters
    ----------
    network : Network
    scales : dict of str to (float32, int)
        Steps to start from, and even zero points, which stay.
    bits : mapping of str to int
        Of every quantized tensor, as `hwq.quantize.scales.widths` returns them.
    weights : mapping of str to int
        Bits of every layer's weights: 8, 4 or 2.
    norms : mapping of str to Normalized
        Batch normalizations to train, by `Layer.output`.

    Raises
    ------
    ModelError
        A node before the logits stays in floats.
    """

    def __init__(
        self,
        network: Network,
        scales: Scales,
        bits: Mapping[str, int],
        weights: Mapping[str, int],
        norms: Mapping[str, Normalized] = {},
    ):
        super().__init__()
        self.network, self.bits = network, dict(bits)
        self.logits = logits_of(network.model)
        self.roots = {root: index for index, root in enumerate(dict.fromkeys(network.tensors.values()))}
        self.scales = nn.ParameterList(nn.Parameter(torch.tensor(float(scales[root][0]))) for root in self.roots)
        self.forms = {
            name: Form(root, scales[root][1], (1 << bits[name]) - 1, network.shapes[name])
            for name, root in network.tensors.items()
        }
        self.layers = nn.ModuleList(
            TrainedLayer(network, layer, weights[layer.name], norms.get(layer.output))
            for layer in network.layers.values()
        )
        self._by_name: dict[str, TrainedLayer] = dict(zip(network.layers, self.layers, strict=True))
        self._constants = constants(network.model.graph)
        self._biases = {layer.add.name for layer in network.layers.values() if layer.add is not None}
        self._steps = [step for node in network.model.graph.node if (step := self._step_of(node)) is not None]

    def forward(self, *inputs: Any) -> Any:
        """Return the logits, float32 (samples, *shape), of float32 inputs in the model's order, samples first."""
        values = self.integers(*inputs)
        form = self.forms[self.logits]
        return values[self.logits].float() * self.scale(form)

    def integers(self, *inputs: Any) -> Values:
        """Return every quantized tensor's integers, zero points subtracted."""
        values: Values = {}
        names = [info.name for info in self.network.model.graph.input]
        for name, value in zip(names, inputs, strict=True):
            if name in self.forms:
                form = self.forms[name]
                values[name] = quantize(value / self.scale(form), form.low, form.high)
        for step in self._steps:
            step(values)
        return values

    def scale(self, form: Form) -> Any:
        """Return a tensor's step, its gradient scaled as LSQ has it."""
        size = int(np.prod(self.network.shapes[form.root]))
        return scaled_gradient(self.scales[self.roots[form.root]], step_gradient(size, form.high))

    def layer(self, name: str) -> TrainedLayer:
        """Return a layer by its node's name."""
        return self._by_name[name]

    @torch.no_grad()
    def settle(self) -> None:
        """Move the steps of tensors to where the array computes with them: `hwq.quantize.scales.on_array`."""
        for scale in self.scales:
            scale.abs_().clamp_(min=_LEAST)
        for name, (scale, _) in on_array(self.network, self._scales(), self.bits).items():
            self.scales[self.roots[self.network.tensors[name]]].fill_(float(scale))

    def _scales(self) -> Scales:
        return {
            name: (np.float32(self.scales[self.roots[form.root]].item()), form.zero_point)
            for name, form in self.forms.items()
        }

    @torch.no_grad()
    def export(self) -> onnx.ModelProto:
        """Return the network as a QDQ model, whose integers are those of evaluation."""
        self.eval()
        grid = Grid(self._scales(), bits=self.bits)
        for layer, module in zip(self.network.layers.values(), self.layers, strict=True):
            x, y = (
                self.scales[self.roots[self.network.tensors[name]]]
                for name in (layer.input, self.network.quantized(layer.output))
            )
            weight, bias = module.folded(None)
            steps = module.steps(x, y)
            values = np.moveaxis(module.integers(weight, steps).numpy(), layer.axis, 0)
            kernels = values.reshape(len(steps), -1).astype(np.int8)
            grid.weights[layer.name] = Weights(kernels, steps.numpy(), module.bits, bias.numpy())
        return emit(self.network, grid)

    def _step_of(self, node: onnx.NodeProto) -> Callable[[Values], None] | None:
        """Return what computes a node's result from the integers so far; None where another node does it."""
        network = self.network
        output = network.quantized(network.layers[node.name].output if node.name in network.layers else node.output[0])
        if node.output[0] in network.clamps or node.name in self._biases:
            return None
        if output not in self.forms:
            if self._behind(node):
                return None
            raise _floats(node)
        try:
            return self._integer_step(node, output)
        except StaysOnHost as error:
            raise ModelError(f"node {node.name!r} ({node.op_type}): {error}") from error

    def _behind(self, node: onnx.NodeProto) -> bool:
        """Return whether the logits don't depend on `node`."""
        needed = {self.logits}
        for other in reversed(self.network.model.graph.node):
            if needed & set(other.output):
                needed |= set(other.input)
        return needed.isdisjoint(node.output)

    def _integer_step(self, node: onnx.NodeProto, output: str) -> Callable[[Values], None]:
        network, form = self.network, self.forms[output]
        names = [name for name in node.input if name in self.forms]
        forms = [self.forms[name] for name in names]
        run: Any
        if node.name in network.layers:
            module, (name,) = self._by_name[node.name], names
            bounds = self._bounds(output)

            def multiply(values: Values) -> None:
                dtype = torch.float32 if self.training else torch.float64
                steps = self.scale(forms[0]), self.scale(form)
                values[output] = module(values[name], *steps, *bounds(steps[1]), dtype)

            return multiply
        if node.op_type == "MaxPool" or node.op_type in CARRIERS:
            return self._move(node, names)
        if node.op_type in POOLS:
            run = Average(network, node, form)
        elif node.op_type in PAIRS and len(forms) == 2:
            run = Pair(node.op_type, forms[0], forms[1], form)
        elif node.op_type in ELEMENTWISE[""] and len(forms) == 1:
            run = Function(node, self._constants, forms[0], form)
        else:
            raise _floats(node)
        bounds = self._bounds(output)

        def compute(values: Values) -> None:
            inputs, steps = [values[name] for name in names], [self.scale(entry) for entry in (*forms, form)]
            limits = bounds(steps[-1])
            if isinstance(run, Pair):
                values[output] = run(inputs, steps, *limits, exact=not self.training)
            else:
                values[output] = run(inputs, *steps, *limits)

        return compute

    def _move(self, node: onnx.NodeProto, names: list[str]) -> Callable[[Values], None]:
        made = [name for name in node.output if name in self.forms]
        if node.op_type == "MaxPool":
            runs: list[Any] = [MaxPool(self.network, node, self.forms[made[0]])]
        else:
            runs = [Moved(self.network, node, self._constants, name) for name in made]

        def move(values: Values) -> None:
            for name, run in zip(made, runs, strict=True):
                values[name] = run([values[source] for source in dict.fromkeys(names)])

        return move

    def _bounds(self, output: str) -> Callable[[Any], tuple[float, float]]:
        """Return what gives a result's bounds by its step: its form's, or those of the clamp in it."""
        form, clamp = self.forms[output], self.network.clamps.get(output)
        limits = None if clamp is None else clamp_bounds(clamp, self._constants)
        if limits is None:
            return lambda step: (form.low, form.high)
        ends = np.array(limits, np.float32)

        def bounds(step: Any) -> tuple[float, float]:
            low, high = np.clip(np.rint(ends / np.float32(step.item())), form.low, form.high)
            return float(low), float(high)

        return bounds


def _floats(node: onnx.NodeProto) -> ModelError:
    return ModelError(
        f"node {node.name!r} ({node.op_type}) computes with floats: quantization-aware training needs integers from "
        "the inputs to the logits; leave it out of the network"
    )


def logits_of(model: onnx.ModelProto) -> str:
    """Return the tensor that a classifier's loss is of: the first output, or what its Softmax reads."""
    name = model.graph.output[0].name
    node = next((node for node in model.graph.node if name in node.output), None)
    return node.input[0] if node is not None and node.op_type in ("Softmax", "LogSoftmax") else name


def arrays_of(values: Values, forms: Mapping[str, Form]) -> dict[str, Array]:
    """Return integers as tensors of a QDQ model hold them, zero points included, (samples, *shape)."""
    return {name: value.numpy().astype(np.int64) + forms[name].zero_point for name, value in values.items()}
