"""Every property, and the table of them; `python -m tests.proofs.registry` proves all and writes what it took."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

from tests.proofs.harness import PROOFS, Proof, check

RESULTS = Path(__file__).with_name("results.json")

_MODULES = [f"tests.proofs.{name}" for name in ("rounding", "multiplying", "walking", "storing", "control", "link")]
for _name in _MODULES:
    importlib.import_module(_name)

ALL = tuple(sorted(PROOFS.values(), key=lambda proof: _MODULES.index(proof.build.__module__)))
QUICK = tuple(proof for proof in ALL if not proof.slow)


def kind(proof: Proof) -> str:
    """Return how far the property reaches."""
    return f"{proof.depth} cycles after reset" if proof.bounded else f"always; {proof.depth} cycles of induction"


def table() -> str:
    """Return the properties as Markdown."""
    seconds = json.loads(RESULTS.read_text(encoding="utf-8"))
    lines = ["| of | property | proved | seconds |", "|---|---|---|--:|"]
    for proof in ALL:
        of = proof.where.removeprefix("rtl.").replace(".", "/")
        lines.append(
            f"| `{of}.py` | {proof.claim.replace('|', chr(92) + '|')} | {kind(proof)} | {seconds[proof.name]} |"
        )
    return "\n".join(lines)


def summary() -> str:
    """Return how many properties there are."""
    always = sum(not proof.bounded for proof in ALL)
    return f"{len(ALL)} properties, {always} of them of every cycle:"


def main() -> None:
    """Prove everything."""
    seconds = {}
    for proof in ALL:
        seconds[proof.name] = round(check(proof), 1)
        print(f"{proof.name}: {kind(proof)}, {seconds[proof.name]} s", flush=True)
    RESULTS.write_text(json.dumps(seconds, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
