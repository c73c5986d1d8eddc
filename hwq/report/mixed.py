"""What mixed precision gains: ``python -m hwq.report.mixed WORKLOADS`` writes mixed.json again.

A network is calibrated and searched on every other one of its samples and measured on those between, then the halves
are exchanged. So of both halves together each sample is judged by a network that was made without it. Cycles are the
compiler's prediction; `hwq.verify` compares it, and every element of a few samples, with the simulated RTL.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hwq.ir import Array
from hwq.program import write_whole

RESULTS = Path(__file__).with_name("mixed.json")

ARCH = "ecp5-8x16"
HALVES = (0, 1)
POINTS = 12
"""Limits for which the integer program is solved, besides the one asked for."""


class Labelled(NamedTuple):
    """A float network and labelled samples, where they lie in the workloads' folder.

    Members
    -------
    model, samples : str
    divisor : float
        From a sample's integers to what the network takes.
    """

    model: str
    samples: str
    divisor: float

    def load(self, folder: Path) -> tuple[Array, Array]:
        """Return inputs, float32 (N, C, H, W), and labels (N,)."""
        with np.load(folder / self.samples) as stored:
            images = stored["x"].astype(np.float32).transpose(0, 3, 1, 2) / np.float32(self.divisor)
            return np.ascontiguousarray(images), stored["y"]


NETWORKS = {
    "MLPerf Tiny ResNet-8, images": Labelled("float/ic_resnet8_fp32.onnx", "data/cifar10_raw_uint8.npz", 1),
    "MLPerf Tiny MobileNet-0.25, persons": Labelled("float/vww_96_fp32.onnx", "data/vww96_rgb_uint8.npz", 255),
}
INPUT = "input_1"
"""Of both networks."""

UNIFORM = ("int4", "codebook", "int8")
"""Of weights, what `ARCH` runs on the array in every layer."""

VERIFIED = 2
"""Samples that are run on the RTL."""

LIMITS = (*((kind, 1.0) for kind in UNIFORM), ("int8", 0.9))
"""What the searches may take: shares of a uniform assignment's cycles."""

Row = dict[str, Any]


def measure(source: Labelled, folder: Path, half: int, resume: Path | None) -> Iterator[Row]:
    """Yield the rows of a network that is made from the samples of one half and measured on the other.

    Parameters
    ----------
    half : int
        0: calibrated on samples 0, 2, 4, ...; 1: on the others.
    resume : Path
        What an interrupted search goes on from.
    """
    from hwq.compiler import load
    from hwq.ladder import verify
    from hwq.onnx_load import load_model
    from hwq.onnx_writer import write
    from hwq.quantize import Recipe, quantize
    from hwq.quantize.metrics import compare, outputs
    from hwq.quantize.search import Limits, search
    from hwq.quantize.search.problem import storage

    model, (images, labels) = folder / source.model, source.load(folder)
    seen = np.arange(len(images)) % 2 == half
    given = {INPUT: images[seen]}
    judged, answers = [{INPUT: image[np.newaxis]} for image in images[~seen]], labels[~seen]
    wanted = outputs(load_model(model), judged)

    def row(name: str, got: Sequence[Array], **more: Any) -> Row:
        score = compare(wanted, list(got), answers)
        agreed = int((got[0].argmax(axis=-1) == wanted[0].argmax(axis=-1)).sum())
        right = round(len(answers) * (score.accuracy or 0))
        return {"half": half, "weights": name, **more, "samples": len(answers)} | {
            "right": right, "as_in_floats": agreed, "kl": round(score.kl, 7)
        }  # fmt: skip

    def quantized(name: str, weights: str | Mapping[str, str], **more: Any) -> Row:
        made = quantize(model, given, Recipe(weights=weights))
        kept = storage([weights] if isinstance(weights, str) else weights.values())
        checked = verify(made, ARCH, weights=kept, inputs={INPUT: images[~seen][:VERIFIED]})
        assert checked.cycles_measured == checked.cycles_predicted, name
        elements, mismatches = (sum(getattr(rung, of) for rung in checked.rungs) for of in ("elements", "mismatches"))
        more |= {"cycles": checked.cycles_predicted, "elements": elements, "mismatches": mismatches}
        return row(name, outputs(write(load(made)), judged), **more)

    yield row("float", wanted)
    cycles = {}
    for kind in UNIFORM:
        uniform = quantized(kind, kind)
        cycles[kind] = uniform["cycles"]
        yield uniform
    for kind, share in LIMITS:
        most = int(share * cycles[kind])
        found = search(model, given, ARCH, limits=Limits(max_cycles=most), points=POINTS, resume=resume)
        yield quantized("mixed", found.weights, beside=kind, share=share, layers=" ".join(found.chosen.weights))


