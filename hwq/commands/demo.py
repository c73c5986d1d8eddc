"""``hwq demo``: the bundled model on every rung, with nothing to give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwq.commands.options import JsonFile

if TYPE_CHECKING:
    import numpy as np

    from hwq.ladder import Report

ARCHS = ("sim-4x4", "ecp5-8x16")


def demo(
    samples: Annotated[int, typer.Option(min=1, max=360, help="Of the bundled test set of 360.")] = 200,
    json: JsonFile = None,
) -> None:
    """Classify handwritten digits on ONNX Runtime, the reference, the machine and the RTL, and compare them all.

    Exit status 1: something differs.
    """
    from hwq import demo as bundled
    from hwq.commands.console import console, progress, table, write_report
    from hwq.ladder import verify

    images, labels = bundled.load_samples()
    reports = []
    with progress() as show:
        for arch in ARCHS:
            show(f"Compiling for {arch}", 0, 0)
            feeds = {"image": images[:samples]}
            reports.append(verify(bundled.model_path(), arch, inputs=feeds, progress=show))
    ok = all(report.ok for report in reports)
    accuracy = [_accuracy(report, labels[:samples]) for report in reports]
    write_report(
        json,
        {
            "ok": ok,
            "archs": [report.to_dict() | {"accuracy": a} for report, a in zip(reports, accuracy, strict=True)],
        },
    )
    if str(json) != "-":
        columns = ["arch", "rung", "accuracy", "elements", "mismatches", "predicted", "measured", "rate", "samples/s"]
        rows = [row for report, a in zip(reports, accuracy, strict=True) for row in _rows(report, a)]
        out = console()
        title = f"Handwritten digits, {samples} samples: each rung against the one above it"
        out.print(table(title, columns, rows, numbers=columns[2:]))
        for report in reports:
            for rung in report.rungs:
                if rung.first is not None:
                    out.print(f"{report.arch}, {rung.name}: {rung.first.sentence()}", markup=False)
        out.print("Equal on every rung." if ok else "NOT equal.", style="green" if ok else "bold red")
    if not ok:
        raise typer.Exit(1)


def _accuracy(report: Report, labels: np.ndarray) -> dict[str, float]:
    """Return the share of right answers by rung."""
    return {
        name: float((outputs["logits"].argmax(axis=1) == labels).mean()) for name, outputs in report.outputs.items()
    }


def _rows(report: Report, accuracy: dict[str, float]) -> list[list[Any]]:
    from hwq.commands.console import percent
    from hwq.ladder import ORACLE

    rows: list[list[Any]] = [[report.arch, ORACLE, percent(accuracy[ORACLE]), *[None] * 6]]
    for rung in report.rungs:
        clocked = rung.name == report.targets[-1]
        cycles = [report.cycles_predicted, report.cycles_measured] if clocked else [None, None]
        rate = percent(report.utilisation) if clocked else None
        speed = f"{report.samples / rung.seconds:,.0f}" if rung.seconds else None
        rows.append(["", rung.name, percent(accuracy[rung.name]), rung.elements, rung.mismatches, *cycles, rate, speed])
    return rows
