"""Which of the project's files a module is made of, without importing any."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("hwq", "rtl", "sim")


def sources(*modules: str) -> list[Path]:
    """Return the files of `modules` and of every project module they import, directly or not, sorted.

    Imports inside functions count as well. A package's ``__init__.py`` counts only where a name is imported from it:
    running it on the way to a module inside changes nothing about that module.

    >>> [path.name for path in sources("hwq.config")]
    ['config.py', 'errors.py', 'isa.py']
    """
    found: set[Path] = set()
    pending = list(modules)
    while pending:
        path = _file(pending.pop())
        if path is not None and path not in found:
            found.add(path)
            pending += _imports(path)
    return sorted(found)


def _file(name: str) -> Path | None:
    """Return the file that defines module or member `name`; None when it isn't the project's."""
    if name.split(".")[0] not in PACKAGES:
        return None
    path = ROOT.joinpath(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return _file(name.rpartition(".")[0])


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*package, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
