"""hwq: quantized ONNX networks on a generated systolic array, equal on every rung from ONNX Runtime to the pin.

Importing it is cheap: a name is loaded, with what it needs, when it is first used.

>>> import hwq
>>> from hwq import demo
>>> hwq.compile(demo.model_path(), "sim-4x4").name
'digits'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwq.compiler import compile, load
    from hwq.config import ArrayConfig
    from hwq.costs import estimate
    from hwq.errors import HwqError
    from hwq.ladder import verify
    from hwq.program import Program
    from hwq.runtime import InferenceSession

    __version__: str

__all__ = [
    "ArrayConfig",
    "HwqError",
    "InferenceSession",
    "Program",
    "__version__",
    "compile",
    "estimate",
    "load",
    "verify",
]

_HOME = {
    "ArrayConfig": "hwq.config",
    "HwqError": "hwq.errors",
    "InferenceSession": "hwq.runtime",
    "Program": "hwq.program",
    "compile": "hwq.compiler",
    "estimate": "hwq.costs",
    "load": "hwq.compiler",
    "verify": "hwq.ladder",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value: Any = version("hwq")
        except PackageNotFoundError:  # used from a checkout that isn't installed
            value = "0+unknown"
    elif name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'hwq' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
