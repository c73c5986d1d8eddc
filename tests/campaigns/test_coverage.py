"""Bins name their clauses, and those that nothing fell into are shown."""

import re

import pytest

from hwq import isa
from hwq.config import ArrayConfig
from tests.campaigns import coverage
from tests.campaigns.cores import ARRAYS

BINS = [f"{point}: {name}" for point, (_, names) in coverage.declared().items() for name in names]


def test_empty_bins_are_shown():
    full = dict.fromkeys(BINS, 1)
    assert coverage.empty(full) == []
    assert "Empty: none." in coverage.table(full)
    counts = full | {"order: CONV then strips, early": 0}
    del counts["error: odd: ACT_RANGE"]
    assert coverage.empty(counts) == ["order: CONV then strips, early", "error: odd: ACT_RANGE"]
    assert "Empty: order: CONV then strips, early; error: odd: ACT_RANGE." in coverage.table(counts)


def test_a_bin_that_can_not_be_reached_is_shown():
    never = coverage.Point("never", "`pixels`", ("0",), lambda seen: [])
    shown = coverage.empty(dict.fromkeys(BINS, 1), coverage.declared() | {never.name: (never.clause, never.bins)})
    assert shown == ["never: 0"]


def test_what_no_bin_was_declared_for_is_a_mistake():
    point = coverage.Point("opcode", "`isa.Opcode`", ("1",), lambda seen: [str(seen.d["opcode"])])
    seen = [coverage.Seen(ARRAYS[0], isa.complete({"opcode": opcode}), None, 0, 0) for opcode in (1, 2)]
    assert point.hit(seen[0]) == {"1"}
    with pytest.raises(ValueError, match="opcode has no bins \\['2'\\]"):
        point.hit(seen[1])


def test_bins_have_one_name_each():
    assert len(BINS) == len(set(BINS))


def test_every_clause_is_one_of_the_instruction_set():
    known = {field.name for field in isa.DESCRIPTOR} | {"every _base"}
    for point, (clause, _) in coverage.declared().items():
        names = re.findall("`([^`]+)`", clause)
        assert names, point
        for name in names:
            assert hasattr(isa, name.removeprefix("isa.")) if name.startswith("isa.") else name in known, (point, name)
    assert ArrayConfig is type(ARRAYS[0])


def test_every_field_of_a_descriptor_has_a_bin():
    named = {name for _, (clause, _) in coverage.declared().items() for name in re.findall("`([^`]+)`", clause)}
    unnamed = {field.name for field in isa.DESCRIPTOR} - named
    assert unnamed == set()
