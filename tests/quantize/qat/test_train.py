"""What training is worth on handwritten digits, what each part of it does, and that it can be repeated and resumed."""

import numpy as np
import onnx
import pytest
import torch

import hwq
from hwq.compiler import load
from hwq.errors import HwqError, InputError, ModelError
from hwq.host import oracle_session
from hwq.onnx_writer import write
from hwq.quantize import Recipe as PostTraining
from hwq.quantize import qat, quantize
from hwq.quantize.qat import trainer
from tests.onnx_models import Builder
from tests.quantize.networks import convnet, run, samples
from tests.quantize.qat.digits import data, float_model
from tests.quantize.qat.test_module import differing


def points(model, quantized=True):
    """Test images classified rightly under ONNX Runtime [%]."""
    _, _, x, y = data()
    session = oracle_session(write(load(model)) if quantized else model)
    return 100 * float(np.mean([session.run(None, {"image": row[np.newaxis]})[0].argmax() for row in x] == y))


@pytest.mark.slow
@pytest.mark.system
def test_4_bits_everywhere_where_post_training_quantization_loses_3_points(record_property):
    x, y, test_x, _ = data()
    model = float_model("bottlenecks")
    before = points(model, quantized=False)
    after = points(quantize(model, {"image": x}, PostTraining(weights="int4", activations="uint4")))
    trained = qat.train(model, {"image": x}, y, qat.Recipe(epochs=18, batch=64, parts=(qat.FreezeNorms(0.5),)))
    learned = points(trained.model)
    record_property("points", f"float {before}, post-training {after}, trained {learned}")
    assert before - after >= 3
    assert before - learned <= 1
    assert differing(trained.module, test_x) == 0
    checked = hwq.verify(trained.model, "ecp5-8x16", samples=1, targets=["reference", "machine", "verilator"])
    assert [rung.mismatches for rung in checked.rungs] == [0, 0, 0]
    assert checked.cycles_measured == checked.cycles_predicted


@pytest.mark.system
@pytest.mark.parametrize(
    ("name", "layers", "epochs", "parts"),
    [
        ("plain", 5, 10, (qat.FreezeNorms(0.5),)),
        pytest.param(
            "bottlenecks", 15, 60, (qat.FreezeNorms(0.8), qat.Distill(1.0)), marks=pytest.mark.slow, id="bottlenecks"
        ),
    ],
)
def test_weights_of_2_bits(record_property, name, layers, epochs, parts):
    x, y, test_x, _ = data()
    model = float_model(name)
    recipe = qat.Recipe(weights="int2", activations="uint8", epochs=epochs, batch=64, parts=parts)
    trained = qat.train(model, {"image": x}, y, recipe)
    before, learned = points(model, quantized=False), points(trained.model)
    record_property("points", f"float {before}, trained {learned}")
    assert before - learned <= 3
    weights = [onnx.numpy_helper.to_array(t) for t in trained.model.graph.initializer if t.data_type == 22]
    assert len(weights) == layers
    assert all(set(weight.astype(int).reshape(-1)) <= {-2, -1, 0, 1} for weight in weights)
    assert differing(trained.module, test_x) == 0
    checked = hwq.verify(trained.model, "sim-4x4", samples=1, targets=["reference", "machine", "verilator"])
    assert [rung.mismatches for rung in checked.rungs] == [0, 0, 0]


@pytest.mark.system
def test_from_scratch():
    x, y, _, _ = data()
    model = qat.reinitialize(float_model("plain"), seed=1)
    assert points(model, quantized=False) < 30
    trained = qat.train(
        model, {"image": x}, y, qat.Recipe(epochs=6, batch=64, rate=2e-2, parts=(qat.FreezeNorms(0.7),))
    )
    assert points(trained.model) > 90


# Small ones, of a network with random weights and answers


@pytest.fixture(scope="module")
def task():
    return {"x": samples(48)}, np.arange(48) % 5


def small(**changes):
    return qat.Recipe(**({"epochs": 3, "batch": 16, "parts": (qat.FreezeNorms(0.5),)} | changes))


