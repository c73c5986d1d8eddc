"""Campaigns: numbered trials, each a function of its number alone, counted by what they came to.

    python -m tests.campaigns NAME --trials 1000000     goes on where the last run stopped, failures first
    python -m tests.campaigns NAME --replay 4711        one trial again, its failure in full

Results lie in `results.json`, which the README's table reads.
"""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).with_name("results.json")
SAVE_SECONDS = 20
HANG_SECONDS = 20
"""Of processor time: a trial that other work delays doesn't hang."""


@dataclass(frozen=True)
class Campaign:
    """A name, what a trial is, a number that makes its seeds its own, and the trial.

    `trial` takes a generator, or with `numbered` the trial's number, and returns the names of the bins that it fell
    into; any exception is a failure. `prepare` goes before every trial, takes as long as it takes, and does nothing the
    second time. `explain` says in full how a trial fails.
    """

    name: str
    what: str
    number: int
    trial: Callable[..., list[str]]
    prepare: Callable[[], None] = lambda: None
    explain: Callable[[np.random.Generator], str] | None = None
    numbered: bool = False

    def run(self, index: int) -> list[str]:
        """Run trial `index`."""
        self.prepare()
        with _no_hang():
            return self.trial(index if self.numbered else self._rng(index))

    def replay(self, index: int) -> list[str]:
        """Run trial `index`; if it fails, print why."""
        try:
            return self.run(index)
        except Exception:
            if self.explain is not None:
                print(self.explain(self._rng(index)), flush=True)
            raise

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng([self.number, index])


class Hang(Exception):
    """A trial took longer than `HANG_SECONDS`."""


def allow(seconds: float | None = None) -> None:
    """Give the trial that runs so many seconds of processor time from now on, `HANG_SECONDS` unless told."""
    if signal.getitimer(signal.ITIMER_PROF)[0]:
        signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS if seconds is None else seconds)


@contextmanager
def _no_hang():
    def stop(*_):
        raise Hang

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def load() -> dict[str, dict]:
    """Return what has been run."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def go_on(campaign: Campaign, trials: int) -> dict:
    """Run again what has failed, then what is missing of `trials` trials.

    Return, and write every now and then, what all have come to.
    """
    state = load().get(campaign.name, {"trials": 0, "failed": [], "bins": {}})
    bins, saved = Counter(state["bins"]), time.monotonic()

    def passes(index: int) -> bool:
        try:
            bins.update(campaign.run(index))
        except Exception as error:
            print(f"{campaign.name} --replay {index}: {type(error).__name__}: {error}", flush=True)
            return False
        return True

    def save() -> None:
        nonlocal saved
        saved = time.monotonic()
        _save(campaign.name, state | {"bins": dict(sorted(bins.items()))})

    if state["failed"]:
        state["failed"] = [index for index in state["failed"] if not passes(index)]
        save()
    while state["trials"] < trials:
        if not passes(state["trials"]):
            state["failed"].append(state["trials"])
        state["trials"] += 1
        if time.monotonic() - saved > SAVE_SECONDS or state["trials"] == trials:
            save()
    return load().get(campaign.name, state)


def _save(name: str, state: dict) -> None:
    results = load() | {name: state}
    text = json.dumps({key: results[key] for key in sorted(results)}, indent=2) + "\n"
    RESULTS.with_suffix(".new").write_text(text, encoding="utf-8")
    RESULTS.with_suffix(".new").replace(RESULTS)


def bound(trials: int, failed: int) -> str:
    """Return the upper bound of the rate of failures at 95%: 3/N where there were none."""
    return f"{3 / trials:.1e}" if trials and not failed else "–"
