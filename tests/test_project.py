"""The project's own promises: files that must agree with one another, and the bundled demo."""

import re
import tomllib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hwq import demo

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(PYPROJECT)["project"]
REQUIREMENTS = [*PROJECT["dependencies"], *(r for extra in PROJECT["optional-dependencies"].values() for r in extra)]


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_dependency_says_why(requirement):
    line = next(line for line in PYPROJECT.splitlines() if line.strip().startswith(f'"{requirement}"'))
    assert re.search(r'",\s+# \w.{10,}', line), f"{requirement} has no comment saying why"


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_dependency_is_pinned_to_a_version_it_allows(requirement):
    direct = Requirement(requirement)
    (pin,) = [pin for pin in pins() if canonicalize_name(pin.name) == canonicalize_name(direct.name)]
    (exact,) = pin.specifier
    assert exact.operator == "=="
    assert direct.specifier.contains(exact.version)


def test_constraints_are_sorted_and_unique():
    names = [pin.name for pin in pins()]
    assert names == sorted(set(names))


def test_ci_runs_the_documented_test_command():
    lines = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if not line.startswith("#")]
    assert "set -euo pipefail" in commands
    assert commands[-1] == "make test"


def test_demo_assets_are_small():
    folder = demo.model_path().parent
    assert sum((folder / name).stat().st_size for name in ("digits.onnx", "digits.npz")) < 200_000


def test_demo_samples_are_pixels_in_sixteenths():
    images, labels = demo.load_samples()
    assert (images.shape, images.dtype) == ((360, 1, 8, 8), np.float32)
    assert (labels.shape, labels.dtype) == ((360,), np.int64)
    assert images.min() == 0
    assert images.max() == 1
    np.testing.assert_array_equal(images * 16, np.round(images * 16))
    # Stratified: the data set's 1797 samples are nearly balanced, so each digit keeps about a tenth.
    assert np.bincount(labels, minlength=10).min() >= 34


def test_demo_model_is_static_qdq_int8():
    model = onnx.load(demo.model_path())
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= 10
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    tensors = (*model.graph.input, *model.graph.output)
    shapes = {t.name: [d.dim_value for d in t.type.tensor_type.shape.dim] for t in tensors}
    assert shapes == {"image": [1, 1, 8, 8], "logits": [1, 10]}
    zero_points = {n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    types = {i.data_type for i in model.graph.initializer if i.name in zero_points}
    assert types == {onnx.TensorProto.INT8}


def test_demo_model_classifies_under_onnxruntime():
    session = onnxruntime.InferenceSession(demo.model_path(), providers=["CPUExecutionProvider"])
    images, labels = demo.load_samples()
    answers = [session.run(None, {"image": image[None]})[0].argmax() for image in images]
    assert np.mean(np.array(answers) == labels) >= 0.95


def test_missing_demo_file_names_the_file_and_the_remedy():
    with pytest.raises(FileNotFoundError, match=r"'.*nothing\.onnx' is missing.*make train-demo"):
        demo._asset("nothing.onnx")
