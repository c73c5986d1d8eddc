"""results.json: which rows are of another gateware, what is built again, how a row is kept; builds are stand-ins."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from boards import measure, results
from boards.registry import BOARDS, find
from hwq.config import PRESETS


@pytest.fixture
def builds(tmp_path, monkeypatch):
    """Put stand-ins in the builds' place; return what was built, and the gateware's version."""
    made, state = [], SimpleNamespace(gateware=1)

    def plan(board, core, clock):
        return SimpleNamespace(inputs=f"{state.gateware} {board.name} {core} {clock.divisor}")

    def row(board, config, **more):
        inputs = plan(find(board), config.digest(), find(board).clock()).inputs
        return {"board": board, "inputs": inputs, "config": config.to_dict(), **more}

    def measured(board, seeds, workloads):
        made.append((board, seeds))
        timed = {str(seed): 50.0 for seed in range(1, seeds + 1)}
        counted = {"cycles": {}} if workloads else {}
        return row(board, PRESETS[find(board).arch], clock_mhz=30.0, seeds=timed, **counted)

    def probed(board, config):
        made.append(config.name)
        return row(board, config, seeds={})

    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(measure, "accelerator", lambda config: config.digest())
    for name, stand_in in (("plan_core", plan), ("measure", measured), ("probe", probed)):
        monkeypatch.setattr(measure, name, stand_in)
    results.RESULTS.write_text("[]")
    return made, state


def test_only_what_is_stale_is_built(builds):
    made, state = builds
    measure.main(["ulx3s", "icebreaker", "--seeds", "2"])
    assert made == [("ulx3s", 2), ("icebreaker", 2)]
    assert [row["board"] for row in results.rows()] == ["icebreaker", "ulx3s"]
    measure.main(["ulx3s", "icebreaker", "--seeds", "1"])
    assert len(made) == 2
    measure.main(["ulx3s", "--seeds", "3"])
    assert made[2:] == [("ulx3s", 3)]
    for _ in range(2):
        measure.main(["ulx3s", "--seeds", "3", "--workloads", "."])
    assert made[3:] == [("ulx3s", 3)]
    state.gateware = 2
    measure.main(["icebreaker", "--seeds", "1"])
    assert made[4:] == [("icebreaker", 1)]
    assert len(results.rows()) == 2


def test_an_array_of_the_same_name_is_another(builds, monkeypatch):
    made, _ = builds
    measure.main(["ulx3s"])
    name = find("ulx3s").arch
    monkeypatch.setitem(PRESETS, name, dataclasses.replace(PRESETS[name], slots=PRESETS[name].slots // 2))
    measure.main(["ulx3s"])
    assert len(made) == 2


def test_probes_are_built_once_and_again_when_they_change(builds, monkeypatch):
    made, _ = builds
    measure.main(["ice40-hx8k", "--probes"])
    probes = measure.PROBES["ice40-hx8k"]
    assert made[1:] == [config.name for config in probes]
    measure.main(["ice40-hx8k", "--probes"])
    assert len(made) == 1 + len(probes)
    changed = dataclasses.replace(probes[0], slots=8)
    monkeypatch.setitem(measure.PROBES, "ice40-hx8k", (changed, *probes[1:]))
    measure.main(["ice40-hx8k", "--probes"])
    assert made[1 + len(probes) :] == [changed.name]


def test_stale_rows_are_named_with_status_1(builds, capsys):
    _, state = builds
    measure.main(["ulx3s"])
    with pytest.raises(SystemExit) as left:
        measure.main(["--stale"])
    assert left.value.code == 0
    state.gateware = 2
    with pytest.raises(SystemExit) as left:
        measure.main(["--stale"])
    assert left.value.code == 1
    assert capsys.readouterr().out == "ulx3s, ecp5-8x16: of another gateware\n"


def test_every_probe_is_a_board_s_and_has_its_own_name():
    assert set(measure.PROBES) <= set(BOARDS)
    for probes in measure.PROBES.values():
        assert len({config.name for config in probes} | set(PRESETS)) == len(probes) + len(PRESETS)


def test_a_rate_is_the_clock_by_the_cycles_beside_what_others_measured(builds):
    config = PRESETS["ecp5-8x16"].to_dict()
    row = {"board": "ulx3s", "config": config, "seeds": {"1": 90.0, "2": 100.0}, "resources": {"DSP": {"used": 150}}}
    results.RESULTS.write_text(json.dumps([row | {"cycles": {"MLPerf Tiny DS-CNN, keywords": 25_000}}]))
    lines = results.rates().splitlines()
    where = "hwq ulx3s, `ecp5-8x16`: post-route timing, RTL cycles"
    assert lines[2] == f"| MLPerf Tiny DS-CNN, keywords | {where} | 150 | 100.0 | 25,000 | 4,000 |"
    assert lines[3].endswith("fpgaconvnet Zed, a measured board | 188 | 143 | | 3,088 |")
    results.RESULTS.write_text("[]")
    assert results.rates() == "No routed board has its networks measured yet."


@pytest.mark.parametrize(
    ("pin", "unit"),
    [
        ("core.accelerator.fetch.$signal$9_TRELLIS_FF_Q.Q", "fetch"),
        ("core.accelerator.mesh.pe_3_4.adder.i_a[3]_TRELLIS_FF_Q.DI", "mesh.pe_3_4.adder"),
        ("core.accelerator.walk_ifm.left_SB_DFFE_Q_2_D_SB_LUT4_O_LC.I3", "walk_ifm"),
        ("core.device.header_TRELLIS_FF_Q.Q", "core.device"),
    ],
)
def test_a_slowest_path_names_its_units(builds, pin, unit):
    ends = {"start": pin, "end": "core.receiver.$signal_TRELLIS_FF_Q.DI"}
    timing = {"fmax_mhz": 65.73, **ends, "logic_ns": 1.7, "routing_ns": 13.51}
    row = {"board": "ulx3s", "config": PRESETS["ecp5-8x16"].to_dict(), "seeds": {"1": 65.73}, "timing": timing}
    unrouted = {"board": "icebreaker", "config": PRESETS["ice40-4x4"].to_dict(), "seeds": {}, "timing": None}
    results.RESULTS.write_text(json.dumps([row, unrouted]))
    assert results.paths().splitlines()[2:] == [f"| ulx3s | 65.7 | `{unit}` to `core.receiver` | 1.7 ns | 13.5 ns |"]