def contents(trained):
    return trained.model.SerializeToString(deterministic=True)


def test_a_seed_gives_the_same_bytes_again(task):
    first, second, other = (qat.train(convnet(), *task, small(seed=seed)) for seed in (3, 3, 4))
    assert contents(first) == contents(second)
    assert contents(first) != contents(other)
    assert first.losses == second.losses


def test_what_the_caller_set_stays(task):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    qat.train(convnet(), *task, small(epochs=1))
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_an_interrupted_training_goes_on_to_the_same_bytes(task, tmp_path, monkeypatch, optimizer):
    recipe = small(epochs=4, optimizer=optimizer, rate=1e-3, parts=(qat.FreezeNorms(0.5), qat.Prune(0.5)))
    whole, path, calls = qat.train(convnet(), *task, recipe), tmp_path / "checkpoint", []

    def interrupted(self, batch, loss=trainer._Training._loss):
        calls.append(batch)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return loss(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Training, "_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            qat.train(convnet(), *task, recipe, checkpoint=path)
    assert len(torch.load(path, weights_only=True)["losses"]) == 2
    assert contents(qat.train(convnet(), *task, recipe, checkpoint=path)) == contents(whole)
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint"]


def test_checkpoints_of_something_else_are_refused(task, tmp_path):
    path = tmp_path / "checkpoint"
    qat.train(convnet(), *task, small(epochs=1), checkpoint=path)
    with pytest.raises(InputError, match=r"is the checkpoint of another model, data or recipe: remove it"):
        qat.train(convnet(), *task, small(epochs=2), checkpoint=path)
    with pytest.raises(InputError, match=r"is the checkpoint of another model, data or recipe: remove it"):
        qat.train(convnet(1), *task, small(epochs=1), checkpoint=path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match=r"checkpoint: isn't a checkpoint, or is damaged .*: remove it"):
        qat.train(convnet(), *task, small(epochs=1), checkpoint=path)


def test_distillation_teaches_what_labels_do_not_say():
    """All labels are wrong: only as far as the term goes does the student learn the teacher's answers."""
    x, y, _, _ = data()
    found = []
    for weight in (0.0, 20.0):
        recipe = small(epochs=6, rate=1e-2, parts=(qat.FreezeNorms(0.5), qat.Distill(weight, 1.0)))
        found.append(points(qat.train(float_model("plain"), {"image": x[:256]}, (y[:256] + 1) % 10, recipe).model))
    assert found[0] < 25
    assert found[1] > 85


def test_distillation_needs_no_labels(task):
    with pytest.raises(HwqError, match=r"there is nothing to learn from: give labels, or a part with a loss"):
        qat.train(convnet(), task[0], None, small())
    trained = qat.train(convnet(), task[0], None, small(parts=(qat.Distill(1.0, 2.0),)))
    assert trained.losses[-1] < trained.losses[0]


def test_distillation_is_the_published_divergence(task):
    part = qat.Distill(3.0, 4.0)
    part.begin(*(lambda c: (c.model, c.feeds))(calibrated(task[0])))
    rng = np.random.default_rng(0)
    student = rng.normal(size=(5, 1, 5))
    got = part.loss(torch.from_numpy(student), torch.arange(5)).item()
    (teacher,) = run(convnet(), task[0]["x"][:5])  # its Softmax, whose temperature is 1

    def soft(logits):
        powers = np.exp(logits / 4)
        return powers / powers.sum(axis=-1, keepdims=True)

    p, q = soft(np.log(teacher)), soft(student[:, 0])
    assert got == pytest.approx(3 * 16 * (p * np.log(p / q)).sum(axis=1).mean(), rel=1e-4)


def calibrated(feeds):
    from hwq.quantize.solve import calibrate

    return calibrate(convnet(), "model", feeds, PostTraining(), lambda *_: None)


def zeros(model):
    """Share of the weights that are 0, by layer."""
    values = [onnx.numpy_helper.to_array(t).astype(int) for t in model.graph.initializer if t.data_type in (3, 22)]
    return [float((value == 0).mean()) for value in values]


def test_pruned_weights_are_0_in_the_export(task):
    whole, pruned = (
        qat.train(convnet(), *task, small(epochs=4, weights="int8", parts=parts))
        for parts in ((), (qat.Prune(0.75, until=0.5),))
    )
    assert all(share >= 0.75 - 1e-9 or share * 40 >= 29 for share in zeros(pruned.model))
    assert max(zeros(whole.model)) < 0.2
    assert differing(pruned.module, samples(8, seed=5)) == 0


def test_pruning_takes_the_smallest_weights_along_its_schedule(task):
    trained = qat.train(convnet(), *task, small(epochs=1))
    layer = trained.module.layers[0]
    size = layer.weight.detach().abs().flatten().numpy()
    for share, wanted in ((0.0, 0.0), (0.25, 0.5 * (1 - 0.5**3)), (0.5, 0.5), (1.0, 0.5)):
        qat.Prune(0.5, until=0.5).epoch(trained.module, share)
        gone = layer.mask.flatten().numpy() == 0
        assert gone.sum() == int(wanted * len(size))
        assert not gone.any() or size[gone].max() <= size[~gone].min()


def test_labels_that_do_not_fit_are_refused(task):
    feeds, _ = task
    for labels, sentence in (
        (np.zeros(47, int), r"the labels are 47 of int64: give 48 integers"),
        (np.zeros(48), r"the labels are 48 of float64: give 48 integers"),
        (np.full(48, 5), r"the labels run from 5 to 5: the network has 5 classes"),
    ):
        with pytest.raises(InputError, match=sentence):
            qat.train(convnet(), feeds, labels, small())


def test_a_loss_that_explodes_says_so(task):
    with pytest.raises(HwqError, match=r"the loss became (nan|inf) in epoch \d: choose a lower rate"):
        qat.train(convnet(), *task, small(rate=1e30, optimizer="sgd"))


def test_a_teacher_that_does_not_fit_is_refused(task):
    build = Builder()
    weight = build.constant(np.ones((3, 4)), np.float32)
    features = build.node("Flatten", [build.node("GlobalAveragePool", [build.input("x", (1, 3, 8, 8))])])
    teacher = build.model(build.node("Gemm", [features, weight]))
    with pytest.raises(ModelError, match=r"the teacher's outputs are \[1, 4\], not \[1, 5\]"):
        qat.train(convnet(), *task, small(parts=(qat.Distill(teacher=teacher),)))
    with pytest.raises(ModelError, match=r"the teacher's inputs are image, the network's x"):
        qat.train(convnet(), *task, small(parts=(qat.Distill(teacher=float_model("plain")),)))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weights": "int3"}, "weights can't be 'int3': choose from int8, int4, int2"),
        ({"activations": "int8"}, "activations can't be 'int8': choose from uint8, uint4"),
        ({"optimizer": "adamw"}, "there is no optimizer 'adamw': choose from adam, sgd"),
        ({"epochs": 0}, "epochs 0 isn't a positive number"),
        ({"step_rate": 0.0}, "step_rate 0.0 isn't above 0"),
    ],
)
def test_bad_recipes_are_refused(changes, sentence):
    with pytest.raises(HwqError, match=sentence):
        qat.Recipe(**changes)


def test_bad_parts_are_refused():
    for make in (lambda: qat.Prune(1.0), lambda: qat.Prune(0.5, until=0), lambda: qat.Distill(1.0, 0.0)):
        with pytest.raises(HwqError):
            make()


def test_layers_have_the_weights_chosen_for_them(task):
    names = list(qat.train(convnet(), *task, small(epochs=1)).module.network.layers)
    trained = qat.train(convnet(), *task, small(epochs=1, weights={names[1]: "int4"}))
    assert [layer.bits for layer in trained.module.layers] == [8, 4, 8, 8]
    with pytest.raises(ModelError, match="there is no layer 'nothing' whose weights could be chosen"):
        qat.train(convnet(), *task, small(weights={"nothing": "int4"}))
