"""What was measured on the simulated RTL: ``python -m hwq.report.results [WORKLOADS]`` writes results.json again.

Every row is one run of `hwq.verify`. The bundled model is always measured; the third-party networks are where the
folder WORKLOADS holds them, and otherwise keep the rows they have.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from hwq.program import write_whole

RESULTS = Path(__file__).with_name("results.json")

ARCHS = ("ecp5-8x16", "sim-4x4")
SAMPLES = 16
SEED = 1

NETWORKS = {
    "MLPerf Tiny ResNet-8, images": "models/mlperf_ic_resnet8/resnet.onnx",
    "MLPerf Tiny DS-CNN, keywords": "models/mlperf_kws_dscnn/kws_ref_model.onnx",
    "MLPerf Tiny MobileNet-0.25, persons": "models/mlperf_vww_mbv1_025/mobilenet_v1.onnx",
    "MLPerf Tiny autoencoder, anomalies": "models/mlperf_ad_autoencoder/deep_autoencoder.onnx",
    "TUM micro-kws M, keywords": "models/tum_micro_kws_m/micro_kws_m_static_qdq.onnx",
}
"""Third-party networks as published, and where they lie in the workloads' folder."""

BUNDLED = "hwq demo, handwritten digits"


def measure(name: str, model: Path, arch: str) -> dict[str, Any]:
    """Return one row: `model` verified on `arch` down to Verilator."""
    from hwq.ladder import verify

    report = verify(model, arch, samples=SAMPLES, seed=SEED)
    return {
        "network": name,
        "arch": arch,
        "samples": report.samples,
        "macs": report.macs,
        "cycles_predicted": report.cycles_predicted,
        "cycles_measured": report.cycles_measured,
        "utilisation": round(report.utilisation, 4),
        "elements": sum(rung.elements for rung in report.rungs),
        "mismatches": sum(rung.mismatches for rung in report.rungs),
        "host": sorted({node.op for node in report.host_nodes}),
    }


def table() -> str:
    """Return results.json as the README's table."""
    rows = [
        "| network | array | MACs | cycles predicted | measured | of peak | elements compared | mismatches |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in json.loads(RESULTS.read_text(encoding="utf-8")):
        numbers = [f"{row[key]:,}" for key in ("macs", "cycles_predicted", "cycles_measured")]
        cells = [row["network"], f"`{row['arch']}`", *numbers, f"{100 * row['utilisation']:.1f}%"]
        rows.append(" | ".join(["|", *cells, f"{row['elements']:,}", f"{row['mismatches']} |"]).replace("| |", "|"))
    return "\n".join(rows)


def main() -> None:
    """Measure and write results.json."""
    from hwq import demo

    parser = argparse.ArgumentParser(description="Measure the networks of README.md again.")
    parser.add_argument("workloads", type=Path, nargs="?", help="folder of the third-party networks")
    folder = parser.parse_args().workloads
    models = {BUNDLED: demo.model_path()}
    if folder is not None:
        models = {name: folder / path for name, path in NETWORKS.items()} | models
    old = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    rows = [row for row in old if row["network"] not in models]
    for name, model in models.items():
        for arch in ARCHS:
            print(f"{name} on {arch}", file=sys.stderr)
            rows.append(measure(name, model, arch))
    order = [*NETWORKS, BUNDLED]
    rows.sort(key=lambda row: (order.index(row["network"]), ARCHS.index(row["arch"])))
    write_whole(RESULTS, (json.dumps(rows, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
