"""ONNX's own code in its child process: limits of time and memory, crashes, interrupts."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwq import onnx_guard
from hwq.errors import ModelError
from hwq.onnx_guard import GuardError
from hwq.onnx_reader import read
from tests.hostile.network import healthy


def endless():
    """Return a model whose only node, of a type that shape inference can't tell, turns for ever."""
    bodies = [helper.make_tensor_value_info(*value) for value in (("turn", 7, []), ("on", 9, []), ("v", 1, None))]
    results = [helper.make_tensor_value_info(*value) for value in (("still", 9, []), ("w", 1, None))]
    nodes = [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Neg", ["v"], ["w"])]
    body = helper.make_graph(nodes, "body", bodies, results)
    graph = helper.make_graph(
        [helper.make_node("Loop", ["turns", "go", "x"], ["y"], name="loop", body=body)],
        "endless",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(2**62), "turns"), numpy_helper.from_array(np.array(True), "go")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def answers():
    """Whether the guard still answers, and correctly."""
    onnx_guard.check(healthy())
    broken = healthy()
    broken.graph.node[0].op_type = "Frobnicate"
    with pytest.raises(GuardError, match="No Op registered"):
        onnx_guard.check(broken)
    return True


def test_endless_model_ends(monkeypatch):
    monkeypatch.setattr(onnx_guard, "TIME_LIMIT_S", 1.0)
    with pytest.raises(ModelError, match=r"'loop' \(Loop\).*ONNX hasn't finished with it after 1 s"):
        read(endless(), "endless")
    monkeypatch.undo()
    assert answers()


def test_memory_is_limited():
    size = helper.make_node("ConstantOfShape", ["size"], ["y"])
    shape = numpy_helper.from_array(np.array([onnx_guard.MEMORY_LIMIT]), "size")
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([size], "large", [], [output], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(GuardError, match="ONNX needs more than 4 GiB for it"):
        onnx_guard.run(model, {})
    assert answers()


def test_crash_is_told():
    onnx_guard.check(healthy())
    child = onnx_guard._CHILD._process
    threading.Timer(0.5, child.send_signal, [signal.SIGSEGV]).start()
    with pytest.raises(GuardError, match="ONNX crashed on it \\(signal 11\\)"):
        onnx_guard.run(endless(), {"x": np.ones((1, 4), np.float32)})
    assert answers()


def test_child_that_has_died_is_replaced():
    onnx_guard.check(healthy())
    child = onnx_guard._CHILD._process
    child.kill()
    child.wait()
    assert answers()


def test_interrupt_leaves_no_answer_behind():
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            onnx_guard.run(endless(), {"x": np.ones((1, 4), np.float32)})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert answers()


def test_values_come_back_as_they_are():
    rng = np.random.default_rng(0)
    feeds = {
        "a": rng.standard_normal((2, 3)).astype(np.float32),
        "b": rng.integers(-128, 128, (0, 4)).astype(np.int8),
        "c": np.array(["x", "ü", ""], object),
    }
    types = (TensorProto.FLOAT, TensorProto.INT8, TensorProto.STRING)
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in feeds],
        "same",
        [helper.make_tensor_value_info(name, code, None) for name, code in zip(feeds, types, strict=True)],
        [helper.make_tensor_value_info(f"{name}_out", code, None) for name, code in zip(feeds, types, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for name, value in onnx_guard.run(model, feeds).items():
        expected = feeds[name.removesuffix("_out")]
        assert (value.dtype, value.shape, value.tolist()) == (expected.dtype, expected.shape, expected.tolist())
    assert onnx_guard.types(model, feeds, ["a_out", "b_out"]) == {
        "a_out": [[2, 3], "float32"],
        "b_out": [[0, 4], "int8"],
    }


def test_child_ends_with_its_parent():
    program = "import sys; from hwq import onnx_guard; from tests.hostile.network import healthy\n"
    program += "onnx_guard.check(healthy()); print(onnx_guard._CHILD._process.pid, flush=True); sys.stdin.read()"
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    assert not ended(child)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 20
    while not ended(child):
        assert time.monotonic() < deadline, "the child outlives its parent"
        time.sleep(0.05)


def ended(process):
    """Whether a process is gone, or waits for its parent's parent to notice."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return True
    return "(zombie)" in status