def rows() -> list[Row]:
    """Return mixed.json."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []


class Pooled(NamedTuple):
    """What is measured of one kind of weights on both halves together.

    Members
    -------
    cycles : tuple of int
        Of one inference, on each half; empty in floats.
    accuracy, as_in_floats : float
        Shares of the samples, 0 to 1: classified rightly, and as the float network does.
    kl : float
        Mean Kullback-Leibler divergence of the outputs from the float network's [nat].
    halves : tuple of (float, float)
        Accuracy and divergence of each.
    layers : tuple of str
        Of mixed weights, those of each layer, on each half.
    """

    cycles: tuple[int, ...]
    accuracy: float
    as_in_floats: float
    kl: float
    halves: tuple[tuple[float, float], ...]
    layers: tuple[str, ...]


def pooled(network: str, weights: str, beside: str | None = None, share: float | None = None) -> Pooled:
    """Return both halves' rows of `weights` as one; of mixed ones, those found within `share` of `beside`'s cycles."""
    key = network, weights, beside, share
    found = [row for row in rows() if (row["network"], row["weights"], row.get("beside"), row.get("share")) == key]
    samples = sum(row["samples"] for row in found)
    return Pooled(
        tuple(row["cycles"] for row in found if "cycles" in row),
        sum(row["right"] for row in found) / samples,
        sum(row["as_in_floats"] for row in found) / samples,
        sum(row["samples"] * row["kl"] for row in found) / samples,
        tuple((row["right"] / row["samples"], row["kl"]) for row in found),
        tuple(row["layers"] for row in found if "layers" in row),
    )


def table() -> str:
    """Return mixed.json as a table of uniform assignments and the mixed ones within their cycles."""
    out = ["| | cycles | accuracy | as in floats | divergence, 1/1000 nat |", "|---|--:|--:|--:|--:|"]
    for network in NETWORKS:
        name = network.removeprefix("MLPerf Tiny ").partition(",")[0]
        entries = [(f"{name}, float", pooled(network, "float"))]
        for beside, share in LIMITS:
            if share == 1:
                entries.append((f"{name}, {beside}", pooled(network, beside)))
            limit = "no slower" if share == 1 else f"{share:.0%} of {beside}'s cycles"
            entries.append((f"mixed, {limit}", pooled(network, "mixed", beside, share)))
        for label, entry in entries:
            cycles = ", ".join(f"{count:,}" for count in dict.fromkeys(entry.cycles))
            apart = [", ".join(f"{100 * accuracy:.1f}" for accuracy, _ in entry.halves)]
            apart.append(", ".join(f"{1000 * kl:.1f}" for _, kl in entry.halves))
            cells = [label, cycles, f"{entry.accuracy:.1%} ({apart[0]})", f"{entry.as_in_floats:.1%}"]
            out.append(f"| {' | '.join(cells)} | {1000 * entry.kl:.2f} ({apart[1]}) |")
    return "\n".join(out)


def verified() -> str:
    """Return how much of the quantized networks has been compared with the RTL."""
    runs = [row for row in rows() if "elements" in row]
    elements, mismatches = (sum(row[of] for row in runs) for of in ("elements", "mismatches"))
    return f"Elements of these {len(runs)} networks compared down to the RTL: {elements:,}; mismatches: {mismatches}."


def accuracies() -> str:
    """Return the accuracies of uniform weights on each half as a table."""
    kinds = {"float": "float", "int8": "int8 weights", "codebook": "codebooks", "int4": "int4 weights"}
    out = [f"| network | {' | '.join(kinds.values())} |", "|---|--:|--:|--:|--:|"]
    for network in NETWORKS:
        halves = [", ".join(f"{100 * share:.1f}" for share, _ in pooled(network, kind).halves) for kind in kinds]
        out.append(f"| {network} | {' | '.join(f'{pair}%' for pair in halves)} |")
    return "\n".join(out)


def main() -> None:
    """Measure and write mixed.json, row by row."""
    parser = argparse.ArgumentParser(description="Measure mixed precision beside uniform weights again.")
    parser.add_argument("workloads", type=Path, help="folder of the third-party networks")
    parser.add_argument("--resume", type=Path, help="folder that keeps what the searches measure, to go on from")
    arguments = parser.parse_args()
    kept = rows()
    for network, source in NETWORKS.items():
        for half in HALVES:
            kept = [row for row in kept if (row["network"], row["half"]) != (network, half)]
            resume = arguments.resume and arguments.resume / f"{Path(source.model).stem}-{half}.jsonl"
            for row in measure(source, arguments.workloads, half, resume):
                print(network, row, file=sys.stderr)
                kept.append({"network": network, **row})
                ordered = sorted(kept, key=lambda row: (list(NETWORKS).index(row["network"]), row["half"]))
                write_whole(RESULTS, (json.dumps(ordered, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
