"""Architectures by name, by file, and the wrong ones."""

import dataclasses
import hashlib
import json

import pytest
from amaranth.back import rtlil

from hwq import isa
from hwq.config import PRESETS, load_arch
from hwq.errors import ArchError
from rtl.top import Accelerator

GOOD = PRESETS["sim-4x4"]
ONE_PORT = {"weight_bits": 8, "codebooks": 0, "block_scales": 0, "act_ports": 1}
LEAST = ONE_PORT | {"sum_bits": 24, "adder": 0, "vector": 0, "tables": 0, "sum_bytes": 0, "small": 1}


def test_presets_are_known_by_name_and_named_so():
    assert {"sim-4x4", "ice40-4x4", "ecp5-8x16", "sim-16x16"} <= set(PRESETS)
    assert all(load_arch(name) is preset and preset.name == name for name, preset in PRESETS.items())


def test_toml_and_json_files_give_the_same_architecture(tmp_path):
    fields = GOOD.to_dict()
    del fields["name"]
    (tmp_path / "mine.json").write_text(json.dumps(fields))
    (tmp_path / "mine.toml").write_text("".join(f"{key} = {value}\n" for key, value in fields.items()))
    loaded = [load_arch(tmp_path / f"mine.{suffix}") for suffix in ("json", "toml")]
    assert loaded[0] == loaded[1] == dataclasses.replace(GOOD, name="mine")
    assert loaded[0].digest() == GOOD.digest(), "the name is no part of the hardware"


def test_file_without_tables_has_none(tmp_path):
    fields = GOOD.to_dict()
    del fields["tables"]
    (tmp_path / "mine.json").write_text(json.dumps(fields))
    assert load_arch(tmp_path / "mine.json").tables == 0


def test_file_without_weight_bits_has_8(tmp_path):
    fields = GOOD.to_dict()
    del fields["weight_bits"]
    (tmp_path / "mine.json").write_text(json.dumps(fields))
    assert load_arch(tmp_path / "mine.json").weight_bits == 8


def test_file_without_act_bits_has_8(tmp_path):
    fields = PRESETS["ecp5-8x16"].to_dict()
    assert fields.pop("act_bits") == 4
    (tmp_path / "mine.json").write_text(json.dumps(fields))
    assert load_arch(tmp_path / "mine.json").act_bits == 8


def test_digest_changes_with_every_size():
    narrow = dataclasses.replace(GOOD, lanes=2, act_bits=4)
    digests = {GOOD.digest(), narrow.digest()}
    small = ({"adder": 0}, {"adder": 0, "vector": 0}, {"count_bits": 10}, {"monitor": 0})
    small += (ONE_PORT, ONE_PORT | {"sum_bits": 24}, LEAST)
    small += ({"parity": 1},)
    alone = {"weight_bits", "codebooks", "block_scales", "tables", "sum_bytes"}
    named = {name for changes in small for name in changes} - alone
    for field in dataclasses.fields(GOOD):
        if field.name in {"name", "lanes", "act_bits"} | named:
            continue
        value = getattr(GOOD, field.name)
        other = 1 - value if field.name in ("codebooks", "block_scales", "sum_bytes") else value * 2
        digests.add(dataclasses.replace(GOOD, **{field.name: other}).digest())
    digests.add(dataclasses.replace(narrow, act_bits=8).digest())
    digests |= {dataclasses.replace(GOOD, **changes).digest() for changes in small}
    assert len(digests) == len(dataclasses.fields(GOOD))


