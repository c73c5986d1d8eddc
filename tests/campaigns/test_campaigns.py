"""A little of every campaign; `make campaign` runs the long ones."""

import time

import numpy as np
import pytest

from tests.campaigns import campaign, edges, random_programs
from tests.campaigns.registry import CAMPAIGNS

TRIALS = {"program-files": 1500, "descriptors-machine": 1000, "graphs": 500, "checksums": 1000, "python-mutants": 200}
ON_CORES = {"descriptors-core": 200, "programs": 300, "soft-errors": 300, "checksums-core": 300}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "RESULTS", tmp_path / "results.json")


@pytest.mark.parametrize("name", TRIALS)
def test_no_trial_fails(name):
    state = campaign.go_on(CAMPAIGNS[name], TRIALS[name])
    assert (state["trials"], state["failed"]) == (TRIALS[name], [])


@pytest.mark.xdist_group("verilator")
@pytest.mark.parametrize("name", ON_CORES)
def test_no_trial_on_cores_fails(name):
    state = campaign.go_on(CAMPAIGNS[name], ON_CORES[name])
    assert (state["trials"], state["failed"]) == (ON_CORES[name], [])


def test_random_programs_end_as_they_are_meant_to():
    meant = set()
    for index in range(200):
        case = random_programs.draw(np.random.default_rng(index))
        status = case.machine().run(case.slot)
        assert status.error.name == case.error, case
        assert edges.defined(case.layers[: status.slot - case.slot], case.config), case
        meant.add(case.error)
    assert meant == {"NONE", "ILLEGAL_OPCODE", "ILLEGAL_FIELD", "ACT_RANGE", "WEIGHT_RANGE", "PARAM_RANGE", "PC_RANGE"}


def fake(trial):
    return campaign.Campaign("fake", "nothing", 0, trial)


def test_failures_are_kept_by_number_and_a_later_run_goes_on(capsys):
    ran = []

    def trial(rng):
        ran.append(int(rng.integers(1 << 30)))
        assert len(ran) != 3, "the third"
        return ["odd" if ran[-1] % 2 else "even"]

    state = campaign.go_on(fake(trial), 5)
    assert (state["trials"], state["failed"], sum(state["bins"].values())) == (5, [2], 4)
    assert "fake --replay 2: AssertionError: the third" in capsys.readouterr().out
    state = campaign.go_on(fake(trial), 9)
    assert (state["trials"], state["failed"], sum(state["bins"].values())) == (9, [], 9), "it has been mended"
    assert ran[5] == ran[2]
    assert len(set(ran)) == 9
    ran.clear()
    first = [fake(trial).run(0), ran[0]]
    assert [fake(trial).run(0), ran[1]] == first


def test_a_hang_is_a_failure(monkeypatch):
    monkeypatch.setattr(campaign, "HANG_SECONDS", 0.1)

    def trial(rng):
        while True:
            pass

    with pytest.raises(campaign.Hang):
        fake(trial).run(0)


def test_a_trial_that_waits_does_not_hang(monkeypatch):
    monkeypatch.setattr(campaign, "HANG_SECONDS", 0.1)
    assert fake(lambda rng: time.sleep(0.5) or ["waited"]).run(0) == ["waited"]


def test_bound_is_three_over_the_trials():
    assert campaign.bound(1_000_000, 0) == "3.0e-06"
    assert campaign.bound(10, 1) == campaign.bound(0, 0) == "–"


def test_every_campaign_has_seeds_of_its_own():
    numbers = [found.number for found in CAMPAIGNS.values()]
    assert len(set(numbers)) == len(numbers)
