"""Fixtures for the whole suite."""

import os
from pathlib import Path

# One worker a core already: a second BLAS thread for each only makes them wait for one another. Read when numpy loads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

pytest_plugins = ["tests.complete"]

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def workloads() -> Path:
    """The folder of third-party models and data, which isn't part of the project."""
    folder = Path(os.environ.get("HWQ_WORKLOADS", ROOT.parent / "shared" / "workloads"))
    if not (folder / "models").is_dir():
        pytest.skip(f"third-party workloads aren't at {folder}: set HWQ_WORKLOADS to their folder")
    return folder
