"""ONNX's own node tests: what ONNX Runtime makes of them is made here too, or refused in words.

Every model comes twice: as shipped, its scales and weights being inputs, and with all inputs but the first stored in
the model, as real networks have them.
"""

import warnings
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from hwq import reference
from hwq.compiler import load
from hwq.errors import HwqError, ModelError
from hwq.host import run_once
from hwq.ir import HostNode

pytestmark = pytest.mark.xdist_group("onnx_backend")

QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinear", "MatMulInteger", "ConvInteger")
NEWEST_OPSET = 23
"""The newest that ONNX Runtime 1.31 knows whole."""

ON_INTEGERS = {
    "test_qlinearconv",
    "test_qlinearmatmul_2D_int8_float32",
    "test_qlinearmatmul_2D_uint8_float32",
}
"""Models that leave nothing to the host once their parameters are stored in them."""


@pytest.fixture(scope="module")
def cases():
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the generators overflow and divide by zero on purpose
        return [case for case in load_model_tests(kind="node") if case.model is not None and case.data_sets]


def is_quantized(case):
    return any(node.op_type.startswith(QUANTIZED) for node in case.model.graph.node)


def runnable(model):
    """Return a copy within the versions that ONNX Runtime reads."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = min(copy.ir_version, 10)
    for entry in copy.opset_import:
        if not entry.domain:
            entry.version = min(entry.version, NEWEST_OPSET)
    return copy


def store_parameters(model, values):
    """Return a copy in which all inputs but the first are constants."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = max(copy.ir_version, 4)  # before it, constants had to be inputs too
    for value, info in list(zip(values, copy.graph.input, strict=False))[1:]:
        copy.graph.initializer.append(numpy_helper.from_array(value, info.name))
    del copy.graph.input[1:]
    return copy


def forms(case):
    """Yield each form of a test, its inputs and its expected outputs; nothing where an input isn't a tensor."""
    inputs, expected = case.data_sets[0]
    values = [numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else x for x in inputs]
    if any(isinstance(x, list | dict | None.__class__) for x in values):
        return
    values = [np.asarray(x) for x in values]
    model = runnable(case.model)
    yield "as shipped", model, values, expected
    if len(values) > 1:
        yield "parameters stored", store_parameters(model, values), values[:1], expected


def outcome(model, values):
    """Return what became of a model, why, and its outputs.

    Only the project's own errors are caught, so anything else fails the test with its traceback.
    """
    feeds = dict(zip((info.name for info in model.graph.input), values, strict=True))
    try:
        oracle = run_once(model, feeds)
    except ModelError:
        oracle = None
    try:
        graph = load(model)
        got = reference.run(graph, feeds)
    except HwqError as refusal:
        return "refused" if oracle is not None else "ONNX Runtime doesn't run it", str(refusal), None
    assert oracle is not None, "runs here, though not in ONNX Runtime"
    reasons = [op.reason for op in graph.ops if isinstance(op, HostNode)]
    assert all(reasons)
    for name, want in oracle.items():
        assert np.shape(got[name]) == np.shape(want)
        assert np.asarray(got[name]).dtype.kind == np.asarray(want).dtype.kind
    return "host" if reasons else "integers", "; ".join(dict.fromkeys(reasons)), (got, oracle)


def is_near(case, expected, got):
    """Whether outputs lie within a test's own tolerance of what ONNX ships."""
    expected = [numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else np.asarray(x) for x in expected]
    return all(
        np.shape(y) == x.shape and np.allclose(y, x, rtol=case.rtol, atol=case.atol, equal_nan=True)
        for x, y in zip(expected, got.values(), strict=True)
    )


def test_quantized_operators_equal_onnx_runtime(cases):
    counts, on_integers, near, compared = Counter(), set(), 0, 0
    quantized = [case for case in cases if is_quantized(case)]
    for case in quantized:
        for form, model, values, expected in forms(case):
            kind, why, results = outcome(model, values)
            counts[form, kind] += 1
            print(f"{case.name}, {form}: {kind}. {why}")
            if results is None:
                assert why, case.name
                continue
            got, oracle = results
            for name, want in oracle.items():
                np.testing.assert_array_equal(got[name], want, err_msg=f"{case.name}, {form}")
                assert got[name].dtype == want.dtype
            compared += 1
            if is_near(case, expected, got):
                near += 1
            else:
                print("  outside the test's own tolerance of what ONNX expects, as ONNX Runtime is")
            if kind == "integers":
                on_integers.add(case.name)
    print(f"{len(quantized)} of {len(cases)} node tests have quantized operators")
    for (form, kind), count in sorted(counts.items()):
        print(f"  {form}: {kind} {count}")
    print(f"  within the tests' own tolerance of ONNX's expected outputs: {near} of {compared}")
    assert len(quantized) >= 40
    assert on_integers == ON_INTEGERS
    assert not any(kind == "refused" for _, kind in counts)


@pytest.mark.slow
def test_no_operator_breaks_the_reader(cases):
    """Every node test of ONNX: host nodes give what ONNX Runtime gives, refusals are sentences, nothing crashes."""
    counts, differences = Counter(), []
    for case in cases:
        for form, model, values, _ in forms(case):
            kind, why, results = outcome(model, values)
            counts[kind] += 1
            if results is None:
                assert why, case.name
                assert "\n" not in why, case.name
                continue
            got, oracle = results
            for name, want in oracle.items():
                if np.asarray(want).dtype == np.float16:  # whole models keep some of them in float32 between nodes
                    same = np.allclose(got[name], want, rtol=1e-2, atol=1e-3, equal_nan=True)
                elif np.asarray(want).dtype.kind == "f":
                    same = np.array_equal(got[name], want, equal_nan=True)
                else:
                    same = np.array_equal(got[name], want)
                if not same:
                    differences.append((case.name, form, name))
    print(dict(counts))
    assert not differences
    assert counts["host"] + counts["integers"] > 2000
