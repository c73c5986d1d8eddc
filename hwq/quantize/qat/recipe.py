"""What a user can choose about training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwq.errors import HwqError
from hwq.quantize.recipe import ACTIVATION_BITS, Method

WEIGHT_BITS = {"int8": 8, "int4": 4, "int2": 2}
"""What a layer's weights can be; int2 is -2 to 1, stored and computed with as int4."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train; parts add to it what isn't in every training.

    Members
    -------
    weights : str or mapping of layer to str
        ``int8``, ``int4`` or ``int2``. Layers that a mapping doesn't have are int8.
    activations : str
        ``uint8`` or ``uint4``, of the tensors between layers; the network's inputs and outputs are uint8.
    epochs : int
        At least 1. Rates fall to 0 over them, along a cosine.
    batch : int
        Samples, at least 1.
    optimizer : str
        ``adam`` or ``sgd``, with a momentum of 0.9. LSQ's gradient scale matters to the latter; Adam has its own.
    rate, step_rate : float
        Of weights and biases, and of steps; above 0.
    decay : float
        Of weights only, by the gradient.
    method : Method
        Of choosing the ranges that steps of activations start from.
    seed : int
    parts : tuple of hwq.quantize.qat.Part
        In order.
    """

    weights: str | Mapping[str, str] = "int4"
    activations: str = "uint4"
    epochs: int = 30
    batch: int = 32
    optimizer: str = "adam"
    rate: float = 5e-3
    step_rate: float = 1e-3
    decay: float = 0.0
    method: Method = Method.mse
    seed: int = 0
    parts: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        kinds = [self.weights] if isinstance(self.weights, str) else list(self.weights.values())
        wrong = next((kind for kind in kinds if kind not in WEIGHT_BITS), None)
        if wrong is not None:
            raise HwqError(f"weights can't be {wrong!r}: choose from {', '.join(WEIGHT_BITS)}")
        if self.activations not in ACTIVATION_BITS:
            raise HwqError(f"activations can't be {self.activations!r}: choose from {', '.join(ACTIVATION_BITS)}")
        if self.optimizer not in ("adam", "sgd"):
            raise HwqError(f"there is no optimizer {self.optimizer!r}: choose from adam, sgd")
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise HwqError(f"{name} {getattr(self, name)} isn't a positive number")
        for name in ("rate", "step_rate"):
            if not getattr(self, name) > 0:
                raise HwqError(f"{name} {getattr(self, name)} isn't above 0")

    def bits(self, layer: str) -> int:
        """Return the bits of a layer's weights."""
        return WEIGHT_BITS[self.weights if isinstance(self.weights, str) else self.weights.get(layer, "int8")]
