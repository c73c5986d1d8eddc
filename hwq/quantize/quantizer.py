"""Post-training quantization: a float ONNX model and samples become a QDQ model that the array runs whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from hwq.errors import ModelError
from hwq.host import first_line
from hwq.onnx_load import load_model
from hwq.quantize.emit import emit
from hwq.quantize.journal import Journal
from hwq.quantize.network import Network
from hwq.quantize.recipe import Progress, Recipe
from hwq.quantize.samples import Data
from hwq.quantize.sensitivities import Sensitivity, measure_layers
from hwq.quantize.solve import calibrate, solve

MIXED_SHARE = 0.25
"""Of the noise that 4 bits everywhere would make, what ``mixed`` leaves."""


def quantize(
    model: str | Path | onnx.ModelProto,
    data: Data,
    recipe: Recipe | None = None,
    *,
    progress: Progress = lambda what, done, total: None,
) -> onnx.ModelProto:
    """Return a float model quantized: QDQ, opset 21, activations uint8, weights int8 or int4 with one scale a channel.

    Zero points are even; scales are such that the array adds exactly and, but for a few channels, requantizes with one
    product and one shift. Nothing is random: equal inputs give equal bytes, however the samples are batched.

    Parameters
    ----------
    model : path or onnx.ModelProto
        Of float32.
    data : arrays by input name, samples first, or an iterable of such
        Calibration samples; some hundred are enough.
    recipe : Recipe
    progress : callable (what, done, total)

    Raises
    ------
    ModelError
        The model can't be read, isn't of floats, or has nothing to quantize.
    InputError
        The samples don't fit the model.
    """
    name = "model" if isinstance(model, onnx.ModelProto) else Path(model).stem
    recipe = recipe or Recipe()
    loaded = model if isinstance(model, onnx.ModelProto) else load_model(model)
    calibrated = calibrate(loaded, name, data, recipe, progress)
    network = calibrated.network()
    require_layers(network, recipe.weights, name)
    if isinstance(recipe.weights, Mapping):
        weights = dict(recipe.weights)
    elif recipe.weights == "mixed":
        weights = mixed(measure_layers(calibrated, ["int4"], None, progress, Journal(None, "")))
    else:
        weights = dict.fromkeys(network.layers, recipe.weights)
    return checked(emit(network, solve(calibrated, network, weights, progress)), name)


def require_layers(network: Network, weights: str | Mapping[str, str], name: str) -> None:
    """Raise ModelError where a network has no layers, or not those whose `weights` are chosen."""
    if not network.layers:
        raise ModelError(f"{name}: holds no layer with constant weights, so there is nothing to quantize")
    chosen = [] if isinstance(weights, str) else list(weights)
    unknown = next((layer for layer in chosen if layer not in network.layers), None)
    if unknown is not None:
        raise ModelError(f"{name}: there is no layer {unknown!r} whose weights could be chosen")


def checked(quantized: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return a model that was made of the float model `name`, once ONNX's checker has passed it."""
    try:
        onnx.checker.check_model(quantized, full_check=True)
    except Exception as error:  # onnx raises ValidationError, InferenceError and C++ exceptions
        raise ModelError(f"{name}: the quantized model breaks the ONNX specification: {first_line(error)}") from error
    return quantized


def mixed(layers: list[Sensitivity]) -> dict[str, str]:
    """Return the weights of each layer: ``int8`` for the most sensitive, as few as leave `MIXED_SHARE` of the noise.

    Parameters
    ----------
    layers : list of Sensitivity
        Of every layer with 4 bits, the most sensitive first. Their noises are taken to add up.
    """
    noise = [10 ** (-layer.sqnr_db / 10) for layer in layers]
    rest, weights = sum(noise), {}
    for layer, own in zip(layers, noise, strict=True):
        weights[layer.layer] = "int4" if rest <= MIXED_SHARE * sum(noise) else "int8"
        rest -= own
    return weights
