"""The healthy network that the corpus damages: one of each operator, every node and tensor with a name of its own."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SEED = 11


def healthy() -> onnx.ModelProto:
    """Return a quantized network: Conv, Relu, MaxPool, depthwise Conv, Add, GlobalAveragePool, Reshape and Gemm."""
    rng = np.random.default_rng(SEED)
    nodes, tensors = [], {}

    def node(op_type, name, inputs, **attributes):
        nodes.append(helper.make_node(op_type, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def constant(name, value, dtype):
        tensors[name] = np.array(value, dtype)
        return name

    def quantizer(op_type, name, x, scale, zero_point=0, dtype=np.int8, **attributes):
        params = [constant(f"{name}_scale", scale, np.float32), constant(f"{name}_zero_point", zero_point, dtype)]
        return node(op_type, name, [x, *params], **attributes)

    def pair(name, x, scale, zero_point=0):
        quantized = quantizer("QuantizeLinear", f"{name}_q", x, scale, zero_point)
        return quantizer("DequantizeLinear", f"{name}_dq", quantized, scale, zero_point)

    def weight(name, *shape):
        values = constant(f"{name}_weight", rng.integers(-127, 128, shape), np.int8)
        scales, zeros = np.full(shape[0], 0.01), np.zeros(shape[0])
        return quantizer("DequantizeLinear", f"{name}_weight_dq", values, scales, zeros, axis=0)

    def bias(name, size, scale):
        values = constant(f"{name}_bias", rng.integers(-500, 500, size), np.int32)
        return quantizer(
            "DequantizeLinear", f"{name}_bias_dq", values, np.full(size, scale), np.zeros(size), np.int32, axis=0
        )

    x = pair("x", "x", 0.05, 2)
    conv = node("Conv", "conv", [x, weight("conv", 6, 4, 3, 3), bias("conv", 6, 0.0005)], pads=[1, 1, 1, 1])
    first = pair("first", node("Relu", "relu", [conv]), 0.1, -128)
    pooled = pair("pooled", node("MaxPool", "pool", [first], kernel_shape=[2, 2], strides=[2, 2]), 0.1, -128)
    depthwise = node("Conv", "depthwise", [pooled, weight("depthwise", 6, 1, 3, 3)], pads=[1, 1, 1, 1], group=6)
    total = pair("total", node("Add", "add", [pair("second", depthwise, 0.1, 3), pooled]), 0.2, 1)
    mean = pair("mean", node("GlobalAveragePool", "average", [total]), 0.1, 0)
    flat = pair("flat", node("Reshape", "reshape", [mean, constant("shape", [1, 6], np.int64)]), 0.1, 0)
    y = node("Gemm", "gemm", [flat, weight("gemm", 5, 6)], transB=1)
    output = pair("y", y, 0.3, 0)

    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(model, name):
    """Return a node by name."""
    return next(entry for entry in model.graph.node if entry.name == name)


def tensor(model, name):
    """Return an initializer by name."""
    return next(entry for entry in model.graph.initializer if entry.name == name)


def put(model, name, value, dtype=None):
    """Replace an initializer's value, of its own dtype unless given another."""
    old = tensor(model, name)
    dtype = dtype or numpy_helper.to_array(old).dtype
    old.CopyFrom(numpy_helper.from_array(np.array(value, dtype), name))


def fill(model, name, value):
    """Replace all elements of an initializer by one value."""
    put(model, name, np.full_like(numpy_helper.to_array(tensor(model, name)), value))


def attribute(model, name, key, value):
    """Set a node's attribute."""
    entry = node(model, name)
    kept = [old for old in entry.attribute if old.name != key]
    del entry.attribute[:]
    entry.attribute.extend([*kept, helper.make_attribute(key, value)])
