"""Mutants of what decides a result in Python: each must fail the tests named for its module, or random graphs.

A mutant that no test fails is a failed trial, unless `EQUIVALENT` says why it is no change.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
from pathlib import Path

from tests.campaigns import mutations
from tests.campaigns.attack import Attacker
from tests.campaigns.campaign import Campaign, allow

ROOT = Path(__file__).resolve().parents[2]
MARKS = ["-m", "not rtl and not system and not slow"]
COMPILER = ["tests/test_layer_forms.py", "tests/test_verify.py", *MARKS, "-k", "forms or agree"]

TARGETS: dict[str, tuple[list[str], int]] = {
    # module: (pytest's arguments, random graphs)
    "hwq.fixed": (["tests/test_fixed.py", "tests/test_staircase.py"], 20),
    "hwq.kernels": (["tests/test_reference.py", *MARKS], 40),
    "hwq.reference": (["tests/test_reference.py", "tests/test_operators.py", *MARKS], 40),
    "hwq.multipliers": (["tests/test_multipliers.py"], 40),
    "hwq.machine": (["tests/test_machine.py", *MARKS], 0),
    "hwq.residual": (["tests/test_residual.py", *MARKS], 40),
    "hwq.mesh_layer": (COMPILER, 150),
    "hwq.vector_layer": (COMPILER, 150),
    "hwq.depthwise_layer": (COMPILER, 150),
    "hwq.passes.flatten_to_conv": (["tests/passes/test_flatten_to_conv.py"], 60),
    "hwq.passes.fuse_tables": (["tests/passes/test_fuse_tables.py"], 60),
    "hwq.passes.fuse_views": (["tests/passes/test_fuse_views.py"], 60),
    "hwq.passes.partition": (["tests/passes/test_partition.py"], 60),
    "hwq.passes.split": (["tests/passes/test_split.py", *MARKS], 0),
    "hwq.passes.sums_by_bytes": (["tests/passes/test_sums_by_bytes.py", *MARKS], 0),
    "hwq.passes.transpose_space": (["tests/passes/test_transpose_space.py"], 60),
}
"""What is mutated, and the tests that every mutant of it must fail: quick ones that concern it."""

SECONDS = 60
"""Processor time of a mutant, some times what its tests take; more is an endless loop."""

WAIT_SECONDS = 1800
"""What a trial may take of the clock, on a machine that has other things to do."""

EQUIVALENT: dict[str, str] = json.loads((Path(__file__).with_name("equivalent.json")).read_text(encoding="utf-8"))
"""Mutants that change no result, each with the reason why."""


@functools.cache
def source(module: str) -> str:
    """Return a module's source."""
    return (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")


@functools.cache
def mutants() -> list[tuple[str, str, mutations.Mutant]]:
    """Return every mutant there is, with its name and module, in the order of the hash of its name.

    The first ones are a sample, which stays nearly the same when sources change.
    """
    named = [
        (described(module, mutant), module, mutant)
        for module in TARGETS
        for mutant in mutations.mutants(source(module))
    ]
    return sorted(named, key=lambda item: hashlib.sha256(item[0].encode()).digest())


@functools.cache
def attacker() -> Attacker:
    """Return the process that runs mutants, started once."""
    process = Attacker()
    atexit.register(process.kill)
    return process


def attack(module: str, text: str) -> str:
    """Return what becomes of the tests where `module` has the source `text`."""
    tests, graphs = TARGETS[module]
    try:
        return attacker().outcome(module, text, tests, graphs, SECONDS)
    except BaseException:  # a late answer must not be taken for the next mutant's
        attacker().kill()
        attacker.cache_clear()
        raise


def described(module: str, mutant: mutations.Mutant) -> str:
    """Return a mutant's name, which lasts while its line's text does."""
    line = source(module).splitlines()[mutant.line - 1]
    column = mutant.column - len(line) + len(line := line.strip())
    before, after = mutant.before.splitlines()[0], mutant.after.splitlines()[0]
    return f"{module}.{mutant.where}: `{line}`: `{before}` -> `{after}` at {column}"


def trial(index: int) -> list[str]:
    """Attack with one mutant."""
    allow(WAIT_SECONDS)
    name, module, mutant = mutants()[index]
    if name in EQUIVALENT:
        return [f"{module}: equivalent"]
    outcome = attack(module, mutant.source)
    assert outcome != "survived", f"{module.replace('.', '/')}.py:{mutant.line} survived: {name}"
    return [f"{module}: {outcome}"]


CAMPAIGN = Campaign(
    "python-mutants", "mutants of Python, which must fail quick tests or random graphs", 5, trial, numbered=True
)
