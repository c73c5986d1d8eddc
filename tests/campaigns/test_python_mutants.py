"""What mutates Python, and what runs tests against it."""

import ast

import pytest

from tests.campaigns import mutations
from tests.campaigns.attack import Attacker
from tests.campaigns.python_mutants import EQUIVALENT, TARGETS, mutants, source

CHANGES = {
    "x = a + b": ["x = a - b"],
    "x = a >> 3": ["x = a << 3", "x = a >> 4", "x = a >> 2"],
    "x = a < b <= c": ["x = a <= b <= c"],
    "x = not a": ["x = a"],
    "x = -a": ["x = a"],
    "x = True": ["x = False"],
    "x = a and b": ["x = a or b"],
    "x = a if b else c": ["x = a if not b else c"],
    "x = a if b == c else d": ["x = a if b != c else d"],
    "while a:\n    f()": ["while not a:\n    f()", "while a:\n    pass"],
    "for a in b:\n    continue": ["for a in b:\n    pass"],
    "a[b] = c": ["pass"],
    "x = a[0] + b[1]": ["x = a[0] - b[1]", "x = a[1] + b[1]", "x = a[0] + b[2]", "x = a[0] + b[0]"],
    "x = zip(a, strict=True)": [],
    "a.b = c": ["pass"],
    "a += b": ["a -= b", "pass"],
    "a = b": [],
    "raise E(1 + 2)": ["pass"],
    '"""Text."""': [],
    "def f(a: 1 + 2 = 3) -> 4:\n    return a": [f"def f(a: 1 + 2={n}) -> 4:\n    return a" for n in (4, 2)],
    "x: 1 = 2": ["x: 1 = 3", "x: 1 = 1"],
}


@pytest.mark.parametrize("text", CHANGES)
def test_mutants_of_a_statement(text):
    assert [mutant.source for mutant in mutations.mutants(text)] == CHANGES[text]


def test_a_mutant_names_its_line_and_change():
    mutant = mutations.mutants("class A:\n    def f(a=1):\n        return (a +\n            2)\n")[2]
    assert (mutant.line, mutant.column, mutant.where) == (3, 16, "A.f")
    assert (mutant.before, mutant.after) == ("a + 2", "a - 2")


def test_every_mutant_of_every_module_is_another_program():
    for module in TARGETS:
        whole = ast.unparse(ast.parse(source(module)))
        for mutant in mutations.mutants(source(module))[::17]:
            assert mutant.source != whole
            ast.parse(mutant.source)


def test_equivalent_mutants_are_mutants_and_say_why():
    there = {name for name, _, _ in mutants()}
    assert not set(EQUIVALENT) - there, "their lines have changed: decide again"
    assert all(reason.endswith(".") for reason in EQUIVALENT.values())


def test_outcomes():
    module, tests = "hwq.multipliers", ["tests/test_multipliers.py"]
    text = source(module)
    with Attacker() as attacker:
        assert attacker.outcome(module, text, tests, 0, 60) == "survived"
        assert attacker.outcome(module, f"{text}\n1 / 0", tests, 0, 60) == "killed"
        assert attacker.outcome(module, f"{text}\nwhile True:\n    pass", tests, 0, 3) == "killed: time"
        assert attacker.outcome(module, text, ["tests/no_such_file.py"], 0, 60) == "killed"


def test_random_graphs_alone_find_a_mutant():
    module, right, wrong = "hwq.kernels", "top : top + height, left", "top - 1 : top - 1 + height, left"
    text = source(module)
    assert text.count(right) == 1
    with Attacker() as attacker:
        assert attacker.outcome(module, text, [], 3, 60) == "survived"
        assert attacker.outcome(module, text.replace(right, wrong), [], 10, 60) == "killed"
