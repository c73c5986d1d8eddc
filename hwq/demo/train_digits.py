"""Train, export and quantize the demo model: ``python -m hwq.demo.train_digits [--out DIR]``.

The data are scikit-learn's handwritten digits (1797 grey images of 8x8 pixels, values 0 to 16), split once into 1437
training and 360 test samples with equal shares of every class. The network is a residual CNN chosen to exercise what
an accelerator must get right: a one-channel first layer, a residual add, max pooling, a strided convolution, global
average pooling and a fully connected layer.

    image -> conv1 3x3 16 -> relu1 -> conv2 3x3 16 -> relu2 -+-> conv3 3x3 16 -> add -> relu3 -> maxpool 2x2
                                                            +------------------> add
    maxpool -> conv4 3x3 stride 2, 32 -> relu4 -> global average -> fc 10 -> logits

PyTorch trains it, `export_float` writes the float graph, and ONNX Runtime quantizes it after training: QDQ form,
asymmetric int8 activations, symmetric int8 weights with one scale per output channel, int32 biases. A ReLU leaves no
node behind: its output's zero point is -128, so saturation is the ReLU. Seeds, thread count and kernels are fixed, so
on one machine two runs write the same bytes; another CPU may round differently while training and so end at slightly
different weights.

Files written
-------------
``digits.onnx``
    The quantized model, opset 17. Input ``image`` float32 (1, 1, 8, 8), which is ``pixel / 16``; output ``logits``
    float32 (1, 10).
``digits.npz``
    The test samples. ``pixels``: uint8 (360, 1, 8, 8), 0 to 16. ``labels``: uint8 (360,), 0 to 9.
    `hwq.demo.load_samples` turns them into model inputs.

Needs the ``train`` extra (`torch`, `scikit-learn`), which nothing else in hwq imports.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwq.demo import PIXEL_MAX

SEED = 0
TEST_SAMPLES = 360
CALIBRATION_SAMPLES = 128
EPOCHS = 60
BATCH = 32
OPSET = 17
IR_VERSION = 10
"""Newest ONNX IR version the files may use; older releases of ONNX Runtime refuse newer ones."""


def load_split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Split scikit-learn's digits once and for all.

    Returns
    -------
    train_pixels : uint8 (1437, 1, 8, 8)
        Pixels, 0 to 16.
    test_pixels : uint8 (360, 1, 8, 8)
        Pixels, 0 to 16.
    train_labels : uint8 (1437,)
        Digits, 0 to 9.
    test_labels : uint8 (360,)
        Digits, 0 to 9.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = digits.images.astype(np.uint8)[:, None]
    labels = digits.target.astype(np.uint8)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels, labels, test_size=TEST_SAMPLES, random_state=SEED, stratify=labels
    )
    return train_x, test_x, train_y, test_y


def to_input(pixels: np.ndarray) -> np.ndarray:
    """Scale pixels, 0 to 16, to model inputs: float32 in [0, 1]."""
    return pixels.astype(np.float32) / np.float32(PIXEL_MAX)


def train(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Train the network on one thread with fixed seeds.

    Parameters
    ----------
    images : float32 (N, 1, 8, 8)
        Model inputs in [0, 1].
    labels : uint8 (N,)
        Digits, 0 to 9.

    Returns
    -------
    dict of str to float32 array
        Weights and biases as ``conv1.weight`` ... ``fc.bias``; convolutions are OIHW, ``fc.weight`` is (10, 32).
    """
    import torch
    from torch import nn
    from torch.nn import functional

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    net = nn.ModuleDict(
        {
            "conv1": nn.Conv2d(1, 16, 3, padding=1),
            "conv2": nn.Conv2d(16, 16, 3, padding=1),
            "conv3": nn.Conv2d(16, 16, 3, padding=1),
            "conv4": nn.Conv2d(16, 32, 3, stride=2, padding=1),
            "fc": nn.Linear(32, 10),
        }
    )

    def forward(x: Any) -> Any:
        x = functional.relu(net["conv1"](x))
        x = functional.relu(net["conv2"](x))
        x = functional.relu(net["conv3"](x) + x)
        x = functional.max_pool2d(x, 2)
        x = functional.relu(net["conv4"](x))
        return net["fc"](x.mean(dim=(2, 3)))

    x, y = torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    steps = EPOCHS * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    shuffle = torch.Generator().manual_seed(SEED)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x), generator=shuffle).split(BATCH):
            loss = functional.cross_entropy(forward(x[batch]), y[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return {name: value.detach().numpy().copy() for name, value in net.state_dict().items()}


def export_float(weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Write the float network as ONNX, node by node, so the graph does not depend on an exporter's version.

    Parameters
    ----------
    weights : dict of str to float32 array
        What `train` returns.

    Returns
    -------
    onnx.ModelProto
        A checked model with inferred shapes, batch 1, input ``image``, output ``logits``.
    """

    def conv(name: str, source: str, stride: int = 1) -> onnx.NodeProto:
        return helper.make_node(
            "Conv",
            [source, f"{name}.weight", f"{name}.bias"],
            [name],
            name=name,
            kernel_shape=[3, 3],
            pads=[1, 1, 1, 1],
            strides=[stride, stride],
        )

    def node(op: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(op, inputs, [output], name=output, **attributes)

    nodes = [
        conv("conv1", "image"),
        node("Relu", ["conv1"], "relu1"),
        conv("conv2", "relu1"),
        node("Relu", ["conv2"], "relu2"),
        conv("conv3", "relu2"),
        node("Add", ["conv3", "relu2"], "add"),
        node("Relu", ["add"], "relu3"),
        node("MaxPool", ["relu3"], "maxpool", kernel_shape=[2, 2], strides=[2, 2]),
        conv("conv4", "maxpool", stride=2),
        node("Relu", ["conv4"], "relu4"),
        node("GlobalAveragePool", ["relu4"], "average"),
        node("Flatten", ["average"], "features"),
        node("Gemm", ["features", "fc.weight", "fc.bias"], "logits", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(
        graph, producer_name="hwq", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    return model


def quantize(model: onnx.ModelProto, calibration: np.ndarray) -> onnx.ModelProto:
    """Quantize a float model with ONNX Runtime's own post-training quantizer.

    Parameters
    ----------
    model : onnx.ModelProto
        A float model with one input ``image``.
    calibration : float32 (N, 1, 8, 8)
        Inputs whose extremes fix every activation's scale and zero point.

    Returns
    -------
    onnx.ModelProto
        The model in QDQ form: asymmetric int8 activations, per-channel symmetric int8 weights, int32 biases.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._samples: Iterator[np.ndarray] = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            sample = next(self._samples, None)
            return None if sample is None else {"image": sample[None]}

    with tempfile.TemporaryDirectory() as folder:
        source, ready, target = (Path(folder) / name for name in ("float.onnx", "ready.onnx", "int8.onnx"))
        onnx.save(model, source)
        # Shapes are static and there is nothing to fold: only the marks the quantizer looks for are wanted.
        quant_pre_process(source, ready, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            ready,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        )
        quantized = onnx.load(target)
    onnx.checker.check_model(quantized, full_check=True)
    if quantized.ir_version > IR_VERSION:
        raise RuntimeError(f"The quantizer raised the IR version to {quantized.ir_version}, above {IR_VERSION}")
    return quantized


def accuracy(model: onnx.ModelProto, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of samples, 0 to 1, that a model classifies rightly under ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answers = [int(session.run(None, {"image": image[None]})[0].argmax()) for image in images]
    return float(np.mean(np.array(answers) == labels))


def main(argv: list[str] | None = None) -> None:
    """Run the command line: train, quantize, write both files and print the accuracies."""
    parser = argparse.ArgumentParser(description="Train, export and quantize the bundled digits model.")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="folder to write to (default: the package's own)"
    )
    out: Path = parser.parse_args(argv).out
    out.mkdir(parents=True, exist_ok=True)

    train_x, test_x, train_y, test_y = load_split()
    float_model = export_float(train(to_input(train_x), train_y))
    int8_model = quantize(float_model, to_input(train_x[:CALIBRATION_SAMPLES]))
    onnx.save(int8_model, out / "digits.onnx")
    np.savez_compressed(out / "digits.npz", pixels=test_x, labels=test_y)

    for name, model in (("float", float_model), ("int8", int8_model)):
        print(f"{name:5} accuracy {accuracy(model, to_input(test_x), test_y):.4f} on {len(test_y)} test samples")
    for path in (out / "digits.onnx", out / "digits.npz"):
        print(f"wrote {path}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
