"""Single faults in checked matrix products: in numbers alone, and in memories and registers of a core."""

from __future__ import annotations

import functools

import numpy as np

from hwq import abft
from hwq.driver import Driver
from hwq.errors import DeviceError
from hwq.runtime import Accelerator, load_page
from tests import programs
from tests.campaigns.campaign import Campaign

TILES = 25
"""Products without a fault in every trial."""

CONFIG = programs.tiny(4, 4, 4, 1, tables=0, sum_bytes=1)
SHAPES = ((6, 10, 7), (1, 8, 4), (9, 33, 3))
"""Rows, depth, columns of the products that run on a core."""

PLACES = {"weights": "weights.", "operands and results": "act.", "sums": "mesh.pe_"}
HANG_FACTOR = 10


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return int32 ``a @ b`` (..., M, N), modulo 2**32."""
    return (a.astype(np.int64) @ b.astype(np.int64)).astype(np.int32)


def inverted(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return `values` with one bit of one of them inverted."""
    out = values.copy()
    flat = out.reshape(-1).view(f"u{out.itemsize}")
    flat[rng.integers(flat.size)] ^= flat.dtype.type(1 << int(rng.integers(8 * out.itemsize)))
    return out


def wrong_sums(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the product of which one sum had a bit inverted before one of its terms was added, or after the last."""
    k = int(rng.integers(a.shape[1] + 1))
    return product(a[:, k:], b[k:]) + inverted(product(a[:, :k], b[:k]), rng)


def wrong_term(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the product of which one term of 16 bits had a bit inverted."""
    i, k, j = (int(rng.integers(size)) for size in (*a.shape, b.shape[1]))
    term = np.array([int(a[i, k]) * int(b[k, j])], np.int16)
    out = product(a, b)
    out[i, j] += np.int32(inverted(term, rng)[0]) - np.int32(term[0])
    return out


def on_numbers(rng: np.random.Generator) -> list[str]:
    """Check products without a fault, then one with a fault of every kind."""
    m, k, n = (int(size) for size in rng.integers(1, (20, 40, 20)))
    m, n = ((300, n), (m, 300), (m, n))[rng.choice(3, p=[0.02, 0.02, 0.96])]
    low, high = ((-128, 128), (-128, -127), (127, 128))[rng.choice(3, p=[0.9, 0.05, 0.05])]
    a = abft.with_row_checksums(rng.integers(low, high, (TILES, m, k)).astype(np.int8))
    b = abft.with_column_checksums(rng.integers(-128, 128, (TILES, k, n)).astype(np.int8))
    sound = product(a, b)
    assert not any(wrong.any() for wrong in abft.faults(sound, m, n)), "false alarm"
    a, b, sound = a[0], b[0], sound[0]
    assert (abft.checked(sound, m, n) == product(a[:m], b[:, :n])).all()
    cases = {
        "weight": product(a, inverted(b, rng)),
        "operand": product(inverted(a, rng), b),
        "sum": wrong_sums(a, b, rng),
        "term": wrong_term(a, b, rng),
    }
    return [f"{name}: {outcome(sums, sound, m, n)}" for name, sums in cases.items()]


def outcome(sums: np.ndarray, sound: np.ndarray, m: int, n: int) -> str:
    """Return what became of a fault; one that changes a result must be found."""
    found = any(wrong.any() for wrong in abft.faults(sums, m, n))
    changed = bool((sums[:m, :n] != sound[:m, :n]).any())
    assert found or not changed, "silent"
    return "detected" if changed else "detected, results are right" if found else "masked"


@functools.cache
def core() -> Driver:
    """Return the driver of a core whose memories and sums can be changed."""
    from sim.faults import open_bus

    return Driver(open_bus(CONFIG, r"top\.mesh\.pe_"), CONFIG)


@functools.cache
def compiled(index: int) -> tuple[abft.CheckedProduct, int]:
    """Return the product of `SHAPES[index]` and the cycles that it takes on a core."""
    rows, depth, columns = SHAPES[index]
    weight = np.random.default_rng(index).integers(-128, 128, (depth, columns)).astype(np.int8)
    checked = abft.CheckedProduct(weight, rows, CONFIG)
    return checked, checked.cycles()[0]


@functools.cache
def accelerator(index: int) -> Accelerator:
    """Return the core with the program of `SHAPES[index]`, whose memories must be loaded."""
    return Accelerator(compiled(index)[0].program, core())


def on_core(rng: np.random.Generator) -> list[str]:
    """Run a product on a core and invert a bit in the meantime."""
    index = int(rng.integers(len(SHAPES)))
    cycles, (m, k, n), driver = compiled(index)[1], SHAPES[index], core()
    weight = np.random.default_rng(index).integers(-128, 128, (k, n)).astype(np.int8)
    a = rng.integers(-128, 128, (m, k)).astype(np.int8)
    sound = product(abft.with_row_checksums(a), abft.with_column_checksums(weight))
    place = list(PLACES)[rng.integers(len(PLACES))]
    names = [name for name in driver.bus.storage if name.startswith(PLACES[place])]
    storage = driver.bus.storage[names[rng.integers(len(names))]]
    used = len(storage.rows) if place == "sums" else min(len(storage.rows), 64)  # where the product lies
    bit = int(rng.integers(storage.bits))
    running = accelerator(index)
    load_page(running.program.page_at(0), driver)
    driver.bus.inject(storage.name, int(rng.integers(used)), bit, int(rng.integers(cycles)))
    try:
        sums = running.run({"a": abft.with_row_checksums(a)})["sums"]
    except DeviceError as error:
        driver.bus.reset()
        raise AssertionError(f"a fault in {storage.name} stopped the core: {error}") from error
    return [f"{place}: {outcome(sums, sound, m, n)}"]


CAMPAIGNS = (
    Campaign("checksums", f"{TILES} checked products, then single faults of four kinds in one", 7, on_numbers),
    Campaign("checksums-core", "checked products on RTL, a bit of memory or sums inverted", 8, on_core, core),
)
