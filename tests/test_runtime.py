"""The session: ONNX Runtime's signature, names and values on every target."""

import numpy as np
import onnx
import pytest

from hwq import InferenceSession, Program, compile, demo, runtime
from hwq.compiler import load, random_feeds
from hwq.errors import ArchError, DeviceError, HwqError, InputError, MissingToolError, ProgramError
from hwq.host import oracle_session
from hwq.onnx_writer import write
from hwq.runtime import MachineBackend, open_backend, pack, unpack
from tests.onnx_models import Builder
from tests.programs import tiny

TINY = tiny(2, 2, 4, 1, act_bytes=8192, weight_words=8192, param_words=512, slots=64)
TARGETS = ["reference", "machine", pytest.param("verilator", marks=pytest.mark.rtl)]


def small_model():
    """Two inputs and two outputs of different types: an Add and, of its result, a matrix product."""
    model = Builder()
    a = model.dequantize(model.input("a", (2, 4), "int8"), 0.5, 1)
    b = model.dequantize(model.input("b", (2, 4), "int8"), 0.25, -3)
    y = model.quantize(model.node("Add", [a, b]), 0.5, 2, output="sum")
    weight = model.weight(np.arange(-8, 4, dtype=np.int8).reshape(4, 3), 0.5)
    z = model.quantize(model.node("MatMul", [model.dequantize(y, 0.5, 2), weight]), 2.0, 0)
    return model.model("sum", model.dequantize(z, 2.0, 0, output="product"), types={"sum": ("int8", (2, 4))})


@pytest.mark.parametrize("target", TARGETS)
def test_session_answers_as_onnx_runtime_does(target):
    model = onnx.load(demo.model_path())
    theirs = oracle_session(write(load(model)))
    session = InferenceSession(model, "sim-4x4", target)
    assert [(i.name, list(i.shape)) for i in session.get_inputs()] == [(i.name, i.shape) for i in theirs.get_inputs()]
    assert [o.name for o in session.get_outputs()] == [o.name for o in theirs.get_outputs()]
    images, _ = demo.load_samples()
    for image in images[:5]:
        feed = {"image": image[np.newaxis]}
        (got,), (expected,) = session.run(None, feed), theirs.run(None, feed)
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(got, expected)
    session.close()


@pytest.mark.parametrize("target", TARGETS)
def test_batch_is_its_samples_one_after_another(target):
    session = InferenceSession(demo.model_path(), "sim-4x4", target)
    images, _ = demo.load_samples()
    (batch,) = session.run(["logits"], {"image": images[:6]})
    assert batch.shape == (6, 10)
    singles = [session.run(None, {"image": image[np.newaxis]})[0] for image in images[:6]]
    np.testing.assert_array_equal(batch, np.concatenate(singles))
    session.close()


@pytest.mark.parametrize("target", TARGETS)
def test_outputs_come_in_the_order_that_is_asked_for(target):
    model = small_model()
    feeds = random_feeds(load(model), 3, seed=9)
    oracle = oracle_session(write(load(model)))
    rows = [oracle.run(["product", "sum"], {name: feeds[name][2 * i : 2 * i + 2] for name in "ab"}) for i in range(3)]
    session = InferenceSession(model, TINY if target != "verilator" else "sim-4x4", target)
    for index, got in enumerate(session.run(["product", "sum"], feeds)):
        np.testing.assert_array_equal(got, np.concatenate([row[index] for row in rows]))
    assert [info.name for info in session.get_outputs()] == ["sum", "product"]
    with pytest.raises(InputError, match=r"No output 'c'; the outputs are sum, product"):
        session.run(["c"], feeds)
    session.close()


@pytest.mark.rtl
def test_amaranth_target_on_a_tiny_architecture():
    model = small_model()
    feeds = random_feeds(load(model), 2, seed=4)
    session = InferenceSession(model, TINY, "amaranth")
    got, expected = session.run(None, feeds), InferenceSession(model, TINY, "reference").run(None, feeds)
    for left, right in zip(got, expected, strict=True):
        np.testing.assert_array_equal(left, right)
    assert session.counters["cycles"] > 0
    session.close()


