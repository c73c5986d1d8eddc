"""The training loop: seeded, shown, resumed where it was interrupted."""

from __future__ import annotations

import functools
import hashlib
import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch.nn import functional

from hwq.errors import HwqError, InputError
from hwq.host import first_line
from hwq.ir import Array
from hwq.onnx_load import load_model
from hwq.program import write_whole
from hwq.quantize.qat.module import QuantizedNetwork
from hwq.quantize.qat.norms import find_norms
from hwq.quantize.qat.recipe import Recipe
from hwq.quantize.quantizer import checked, require_layers
from hwq.quantize.recipe import Progress
from hwq.quantize.recipe import Recipe as Calibration
from hwq.quantize.samples import Data
from hwq.quantize.scales import activations, widths
from hwq.quantize.solve import calibrate

_OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "adam": torch.optim.Adam,
    "sgd": functools.partial(torch.optim.SGD, momentum=0.9),
}


@dataclass(frozen=True, eq=False)
class Trained:
    """What training gives.

    Members
    -------
    model : onnx.ModelProto
        QDQ.
    module : QuantizedNetwork
        In evaluation, whose integers are the model's.
    losses : tuple of float
        The mean of every epoch.
    """

    model: onnx.ModelProto
    module: QuantizedNetwork
    losses: tuple[float, ...]


