"""The module's integers in evaluation are those of its export: under ONNX Runtime, and of every operator."""

import numpy as np
import onnx
import pytest
import torch

import hwq
from hwq import reference
from hwq.compiler import load
from hwq.config import load_arch
from hwq.errors import ModelError
from hwq.host import run_once
from hwq.onnx_writer import write
from hwq.quantize import Recipe
from hwq.quantize.emit import dequantized
from hwq.quantize.qat import QuantizedNetwork
from hwq.quantize.qat.module import arrays_of
from hwq.quantize.qat.norms import find_norms
from hwq.quantize.qat.operators import Form, Pair
from hwq.quantize.report import report
from hwq.quantize.scales import activations, widths
from hwq.quantize.solve import calibrate
from tests.onnx_models import Builder
from tests.quantize.networks import convnet, run, samples
from tests.quantize.test_quantizer import OPERATORS, layered


def build(model, x, weights=4, kind="uint4"):
    recipe = Recipe(activations=kind)
    calibrated = calibrate(model, "model", {"x": x}, recipe, lambda *_: None)
    network = calibrated.network()
    scales = activations(network, calibrated.histograms, recipe)
    bits = dict.fromkeys(network.layers, weights)
    return QuantizedNetwork(network, scales, widths(network, kind), bits, find_norms(model, "model"))


def integers(module, x):
    module.eval()
    with torch.no_grad():
        return arrays_of(module.integers(torch.from_numpy(x[:, np.newaxis])), module.forms)


def differing(module, x):
    """How many elements of all tensors differ from the export's: in the reference, and under ONNX Runtime."""
    found = integers(module, x)
    graph = load(module.export())
    names = {name: f"{name}_quantized" for name in found if f"{name}_quantized" in graph.tensors}
    assert len(names) >= 2
    kept = reference.run(graph, {graph.inputs[0]: x}, keep=list(names.values()))
    theirs = dict(zip(names, run(write(graph), x, *names.values()), strict=True))
    return sum(
        int((found[name].reshape(values.shape) != values).sum())
        for name, stored in names.items()
        for values in (kept[stored], theirs[name])
    )