@pytest.mark.rtl
def test_counters_add_up_over_samples():
    images, _ = demo.load_samples()
    session = InferenceSession(demo.model_path(), "ecp5-8x16", "verilator")
    session.run(None, {"image": images[:1]})
    one = dict(session.counters)
    session.run(None, {"image": images[:3]})
    assert session.counters == {name: 3 * count for name, count in one.items()}
    session.close()


def test_program_file_graph_and_proto_are_the_same_model(tmp_path):
    images, _ = demo.load_samples()
    program = compile(demo.model_path(), "sim-4x4")
    program.save(tmp_path / "p.hwq")
    models = [demo.model_path(), str(demo.model_path()), onnx.load(demo.model_path()), load(demo.model_path())]
    sessions = [InferenceSession(model, "sim-4x4") for model in models]
    sessions += [InferenceSession(program), InferenceSession(tmp_path / "p.hwq"), InferenceSession(program, "sim-4x4")]
    answers = [session.run(None, {"image": images[:2]})[0] for session in sessions]
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_wrong_architecture_is_refused():
    program = compile(demo.model_path(), "sim-4x4", golden=False)
    with pytest.raises(ProgramError, match=r"compiled for arch 'sim-4x4' \(\w{8}\), not for 'ecp5-8x16' \(\w{8}\)"):
        InferenceSession(program, "ecp5-8x16")
    with pytest.raises(HwqError, match="needs an architecture"):
        InferenceSession(demo.model_path())
    with pytest.raises(ArchError, match="did you mean sim-4x4"):
        InferenceSession(demo.model_path(), "sim-4x4x")
    with pytest.raises(HwqError, match="runs models, not compiled programs"):
        InferenceSession(program, target="reference")


def test_unknown_targets_and_missing_tools(monkeypatch):
    for target in ("fpga", "serial", "serial:", "machine:0"):
        with pytest.raises(HwqError, match=f"No target {target!r}; the targets are reference, machine, "):
            open_backend(target, TINY)
    monkeypatch.setitem(runtime.BUSES, "verilator", "nothing_of_that_name")
    with pytest.raises(
        MissingToolError, match=r"needs nothing_of_that_name; install it with: pip install 'hwq\[sim\]'"
    ):
        open_backend("verilator", TINY)


@pytest.mark.parametrize("target", ["reference", "machine"])
@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({}, "input 'image' is missing"),
        ({"x": np.zeros(1)}, "has no input 'x'"),
        ({"image": np.zeros((1, 8, 8), np.float32)}, "must have shape"),
        ({"image": np.zeros((1, 1, 8, 8), np.float64)}, "must be float32, not float64"),
    ],
)
def test_wrong_inputs_are_refused(target, feed, message):
    with pytest.raises(InputError, match=message):
        InferenceSession(demo.model_path(), "sim-4x4", target).run(None, feed)


def test_machine_that_stops_says_where():
    program = compile(demo.model_path(), "sim-4x4", golden=False)
    words = program.words.copy()
    words[0] = 0xEE
    broken = Program(**{**vars(program), "words": words})
    with pytest.raises(DeviceError, match="stopped in slot 0: ILLEGAL_OPCODE"):
        InferenceSession(broken).run(None, {"image": np.zeros((1, 1, 8, 8), np.float32)})


def test_ports_pack_and_unpack():
    program = compile(demo.model_path(), "ecp5-8x16", golden=False)
    rng = np.random.default_rng(6)
    for step in program.array_steps:
        for port in (*step.inputs, *(layer.output for layer in step.layers)):
            if port.chain:
                continue
            info = np.iinfo(port.dtype)
            value = rng.integers(info.min, info.max, port.shape, port.dtype, endpoint=True)
            data = pack(port, value)
            assert (data.dtype, data.shape) == (np.int8, (port.size_bytes,))
            np.testing.assert_array_equal(unpack(port, data), value)


def test_machine_backend_reads_what_was_written():
    backend = MachineBackend(TINY)
    data = np.arange(-60, 60, dtype=np.int8)
    backend.write_act(17, data)
    np.testing.assert_array_equal(backend.read_act(17, data.size), data)
    assert backend.start() == {}
    assert backend.profile(3) == []
