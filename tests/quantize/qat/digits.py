"""Handwritten digits, and two float networks that read them: ``python -m tests.quantize.qat.digits`` trains both again.

`BOTTLENECKS` is what 4 bits hurt: narrow signed tensors between depthwise convolutions, added up. `PLAIN` has dense
convolutions only. Both keep their batch normalizations.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional

from hwq.demo.train_digits import load_split, to_input
from tests.onnx_models import Builder

FOLDER = Path(__file__).parent
EPOCHS, BATCH, RATE = 10, 64, 2e-2


class Conv(NamedTuple):
    name: str
    inputs: int
    outputs: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    relu: bool = True
    add: str = ""


def bottlenecks(width, expand, blocks):
    layers = [Conv("first", 1, width)]
    for index, (outputs, stride) in enumerate(blocks):
        inside, before = width * expand, layers[-1].name
        residual = before if stride == 1 and outputs == width else ""
        layers.append(Conv(f"wide{index}", width, inside, kernel=1))
        layers.append(Conv(f"depth{index}", inside, inside, stride=stride, groups=inside))
        layers.append(Conv(f"narrow{index}", inside, outputs, kernel=1, relu=False, add=residual))
        width = outputs
    return [*layers, Conv("last", width, width * expand, kernel=1)]


BOTTLENECKS = bottlenecks(4, 3, [(4, 1), (4, 1), (8, 2), (8, 1)])
PLAIN = [Conv("first", 1, 8), Conv("second", 8, 8), Conv("third", 8, 16, stride=2), Conv("last", 16, 16)]
NETWORKS = {"bottlenecks": BOTTLENECKS, "plain": PLAIN}


def data():
    """Return training images and labels, and those to test with."""
    train_x, test_x, train_y, test_y = load_split()
    return to_input(train_x), train_y.astype(np.int64), to_input(test_x), test_y.astype(np.int64)


def float_model(name: str) -> onnx.ModelProto:
    return onnx.load(FOLDER / f"{name}.onnx")


class Net(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers
        self.convs = nn.ModuleList(
            nn.Conv2d(c.inputs, c.outputs, c.kernel, c.stride, c.kernel // 2, groups=c.groups, bias=False)
            for c in layers
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(c.outputs) for c in layers)
        self.fc = nn.Linear(layers[-1].outputs, 10)

    def forward(self, x):
        made = {}
        for layer, conv, norm in zip(self.layers, self.convs, self.norms, strict=True):
            x = norm(conv(x))
            x = x + made[layer.add] if layer.add else x
            x = made[layer.name] = functional.relu(x) if layer.relu else x
        return self.fc(x.mean((2, 3)))


def trained(layers) -> Net:
    x, y, _, _ = data()
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    torch.manual_seed(0)
    net, shuffle = Net(layers), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(net.parameters())
    steps = EPOCHS * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x), generator=shuffle).split(BATCH):
            loss = functional.cross_entropy(net(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def as_onnx(net: Net) -> onnx.ModelProto:
    build, made = Builder(), {}
    x = build.input("image", (1, 1, 8, 8))

    def constant(name, value):
        return build.constant(value.detach().numpy(), np.float32, name)

    for layer, conv, norm in zip(net.layers, net.convs, net.norms, strict=True):
        name, pads = layer.name, [layer.kernel // 2] * 4
        weight = constant(f"{name}.weight", conv.weight)
        x = build.node("Conv", [x, weight], f"{name}.conv", group=layer.groups, strides=[layer.stride] * 2, pads=pads)
        values = {"gamma": norm.weight, "beta": norm.bias, "mean": norm.running_mean, "variance": norm.running_var}
        names = [constant(f"{name}.{kind}", value) for kind, value in values.items()]
        x = build.node("BatchNormalization", [x, *names], f"{name}.norm")
        x = build.node("Add", [x, made[layer.add]], f"{name}.add") if layer.add else x
        x = made[name] = build.node("Relu", [x], f"{name}.relu") if layer.relu else x
    x = build.node("Flatten", [build.node("GlobalAveragePool", [x], "average")], "features")
    matrix = [constant("fc.weight", net.fc.weight), constant("fc.bias", net.fc.bias)]
    logits = build.node("Gemm", [x, *matrix], "logits", transB=1)
    return build.model(logits, types={"logits": ("float32", (1, 10))})


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, layers in NETWORKS.items():
        onnx.save(as_onnx(trained(layers)), FOLDER / f"{name}.onnx")
