"""Malformed ONNX files by class: what is done to the healthy network, or to the file and its neighbours."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.hostile.network import attribute, fill, healthy, node, put, tensor

HUGE = 2**40


@dataclass(frozen=True)
class Case:
    """A class of damage, a name within it, and a function that writes the damaged file and returns its path."""

    kind: str
    name: str
    write: object

    @property
    def label(self) -> str:
        """Both names, as messages.txt has them."""
        return f"{self.kind}: {self.name}"


CASES: list[Case] = []


def case(kind, name, damage):
    """Add a case that changes the model."""

    def write(folder: Path) -> Path:
        model = healthy()
        damage(model)
        path = folder / "bad.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    CASES.append(Case(kind, name, write))


def setter(*path, **values):
    """Return what sets fields of the message that attributes and indices lead to from the model."""

    def damage(model):
        at = model
        for step in path:
            at = at[step] if isinstance(step, int) else step(at) if callable(step) else getattr(at, step)
        for name, value in values.items():
            if value is None:
                at.ClearField(name)
            elif isinstance(value, list):
                del getattr(at, name)[:]
                getattr(at, name).extend(value)
            else:
                setattr(at, name, value)

    return damage


def of(finder, name):
    """Return a step of a path: a node or tensor by name."""
    return lambda model: finder(model, name)


# Quantization


for where in ("x_q", "conv_weight_dq", "first_q", "first_dq", "conv_bias_dq", "gemm_weight_dq", "y_q"):
    for label, value in (("zero", 0.0), ("negative", -0.1), ("nan", np.nan), ("infinite", np.inf), ("denormal", 1e-42)):
        case("scale", f"{label} at {where}", lambda m, w=where, v=value: fill(m, f"{w}_scale", v))
case("scale", "two for one tensor", lambda m: put(m, "x_q_scale", [0.05, 0.05]))
case("scale", "one channel short", lambda m: put(m, "conv_weight_dq_scale", [0.01] * 5))
case("scale", "none", lambda m: put(m, "conv_weight_dq_scale", []))
case("scale", "a tensor", lambda m: put(m, "conv_weight_dq_scale", np.full((6, 4, 3, 3), 0.01)))
case("scale", "float64", lambda m: put(m, "x_q_scale", 0.05, np.float64))
case("scale", "int32", lambda m: put(m, "x_q_scale", 1, np.int32))
for where in ("x_q", "first_dq", "conv_weight_dq"):
    for dtype in ("uint8", "int16", "uint16", "int32", "int64", "float32"):

        def change(model, zero_point=f"{where}_zero_point", dtype=dtype):
            put(model, zero_point, numpy_helper.to_array(tensor(model, zero_point)).astype(dtype), dtype)

        case("zero point", f"{dtype} at {where}", change)
case("zero point", "two for one tensor", lambda m: put(m, "x_q_zero_point", [0, 0]))
for axis in (9, -9, 1):
    case("axis", f"{axis} of a weight", lambda m, a=axis: attribute(m, "conv_weight_dq", "axis", a))

# Sizes

for dims in (
    [6, 4, 3, -3],
    [6, 4, 3, 0],
    [6, 4, 3, 4],
    [6, 4, 3],
    [],
    [HUGE, 4, 3, 3],
    [2**62, 2**62, 2, 2],
    [6, 4, 9],
):
    case("dimensions", f"weight {dims}", setter(of(tensor, "conv_weight"), dims=dims))
for dims in ([7], [0], [-1], [6, 1], [2**33]):
    case("dimensions", f"bias {dims}", setter(of(tensor, "conv_bias"), dims=dims))
for axis, size in ((0, 0), (0, -1), (0, 2**31), (1, 5), (1, 0), (2, 0), (2, -2), (2, HUGE), (3, 2**62)):
    path = ("graph", "input", 0, "type", "tensor_type", "shape", "dim", axis)
    case("dimensions", f"input {size} on axis {axis}", setter(*path, dim_value=size))
case("dimensions", "input symbolic", setter(*path[:-1], 2, dim_param="h"))
for shape in ([1, -2], [-1, -1], [1, HUGE], [1, 7]):
    case("dimensions", f"reshaped to {shape}", lambda m, s=shape: put(m, "shape", s))
case("dimensions", "reshaped by floats", lambda m: put(m, "shape", [1, 6], np.float32))

# Data

WEIGHT = tensor(healthy(), "conv_weight").raw_data
case("data", "a byte short", setter(of(tensor, "conv_weight"), raw_data=WEIGHT[:-1]))
case("data", "a byte long", setter(of(tensor, "conv_weight"), raw_data=WEIGHT + b"\0"))
case("data", "none", setter(of(tensor, "conv_weight"), raw_data=None))
case("data", "none in a scale", setter(of(tensor, "x_q_scale"), raw_data=None))
case("data", "in two fields", setter(of(tensor, "conv_weight"), int32_data=[1] * 216))
for code in (
    TensorProto.UNDEFINED,
    99,
    TensorProto.STRING,
    TensorProto.COMPLEX64,
    TensorProto.FLOAT8E4M3FN,
    TensorProto.INT4,
):
    case("data", f"type {code}", setter(of(tensor, "conv_weight"), data_type=code))
case(
    "data", "float weight", lambda m: put(m, "conv_weight", numpy_helper.to_array(tensor(m, "conv_weight")), np.float32)
)
case("data", "a segment", lambda m: setattr(tensor(m, "conv_weight").segment, "begin", 1))
case("data", "nameless", setter(of(tensor, "conv_weight"), name=""))

# Graph


def _sparse(model):
    values = helper.make_tensor("values", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("indices", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))


case("graph", "cycle", setter(of(node, "x_q"), input=["relu_out", "x_q_scale", "x_q_zero_point"]))
case("graph", "cycle of one node", setter(of(node, "relu"), input=["relu_out"]))
case("graph", "dangling input", setter(of(node, "relu"), input=["ghost"]))
case("graph", "dangling weight", setter(of(node, "conv"), input=["x_dq_out", "ghost"]))
case("graph", "dangling output", setter("graph", "output", 0, name="ghost"))
case("graph", "nameless output", setter("graph", "output", 0, name=""))
case("graph", "nameless input", setter("graph", "input", 0, name=""))
case("graph", "node twice", lambda m: m.graph.node.append(node(m, "relu")))
case("graph", "tensor made twice", setter(of(node, "pool"), output=["relu_out"]))
case("graph", "input made by a node", setter(of(node, "relu"), output=["x"]))
case("graph", "constant made by a node", setter(of(node, "relu"), output=["conv_weight"]))
case("graph", "initializer twice", lambda m: m.graph.initializer.append(tensor(m, "conv_weight")))
case("graph", "input twice", lambda m: m.graph.input.append(m.graph.input[0]))
case("graph", "output twice", lambda m: m.graph.output.append(m.graph.output[0]))
for field in ("input", "output", "node", "initializer", "name"):
    case("graph", f"no {field}", setter("graph", **{field: None}))
case("graph", "no graph", setter(graph=None))
case("graph", "sparse initializer", _sparse)
case("graph", "input without type", setter("graph", "input", 0, type=None))
case("graph", "input without shape", setter("graph", "input", 0, "type", "tensor_type", shape=None))
for code in (77, TensorProto.STRING, TensorProto.INT8):
    case("graph", f"input of type {code}", setter("graph", "input", 0, "type", "tensor_type", elem_type=code))
sequence = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)
case("graph", "input of sequences", lambda m: m.graph.input[0].CopyFrom(sequence))
case("graph", "too many operands", setter(of(node, "relu"), input=["conv_out", "x", "x"]))
case("graph", "no operands", setter(of(node, "conv"), input=[]))
case("graph", "no weight", setter(of(node, "conv"), input=["x_dq_out"]))
case("graph", "nameless weight", setter(of(node, "conv"), input=["x_dq_out", ""]))
case("graph", "no result", setter(of(node, "relu"), output=[]))
case("graph", "two results", setter(of(node, "relu"), output=["relu_out", "more"]))

# Versions and operators

case("version", "no operator set", setter(opset_import=[]))
for version in (0, -1, 6, 10**9):
    case("version", f"operator set {version}", setter("opset_import", 0, version=version))
case("version", "operator set twice", lambda m: m.opset_import.append(helper.make_opsetid("", 13)))
for version in (0, 99, None):
    case("version", f"IR {version}", setter(ir_version=version))
case("operator", "unknown", setter(of(node, "relu"), op_type="Frobnicate"))
case("operator", "nameless", setter(of(node, "relu"), op_type=""))
case("operator", "of a domain not imported", setter(of(node, "relu"), domain="org.example"))


def _foreign(model):
    node(model, "relu").domain = "org.example"
    model.opset_import.append(helper.make_opsetid("org.example", 1))


case("operator", "of a domain nobody has", _foreign)

# Attributes

WINDOWS = {
    ("conv", "kernel_shape"): ([0, 0], [-1, 3], [3], [3, 3, 3], [5, 5], [2**33, 3]),
    ("conv", "strides"): ([0, 1], [-1, -1], [1]),
    ("conv", "pads"): ([-1, 0, 0, 0], [1, 1], [1] * 6, [HUGE, 0, 0, 0], [2**31] * 4),
    ("conv", "dilations"): ([0, 1], [-2, 1], [1], [HUGE, 1], [9, 9]),
    ("conv", "group"): (0, -1, 3, 7, HUGE),
    ("conv", "auto_pad"): ("SIDEWAYS",),
    ("pool", "kernel_shape"): ([0, 0], [-1, 2], [2], [2**33, 2], [99, 99]),
    ("pool", "strides"): ([0, 1], [-1, -1]),
    ("pool", "pads"): ([-1, 0, 0, 0], [2, 2, 2, 2], [5, 5, 5, 5], [HUGE, 0, 0, 0]),
    ("pool", "dilations"): ([0, 1], [9, 9]),
}
for (where, key), values in WINDOWS.items():
    for value in values:
        case("window", f"{where} {key} {value}", lambda m, w=where, k=key, v=value: attribute(m, w, k, v))
case("window", "pool without a kernel", lambda m: node(m, "pool").ClearField("attribute"))
case("attribute", "unknown", lambda m: attribute(m, "conv", "colour", 3))
case("attribute", "float for ints", lambda m: attribute(m, "conv", "strides", 1.5))
case("attribute", "list for an int", lambda m: attribute(m, "conv", "group", [1]))
case("attribute", "twice", lambda m: node(m, "conv").attribute.append(node(m, "conv").attribute[0]))
case("attribute", "nameless", setter(of(node, "conv"), "attribute", 0, name=""))
case("attribute", "of a function outside one", setter(of(node, "conv"), "attribute", 0, ref_attr_name="x"))
case("attribute", "alpha nan", lambda m: attribute(m, "gemm", "alpha", float("nan")))
case("attribute", "beta infinite", lambda m: attribute(m, "gemm", "beta", float("inf")))
case("attribute", "matrix not transposed", lambda m: attribute(m, "gemm", "transB", 0))

# Nesting


def _nested(depth):
    def damage(model):
        out = [helper.make_tensor_value_info("leaf", TensorProto.FLOAT, None)]
        body = helper.make_graph([helper.make_node("Identity", ["x"], ["leaf"])], "leaf", [], out)
        for level in range(depth):
            name = f"level_{level}"
            out = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
            other = helper.make_graph([helper.make_node("Identity", ["x"], [f"{name}_e"])], "other", [], [])
            other.output.append(helper.make_tensor_value_info(f"{name}_e", TensorProto.FLOAT, None))
            branches = {"then_branch": body, "else_branch": other}
            body = helper.make_graph([helper.make_node("If", ["flag"], [name], **branches)], name, [], out)
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
        model.graph.node.extend(body.node)

    return damage


def _functions(depth, first):
    """Return what adds `depth` functions, each of which calls the one before twice, the first of them `first`."""

    def damage(model):
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
        model.opset_import.append(imports[1])
        for level in range(depth):
            called = {"op_type": f"f{level - 1}", "domain": "local"} if level else first
            body = [helper.make_node(inputs=[a], outputs=[b], **called) for a, b in (("a", "c"), ("c", "b"))]
            model.functions.append(helper.make_function("local", f"f{level}", ["a"], ["b"], body, imports))
        relu = node(model, "relu")
        relu.op_type, relu.domain = f"f{depth - 1}", "local"

    return damage


def _bomb(model):
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**20, 2**20]), "size"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["bomb"], name="bomb"))


case("nesting", "20 branches", _nested(20))
case("nesting", "24 branches", _nested(24))
case("nesting", "2^40 calls of functions", _functions(40, {"op_type": "Identity"}))
case("nesting", "a function calls itself", _functions(1, {"op_type": "f0", "domain": "local"}))
case("nesting", "two functions call each other", _functions(2, {"op_type": "f1", "domain": "local"}))
case("nesting", "a tensor of a terabyte", _bomb)

# Files


def external(name, location="weights.bin", prepare=None, **entries):
    """Add a case whose convolution's weight lies at `location`; `prepare` sets up the model's folder."""

    def write(folder: Path) -> Path:
        inside = folder / "model"
        inside.mkdir()
        (folder / "secret.bin").write_bytes(WEIGHT)
        (inside / "weights.bin").write_bytes(WEIGHT)
        if prepare:
            prepare(inside)
        model = healthy()
        weight = tensor(model, "conv_weight")
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            weight.external_data.add(key=key, value=str(value))
        path = inside / "bad.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    CASES.append(Case("external data", name, write))


external("above the folder", "../secret.bin")
external("above, through a folder", "sub/../../secret.bin", lambda f: (f / "sub").mkdir())
external("absolute", "/etc/hostname")
external("of Windows, above", "..\\secret.bin")
external("nowhere", "ghost.bin")
external("no location", "")
external("the folder itself", ".")
external("a folder", "sub", lambda f: (f / "sub").mkdir())
external("with a zero byte", "weights.bin\0.txt")
external("a symbolic link", "link.bin", lambda f: (f / "link.bin").symlink_to("../secret.bin"))
external("through a linked folder", "up/secret.bin", lambda f: (f / "up").symlink_to(".."))
external("a hard link", "hard.bin", lambda f: os.link(f.parent / "secret.bin", f / "hard.bin"))
external("a pipe", "pipe", lambda f: os.mkfifo(f / "pipe"))
external("offset negative", offset=-1)
external("offset not a number", offset="0x10")
external("offset past the end", offset=4096)
external("offset huge", offset=2**70)
external("length negative", length=-216)
external("length past the end", length=217)
external("length too small", length=215)
external("length zero", length=0)


def file(name, data):
    """Add a case of a file whose bytes `data` makes from the healthy network's."""

    def write(folder: Path) -> Path:
        path = folder / "bad.onnx"
        path.write_bytes(data(healthy().SerializeToString()))
        return path

    CASES.append(Case("file", name, write))


file("empty", lambda data: b"")
file("text", lambda data: b"this is no model\n")
file("zeros", lambda data: bytes(4096))
file("of 0xff", lambda data: b"\xff" * 4096)
file("compressed", lambda data: b"\x1f\x8b\x08\x00" + data)
file("length of a field huge", lambda data: data[:1] + b"\xff\xff\xff\xff\x0f" + data[2:])
for share in (1, 10, 25, 50, 75, 90, 99):
    file(f"cut after {share}%", lambda data, share=share: data[: len(data) * share // 100])
file("cut by a byte", lambda data: data[:-1])
file("twice", lambda data: data + data)
