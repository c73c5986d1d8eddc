"""What an accelerator takes on a board, in a moment: linear models fitted on what results.json holds of its family.

Each resource is linear in the array's parts (`FEATURES`). The stated error is the largest one of the rows when each is
predicted from the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from boards.registry import find
from boards.report import Use, overfull
from boards.results import rows
from boards.synthesis import options
from hwq import isa
from hwq.config import ArrayConfig
from hwq.errors import HwqError

FEATURES = {
    "LUT": ("one", "pes", "pes_int4", "lanes", "tables"),
    "FF": ("one", "pes", "pes_int4", "lanes", "tables"),
    "DSP": ("one", "pes", "lanes"),
    "RAM": ("one", "blocks"),
    "SPRAM": ("one", "single_port"),
}
"""What each resource is linear in."""

_18_KBIT = ((1, 16384), (2, 8192), (4, 4096), (9, 2048), (18, 1024), (36, 512))

BLOCKS = {
    "ecp5": _18_KBIT,
    "GW2AR-18C": _18_KBIT,
    "iCE40": ((2, 2048), (4, 1024), (8, 512), (16, 256)),
}
"""Shapes of each family's block RAM: bits of a word, words."""


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
        Where results.json has too few rows of the board's family, or none of its device.
    """
    device, family = find(board).platform.device, _family(board)
    known = [row for row in rows() if _family(row["board"]) == family]
    there = next((row["resources"] for row in known if row["device"] == device), None)
    least = len(FEATURES["LUT"]) + 1
    if len(known) < least or there is None:
        raise HwqError(
            f"boards/results.json holds {len(known)} builds of the family of board {board!r}, and an estimate needs "
            f"{least}, one of them for {device}; build it without --estimate"
        )
    uses, error = {}, {}
    for kind in (kind for kind in FEATURES if kind in there):
        x = np.array([_features(ArrayConfig(**row["config"]), FEATURES[kind], family[0]) for row in known])
        y = np.array([row["resources"][kind]["used"] for row in known], np.float64)
        predicted = _predict(x, y, np.array([_features(config, FEATURES[kind], family[0])]))[0]
        uses[kind] = Use(max(0, round(predicted)), there[kind]["there"])
        others = [np.arange(len(y)) != index for index in range(len(y))]
        left_out = [_predict(x[keep], y[keep], x[~keep])[0] for keep in others]
        error[kind] = float(np.max(np.abs(np.array(left_out) - y) / np.maximum(y, 1)))
    reached = [mhz for row in known for mhz in row["seeds"].values()]
    return Estimate(uses, error, (min(reached), max(reached)) if reached else None, overfull(device, uses) or "")


def _family(board: str) -> tuple[str, str]:
    """Return what boards have in common whose accelerators are made of the same cells."""
    platform = find(board).open_platform()
    return platform.family, options(platform)


def _predict(x: np.ndarray, y: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the least-squares fit of `y` on `x` at `wanted`, by relative errors, so that small designs count too."""
    weight = 1 / np.maximum(y, 1)
    factors, *_ = np.linalg.lstsq(x * weight[:, np.newaxis], y * weight, rcond=None)
    result: np.ndarray = wanted @ factors
    return result


def _features(config: ArrayConfig, names: tuple[str, ...], family: str) -> list[float]:
    pes = config.macs_per_cycle
    values = {
        "one": 1.0,
        "pes": pes,
        "pes_int4": pes * config.int4,
        "lanes": config.lanes,
        "tables": config.lanes * config.tables,
        "blocks": sum(blocks(*memory, family) for memory in _memories(config)),
        "single_port": config.one_port * sum(-(-words // 16384) * width // 16 for width, words in _tensors(config)),
    }
    return [values[name] for name in names]


def _tensors(config: ArrayConfig) -> list[tuple[int, int]]:
    """Return width and depth of the memories that have one port where activations have one."""
    width = 16 if config.one_port else 8
    banks = 8 * config.fetch_bytes // width
    return [(8 * config.cols, config.weight_words), *[(width, 8 * config.act_bytes // banks // width)] * banks]


def _memories(config: ArrayConfig) -> list[tuple[int, int]]:
    """Return width, parity included, and depth of the large memories in block RAM."""
    others = [(32 * isa.PARAM_LANE_WORDS * config.lanes, config.param_words), (32, isa.SLOT_WORDS * config.slots)]
    memories = others + ([] if config.one_port else _tensors(config))
    return [(width // 8 * (8 + config.parity), depth) for width, depth in memories]


def blocks(width: int, depth: int, family: str) -> int:
    """Return the least block RAMs that hold `depth` words of `width` bits.

    >>> blocks(8, 12288, "ecp5"), blocks(32, 512, "ecp5"), blocks(32, 512, "iCE40")
    (6, 1, 4)
    """
    return min(-(-width // bits) * -(-depth // words) for bits, words in BLOCKS[family])