@pytest.mark.parametrize(
    ("member", "value", "message"),
    [
        ("rows", 0, "rows must be in 1..64, not 0"),
        ("rows", 65, "rows must be in 1..64, not 65"),
        ("rows", 4.0, "rows must be an integer, not 4.0"),
        ("rows", True, "rows must be an integer, not True"),
        ("cols", -1, "cols must be in 1..64, not -1"),
        ("fetch_bytes", 12, "fetch_bytes must be a power of two in 4..64, not 12"),
        ("fetch_bytes", 2, "fetch_bytes must be a power of two in 4..64, not 2"),
        ("lanes", 3, r"lanes must be a power of two that divides cols \(4\)"),
        ("lanes", 8, r"lanes must be a power of two that divides cols \(4\)"),
        ("act_bytes", 1023, "act_bytes must be a multiple of fetch_bytes"),
        ("act_bytes", 1 << 25, "act_bytes must be a multiple of fetch_bytes"),
        ("weight_words", 1, "weight_words must be in 2..1048576, not 1"),
        ("param_words", 0, "param_words must be in 2..65536, not 0"),
        ("slots", 1, "slots must be in 2..4096, not 1"),
        ("tables", -1, "tables must be in 0..16, not -1"),
        ("tables", 17, "tables must be in 0..16, not 17"),
        ("weight_bits", 5, "weight_bits must be 4 or 8, not 5"),
        ("codebooks", 2, "codebooks must be 0 or 1, not 2"),
        ("block_scales", -1, "block_scales must be 0 or 1, not -1"),
        ("sum_bytes", 2, "sum_bytes must be 0 or 1, not 2"),
        ("act_bits", 5, "act_bits must be 8, or 4 with weight_bits 4 and lanes of at least 2, not 5"),
        ("act_bits", 4, "act_bits must be 8, or 4 with weight_bits 4 and lanes of at least 2, not 4"),
        ("adder", 2, "adder must be 0 or 1, not 2"),
        ("vector", 0, "vector must be 1, or 0 without an adder, not 0"),
        ("sum_bits", 23, "sum_bits must be 32, or in 24..31 with weight_bits 8 and no block_scales, not 23"),
        ("sum_bits", 24, "sum_bits must be 32, or in 24..31 with weight_bits 8 and no block_scales, not 24"),
        ("count_bits", 7, "count_bits must be in 8..16, not 7"),
        ("count_bits", 17, "count_bits must be in 8..16, not 17"),
        ("monitor", 2, "monitor must be 0 or 1, not 2"),
        ("small", 2, "small must be 0, or 1 with act_ports 1, sum_bits 24, .*, no tables and no sum_bytes, not 2"),
        ("small", 1, "small must be 0, or 1 with act_ports 1, sum_bits 24, .*, no tables and no sum_bytes, not 1"),
        ("act_ports", 3, "act_ports must be 2, or 1 with fetch_bytes 4, .* and no block_scales, not 3"),
        ("act_ports", 1, "act_ports must be 2, or 1 with .* and no block_scales, not 1"),
        ("parity", 2, "parity must be 0, or 1 with act_ports 2, not 2"),
        ("name", 3, "name must be a string, not 3"),
    ],
)
def test_bad_value_is_refused_with_value_and_rule(member, value, message):
    with pytest.raises(ArchError, match=message):
        dataclasses.replace(GOOD, **{member: value})


@pytest.mark.parametrize("change", [{"weight_bits": 4}, {"codebooks": 1}, {"block_scales": 1}], ids=str)
def test_one_port_has_plain_weights_only(change):
    assert dataclasses.replace(GOOD, **ONE_PORT).one_port
    with pytest.raises(ArchError, match="act_ports must be 2, or 1 with"):
        dataclasses.replace(GOOD, **(ONE_PORT | change))


def test_a_small_array_has_as_many_rows_as_its_output_path_needs():
    for rows, cols in ((4, 2), (2, 4)):
        rtlil.convert(Accelerator(dataclasses.replace(GOOD, **LEAST, rows=rows, cols=cols)))
    for rows, cols in ((3, 2), (1, 4)):
        with pytest.raises(ArchError, match=r"small must be 0, or 1 with .*, 8 PEs or more, .*, not 1"):
            dataclasses.replace(GOOD, **LEAST, rows=rows, cols=cols)


def test_arrays_without_parity_keep_the_digests_they_had_before_there_was_any():
    sizes = {name: value for name, value in GOOD.to_dict().items() if name not in ("name", "parity")}
    layout = [dataclasses.astuple(field)[:5] for field in (*isa.DESCRIPTOR, *isa.PARAM, *isa.TRUNCATE_PARAM)]
    text = json.dumps([sizes, layout], sort_keys=True)
    assert GOOD.digest() == hashlib.sha256(text.encode()).hexdigest()


def test_one_port_has_no_parity():
    with pytest.raises(ArchError, match="parity must be 0, or 1 with act_ports 2, not 1"):
        dataclasses.replace(GOOD, **ONE_PORT, parity=1)


def test_parity_is_a_bit_for_every_byte():
    config = dataclasses.replace(GOOD, act_bytes=64, weight_words=10, param_words=3, slots=2, parity=1)
    assert config.parity_bits == 64 + 10 * 4 + 3 * 8 + 2 * 32 * 4
    assert GOOD.parity_bits == 0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "rows = = 1", "a.toml: not valid TOML"),
        ("a.json", "[1]", "a.json: must hold a table of fields, not list"),
        ("a.toml", "rows = 4\nspeed = 3", "a.toml: unknown field 'speed'"),
        ("a.toml", "rows = 4", "a.toml: missing field act_bytes, cols"),
        ("a.yaml", "rows: 4", "No architecture"),
    ],
)
def test_bad_file_is_refused_by_name(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ArchError, match=message):
        load_arch(path)


def test_misspelt_preset_gets_a_suggestion():
    with pytest.raises(ArchError, match="did you mean sim-4x4"):
        load_arch("sim4x4")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ArchError, match=r"nothing\.toml: No such file"):
        load_arch(tmp_path / "nothing.toml")
