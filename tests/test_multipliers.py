import numpy as np
import pytest

from hwq.ir import Add, AveragePool, Conv, Gemm, Graph, Tensor
from hwq.multipliers import multipliers, on_lattice


def graph_of(x_scale, y_scale):
    return Graph("net", tensors={"x": Tensor("x", (1,), "int8", x_scale), "y": Tensor("y", (1,), "int8", y_scale)})


def matrix(kind, scale, **attributes):
    empty = {"weight": np.zeros((1, 1, 1, 1)), "weight_zero_point": np.zeros(1), "bias": np.zeros(1)}
    return kind(name="op", inputs=("x",), outputs=("y",), weight_scale=np.float32([scale]), **empty, **attributes)


def f32(value):
    return float(np.float32(value))


def test_product_of_the_input_scales_is_rounded_before_the_quotient():
    (m,) = multipliers(graph_of(f32(0.05), f32(0.07)), matrix(Conv, 0.3))
    product = np.float32(f32(0.05) * f32(0.3))  # float64 holds the product exactly
    assert m == np.float32(float(product) / f32(0.07))
    assert m != np.float32(f32(0.05) * float(np.float32(f32(0.3) / f32(0.07))))


def test_alpha_comes_first():
    (m,) = multipliers(graph_of(f32(0.61), f32(0.17)), matrix(Gemm, 0.32, alpha=f32(0.77)))
    # Multiplying the scales first gives ...426, dividing before multiplying ...427.
    assert m.view(np.uint32) == 1063409428


def test_average_divides_by_the_scaled_count():
    pool = AveragePool(name="op", inputs=("x",), outputs=("y",), kernel=(3, 1))
    (m,) = multipliers(graph_of(f32(0.7), f32(0.1)), pool)
    assert m == np.float32(f32(0.7) / float(np.float32(f32(0.1) * 3)))


def test_infinite_multiplier_is_cut():
    (m,) = multipliers(graph_of(f32(1e30), f32(1e-30)), matrix(Conv, 1.0))
    assert m == np.finfo(np.float32).max


def test_operator_without_a_multiplier():
    with pytest.raises(TypeError, match="Add has no multiplier"):
        multipliers(graph_of(1.0, 1.0), Add(name="op", inputs=("x", "x"), outputs=("y",)))


def test_multipliers_on_the_lattice():
    """Multiples of 2**-16 but 0: 1.5 of its steps aren't."""
    assert on_lattice([2.0**-16, 2.0**-17, 3 * 2.0**-17, 0.75, 0.1, 0, 300]).tolist() == [1, 0, 0, 1, 0, 0, 1]
