"""Dynamic quantization: integer weights now, each activation's scale and zero point from its own values at run time.

A layer becomes DynamicQuantizeLinear, ConvInteger or MatMulInteger, and the scales' product: no samples are needed. An
array that writes its sums byte by byte (`hwq.passes.sums_by_bytes`) runs the products; scales stay on the host.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwq.errors import ModelError
from hwq.ir import Array
from hwq.onnx_load import load_model
from hwq.quantize import rounding
from hwq.quantize.codebook import kmeans
from hwq.quantize.network import Layer, analyse
from hwq.quantize.prepare import prepare
from hwq.quantize.recipe import BITS, Recipe
from hwq.weights import NF4

_INTEGER = {"Conv": "ConvInteger", "Gemm": "MatMulInteger", "MatMul": "MatMulInteger"}


def quantize_dynamic(model: str | Path | onnx.ModelProto, recipe: Recipe | None = None) -> onnx.ModelProto:
    """Return a float model whose layers multiply integers: uint8 activations, int8 weights with one scale a channel.

    Weights go to the nearest integers. Of the recipe only `weights` (not ``mixed``) and `keep_float` count. Transposed
    convolutions stay in floats.

    Parameters
    ----------
    model : path or onnx.ModelProto
        Of float32.
    recipe : Recipe

    Raises
    ------
    ModelError
        The model can't be read, isn't of floats, or has nothing to quantize; or the recipe names no layer of it, or
        weights by layer or ``mixed``.
    """
    name, recipe = "model" if isinstance(model, onnx.ModelProto) else Path(model).stem, recipe or Recipe()
    kind = recipe.weights
    if not isinstance(kind, str) or kind not in BITS:
        raise ModelError(f"{name}: dynamic quantization takes one kind of weights for all layers: {', '.join(BITS)}")
    ready = prepare(model if isinstance(model, onnx.ModelProto) else load_model(model), name)
    layers = analyse(ready).layers
    unknown = set(recipe.keep_float) - {label for layer in layers.values() for label in (layer.name, layer.output)}
    if unknown:
        raise ModelError(f"{name}: there is no layer {min(unknown)!r} to keep in floats")
    layers = {key: layer for key, layer in analyse(ready, recipe.keep_float).layers.items() if _is_plain(layer)}
    if not layers:
        raise ModelError(f"{name}: holds no layer with constant weights, so there is nothing to quantize")
    made: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    seen: set[str] = set()
    absorbed = {layer.add.name for layer in layers.values() if layer.add is not None}
    for node in ready.graph.node:
        if node.name in layers:
            nodes += _layer(layers[node.name], kind, made, seen)
        elif node.name not in absorbed:
            nodes.append(node)
    read = {entry for node in nodes for entry in node.input}
    kept = [tensor for tensor in [*ready.graph.initializer, *made] if tensor.name in read]
    graph = helper.make_graph(nodes, ready.graph.name, list(ready.graph.input), list(ready.graph.output), kept)
    opsets, version = list(ready.opset_import), ready.ir_version
    quantized = helper.make_model(graph, opset_imports=opsets, ir_version=version, producer_name="hwq")
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


def _is_plain(layer: Layer) -> bool:
    return layer.node.op_type in _INTEGER


def _layer(layer: Layer, kind: str, made: list[onnx.TensorProto], seen: set[str]) -> list[onnx.NodeProto]:
    """Return a layer's nodes, with its input's quantizer unless that is in `seen`, and add its constants to `made`."""
    values, scale = _integers(layer, kind)
    shape = (-1, *(1,) * (layer.weight.ndim - 2)) if layer.node.op_type == "Conv" else (-1,)
    constants = {
        "weight": values.T if layer.node.op_type == "Gemm" else values,
        "scale": scale.reshape(shape),
        "bias": layer.bias.reshape(shape),
    }
    names = {key: f"{layer.name}_dynamic_{key}" for key in constants}
    made += [numpy_helper.from_array(np.ascontiguousarray(value), names[key]) for key, value in constants.items()]
    stored, x_scale, zero_point = (f"{layer.input}_dynamic{part}" for part in ("", "_scale", "_zero_point"))
    nodes = []
    if layer.input not in seen:
        seen.add(layer.input)
        outputs = [stored, x_scale, zero_point]
        nodes.append(helper.make_node("DynamicQuantizeLinear", [layer.input], outputs, name=stored))
    product = helper.make_node(
        _INTEGER[layer.node.op_type], [stored, names["weight"], zero_point], [f"{layer.name}_sums"], name=layer.name
    )
    if layer.node.op_type == "Conv":
        product.attribute.extend(layer.node.attribute)
    floats, unit, scaled = (f"{layer.name}_{part}" for part in ("float", "unit", "scaled"))
    return [
        *nodes,
        product,
        helper.make_node("Cast", [product.output[0]], [floats], name=floats, to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", [x_scale, names["scale"]], [unit], name=unit),
        helper.make_node("Mul", [floats, unit], [scaled], name=scaled),
        helper.make_node("Add", [scaled, names["bias"]], [layer.output], name=f"{layer.name}_biased"),
    ]


def _integers(layer: Layer, kind: str) -> tuple[Array, Array]:
    """Return a layer's weights as int8, in the operator's shape, and their scales, float32 (O,)."""
    kernels, bits = layer.kernels.astype(np.float64), BITS[kind]
    scale = np.maximum(rounding.plain_scales(kernels, bits), np.finfo(np.float32).tiny).astype(np.float32)
    wanted, allowed = kernels / scale[:, np.newaxis], rounding.levels(bits)
    if kind == "nf4":
        allowed = NF4
    elif kind == "codebook":
        allowed = kmeans(wanted, bounds=(int(allowed[0]), int(allowed[-1])))
    return layer.from_kernels(rounding.rounded(wanted, allowed).astype(np.int8)), scale
