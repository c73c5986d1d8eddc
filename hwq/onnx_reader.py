"""ONNX to integer operators: QDQ and QOperator models become one `hwq.ir.Graph`.

Reading takes two sweeps. Forwards, every int8 and uint8 tensor learns its scale and zero point, and every float tensor
that merely carries dequantized values learns its integer twin. Backwards from the graph's outputs, each value somebody
needs is made: by an integer operator where a rule allows one, else by the ONNX node itself on the host. Nothing is made
that nobody needs, so shared DequantizeLinear nodes, dead branches and values wanted both as integers and as floats take
no special care.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from hwq.ir import Graph, HostNode, Op, Reshape, Tensor, Transpose
from hwq.onnx_blocks import blocked_layer, is_blocked
from hwq.onnx_carriers import carry, data_inputs, is_carrier, is_view, node_name
from hwq.onnx_constraints import (
    StaysOnHost,
    constraint_clamp_order,
    constraint_constant_clamp,
    constraint_eight_bits,
    constraint_known_operator,
    constraint_no_requantization,
    constraint_quantized_input,
    constraint_quantized_output,
    present,
    require,
    sentence,
)
from hwq.onnx_functions import read_function
from hwq.onnx_integer import rewrite_integer_layers
from hwq.onnx_load import Source, load_model, node_inputs, open_source
from hwq.onnx_operators import FUNCTIONS_FIRST, OPERATOR_RULES, QDQ_RULES, QdqRule
from hwq.onnx_split import replace_splits
from hwq.onnx_steps import only_reader
from hwq.onnx_sums import LAYERS, Quantizer, find_sum, read_whole_sum
from hwq.onnx_tables import read_table
from hwq.onnx_values import QDTYPES, Params, Values, operand

EDGE = "edge conversion"
"""Reason of a QuantizeLinear or DequantizeLinear between a host part and an integer part."""


def read(model: str | Path | onnx.ModelProto, name: str | None = None, *, external_data: bool = False) -> Graph:
    """Read a quantized ONNX model.

    Parameters
    ----------
    model : path or onnx.ModelProto
    name : str, optional
        Name of the graph, used in messages; the file's stem by default.
    external_data : bool
        As for `hwq.onnx_load.load_model`.

    Returns
    -------
    Graph
        Integer operators, and a HostNode with its reason for every other node.

    Raises
    ------
    ModelError
        The model is damaged, or a shape in it isn't static.
    """
    if not isinstance(model, onnx.ModelProto):
        name = name or Path(model).stem
        model = load_model(model, external_data=external_data)
    return _Reader(open_source(model, name or model.graph.name or "model")).run()


class _Reader:
    def __init__(self, source: Source) -> None:
        self.source = source
        replace_splits(source)
        integer_layers = rewrite_integer_layers(source)
        self.values = Values(source)
        self.values.rewrites += [*source.rewrites, *integer_layers.rewrites]
        self.values.floors = integer_layers.floors
        self.aliases: dict[str, str] = {}
        self.collapsed: set[str] = set()
        self.carried: dict[str, list[Op]] = {}
        self.reasons: dict[str, str] = integer_layers.reasons
        self.needed: set[str] = set()
        self.folded: set[str] = set()
        self.positions = {name: index for index, node in enumerate(source.nodes) for name in node.output}
        self.quantizers: dict[str, list[onnx.NodeProto]] = {}
        for node in source.nodes:
            if node.op_type == "QuantizeLinear":
                self.quantizers.setdefault(node.input[0], []).append(node)

    def run(self) -> Graph:
        self._learn_params()
        self._find_twins()
        self.needed = {self.aliases.get(name, name) for name in self.source.outputs}
        groups: list[list[Op]] = []
        for node in reversed(self.source.nodes):
            group = self._make(node)
            self.needed |= {name for op in group for name in op.inputs}
            groups.append(group)
        return self._assemble([op for group in reversed(groups) for op in group])

    # Forward sweeps ---------------------------------------------------------------------------------------------------

    def _learn_params(self) -> None:
        """Give every 8-bit tensor its scale and zero point: its writer's, else its readers', through carriers."""
        values, changed = self.values, True
        while changed:
            changed = False
            for node in self.source.nodes:
                params = values.write_params(node)
                if params is None and self._keeps_params(node):
                    params = self._shared_params(data_inputs(node))
                if params is not None:
                    changed |= values.set_params(node.output[0], params)
            for node in reversed(self.source.nodes):
                for name, read_params in values.read_params(node):
                    if read_params is not None:
                        changed |= values.set_params(name, read_params)
                params = self._shared_params([node.output[0]]) if self._keeps_params(node) else None
                if params is not None:
                    for name in data_inputs(node):
                        changed |= values.set_params(name, params)

    def _keeps_params(self, node: onnx.NodeProto) -> bool:
        """Whether a node's integer results mean what its integer inputs do: a carrier, or a Clip of integers."""
        return is_carrier(node) or self._is_integer_clip(node)

    def _is_integer_clip(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "Clip" and not node.domain and self.values.tensors[node.output[0]].dtype in QDTYPES

    def _shared_params(self, names: list[str]) -> Params | None:
        found = {self._params(self.values.tensors[name]) for name in names}
        return found.pop() if len(found) == 1 else None

    @staticmethod
    def _params(tensor: Tensor) -> Params | None:
        return None if tensor.scale is None else Params(tensor.scale, tensor.zero_point, tensor.dtype)

    def _find_twins(self) -> None:
        for node in self.source.nodes:
            if node.op_type == "DequantizeLinear":
                self._twin_of_dequantized(node)
            elif node.op_type == "QuantizeLinear":
                self._collapse(node)
            elif self._is_integer_clip(node):
                bounds = self.values.clip_bounds(node)
                if bounds is not None:
                    self.values.bounds[node.output[0]] = bounds
            elif is_carrier(node):
                self._twin_of_carrier(node)

    def _twin_of_dequantized(self, node: onnx.NodeProto) -> None:
        quantized = self.values.tensors[node.input[0]]
        read_params = self.values.params(node.input[1], operand(node, 2), quantized.dtype)
        if read_params is None or not quantized.is_quantized:
            return
        if read_params == self._params(quantized):
            self.values.twins[node.output[0]] = self.aliases.get(quantized.name, quantized.name)
        else:
            self.reasons[node.output[0]] = sentence(constraint_no_requantization)

    def _collapse(self, node: onnx.NodeProto) -> None:
        """Quantizing dequantized values with the parameters they came from is the identity."""
        output = node.output[0]
        twin = self.values.twins.get(node.input[0])
        if twin is None or self._params(self.values.tensors[twin]) != self._params(self.values.tensors[output]):
            return
        self.collapsed.add(output)
        if output == twin:
            return
        if output in self.source.outputs or output in self.source.captured:
            self.carried[output] = [Reshape(name=node_name(node), inputs=(twin,), outputs=(output,))]
        else:
            self.aliases[output] = twin

    def _twin_of_carrier(self, node: onnx.NodeProto) -> None:
        values, output = self.values, node.output[0]
        names = [values.twins.get(name) for name in data_inputs(node)]
        if not names or any(name is None for name in names):
            return
        inputs = [values.tensors[name] for name in names if name is not None]
        shape = values.tensors[output].shape
        for quantizer in self.quantizers.get(output, []):
            named = values.tensors[quantizer.output[0]]
            if self._params(named) == self._params(inputs[0]):
                twin = named
                break
        else:
            twin = values.fresh(f"{output}_quantized", inputs[0], shape)
        try:
            ops = carry(values, node, inputs, twin)
        except StaysOnHost as broken:
            self.reasons[output] = str(broken)
            return
        values.twins[output] = twin.name
        self._bound_carried(node, [tensor.name for tensor in inputs], twin.name)
        if not self._fold(ops, twin):
            self.carried[output] = ops

    def _bound_carried(self, node: onnx.NodeProto, inputs: list[str], output: str) -> None:
        """Note the bounds of a carrier's result: those of all its inputs; padding may lie beyond them."""
        bounds = [self.values.bounds.get(name) for name in inputs]
        known = [pair for pair in bounds if pair is not None]
        if len(known) == len(inputs) and node.op_type != "Pad":
            self.values.bounds[output] = (min(lo for lo, _ in known), max(hi for _, hi in known))

    def _fold(self, ops: list[Op], result: Tensor) -> bool:
        """Evaluate a view of a constant, unless a graph output must be written by somebody."""
        constants = self.source.constants
        if len(ops) != 1 or ops[0].inputs[0] not in constants or result.name in self.source.outputs:
            return False
        value = constants[ops[0].inputs[0]]
        if isinstance(ops[0], Reshape):
            constants[result.name] = value.reshape(result.shape)
        elif isinstance(ops[0], Transpose):
            constants[result.name] = np.ascontiguousarray(value.transpose(ops[0].perm))
        else:
            return False
        return True

    # Backward sweep ---------------------------------------------------------------------------------------------------

    def _make(self, node: onnx.NodeProto) -> list[Op]:
        """Return the operators that make whatever is needed of a node's results."""
        output = node.output[0]
        twin = self.values.twins.get(output)
        if node.op_type == "QuantizeLinear" and output in self.collapsed:
            return self.carried.get(output, []) if output in self.needed else []
        made: list[Op] = []
        if output in self.carried and twin in self.needed:
            made += self.carried[output]
        if not any(name in self.needed for name in node.output if name):
            return made
        return made + self._make_outputs(node)

    def _make_outputs(self, node: onnx.NodeProto) -> list[Op]:
        values, output = self.values, node.output[0]
        try:
            if node.op_type == "QuantizeLinear":
                return self._quantize(node)
            if node.op_type in ("Cast", "Clip", *LAYERS) and not node.domain and (made := self._low_bit(node)):
                return made
            rule = OPERATOR_RULES.get((node.domain, node.op_type))
            if rule is not None:
                function = self._function(node, values.tensors[output])
                return [function] if function else rule(values, node)
            if is_carrier(node) and values.tensors[output].dtype in QDTYPES:
                inputs = [values.tensors[name] for name in data_inputs(node)]
                for tensor in inputs:
                    require(constraint_quantized_input, tensor if tensor.is_quantized else None)
                return carry(values, node, inputs, values.tensors[output])
        except StaysOnHost as broken:
            self.reasons[output] = str(broken)
        if output and values.tensors[output].is_quantized and (table := self._table(node, values.tensors[output])):
            return [table]
        return [self._host(node, self._reason(node))]

    def _table(self, node: onnx.NodeProto, y: Tensor) -> Op | None:
        """Return the function of one quantized tensor that ends in `node`, None where it must stay on the host."""
        try:
            return read_table(self.values, self.aliases, node, y, positions=self.positions)
        except StaysOnHost as broken:
            self.reasons.setdefault(node.output[0] if node.op_type != "QuantizeLinear" else node.input[0], str(broken))
            return None

    def _function(self, node: onnx.NodeProto, y: Tensor) -> Op | None:
        """Return the Table of a Mul or Sub, or of its QuantizeLinear, whose operands are functions of one tensor."""
        inner = self.values.producer(node.input[0]) if node.op_type == "QuantizeLinear" else node
        if inner is None or inner.op_type not in FUNCTIONS_FIRST or not y.is_quantized:
            return None
        try:
            return read_table(self.values, self.aliases, node, y, positions=self.positions)
        except StaysOnHost:
            return None

    def _reason(self, node: onnx.NodeProto) -> str:
        if node.output[0] in self.reasons:
            return self.reasons[node.output[0]]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return EDGE
        if node.op_type in QDQ_RULES or is_carrier(node) or is_blocked(self.values, node):
            return sentence(constraint_quantized_output)
        return sentence(constraint_known_operator)

    def _quantize(self, node: onnx.NodeProto) -> list[Op]:
        """Return the operators of a QuantizeLinear, together with the float operator before it where a rule takes both.

        Without such a rule, everything between a quantized tensor and this one may be a function of its elements.
        """
        y = self.values.tensors[node.output[0]]
        if not y.is_quantized:
            wide = not constraint_eight_bits(y.dtype)
            return [self._host(node, sentence(constraint_eight_bits if wide else constraint_known_operator))]
        return self._quantized_layer(node, y, y.range) or self._quantize_alone(node, y)

    def _quantized_layer(self, node: onnx.NodeProto, y: Tensor, clamp: tuple[int, int]) -> list[Op]:
        """Return the layer whose result `node` quantizes and `clamp` bounds, as `y`; [] if no rule takes it.

        Views between the two commute with rounding, and monotone activations become bounds of the result.
        """
        if node.op_type == "QuantizeLinear":
            views, lo, hi, inner = self._walk_back(node, y)
            rule = self._rule(inner)
            if inner is not None and rule is not None:
                core, ops = self._before_views(views, inner.output[0], y)
                lo, hi = max(lo, clamp[0]), min(hi, clamp[1])
                # bounds at the ends of the type: whatever else lies between changes nothing
                quantizer = _quantizer(node, inner.output[0], core)
                if (lo, hi) == y.range and (function := self._function(quantizer, core)):
                    return [function, *ops]
                try:
                    require(constraint_clamp_order, lo, hi)
                    return [*rule(self.values, inner, core, (lo, hi)), *ops]
                except StaysOnHost as broken:
                    self.reasons.setdefault(inner.output[0], str(broken))
                    if inner.op_type in LAYERS:
                        return []
        views, name = self._views_before(node)
        layer = None
        try:
            layer = find_sum(self.values, name)
            if layer is None or not layer.nodes:
                return []
            core, ops = self._before_views(views, name, y)
            last = Quantizer(_quantizer(node, name, core), core, clamp)
            return [*read_function(self.values, layer, last), *ops]
        except StaysOnHost as broken:
            for step in layer.nodes if layer is not None else ():
                self.reasons.setdefault(step.output[0], str(broken))
            return []

    def _rule(self, node: onnx.NodeProto | None) -> QdqRule | None:
        """Return how `node` and the QuantizeLinear after it are read as one."""
        if node is None:
            return None
        if is_blocked(self.values, node):
            return blocked_layer
        return None if node.domain else QDQ_RULES.get(node.op_type)

    def _low_bit(self, node: onnx.NodeProto) -> list[Op]:
        """Return the operators of a node that ends a low-bit quantizer or a layer without one; [] if it does neither.

        Quantizers of fewer than 8 bits end in an integer Clip (QCDQ), those of other rounding than to nearest even in
        a Cast.
        """
        y = self.values.tensors[node.output[0]]
        if node.op_type in LAYERS:
            return self._whole_sum(node)
        if not y.is_quantized:
            return []
        if node.op_type == "Cast":
            return self._quantized_layer(node, y, y.range)
        x, maker, clamp = node.input[0], self.values.producer(node.input[0]), self.values.bounds.get(y.name)
        if maker is None or maker.op_type not in ("QuantizeLinear", "Cast") or clamp is None:
            return []
        known = self.values.tensors[x]
        if self._params(known) != self._params(y) or only_reader(self.source, x) is None:
            return []
        if made := self._quantized_layer(maker, y, clamp):
            return made
        # What the host quantizes it also clips; the array clips what it makes by a table.
        on_array = x in self.collapsed or self._quantized_layer(maker, known, known.range) or self._table(maker, known)
        return [] if on_array else [self._host(node, EDGE)]

    def _whole_sum(self, node: onnx.NodeProto) -> list[Op]:
        """Return a layer with a float result as one with an exact 8-bit result and the conversion; [] if none is."""
        try:
            layer = find_sum(self.values, node.output[0])
            made = None if layer is None else read_whole_sum(self.values, layer)
        except StaysOnHost:
            return []
        if made is None:
            return []
        ops, dequantizer = made
        return [*ops, self._host(dequantizer, EDGE)]

    def _walk_back(
        self, node: onnx.NodeProto, y: Tensor
    ) -> tuple[list[onnx.NodeProto], int, int, onnx.NodeProto | None]:
        """Return the views, the bounds and the operator found upwards of a QuantizeLinear."""
        views: list[onnx.NodeProto] = []
        lo, hi = y.range
        name = node.input[0]
        while (inner := self.values.producer(name)) is not None:
            if is_view(inner):
                views.append(inner)
            elif inner.op_type in ("Relu", "Clip") and not inner.domain:
                try:
                    low, high = self._bounds(inner, y)
                except StaysOnHost as broken:
                    self.reasons[inner.output[0]] = str(broken)
                    break
                lo, hi = max(lo, low), min(hi, high)
            else:
                break
            name = inner.input[0]
        return views, lo, hi, inner

    def _bounds(self, node: onnx.NodeProto, y: Tensor) -> tuple[int, int]:
        """Return a Relu's or Clip's bounds as integers of `y`."""
        low: float | None = 0.0
        high: float | None = None
        if node.op_type == "Clip":
            low, high = self._clip_bound(node, 1), self._clip_bound(node, 2)
        params = self._params(y)
        assert params is not None
        lo, hi = y.range
        return (
            lo if low is None else params.quantize(low),
            hi if high is None else params.quantize(high),
        )

    def _clip_bound(self, node: onnx.NodeProto, position: int) -> float | None:
        name = operand(node, position)
        if not name:
            return None
        return present(constraint_constant_clamp, self.values.number(name))

    def _before_views(self, views: list[onnx.NodeProto], core: str, y: Tensor) -> tuple[Tensor, list[Op]]:
        """Return the integer tensor that stands where `core` stood, and the views from it to `y`."""
        result: list[Op] = []
        for view in views:
            x = self.values.fresh(f"{view.input[0]}_quantized", y, self.values.tensors[view.input[0]].shape)
            result = [*carry(self.values, view, [x], y), *result]
            y = x
        return y, result

    def _views_before(self, node: onnx.NodeProto) -> tuple[list[onnx.NodeProto], str]:
        """Return the views directly before `node`, last first, and the tensor the first of them reads."""
        name, views = node.input[0], []
        while (inner := self.values.producer(name)) is not None and is_view(inner):
            views.append(inner)
            name = inner.input[0]
        return views, name

    def _quantize_alone(self, node: onnx.NodeProto, y: Tensor) -> list[Op]:
        views, name = self._views_before(node)
        core, ops = self._before_views(views, name, y)
        quantizer = _quantizer(node, name, core)
        return [self._table(quantizer, core) or self._host(quantizer, EDGE), *ops]

    def _host(self, node: onnx.NodeProto, reason: str) -> HostNode:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for position, name in enumerate(copy.input):
            copy.input[position] = self.aliases.get(name, name)
        return HostNode(
            name=node_name(node),
            inputs=tuple(node_inputs(copy)),
            outputs=tuple(name for name in copy.output if name),
            node=copy,
            reason=reason,
        )

    # Result -----------------------------------------------------------------------------------------------------------

    def _assemble(self, ops: list[Op]) -> Graph:
        source = self.source
        used = {name for op in ops for name in (*op.inputs, *op.outputs)} | set(source.inputs) | set(source.outputs)
        constants = {name: value for name, value in source.constants.items() if name in used}
        order = [*source.inputs, *source.outputs, *(name for op in ops for name in (*op.inputs, *op.outputs))]
        tensors = {name: self.values.tensors[name] for name in dict.fromkeys(order)}
        for name in [*source.inputs, *source.outputs]:
            if 0 in tensors[name].shape:
                raise source.error(f"tensor {name!r} is empty: its shape is {tensors[name].shape}")
        return Graph(
            name=source.name,
            inputs=list(source.inputs),
            outputs=list(source.outputs),
            tensors=tensors,
            constants=constants,
            ops=_with_unique_names(ops),
            opset=dict(source.opset),
            rewrites=list(dict.fromkeys(self.values.rewrites)),
        )


def _quantizer(node: onnx.NodeProto, x: str, y: Tensor) -> onnx.NodeProto:
    """Return the QuantizeLinear `node`, reading `x` and making `y`."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[0], copy.output[0] = x, y.name
    return copy


def _with_unique_names(ops: list[Op]) -> list[Op]:
    seen: dict[str, int] = {}
    result = []
    for op in ops:
        count = seen[op.name] = seen.get(op.name, 0) + 1
        result.append(op if count == 1 else replace(op, name=f"{op.name}#{count}"))
    return result
