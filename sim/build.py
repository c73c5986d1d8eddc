"""From an architecture to a native simulator: Amaranth to Verilog to C++ to a shared library, each step cached."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hwq.config import ArrayConfig
from hwq.errors import MissingToolError
from sim.cache import cached, digest
from sim.sources import sources
from sim.toolchain import INSTALL, find_compiler, find_verilator

FLAGS = ("-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-assert", "--no-timing", "--output-split", "8000")
"""Verilator's options; README.md says what was tried."""

FAST, SLOW = "-O2", "-O1"
"""Compiler's optimization of code that runs every cycle; of code that doesn't: files named ``__Slow``, the runtime."""

COVERAGE = "verilated_cov.cpp"
"""The run-time library's source that designs built with coverage need."""


@dataclass(frozen=True)
class Product:
    """What `build` makes of a Verilated design, beside the design itself.

    Members
    -------
    harness : Path
        C++ source that holds the program or the exported functions; its class of the design is ``Vtop``.
    suffix : str
        Of the file that is made.
    wrapper : Path or None
        Verilog source that holds the top module, around the design; without it the design is the top.
    optimization, slow : str
        The compiler's, of code that runs every cycle; of the rest.
    verilator_flags, compiler_flags, linker_flags : tuple[str, ...]
    runtime : tuple[str, ...]
        Sources of Verilator's run-time library that are needed.
    """

    harness: Path
    suffix: str
    wrapper: Path | None = None
    optimization: str = FAST
    slow: str = SLOW
    verilator_flags: tuple[str, ...] = FLAGS
    compiler_flags: tuple[str, ...] = ("-std=gnu++20", "-fPIC", "-w")
    linker_flags: tuple[str, ...] = "-pthread"
    runtime: tuple[str, ...] = ("verilated.cpp", "verilated_threads.cpp")


LIBRARY = Product(
    harness=Path(__file__).with_name("harness.cpp"),
    suffix=".so",
    wrapper=Path(__file__).with_name("harness.v"),
    compiler_flags=("-std=gnu++20", "-fPIC", "-fvisibility=hidden", "-w"),
    linker_flags=("-shared", "-pthread"),
)
"""The shared library behind `sim.verilator_bus`."""


def verilog(config: ArrayConfig) -> str:
    """Return the accelerator of `config` as Verilog, top module ``top``; the same sources give the same text.

    Raises
    ------
    MissingToolError
        When Amaranth isn't installed.
    """
    try:
        amaranth = importlib.metadata.version("amaranth")
    except importlib.metadata.PackageNotFoundError:
        raise MissingToolError(f"Amaranth isn't installed; get it with `{INSTALL}`") from None
    texts = [text for path in sources("sim.elaborate") for text in (path.name, path.read_bytes())]
    name = f"top-{digest([config.digest(), amaranth, *texts])}.v"

    def make(work: Path) -> None:
        from sim.elaborate import elaborate

        (work / name).write_text(elaborate(config), encoding="utf-8")

    return cached(name, make).read_text(encoding="utf-8")


def build(verilog_text: str, top: str = "hwq_harness", product: Product = LIBRARY) -> Path:
    """Return the program or library that simulates `verilog_text`, built when it isn't in the cache.

    Parameters
    ----------
    verilog_text : str
    top : str
        Its top module, or the wrapper's.
    product : Product

    Raises
    ------
    MissingToolError
        When Verilator or a C++ compiler isn't installed.
    subprocess.CalledProcessError
        When one of them refuses its input; ``stderr`` holds what it said.
    """
    verilator, compiler = find_verilator(), find_compiler()
    flags = (*product.verilator_flags, *product.compiler_flags, *product.linker_flags, *product.runtime)
    tools = (verilator.version, compiler.version, *flags, product.optimization, product.slow, SLOW)
    if product.wrapper is not None:
        verilog_text = f"{verilog_text}\n{product.wrapper.read_text(encoding='utf-8')}"
    name = f"{top}-{digest([verilog_text, top, product.harness.read_bytes(), *tools])}{product.suffix}"

    def make(work: Path) -> None:
        source, objects = work / "top.v", work / "obj"
        source.write_text(verilog_text, encoding="utf-8")
        options = ["--cc", "--prefix", "Vtop", "--top-module", top, "--Mdir", str(objects), "-Wno-fatal", "-Wno-lint"]
        command = [str(verilator.executable), *options, *product.verilator_flags, str(source)]
        _run(command, {"VERILATOR_ROOT": str(verilator.root)})
        files = [product.harness, *sorted(objects.glob("*.cpp"))]
        levels = [product.slow if "__Slow" in path.name else product.optimization for path in files]
        compiled = [*_compile(files, levels, [*_flags(product), f"-I{objects}"], objects), *_runtime(product)]
        _run([compiler.executable, "-o", str(work / name), *map(str, compiled), *product.linker_flags])

    return cached(name, make)


def _runtime(product: Product) -> list[Path]:
    """Return the object files of Verilator's run-time library, which are the same for every design."""
    verilator = find_verilator()
    tools = (verilator.version, find_compiler().version, SLOW, *_flags(product), *product.runtime)
    name = f"verilated-{digest(tools)}"

    def make(work: Path) -> None:
        folder = work / name
        folder.mkdir()
        files = [verilator.include / source for source in product.runtime]
        _compile(files, [SLOW] * len(files), _flags(product), folder)

    return sorted(cached(name, make).glob("*.o"))


def _flags(product: Product) -> tuple[str, ...]:
    return (*product.compiler_flags, f"-DVM_COVERAGE={int(COVERAGE in product.runtime)}")


def _compile(files: Sequence[Path], levels: Sequence[str], flags: Sequence[str], folder: Path) -> list[Path]:
    """Compile `files` at their optimization `levels`, as many at once as there are processors."""
    include = find_verilator().include
    defines = ["-DVERILATOR=1", "-DVM_SC=0", "-DVM_TIMING=0", "-DVM_TRACE=0"]
    common = [find_compiler().executable, *flags, *defines, f"-I{include}", f"-I{include / 'vltstd'}"]

    def one(source: Path, level: str) -> Path:
        target = folder / f"{source.stem}.o"
        _run([*common, level, "-c", str(source), "-o", str(target)])
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, files, levels))


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    env = {**os.environ, **(environment or {})}
    subprocess.run(command, check=True, capture_output=True, text=True, env=env)
