"""A pytest plugin: where pytest is asked to run tests and finds none, that is a failure, not silence."""

from __future__ import annotations

from pathlib import Path

import pytest

SKIPPED = pytest.StashKey[set]()


class NoTests(pytest.Item):
    """Fails, in the place of tests that should be at `path`."""

    def runtest(self) -> None:
        pytest.fail(f"no tests in {self.path}", pytrace=False)

    def reportinfo(self):
        return self.path, None, self.name


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SKIPPED] = set()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    report = yield
    if report.outcome != "passed":  # a file that fails is red already, one that skips itself says so
        collector.config.stash[SKIPPED].add(collector.path)
    return report


@pytest.hookimpl(wrapper=True)  # around what deselects tests: those are there, and NoTests isn't one of them
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]):
    found = {item.path for item in items} | config.stash[SKIPPED]
    yield
    places = [config.invocation_params.dir / argument for argument in config.args if "::" not in argument]
    for path in dict.fromkeys(path for place in places for path in _expected(place)):
        if not any(path == other or path in other.parents for other in found):
            items.append(NoTests.from_parent(session, name=f"tests in {path.name}", path=path))


def _expected(place: Path) -> list[Path]:
    """Return what must give tests: every file of them in a place, and the folder `tests` whatever is in it."""
    return [*([place] if place.name == "tests" else []), *sorted(place.rglob("test_*.py"))]
