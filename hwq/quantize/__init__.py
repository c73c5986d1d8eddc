"""Quantizers: float networks to integers, and weights to the forms in which the accelerator stores them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwq.quantize.dynamic import quantize_dynamic
    from hwq.quantize.quantizer import quantize
    from hwq.quantize.recipe import Recipe
    from hwq.quantize.sensitivities import sensitivity

__all__ = ["Recipe", "quantize", "quantize_dynamic", "sensitivity"]

_HOME = {
    "Recipe": "hwq.quantize.recipe",
    "quantize": "hwq.quantize.quantizer",
    "quantize_dynamic": "hwq.quantize.dynamic",
    "sensitivity": "hwq.quantize.sensitivities",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hwq.quantize' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
