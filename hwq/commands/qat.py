"""``hwq qat``: a float model learns to compute with the integers it will be."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwq.commands.options import JsonFile, writable
from hwq.commands.quantize import Activations, FloatModel, Method, Ranges

if TYPE_CHECKING:
    import onnx

    from hwq.quantize.qat import Part


class Weights(enum.StrEnum):
    """What weights can become; see `hwq.quantize.qat.Recipe`."""

    int8 = "int8"
    int4 = "int4"
    int2 = "int2"


class Optimizer(enum.StrEnum):
    """See `hwq.quantize.qat.Recipe`."""

    adam = "adam"
    sgd = "sgd"


def qat(
    model: FloatModel,
    data: Annotated[
        Path, typer.Option("--data", metavar="X.npz", help="Training samples by input name.", show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="Q.onnx", help="QDQ model.", show_default=False, callback=writable),
    ],
    labels: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Array of X.npz with the right classes; else --distill.", show_default=False),
    ] = None,
    weights: Annotated[Weights, typer.Option(help="int2: -2 to 1, stored as int4.")] = Weights.int4,
    activations: Annotated[Activations, typer.Option(help="Of the tensors between layers.")] = Activations.uint4,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    batch: Annotated[int, typer.Option(min=1, help="Samples.")] = 32,
    optimizer: Annotated[Optimizer, typer.Option()] = Optimizer.adam,
    rate: Annotated[float, typer.Option(help="Learning rate of weights and biases.")] = 5e-3,
    step_rate: Annotated[float, typer.Option(help="Learning rate of steps.")] = 1e-3,
    method: Method = Ranges.mse,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of samples, and of --scratch.")] = 0,
    scratch: Annotated[bool, typer.Option("--scratch", help="Start from random weights.")] = False,
    freeze_norms: Annotated[
        float, typer.Option(min=0, max=1, help="Part of the epochs after which batch normalizations are frozen.")
    ] = 0.5,
    distill: Annotated[float, typer.Option(min=0, help="Weight of the divergence from the teacher; 0: none.")] = 0.0,
    temperature: Annotated[float, typer.Option(min=0.01, help="Of --distill.")] = 4.0,
    teacher: Annotated[
        Path | None, typer.Option(metavar="T.onnx", help="Of --distill; default: FLOAT.onnx.", show_default=False)
    ] = None,
    prune: Annotated[float, typer.Option(min=0, max=0.99, help="Share of each layer's weights to become 0.")] = 0.0,
    prune_channels: Annotated[
        float, typer.Option(min=0, max=0.99, help="Share of channels to remove before training.")
    ] = 0.0,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Training so far, written after every epoch; default: Q.onnx.checkpoint, removed at the end.",
            show_default=False,
            callback=writable,
        ),
    ] = None,
    arch: Annotated[str, typer.Option("--arch", "-a", metavar="ARCH", help="Whose rules are reported.")] = "ecp5-8x16",
    json: JsonFile = None,
) -> None:
    """Quantize a float model by training it on: weights of 8, 4 or 2 bits, activations of 8 or 4. Resumes."""
    from hwq.commands.console import console, progress, read_arrays, write_file, write_report
    from hwq.commands.quantize import print_report
    from hwq.config import load_arch
    from hwq.errors import InputError
    from hwq.onnx_load import load_model
    from hwq.quantize import qat as training
    from hwq.quantize.recipe import Method as Ranging
    from hwq.quantize.report import report

    config, samples = load_arch(arch), read_arrays(data)
    if labels is not None and labels not in samples:
        raise InputError(f"{data}: has no array {labels!r} (it has {', '.join(map(repr, samples))})")
    loaded = load_model(model)
    recipe = training.Recipe(
        weights=weights.value,
        activations=activations.value,
        epochs=epochs,
        batch=batch,
        optimizer=optimizer.value,
        rate=rate,
        step_rate=step_rate,
        method=Ranging(method.value),
        seed=seed,
        parts=_parts(freeze_norms, distill, temperature, loaded if teacher is None else load_model(teacher), prune),
    )
    if prune_channels:
        loaded = training.prune_channels(loaded, prune_channels)
    if scratch:
        loaded = training.reinitialize(loaded, seed)
    saved = checkpoint or output.with_name(f"{output.name}.checkpoint")
    answers = None if labels is None else samples[labels]
    with progress() as show:
        trained = training.train(loaded, samples, answers, recipe, checkpoint=saved, progress=show)
    write_file(output, trained.model.SerializeToString(deterministic=True))
    if checkpoint is None:
        saved.unlink(missing_ok=True)
    result = report(trained.model, config)
    description = {"model": str(model), "output": str(output), "arch": config.name, "losses": trained.losses}
    write_report(json, description | result.to_dict())
    if str(json) != "-":
        print_report(result, model.stem)
        console().print(f"Mean loss of the last epoch: {trained.losses[-1]:.4f}.", markup=False)
        console().print(f"Wrote {output} ({output.stat().st_size:,} bytes).", markup=False)


def _parts(
    freeze_norms: float, distill: float, temperature: float, teacher: onnx.ModelProto, prune: float
) -> tuple[Part, ...]:
    from hwq.quantize import qat as training

    parts: list[Part] = [training.FreezeNorms(freeze_norms)]
    if distill:
        parts.append(training.Distill(distill, temperature, teacher))
    if prune:
        parts.append(training.Prune(prune))
    return tuple(parts)