def train(
    model: str | Path | onnx.ModelProto,
    data: Data,
    labels: Array | None = None,
    recipe: Recipe | None = None,
    *,
    checkpoint: str | Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Trained:
    """Train a float network to compute with integers; equal inputs give equal bytes, on one kind of processor.

    Parameters
    ----------
    model : path or onnx.ModelProto
        Of float32, integers from its inputs to its logits once quantized. Its batch normalizations are trained.
    data : arrays by input name, samples first, or an iterable of such
        All training samples.
    labels : int array
        Classes, one for each sample and row of logits, for the cross entropy; None without: then parts must give the
        loss, as `hwq.quantize.qat.Distill` does.
    recipe : Recipe
    checkpoint : path or None
        File that holds the training after every epoch: read where it is there, of the same training.
    progress : callable (what, done, total)

    Raises
    ------
    ModelError
        The model can't be read, isn't of floats, or computes with floats in between.
    InputError
        The samples or labels don't fit the model, or the checkpoint is of another training or damaged.
    HwqError
        There is nothing to learn from, or the loss became infinite.
    """
    recipe = recipe or Recipe()
    name = "model" if isinstance(model, onnx.ModelProto) else Path(model).stem
    loaded = model if isinstance(model, onnx.ModelProto) else load_model(model)
    with _deterministic(recipe.seed):
        training = _Training(loaded, name, data, labels, recipe, progress)
        if checkpoint is not None:
            training.restore(Path(checkpoint))
        while len(training.losses) < recipe.epochs:
            training.epoch()
            if checkpoint is not None:
                write_whole(checkpoint, training.saved())
        training.module.eval()
        training.module.settle()
        return Trained(checked(training.module.export(), name), training.module, tuple(training.losses))


class _Training:
    def __init__(
        self,
        model: onnx.ModelProto,
        name: str,
        data: Data,
        labels: Array | None,
        recipe: Recipe,
        progress: Progress,
    ):
        self.recipe, self.progress = recipe, progress
        start = Calibration(activations=recipe.activations, method=recipe.method)
        calibrated = calibrate(model, name, data, start, progress)
        network, feeds = calibrated.network(), calibrated.feeds
        require_layers(network, recipe.weights, name)
        scales = activations(network, calibrated.histograms, start)
        weights = {layer: recipe.bits(layer) for layer in network.layers}
        bits = widths(network, recipe.activations)
        self.module = QuantizedNetwork(network, scales, bits, weights, find_norms(model, name))
        self.inputs = [
            torch.from_numpy(np.stack([feed[info.name] for feed in feeds])) for info in calibrated.model.graph.input
        ]
        self.labels = None if labels is None else _labels(labels, len(feeds), self.module)
        for part in recipe.parts:
            part.begin(calibrated.model, feeds)
        self.optimizer = _OPTIMIZERS[recipe.optimizer](self._groups())
        self.losses: list[float] = []
        digest = hashlib.sha256(calibrated.model.SerializeToString(deterministic=True))
        for values in (*self.inputs, self.labels):
            digest.update(b"" if values is None else values.numpy().tobytes())
        digest.update(repr(recipe).encode())
        self.key = digest.hexdigest()

    def _groups(self) -> list[dict[str, Any]]:
        recipe = self.recipe
        layers = list(self.module.layers)
        weights, steps = [layer.weight for layer in layers], [*self.module.scales, *(layer.step for layer in layers)]
        known = {id(parameter) for parameter in [*weights, *steps]}
        others = [parameter for parameter in self.module.parameters() if id(parameter) not in known]
        groups = ((weights, recipe.rate, recipe.decay), (others, recipe.rate, 0.0), (steps, recipe.step_rate, 0.0))
        return [{"params": group, "lr": rate, "initial": rate, "weight_decay": decay} for group, rate, decay in groups]

    def epoch(self) -> None:
        """Train on every sample once, in an order that seed and epoch decide."""
        recipe, module, number = self.recipe, self.module, len(self.losses)
        module.train()
        module.settle()
        for part in recipe.parts:
            part.epoch(module, number / recipe.epochs)
        shuffle = torch.Generator().manual_seed(recipe.seed * 1_000_003 + number)
        batches = torch.randperm(len(self.inputs[0]), generator=shuffle).split(recipe.batch)
        total, steps = 0.0, recipe.epochs * len(batches)
        for index, batch in enumerate(batches):
            done = (number + index / len(batches)) / recipe.epochs
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial"] * (1 + math.cos(math.pi * done)) / 2
            loss = self._loss(batch)
            if not torch.isfinite(loss):
                raise HwqError(f"the loss became {loss.item()} in epoch {number + 1}: choose a lower rate")
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(batch)
            self.progress(f"Training, {_shown(self.losses)}", round(done * steps) + 1, steps)
        self.losses.append(total / len(self.inputs[0]))

    def _loss(self, batch: Any) -> Any:
        logits = self.module(*(values[batch] for values in self.inputs))
        terms = [part.loss(logits, batch) for part in self.recipe.parts]
        if self.labels is not None:
            rows = logits.reshape(-1, logits.shape[-1])
            terms.append(functional.cross_entropy(rows, self.labels[batch].reshape(-1)))
        terms = [term for term in terms if term is not None]
        if not terms:
            raise HwqError("there is nothing to learn from: give labels, or a part with a loss such as Distill")
        return sum(terms[1:], start=terms[0])

    def saved(self) -> bytes:
        """Return the training so far as a file."""
        state = {"key": self.key, "losses": self.losses, "module": self.module.state_dict()}
        buffer = io.BytesIO()
        torch.save(state | {"optimizer": self.optimizer.state_dict()}, buffer)
        return buffer.getvalue()

    def restore(self, path: Path) -> None:
        """Go on from a file, where there is one."""
        if not path.exists():
            return
        try:
            state = torch.load(path, weights_only=True)
            key = state["key"]
        except Exception as error:  # zipfile, pickle and torch raise many unrelated classes on damaged data
            raise InputError(f"{path}: isn't a checkpoint, or is damaged ({first_line(error)}): remove it") from error
        if key != self.key:
            raise InputError(f"{path}: is the checkpoint of another model, data or recipe: remove it to start anew")
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses = list(state["losses"])


def _shown(losses: list[float]) -> str:
    return f"loss {losses[-1]:.4f}" if losses else "first epoch"


def _labels(labels: Array, samples: int, module: QuantizedNetwork) -> Any:
    """Return class labels, (samples, rows)."""
    *rows, classes = module.network.shapes[module.logits]
    values, wanted = np.asarray(labels), samples * int(np.prod(rows))
    if values.dtype.kind not in "iu" or values.size != wanted:
        raise InputError(f"the labels are {values.size} of {values.dtype}: give {wanted} integers, one for each sample")
    if values.min() < 0 or values.max() >= classes:
        raise InputError(f"the labels run from {values.min()} to {values.max()}: the network has {classes} classes")
    return torch.from_numpy(values.astype(np.int64).reshape(samples, -1))


@contextmanager
def _deterministic(seed: int) -> Iterator[None]:
    """One thread and deterministic kernels while the block runs."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
