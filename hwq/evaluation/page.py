"""An evaluation as tables and as one HTML page, its plots inside: nothing is fetched to show it."""

from __future__ import annotations

from hwq.evaluation.corruptions import SEVERITIES
from hwq.evaluation.evaluate import Comparison
from hwq.plots import Plot, Series, render, svg


def figures(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return the table of all figures: its columns, and a row for each figure, with the change where there are two."""
    networks = list(found.networks.values())
    rows = [
        ["accuracy", *(_percent(entry.accuracy) for entry in networks)],
        ["calibration error (ECE)", *(_percent(entry.calibration_error) for entry in networks)],
        ["Brier score", *(f"{entry.brier:.4f}" for entry in networks)],
    ]
    for name in networks[0].corrupted:
        rows.append([f"accuracy with {name}", *(_percent(_mean(entry.corrupted[name])) for entry in networks)])
    for name in networks[0].unknown:
        rows.append([f"AUROC against {name}", *(f"{entry.unknown[name]:.3f}" for entry in networks)])
    for index, entry in enumerate(networks[0].classes):
        label = f"class {entry.label} ({entry.samples} samples)"
        rows.append([label, *(_percent(network.classes[index].accuracy) for network in networks)])
    return ["", *found.networks], rows


def page(found: Comparison) -> str:
    """Return the HTML page.

    Raises
    ------
    MissingToolError
        Jinja2 isn't installed.
    """
    import markupsafe

    columns, rows = figures(found)
    plots = [markupsafe.Markup(svg(plot)) for plot in _plots(found)]
    return render("evaluation.html", found=found, columns=columns, rows=rows, plots=plots)


def _plots(found: Comparison) -> list[Plot]:
    networks = found.networks
    calibrated: list[Series] = []
    for name, entry in networks.items():
        bins = [part for part in entry.reliability if part.samples]
        calibrated.append(Series(name, [b.confidence for b in bins], [b.accuracy for b in bins], "both"))
    calibrated.append(Series("calibrated", [0, 1], [0, 1], dashed=True))
    labels = [str(entry.label) for entry in next(iter(networks.values())).classes]
    classes = [
        Series(name, range(len(labels)), [part.accuracy for part in entry.classes], "bars")
        for name, entry in networks.items()
    ]
    plots = [
        Plot("Confidence and accuracy", "confidence", "accuracy", calibrated, y_range=(0, 1)),
        Plot("Accuracy by class", "class", "accuracy", classes, labels, y_range=(0, 1)),
    ]
    for corruption in next(iter(networks.values())).corrupted:
        lines = [
            Series(name, (0, *SEVERITIES), (entry.accuracy, *entry.corrupted[corruption]), "both")
            for name, entry in networks.items()
        ]
        plots.append(Plot(f"Robustness: {corruption}", "severity", "accuracy", lines, y_range=(0, 1)))
    for what in next(iter(networks.values())).unknown:
        lines = [Series(name, *found.curves[name, what]) for name in networks]
        lines.append(Series("chance", [0, 1], [0, 1], dashed=True))
        title = f"Telling samples from {what} by confidence"
        plots.append(Plot(title, "share of unknown taken", "share of known taken", lines, y_range=(0, 1)))
    return plots


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"