def perturbed(module, seed=0):
    """Move every parameter, as training does: off the lattice, off what was calibrated."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            change = torch.from_numpy(rng.uniform(0.8, 1.2, tuple(parameter.shape)).astype(np.float32))
            parameter.mul_(change)
    return module


@pytest.mark.parametrize("kind", ["uint4", "uint8"])
@pytest.mark.parametrize("weights", [8, 4, 2])
def test_every_tensor_is_the_export_s(weights, kind):
    module = perturbed(build(convnet(), samples(16), weights, kind))
    assert differing(module, samples(64, seed=5)) == 0
    module.settle()
    assert differing(module, samples(64, seed=6)) == 0
    made = module.export()
    assert report(made, load_arch("ecp5-8x16")).lattice_share == 1
    x = samples(2, seed=7)
    assert hwq.verify(made, "ecp5-8x16", inputs={"x": x}, targets=["reference", "machine"]).ok


@pytest.mark.parametrize("name", sorted(set(OPERATORS) - {"product"}))
@pytest.mark.parametrize("kind", ["uint4", "uint8"])
def test_operator_is_the_export_s(name, kind):
    builder = Builder()
    model = builder.model(OPERATORS[name](builder, builder.input("x", (1, 3, 8, 8))), opset=18)
    module = perturbed(build(model, samples(8), 4, kind))
    assert differing(module, samples(16, seed=3)) == 0


@pytest.mark.parametrize("name", sorted(set(OPERATORS) - {"product"}))
def test_operator_passes_gradients(name):
    builder = Builder()
    model = builder.model(OPERATORS[name](builder, builder.input("x", (1, 3, 8, 8))), opset=18)
    module = build(model, samples(8))
    module.train()
    module(torch.from_numpy(samples(8)[:, np.newaxis])).square().sum().backward()
    for parameter in module.parameters():
        assert torch.isfinite(parameter.grad).all()
    for layer in module.layers:
        assert layer.weight.grad.abs().sum() > 0
        assert layer.step.grad.abs().sum() > 0


def test_training_and_evaluation_have_the_same_integers_where_no_norm_is_trained():
    module = build(convnet(), samples(16))
    for layer in module.layers:
        if layer.norm is not None:
            layer.norm.frozen = True
    x = torch.from_numpy(samples(8, seed=3)[:, np.newaxis])
    module.eval()
    quiet = module(x)
    module.train()
    assert torch.equal(module(x), quiet)


def test_weights_of_2_bits_are_stored_as_int4():
    made = perturbed(build(convnet(), samples(16), 2)).export()
    stored = [t for t in made.graph.initializer if t.data_type == onnx.TensorProto.INT4]
    assert len(stored) == 4
    values = np.concatenate([onnx.numpy_helper.to_array(t).astype(int).reshape(-1) for t in stored])
    assert set(values) == {-2, -1, 0, 1}
    assert made.ir_version <= 10


def test_norm_folds_what_it_remembers_and_trains_on_the_batch():
    """A batch normalization in training is PyTorch's own on the layer's sums."""
    builder, rng = Builder(), np.random.default_rng(0)
    x = builder.input("x", (1, 3, 8, 8))
    norm = [builder.constant(rng.uniform(0.5, 2, 4), np.float32) for _ in range(4)]
    hidden = builder.node("BatchNormalization", [layered(builder, x), *norm], epsilon=1e-3)
    module = build(builder.model(builder.node("Relu", [hidden])), samples(16))
    (layer,) = module.layers
    gamma, beta, mean, variance = (torch.from_numpy(builder.constants[name]) for name in norm)
    sums = torch.randn(6, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 + 1
    ours, theirs = layer.norm, torch.nn.BatchNorm2d(4, eps=1e-3)
    with torch.no_grad():
        theirs.weight.copy_(gamma)
        theirs.bias.copy_(beta)
        theirs.running_mean.copy_(mean)
        theirs.running_var.copy_(variance)
        for frozen in (False, True):
            ours.train()
            theirs.train(not frozen)
            ours.frozen = frozen
            factor, offset = (values.reshape(-1, 1, 1) for values in ours(lambda: sums))
            torch.testing.assert_close(sums.squeeze(1) * factor + offset, theirs(sums.squeeze(1)), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(ours.mean, theirs.running_mean)
            torch.testing.assert_close(ours.variance, theirs.running_var)
    assert differing(perturbed(module), samples(16, seed=4)) == 0


def test_floats_before_the_logits_are_refused():
    builder = Builder()
    x = builder.input("x", (1, 3, 8, 8))
    hidden = builder.node("Softmax", [layered(builder, x)], axis=1)
    with pytest.raises(ModelError, match=r"node 'n_softmax_\d' \(Softmax\) computes with floats: .* leave it out"):
        build(builder.model(layered(builder, hidden, 4)), samples(4))


@pytest.mark.parametrize("edges", [{"pads": [1, 1, 1, 1]}, {"ceil_mode": 1}])
def test_averages_of_fewer_values_at_the_edges_are_refused(edges):
    builder = Builder()
    x = layered(builder, builder.input("x", (1, 3, 8, 8)))
    model = builder.model(builder.node("AveragePool", [x], kernel_shape=[3, 3], strides=[2, 2], **edges), opset=19)
    with pytest.raises(ModelError, match=r"\(AveragePool\) divides by less at its edges: set count_include_pad"):
        build(model, samples(4))


def test_dequantized_names_are_the_emitter_s():
    module = build(convnet(), samples(4))
    names = {output for node in module.export().graph.node for output in node.output}
    assert all(dequantized(name) in names for name in module.forms)


@pytest.mark.parametrize("seed", range(6))
def test_bounds_of_a_clip_round_as_values_do(seed):
    builder = Builder()
    x = layered(builder, builder.input("x", (1, 3, 8, 8)))
    ends = [builder.constant(value, np.float32) for value in (-0.3, 0.4)]
    module = perturbed(build(builder.model(builder.node("Clip", [x, *ends])), samples(8), 4, "uint8"), seed)
    with torch.no_grad():
        module.scales[-1].mul_(1.5)  # so that saturation isn't what clips
    assert differing(module, samples(16, seed=3)) == 0


@pytest.mark.parametrize("kind", ["Add", "Mul", "Sub"])
def test_pairs_of_all_operands_are_onnx_runtime_s(kind):
    rng, codes = np.random.default_rng(0), np.arange(256, dtype=np.uint8)
    for _ in range(12):
        steps = rng.uniform(0.5, 1, 3).astype(np.float32)
        steps[2] *= 100 if kind == "Mul" else 1
        zeros = 2 * rng.integers(0, 128, 3)
        builder = Builder()
        a, b = builder.input("a", (256, 1), "uint8"), builder.input("b", (1, 256), "uint8")
        ends = [builder.params(step, zero, "uint8") for step, zero in zip(steps, zeros, strict=True)]
        if kind == "Sub":
            made = [builder.node("DequantizeLinear", [x, *end]) for x, end in zip((a, b), ends, strict=False)]
            builder.node("QuantizeLinear", [builder.node("Sub", made), *ends[2]], "y")
        else:
            builder.node(f"QLinear{kind}", [a, *ends[0], b, *ends[1], *ends[2]], "y", domain="com.microsoft")
        model = builder.model("y", types={"y": ("uint8", (256, 256))})
        wanted = run_once(model, {"a": codes[:, np.newaxis], "b": codes[np.newaxis]})["y"]
        forms = [Form("", int(zero), 255, (256, 256)) for zero in zeros]
        operands = np.broadcast_arrays(codes[:, np.newaxis] - zeros[0], codes[np.newaxis] - zeros[1])
        values = [torch.from_numpy(operand.astype(np.float64))[np.newaxis] for operand in operands]
        run = Pair(kind, *forms)
        got = run(values, [torch.tensor(step) for step in steps], forms[2].low, forms[2].high, exact=True)
        np.testing.assert_array_equal(got[0].numpy() + zeros[2], wanted)
