"""What an accelerator takes on a board, in a moment: linear models fitted on what results.json holds of its family.

Each resource is linear in the array's parts (`FEATURES`). The stated error is the largest one of the rows when each is
predicted from the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from boards.registry import find
from boards.report import Use, overfull
from boards.results import rows
from hwq import isa
from hwq.config import ArrayConfig
from hwq.errors import HwqError

_Row = dict[str, Any]

FEATURES = {
    "LUT": ("one", "pes", "pes_int4", "lanes", "tables"),
    "FF": ("one", "pes", "pes_int4", "lanes", "tables"),
    "DSP": ("one", "pes", "lanes"),
    "RAM": ("one", "memory"),
}
"""What each resource is linear in."""


@dataclass(frozen=True)
class Estimate:
    """What a board's FPGA would hold.

    Members
    -------
    resources : dict of str to Use
        Rounded predictions.
    error : dict of str to float
        Largest error of each, as a share.
    fmax_mhz : tuple of float or None
        Slowest and fastest clock of the routed designs of this family; None where there are none.
    problem : str
        What wouldn't fit, as a sentence; empty where all would.
    """

    resources: dict[str, Use]
    error: dict[str, float]
    fmax_mhz: tuple[float, float] | None
    problem: str


def estimate(board: str, config: ArrayConfig) -> Estimate:
    """Return what `config` would take on `board`; nothing is synthesized.

    Raises
    ------
    HwqError
        Where results.json has too few rows of the board's family.
    """
    family = _family(board)
    known = [row for row in rows() if _family(row["board"]) == family]
    there = next((row["resources"] for row in known if row["board"] == board), None)
    least = len(FEATURES["LUT"]) + 1
    if len(known) < least or there is None:
        raise HwqError(
            f"boards/results.json holds {len(known)} builds of the family of board {board!r}, and an estimate needs "
            f"{least}; build it without --estimate"
        )
    uses, error = {}, {}
    for kind, names in FEATURES.items():
        x = np.array([_features(row["config"], names) for row in known])
        y = np.array([row["resources"][kind]["used"] for row in known], np.float64)
        predicted = _predict(x, y, np.array([_features(config.to_dict(), names)]))[0]
        uses[kind] = Use(max(0, round(predicted)), there[kind]["there"])
        others = [np.arange(len(y)) != index for index in range(len(y))]
        left_out = [_predict(x[keep], y[keep], x[~keep])[0] for keep in others]
        error[kind] = float(np.max(np.abs(np.array(left_out) - y) / np.maximum(y, 1)))
    reached = [mhz for row in known for mhz in row["seeds"].values()]
    device = find(board).open_platform().device
    return Estimate(uses, error, (min(reached), max(reached)) if reached else None, overfull(device, uses) or "")


def _family(board: str) -> str:
    return str(find(board).open_platform().family)


def _predict(x: np.ndarray, y: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the least-squares fit of `y` on `x` at `wanted`, by relative errors, so that small designs count too."""
    weight = 1 / np.maximum(y, 1)
    factors, *_ = np.linalg.lstsq(x * weight[:, np.newaxis], y * weight, rcond=None)
    result: np.ndarray = wanted @ factors
    return result


def _features(config: _Row, names: tuple[str, ...]) -> list[float]:
    pes = config["rows"] * config["cols"]
    bits = 8 * (config["act_bytes"] + config["weight_words"] * config["cols"])
    bits += 64 * config["param_words"] * config["lanes"] + 32 * isa.SLOT_WORDS * config["slots"]
    values = {
        "one": 1.0,
        "pes": pes,
        "pes_int4": pes * (config["weight_bits"] == 4),
        "lanes": config["lanes"],
        "tables": config["lanes"] * config["tables"],
        "memory": bits / 18432,
    }
    return [values[name] for name in names]
