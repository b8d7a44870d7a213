"""Digests of code: of a module and of everything of junctor that it imports, so that a kept figure knows what it came from."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

OWN = "junctor"


def code_digest(where: str) -> str:
    """SHA-256 of the file of "module:name" and of the modules of junctor that it imports, at any depth; "" for no module.

    What is loaded by name only (through the registry) is not followed.
    """
    module = where.partition(":")[0]
    if not module or _file(module) is None:
        return ""
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += _imports(name)
    h = hashlib.sha256()
    for name in sorted(seen):
        h.update(f"{name} {_digest(name)}".encode())
    return h.hexdigest()


@cache
def _file(module: str) -> Path | None:
    """The source file of a module, or None."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    file = Path(spec.origin) if spec is not None and spec.origin else None
    return file if file is not None and file.suffix == ".py" and file.is_file() else None


@cache
def _digest(module: str) -> str:
    file = _file(module)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file is not None else ""


@cache
def _imports(module: str) -> tuple[str, ...]:
    """The modules of junctor that this one imports anywhere, also within functions."""
    file = _file(module)
    if file is None:
        return ()
    return tuple(name for name in dict.fromkeys(_named(ast.parse(file.read_text("utf-8")))) if _file(name) is not None)


def _named(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == OWN:
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == OWN)
