"""The suite goes red where tests are missing: each case is pytest on a small tree, in a process of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
GOOD = "def test_good():\n    pass\n"


@pytest.fixture
def tree(tmp_path):
    """A project whose tests pass."""
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\ntestpaths = ["tests"]\n')
    for folder in ("one", "two"):
        (tmp_path / "tests" / folder).mkdir(parents=True)
        (tmp_path / "tests" / folder / f"test_{folder}.py").write_text(GOOD)
    (tmp_path / "tests" / "conftest.py").write_text('pytest_plugins = ["complete"]\n')
    shutil.copy(HERE / "complete.py", tmp_path)
    return tmp_path


def run(folder, *arguments, first=None):
    """Return what pytest says in a folder, and whether it is green; modules in `first` come before all others."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    environment["PYTHONPATH"] = os.pathsep.join([str(first or folder), str(ROOT)])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "xdist", "-p", "no:cacheprovider", *arguments]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False)
    return ran.stdout + ran.stderr, ran.returncode == 0


def test_a_whole_tree_is_green(tree):
    said, green = run(tree, "-n", "2")
    assert green, said
    assert "2 passed" in said


@pytest.mark.parametrize("workers", [[], ["-n", "2", "--dist", "loadgroup"]])
def test_folders_that_collect_nothing_are_red(tree, workers):
    (tree / "tests" / "two" / "test_two.py").write_text("def tset_good():\n    pass\n")
    (tree / "tests" / "build").mkdir()  # pytest passes over folders of this name
    (tree / "tests" / "build" / "test_three.py").write_text(GOOD)
    said, green = run(tree, *workers)
    assert not green
    assert f"no tests in {tree / 'tests' / 'two' / 'test_two.py'}" in said
    assert f"no tests in {tree / 'tests' / 'build' / 'test_three.py'}" in said
    assert "2 failed, 1 passed" in said


def test_no_tests_but_in_docstrings_are_red(tree):
    for folder in ("one", "two"):
        shutil.rmtree(tree / "tests" / folder)
    (tree / "module.py").write_text('"""\n>>> 1\n1\n"""\n')
    said, green = run(tree, "--doctest-modules", "tests", "module.py")
    assert not green
    assert f"no tests in {tree / 'tests'}" in said


def test_a_part_of_a_tree_is_green(tree):
    (tree / "tests" / "two" / "test_two.py").write_text("")
    said, green = run(tree, "tests/one", "tests/one/test_one.py::test_good")
    assert green, said


def test_deselected_and_skipped_tests_are_there(tree):
    (tree / "tests" / "two" / "test_two.py").write_text(GOOD.replace("good", "other"))
    text = "import pytest\npytest.importorskip('a_module_that_is_not_there', reason='of an extra')\n"
    (tree / "tests" / "two" / "test_three.py").write_text(text + GOOD)
    said, green = run(tree, "-k", "good")
    assert green, said
    assert "1 passed, 1 skipped, 1 deselected" in said


def without(folder, module):
    """Return a folder whose `module` is found before the installed one, and is imported as if there were none."""
    (folder / f"{module}.py").write_text(f'raise ModuleNotFoundError("No module named {module!r}", name="{module}")\n')
    return folder


def test_without_the_oracle_the_suite_is_red(tmp_path):
    said, green = run(ROOT, "tests/test_oracle.py", "tests/test_reference.py", first=without(tmp_path, "onnxruntime"))
    assert not green
    assert "No module named 'onnxruntime'" in said
    assert "passed" not in said
    assert "skipped" not in said


def test_without_cocotb_its_benches_are_red(tmp_path):
    first = without(tmp_path, "cocotb_tools")
    said, green = run(ROOT, "tests/sim/test_benches.py", "-k", "requantizer", first=first)
    assert not green
    assert "No module named 'cocotb_tools'" in said
    assert "passed" not in said
