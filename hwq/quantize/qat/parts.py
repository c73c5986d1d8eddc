"""What a training can be composed of besides its loss: distillation, pruning, freezing of batch normalizations."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from torch.nn import functional

from hwq.errors import HwqError, ModelError
from hwq.onnx_load import load_model
from hwq.quantize.prepare import prepare
from hwq.quantize.qat.module import logits_of
from hwq.quantize.samples import run_each

if TYPE_CHECKING:
    from hwq.quantize.qat.module import QuantizedNetwork
    from hwq.quantize.samples import Feeds


class Part:
    """Something that takes part in a training; it must keep nothing that a resumed training would miss."""

    def begin(self, model: onnx.ModelProto, feeds: Feeds) -> None:
        """Get ready; `model` is the prepared float model, `feeds` the samples."""

    def epoch(self, module: QuantizedNetwork, share: float) -> None:
        """Change `module` before an epoch, when `share` of the epochs, 0 to 1, are done."""

    def loss(self, logits: Any, batch: Any) -> Any:
        """Return what to add to the loss, or None; `batch` are the samples' numbers."""


@dataclass(frozen=True)
class Distill(Part):
    """Knowledge distillation (Hinton et al., 2015): ``weight * T**2 * KL(teacher / T, student / T)``, by the batch.

    Members
    -------
    weight : float
        At least 0.
    temperature : float
        T, above 0.
    teacher : path, onnx.ModelProto or None
        A float model of the same inputs and classes; None for the network that is trained, before.
    """

    weight: float = 1.0
    temperature: float = 4.0
    teacher: str | Path | onnx.ModelProto | None = field(default=None, repr=False)
    _targets: list[Any] = field(default_factory=list, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and self.temperature > 0):
            raise HwqError("distillation takes a weight of at least 0 and a temperature above 0")

    def begin(self, model: onnx.ModelProto, feeds: Feeds) -> None:
        """Run the teacher on all samples."""
        if self.teacher is not None:
            given = self.teacher if isinstance(self.teacher, onnx.ModelProto) else load_model(self.teacher)
            model = prepare(given, "teacher")
        wanted, there = ([info.name for info in model.graph.input], list(feeds[0]))
        if set(wanted) != set(there):
            raise ModelError(f"the teacher's inputs are {', '.join(wanted)}, the network's {', '.join(there)}")
        name = logits_of(model)
        logits = np.stack([values[name] for values in run_each(model, feeds, [name])])
        self._targets[:] = [functional.log_softmax(torch.from_numpy(logits) / self.temperature, -1)]

    def loss(self, logits: Any, batch: Any) -> Any:
        """Return the divergence from the teacher."""
        student, teacher = functional.log_softmax(logits / self.temperature, -1), self._targets[0][batch]
        if student.shape != teacher.shape:
            raise ModelError(f"the teacher's outputs are {list(teacher.shape[1:])}, not {list(student.shape[1:])}")
        rows = student.numel() / student.shape[-1]
        divergence = functional.kl_div(student, teacher, reduction="sum", log_target=True) / rows
        return self.weight * self.temperature**2 * divergence


@dataclass(frozen=True)
class Prune(Part):
    """Magnitude pruning: of each layer's weights the smallest `share` are 0, more and more of them, for good.

    By Zhu and Gupta (2017): when t of the time to `until` is over, ``share * (1 - (1 - t)**3)`` are.

    Members
    -------
    share : float
        0 to 1, 1 excluded.
    until : float
        Share of the epochs after which it is reached, above 0 and at most 1.
    """

    share: float
    until: float = 0.5

    def __post_init__(self) -> None:
        if not (0 <= self.share < 1 and 0 < self.until <= 1):
            raise HwqError("pruning takes a share from 0 to below 1, and reaches it after a part above 0, at most 1")

    @torch.no_grad()
    def epoch(self, module: QuantizedNetwork, share: float) -> None:
        """Widen the masks."""
        now = self.share * (1 - (1 - min(share / self.until, 1.0)) ** 3)
        for layer in module.layers:
            size = (layer.weight * layer.mask).abs().flatten()
            chosen = torch.argsort(size, stable=True)[: int(now * len(size))]
            layer.mask.view(-1)[chosen] = 0


@dataclass(frozen=True)
class FreezeNorms(Part):
    """From `after` of the epochs on, batch normalizations use what they remember, as in evaluation."""

    after: float = 0.5

    def epoch(self, module: QuantizedNetwork, share: float) -> None:
        """Freeze, or not yet."""
        for layer in module.layers:
            if layer.norm is not None:
                layer.norm.frozen = share >= self.after
