import numpy as np
import pytest

from hwq import reference
from hwq.ir import Conv, Gemm, Graph, Reshape, Tensor, Transpose
from hwq.passes.flatten_to_conv import flatten_to_conv
from tests.onnx_models import assert_exact


def flat_graph(shape=(2, 3, 4, 5), channels_last=False, target=None, alpha=1.0, outputs=("y",)):
    rng = np.random.default_rng(2)
    batch = shape[0]
    target = target or (batch, int(np.prod(shape[1:])))
    tensors = {
        "x": Tensor("x", shape, "int8", 0.05, 3),
        "t": Tensor("t", tuple(shape[axis] for axis in (0, 2, 3, 1)) if len(shape) == 4 else shape, "int8", 0.05, 3),
        "flat": Tensor("flat", target, "int8", 0.05, 3),
        "y": Tensor("y", (*target[:-1], 6), "int8", 0.4, -7),
    }
    ops = []
    if channels_last:
        ops.append(Transpose(name="turn", inputs=("x",), outputs=("t",), perm=(0, 2, 3, 1)))
    ops.append(Reshape(name="flatten", inputs=("t" if channels_last else "x",), outputs=("flat",)))
    gemm = Gemm(
        name="dense",
        inputs=("flat",),
        outputs=("y",),
        weight=rng.integers(-100, 100, (target[-1], 6)).astype(np.int8),
        weight_zero_point=np.arange(6),
        weight_scale=rng.uniform(0.005, 0.01, 6).astype(np.float32),
        bias=rng.integers(-99, 99, 6).astype(np.int32),
        alpha=alpha,
        lo=-20,
        hi=99,
    )
    return Graph("net", ["x"], list(outputs), tensors, {}, [*ops, gemm])


@pytest.mark.parametrize("channels_last", [False, True])
def test_gemm_over_a_flattened_image_becomes_a_convolution(channels_last):
    graph = flat_graph(channels_last=channels_last)
    changed = flatten_to_conv(graph)
    assert [op.kind for op in changed.ops] == ["Conv", "Reshape"]
    conv = changed.ops[0]
    assert isinstance(conv, Conv)
    assert conv.weight.shape == (6, 3, 4, 5)
    assert (conv.lo, conv.hi) == (-20, 99)
    assert set(changed.tensors) == {"x", "y", "y/image"}
    x = np.random.default_rng(4).integers(-128, 128, (8, 3, 4, 5)).astype(np.int8)
    assert np.array_equal(reference.run(graph, {"x": x})["y"], reference.run(changed, {"x": x})["y"])
    assert_exact(changed)


@pytest.mark.parametrize(
    "arguments",
    [
        {"shape": (2, 60, 1, 1)},
        {"target": (4, 30)},
        {"alpha": 0.5},
        {"shape": (2, 3, 20)},
    ],
    ids=["one pixel", "splits the image", "alpha", "no image"],
)
def test_other_forms_stay(arguments):
    graph = flat_graph(**arguments)
    assert [op.kind for op in flatten_to_conv(graph).ops] == ["Reshape", "Gemm"]


def test_flattened_tensor_somebody_else_reads_stays():
    changed = flatten_to_conv(flat_graph(outputs=("flat", "y")))
    assert [op.kind for op in changed.ops] == ["Reshape", "Conv", "Reshape"]
    assert changed.ops[1].inputs == ("x",)
