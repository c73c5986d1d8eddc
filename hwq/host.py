"""ONNX Runtime sessions: the oracle, and the nodes that stay on the host.

Both run with graph optimisations off, so a host node means what ONNX Runtime computes for that node alone: fusing it
with its neighbours would make the answer depend on where the graph is cut.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnxruntime as ort

from hwq.errors import ModelError
from hwq.ir import Array

_FATAL_ONLY = 4
"""ONNX Runtime log severity: its errors are raised as ModelError, its warnings aren't the user's business."""


def session_options(*, optimize: bool = False, threads: int = 1, precise: bool = True) -> ort.SessionOptions:
    """Return the options under which ONNX Runtime's integer kernels compute exact integers on x86.

    ``session.x64quantprecision`` avoids the saturating 16-bit products of uint8 by int8 without VNNI, and
    ``session.qdqisint8allowed`` makes int8 QDQ pairs integer operators as uint8 ones are.

    Parameters
    ----------
    optimize : bool
        Allow graph optimisations (fusing QDQ pairs), as a user's own session does.
    threads : int
        Threads within an operator; 0 lets ONNX Runtime choose.
    precise : bool
        Set ``session.x64quantprecision``.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    if precise:
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return options


def oracle_session(model: onnx.ModelProto | bytes, *, threads: int = 1) -> ort.InferenceSession:
    """Open a model that means what its nodes say, one by one: what `hwq.onnx_writer` writes.

    Raises
    ------
    ModelError
        ONNX Runtime can't run the model; holds the first line of its message.
    """
    return _open(model, session_options(threads=threads))


def original_session(model: onnx.ModelProto | bytes, *, threads: int = 1) -> ort.InferenceSession:
    """Open a model as its user would, optimised, with integer kernels wherever ONNX Runtime can put them.

    With ``session.x64quantprecision`` ONNX Runtime 1.31 leaves mixed types behind when it fuses an int8 Gemm, and then
    finds no kernel; such models are opened without it, which changes nothing on processors with VNNI.

    Raises
    ------
    ModelError
        ONNX Runtime can't run the model; holds the first line of its message.
    """
    try:
        return _open(model, session_options(optimize=True, threads=threads))
    except ModelError:
        return _open(model, session_options(optimize=True, threads=threads, precise=False))


def _open(model: onnx.ModelProto | bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class below Exception
        raise ModelError(f"ONNX Runtime can't run the model: {first_line(error)}") from error


def run_once(
    model: onnx.ModelProto | bytes, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
) -> dict[str, Array]:
    """Run `model` and return its outputs by name.

    Raises
    ------
    ModelError
        ONNX Runtime refuses the model or fails while running it.
    """
    return run_session(oracle_session(model), feeds, outputs)


def run_model(
    model: onnx.ModelProto | bytes, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
) -> dict[str, Array]:
    """Run `model` as `run_once` does, keeping its session for the next call with the same model."""
    data = model if isinstance(model, bytes) else model.SerializeToString(deterministic=True)
    return run_session(_cached_session(data), feeds, outputs)


@functools.lru_cache(maxsize=64)
def _cached_session(data: bytes) -> ort.InferenceSession:
    return oracle_session(data)


def run_session(
    session: ort.InferenceSession, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
) -> dict[str, Array]:
    """Run an open model and return its outputs by name.

    Raises
    ------
    ModelError
        ONNX Runtime fails while running it.
    """
    names = list(outputs) if outputs is not None else [output.name for output in session.get_outputs()]
    try:
        values = session.run(names, dict(feeds))
    except Exception as error:  # as in _open
        raise ModelError(f"ONNX Runtime failed while running the model: {first_line(error)}") from error
    values = [np.array(value, object) if isinstance(value, str) else value for value in values]  # a string of rank 0
    return dict(zip(names, values, strict=True))


def first_line(error: BaseException) -> str:
    """Return the first non-empty line of an exception's text, or its class name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
