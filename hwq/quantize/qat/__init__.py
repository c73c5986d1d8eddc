"""Quantization-aware training: a float ONNX network learns, in PyTorch, to compute with the integers it will be.

Needs the ``train`` extra; nothing else in hwq imports PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hwq.errors import MissingToolError

if TYPE_CHECKING:
    from hwq.quantize.qat.channels import prune_channels
    from hwq.quantize.qat.module import QuantizedNetwork
    from hwq.quantize.qat.parts import Distill, FreezeNorms, Part, Prune
    from hwq.quantize.qat.recipe import Recipe
    from hwq.quantize.qat.scratch import reinitialize
    from hwq.quantize.qat.trainer import Trained, train

__all__ = [
    "Distill", "FreezeNorms", "Part", "Prune", "QuantizedNetwork", "Recipe", "Trained", "prune_channels",
    "reinitialize", "train",
]  # fmt: skip

_HOME = {
    "Distill": "parts",
    "FreezeNorms": "parts",
    "Part": "parts",
    "Prune": "parts",
    "QuantizedNetwork": "module",
    "Recipe": "recipe",
    "Trained": "trainer",
    "prune_channels": "channels",
    "reinitialize": "scratch",
    "train": "trainer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    except ModuleNotFoundError as error:
        raise MissingToolError(
            f"Quantization-aware training needs {error.name}; install it with: pip install 'hwq[train]'"
        ) from error
