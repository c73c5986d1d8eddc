"""What a user can choose about quantization."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hwq.errors import HwqError

BITS = {"int8": 8, "int4": 4, "codebook": 8, "nf4": 8}
"""What a layer's weights can be, and the bits that its scale is for."""

ACTIVATION_BITS = {"uint8": 8, "uint4": 4}
"""What the tensors between layers can be."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done and how much there is."""


class Method(enum.StrEnum):
    """How an activation's range is chosen from its histogram."""

    minmax = "minmax"
    percentile = "percentile"
    entropy = "entropy"
    mse = "mse"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to quantize a network; the defaults are what measured best on the networks in the tests.

    Members
    -------
    weights : str or mapping of layer to str
        ``int8``; ``int4``; ``codebook``, int8 of which a layer has sixteen different ones; ``nf4``, the levels of
        `hwq.weights.NF4` with a scale for each 64 inputs; or ``mixed``, which leaves int8 to the layers that need it
        most and gives int4 to the rest. Layers that a mapping doesn't have are int8.
    activations : str
        ``uint8`` or ``uint4``, of the tensors between layers; the network's inputs and outputs are uint8.
    method : Method
        Of choosing ranges.
    percentile : float
        Share of the values that `Method.percentile` covers, 50 to 100 [%].
    equalize : bool
        Balance the ranges of channels between layers first.
    fit : bool
        Choose weights' scales and rounding by the layer's sums.
    correct_bias : bool
        Shift each channel's sums to their mean in the float network.
    keep_float : tuple of str
        Layers, by name or by the tensor they make, that stay in floats, on the host.
    """

    weights: str | Mapping[str, str] = "int8"
    activations: str = "uint8"
    method: Method = Method.mse
    percentile: float = 99.99
    equalize: bool = False
    fit: bool = True
    correct_bias: bool = True
    keep_float: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        kinds = [self.weights] if isinstance(self.weights, str) else list(self.weights.values())
        allowed = [*BITS, "mixed"] if isinstance(self.weights, str) else list(BITS)
        wrong = next((kind for kind in kinds if kind not in allowed), None)
        if wrong is not None:
            raise HwqError(f"weights can't be {wrong!r}: choose from {', '.join(allowed)}")
        if self.activations not in ACTIVATION_BITS:
            raise HwqError(f"activations can't be {self.activations!r}: choose from {', '.join(ACTIVATION_BITS)}")
        if not 50 <= self.percentile <= 100:
            raise HwqError(f"percentile {self.percentile} isn't from 50 to 100")
