import numpy as np
import onnx
import pytest

from hwq import reference
from hwq.ir import Graph, HostNode, Reshape, Tensor, Transpose
from hwq.passes.fuse_views import fuse_views


def graph_of(*views, shape=(2, 3, 4), outputs=None):
    """Chain views given as target shapes (Reshape) or as ("perm", permutation)."""
    tensors = {"x": Tensor("x", shape, "int8", 0.5, 3)}
    ops = []
    name = "x"
    for position, view in enumerate(views):
        target = f"t{position}"
        source = tensors[name].shape
        if view[0] == "perm":
            ops.append(Transpose(name=f"v{position}", inputs=(name,), outputs=(target,), perm=view[1]))
            tensors[target] = Tensor(target, tuple(source[axis] for axis in view[1]), "int8", 0.5, 3)
        else:
            ops.append(Reshape(name=f"v{position}", inputs=(name,), outputs=(target,)))
            tensors[target] = Tensor(target, view, "int8", 0.5, 3)
        name = target
    return Graph("net", ["x"], outputs or [name], tensors, {}, ops)


def assert_same(graph, fused):
    x = np.arange(24, dtype=np.int8).reshape(graph.tensors["x"].shape)
    before, after = reference.run(graph, {"x": x}), reference.run(fused, {"x": x})
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("views", "left"),
    [
        ([(6, 4), (4, 6), (24,)], ["Reshape"]),
        ([("perm", (1, 2, 0)), ("perm", (1, 0, 2))], ["Transpose"]),
        ([(1, 24), ("perm", (1, 0)), (24, 1)], ["Reshape"]),
        ([("perm", (1, 0, 2)), (12, 2)], ["Transpose", "Reshape"]),
    ],
)
def test_chains_merge(views, left):
    graph = graph_of(*views)
    fused = fuse_views(graph)
    assert [op.kind for op in fused.ops] == left
    assert_same(graph, fused)


def test_transposes_that_cancel_leave_the_output_to_be_written():
    graph = graph_of(("perm", (1, 2, 0)), ("perm", (2, 0, 1)))
    fused = fuse_views(graph)
    assert [op.kind for op in fused.ops] == ["Reshape"]  # the output can't be the input itself
    assert_same(graph, fused)


def test_identity_in_the_middle_disappears():
    graph = graph_of(("perm", (1, 0, 2)), (3, 2, 4), ("perm", (0, 2, 1)))
    fused = fuse_views(graph)
    assert [op.kind for op in fused.ops] == ["Transpose", "Transpose"]
    assert fused.ops[1].inputs == fused.ops[0].outputs
    assert_same(graph, fused)


def test_identity_before_an_output_hands_its_name_to_the_producer():
    graph = graph_of(("perm", (1, 0, 2)), (3, 2, 4))
    fused = fuse_views(graph)
    assert [(op.kind, op.outputs) for op in fused.ops] == [("Transpose", ("t1",))]
    assert_same(graph, fused)


def test_inner_view_somebody_else_reads_stays():
    graph = graph_of((6, 4), (4, 6), outputs=["t0", "t1"])
    fused = fuse_views(graph)
    assert [op.inputs for op in fused.ops] == [("x",), ("x",)]
    assert_same(graph, fused)


def test_two_names_of_one_output():
    graph = graph_of(("perm", (1, 0, 2)), (3, 2, 4), outputs=["t0", "t1"])
    fused = fuse_views(graph)
    assert [op.kind for op in fused.ops] == ["Transpose", "Reshape"]
    assert_same(graph, fused)


def test_host_nodes_are_renamed():
    graph = graph_of(("perm", (1, 0, 2)), (3, 2, 4))
    node = onnx.helper.make_node("Identity", ["t1"], ["y"])
    graph.ops.append(HostNode(name="h", inputs=("t1",), outputs=("y",), node=node, reason="a test"))
    graph.tensors["y"] = Tensor("y", (3, 2, 4), "int8")
    graph.outputs = ["y"]
    fused = fuse_views(graph)
    assert [op.kind for op in fused.ops] == ["Transpose", "HostNode"]
    assert list(fused.ops[1].node.input) == ["t0"]
    assert list(node.input) == ["t1"]
    assert_same(graph, fused)


def test_the_argument_is_left_as_it_is():
    graph = graph_of((6, 4), (4, 6))
    before = (list(graph.ops), dict(graph.tensors))
    fuse_views(graph)
    assert (graph.ops, graph.tensors) == before
