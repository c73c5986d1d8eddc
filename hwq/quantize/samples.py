"""Calibration samples, checked, and float models run on them one by one.

A sample is one run of the model, however many of them the caller's arrays hold: nothing that is measured here depends
on how the data was batched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from hwq.errors import InputError, ModelError
from hwq.host import first_line, oracle_session
from hwq.ir import Array

Feeds = list[dict[str, Array]]
Data = Mapping[str, Array] | Iterable[Mapping[str, Array]]
"""Arrays by input name, samples first; or several of them, one after the other."""


_KEPT_BYTES = 1 << 30
"""Of tensors that `Replay` keeps; the oldest go first, and are computed again where they are needed."""


def feeds_of(model: onnx.ModelProto, data: Data) -> Feeds:
    """Return calibration data as one dict of inputs for each run of `model`.

    Parameters
    ----------
    model : onnx.ModelProto
        Prepared: every input's shape is static.
    data : arrays by input name, or an iterable of such
        Numbers, finite; the first axis counts samples.

    Raises
    ------
    InputError
        An input is missing, has another shape, holds something that isn't a finite number, or there are no samples.
    """
    batches = [data] if isinstance(data, Mapping) else list(data)
    if not batches:
        raise InputError("the calibration data is empty: give at least one sample")
    whole = {}
    for info in model.graph.input:
        shape = tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
        parts = [_checked(batch, info.name, shape) for batch in batches]
        whole[info.name] = np.concatenate(parts).reshape(-1, *shape)
    lengths = {name: len(value) for name, value in whole.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name!r} {length}" for name, length in lengths.items())
        raise InputError(f"the calibration inputs differ in their number of samples: {counts}")
    if not next(iter(lengths.values()), 0):
        raise InputError("the calibration data is empty: give at least one sample")
    return [{name: value[index] for name, value in whole.items()} for index in range(next(iter(lengths.values())))]


def _checked(batch: Mapping[str, Array], name: str, shape: tuple[int, ...]) -> Array:
    if name not in batch:
        there = ", ".join(repr(key) for key in batch) or "nothing"
        raise InputError(f"the calibration data has no input {name!r} (it has {there}): name the array as the input")
    value = np.asarray(batch[name])
    if value.dtype.kind not in "fiub":
        raise InputError(f"calibration input {name!r} is of {value.dtype}: give numbers")
    if value.shape[1:] != shape[1:] or value.ndim != len(shape) or (shape and len(value) % shape[0]):
        raise InputError(
            f"calibration input {name!r} has shape {value.shape}: the model wants {('samples', *shape[1:])}"
            + (f", samples in multiples of {shape[0]}" if shape and shape[0] > 1 else "")
        )
    value = value.astype(np.float32)
    if not np.isfinite(value).all():
        raise InputError(f"calibration input {name!r} holds NaN or infinity: give finite numbers")
    return value


def run_each(model: onnx.ModelProto, feeds: Feeds, names: Sequence[str]) -> Iterator[dict[str, Array]]:
    """Yield the tensors `names` for each sample; of the model only what makes them is run.

    Raises
    ------
    ModelError
        ONNX Runtime can't run the model.
    """
    given = {info.name for info in model.graph.input}
    computed = [name for name in dict.fromkeys(names) if name not in given]
    if not computed:
        yield from ({name: feed[name] for name in names} for feed in feeds)
        return
    session = oracle_session(_only(model, computed))
    inputs = [info.name for info in session.get_inputs()]
    for feed in feeds:
        try:
            values = session.run(computed, {name: feed[name] for name in inputs})
        except Exception as error:  # ONNX Runtime's exceptions share no base class below Exception
            raise ModelError(f"ONNX Runtime failed while calibrating: {first_line(error)}") from error
        yield {name: feed[name] for name in names if name in given} | dict(zip(computed, values, strict=True))


def _only(model: onnx.ModelProto, names: Sequence[str], given: Mapping[str, Array] = {}) -> onnx.ModelProto:
    """Return the part of `model` that makes `names`, from the tensors `given` where it can."""
    part = onnx.ModelProto()
    part.CopyFrom(model)
    graph, needed, nodes = part.graph, set(names), []
    for node in reversed(model.graph.node):
        if needed & set(node.output) - given.keys():
            nodes.append(node)
            needed |= set(node.input)
    del graph.node[:], graph.output[:], graph.value_info[:]
    graph.node.extend(reversed(nodes))
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    for kept in (graph.input, graph.initializer):
        for entry in [entry for entry in kept if entry.name not in needed]:
            kept.remove(entry)
    known = {info.name for info in graph.input}
    for name in sorted(needed & given.keys() - known):
        kind = helper.np_dtype_to_tensor_dtype(given[name].dtype)
        graph.input.append(helper.make_tensor_value_info(name, kind, given[name].shape))
    return part


class Replay:
    """Tensors of a growing model, one after the other, from those asked for before: each node runs about once.

    What has been asked for must not change as the model grows.
    """

    def __init__(self, feeds: Feeds):
        self._feeds = feeds
        self._known: dict[str, list[Array]] = {}

    def run(self, model: onnx.ModelProto, name: str) -> list[Array]:
        """Return the tensor `name` of `model` for each sample."""
        if name not in self._known:
            feeds = [
                feed | {key: values[i] for key, values in self._known.items()} for i, feed in enumerate(self._feeds)
            ]
            part = _only(model, [name], feeds[0])
            self._known[name] = [values[name] for values in run_each(part, feeds, [name])]
            while sum(len(values) * values[0].nbytes for values in self._known.values()) > _KEPT_BYTES:
                if len(self._known) == 1:
                    return self._known.pop(name)
                del self._known[next(iter(self._known))]
        return self._known[name]
