"""What the examples share: handwritten digits, a float network trained in PyTorch, and figures of quantized ones."""

from __future__ import annotations

import logging
import warnings
from typing import NamedTuple

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional

import hwq
from hwq.demo.train_digits import accuracy, load_split, to_input

ARCH = "sim-4x4"
"""The array; `hwq arch list` names others."""


class Samples(NamedTuple):
    """Images, float32 (N, 1, 8, 8), and the digits on them, int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray


def load_samples() -> tuple[Samples, Samples]:
    """Return 1437 samples to train and calibrate with, and 360 to judge by."""
    train_pixels, test_pixels, train_labels, test_labels = load_split()
    train = Samples(to_input(train_pixels), train_labels.astype(np.int64))
    return train, Samples(to_input(test_pixels), test_labels.astype(np.int64))


class Bottleneck(nn.Module):
    """A wide convolution and a narrow one, added to the input where shapes agree: what few bits are hard on."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        wide = 4 * inputs
        self.wide = nn.Sequential(nn.Conv2d(inputs, wide, 3, stride, 1), nn.BatchNorm2d(wide), nn.ReLU())
        self.narrow = nn.Sequential(nn.Conv2d(wide, outputs, 1), nn.BatchNorm2d(outputs))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features that follow `x`."""
        made = self.narrow(self.wide(x))
        return made + x if self.adds else made


def float_network(samples: Samples, epochs: int = 8, batch: int = 64) -> onnx.ModelProto:
    """Return a network trained in floats, as PyTorch exports it: an image to ten logits."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)),
        Bottleneck(4, 4),
        Bottleneck(4, 4),
        Bottleneck(4, 8, stride=2),
        Bottleneck(8, 8),
        nn.Sequential(nn.Conv2d(8, 32, 1), nn.BatchNorm2d(32), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    images, labels = torch.from_numpy(samples.images), torch.from_numpy(samples.labels)
    optimizer = torch.optim.AdamW(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-2, total_steps=epochs * -(-len(images) // batch))
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(batch):
            optimizer.zero_grad()
            functional.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return _exported(net.eval(), images[:1])


def _exported(net: nn.Module, image: torch.Tensor) -> onnx.ModelProto:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # says which packages it does without
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of PyTorch, about PyTorch
        names = {"input_names": ["image"], "output_names": ["logits"]}
        return torch.onnx.export(net, (image,), **names, verbose=False).model_proto


def show_float(model: onnx.ModelProto, samples: Samples) -> None:
    """Print the accuracy of a float model, and the heads of the columns that `show` fills."""
    print(f"{'':32}{'accuracy':>9}{'cycles':>8}{'compared':>12}{'mismatches':>12}")
    print(f"{'float':32}{accuracy(model, *samples):>9.1%}")


def show(name: str, model: onnx.ModelProto, samples: Samples, weights: str = "auto") -> bool:
    """Run a quantized model from ONNX Runtime down to the RTL, print a row, return whether all agree in everything.

    The accuracy is that of the simulated RTL, and the cycles are those it took for an image.
    """
    report = hwq.verify(model, ARCH, inputs={"image": samples.images}, weights=weights)
    right = report.outputs["verilator"]["logits"].argmax(axis=1) == samples.labels
    compared, mismatches = sum(rung.elements for rung in report.rungs), sum(rung.mismatches for rung in report.rungs)
    print(f"{name:32}{right.mean():>9.1%}{report.cycles_measured:>8,}{compared:>12,}{mismatches:>12}")
    return report.ok
