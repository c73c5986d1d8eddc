"""Which of the project's files a module is made of, without importing any."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("hwq", "rtl", "sim")


def sources(*modules: str) -> list[Path]:
    """Return the files of `modules` and of every project module they import, directly or not, sorted.

    Imports inside functions count as well.

    >>> [path.name for path in sources("hwq.config")]
    ['__init__.py', 'config.py', 'errors.py', 'isa.py']
    """
    found: set[Path] = set()
    pending = list(modules)
    while pending:
        module = pending.pop()
        for path in _files(module):
            if path not in found:
                found.add(path)
                pending += _imports(path)
    return sorted(found)


def _files(module: str) -> Iterator[Path]:
    """Yield the file of `module` and the ``__init__.py`` of the packages around it; nothing for other names."""
    names = module.split(".")
    if names[0] not in PACKAGES:
        return
    for depth in range(1, len(names) + 1):
        path = ROOT.joinpath(*names[:depth])
        for candidate in (path / "__init__.py", path.with_suffix(".py")):
            if candidate.is_file():
                yield candidate


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*package, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
