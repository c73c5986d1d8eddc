import numpy as np
import onnx
import pytest

from hwq.host import run_model
from hwq.ir import Add, Graph, HostNode, MaxPool, Reshape, Tensor
from hwq.passes.partition import ArrayPart, HostPart, partition


def build(*steps):
    """Make a graph of steps "kind name from,from": h(ost), a(rray), v(iew) or r(efused by the array)."""
    tensors = {"x": Tensor("x", (1, 1, 2, 2), "int8", 0.5, 0)}
    graph = Graph("net", ["x"], [], tensors, {}, [], {"": 17})
    for step in steps:
        kind, name, sources = step.split()
        inputs = tuple(sources.split(","))
        tensors[name] = Tensor(name, (1, 1, 2, 2), "int8", 0.5, 0)
        if kind == "h":
            node = onnx.helper.make_node("Max" if len(inputs) > 1 else "Identity", inputs, [name])
            graph.ops.append(HostNode(name=name, inputs=inputs, outputs=(name,), node=node, reason="a test"))
        elif kind == "v":
            graph.ops.append(Reshape(name=name, inputs=inputs, outputs=(name,)))
        elif len(inputs) > 1:
            graph.ops.append(Add(name=f"{kind}:{name}", inputs=inputs, outputs=(name,)))
        else:
            graph.ops.append(MaxPool(name=f"{kind}:{name}", inputs=inputs, outputs=(name,), kernel=(1, 1)))
    read = {name for op in graph.ops for name in op.inputs}
    graph.outputs = [op.outputs[0] for op in graph.ops if op.outputs[0] not in read]
    return graph


def shape_of(graph):
    parts = partition(graph, lambda op: "refused" if op.name.startswith("r:") else None)
    assert sorted(op.name for part in parts for op in part.ops) == sorted(op.name for op in graph.ops)
    known = set(graph.inputs)
    for part in parts:
        assert known.issuperset(part.inputs)
        known.update(part.outputs)
        if isinstance(part, HostPart):
            assert [value.name for value in part.model.graph.input] == list(part.inputs)
            assert [value.name for value in part.model.graph.output] == list(part.outputs)
    assert known.issuperset(graph.outputs)
    names = ["".join(op.outputs[0] for op in part.ops) for part in parts]
    return [("A" if isinstance(part, ArrayPart) else "H") + name for part, name in zip(parts, names, strict=True)]


@pytest.mark.parametrize(
    ("steps", "parts"),
    [
        (["h b x", "a c b", "a d c", "h e d"], ["Hb", "Acd", "He"]),
        (["a b x", "r c b"], ["Ab", "Hc"]),
        (["a b x", "h c x", "a d c"], ["Hc", "Abd"]),  # starting with the array would take three parts
        (["a b x", "h c b", "h d x", "a e b"], ["Abe", "Hcd"]),
        (["a b x", "h c b", "a d c", "h e b", "a f e", "h g d,f"], ["Ab", "Hce", "Adf", "Hg"]),
        (["v b x", "h c b"], ["Hbc"]),
        (["v b x", "v c b", "a d c", "v e d", "h f e"], ["Abcde", "Hf"]),
        (["h b x", "v c b", "h d c"], ["Hbcd"]),
        (["h b x", "v c b", "h d c", "a e b"], ["Hbcd", "Ae"]),
        (["h b x", "v c b", "h d c", "a e d,c"], ["Hbcd", "Ae"]),
        (["v b x"], ["Hb"]),
        ([], []),
    ],
)
def test_parts_are_few_and_in_order(steps, parts):
    assert shape_of(build(*steps)) == parts


def test_constants_go_into_the_model():
    graph = build("h b x,k", "a c b")
    graph.tensors["k"] = Tensor("k", (1, 1, 2, 2), "int8")
    graph.constants["k"] = np.full((1, 1, 2, 2), 9, np.int8)
    host = partition(graph, lambda op: None)[0]
    assert isinstance(host, HostPart)
    assert host.inputs == ("x",)
    assert (run_model(host.model, {"x": np.zeros((1, 1, 2, 2), np.int8)})["b"] == 9).all()


def test_refused_operator_runs_in_its_host_part():
    graph = build("r b x")
    (part,) = partition(graph, lambda op: "refused")
    x = np.array([[[[-128, 127], [0, 5]]]], np.int8)
    assert np.array_equal(run_model(part.model, {"x": x})["b"], x)
