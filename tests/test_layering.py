"""Dependencies point one way, imports are light, and the code keeps to its budgets."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

SRC = Path(__file__).parent.parent / "src" / "junctor"

# A part may import what stands to its left, and its own package. One list per line of the design.
LAYERS: list[set[str]] = [
    {"errors", "about"},
    {"types"},
    {"features"},
    {"outcomes", "curves", "registry", "meanings"},
    {"policy"},
    {"encoders", "journal", "describing"},
    {"sections"},
    {"estimators", "providers", "config"},
    {"plans"},
    {"policies", "recording"},
    {"fitting", "artefact"},
    {"engine", "testing", "thrift"},
    {"tenancy", "guards", "caching", "telemetry"},
    {"service"},
    {"build"},
    {"gateway", "bench", "layers"},
    {"inprocess"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# Names for type checkers only (types), and one importer that reads our own journal and is loaded by name (outcomes).
# The gates' suite is layers.checking; testing names it inside a function, so that importing testing loads no torch.
ALLOWED_UPWARD = {("types", "features"), ("outcomes", "journal"), ("testing", "layers")}


def modules(root: Path = SRC) -> Iterator[Path]:
    yield from sorted(root.rglob("*.py"))


def part(path: Path, root: Path = SRC) -> str:
    return path.relative_to(root).parts[0].removesuffix(".py")


def imports_of(tree: ast.AST) -> Iterator[str]:
    """The parts of junctor that a module imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("junctor"):
            names = (node.module or "").split(".")[1:2] or [alias.name for alias in node.names]
            yield from names
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("junctor."))


def upward(root: Path) -> list[str]:
    found = []
    for path in modules(root):
        here = part(path, root)
        if here in {"__init__", "__main__"}:
            continue
        for target in imports_of(ast.parse(path.read_text("utf-8"))):
            if target == here or (here, target) in ALLOWED_UPWARD or target not in LEVEL:
                continue
            if LEVEL[target] >= LEVEL[here]:
                found.append(f"{path.relative_to(root)} imports {target}")
    return found


def test_every_part_has_a_place_in_the_order() -> None:
    assert {part(path) for path in modules()} - {"__init__", "__main__"} <= set(LEVEL)


def test_dependencies_point_one_way() -> None:
    assert upward(SRC) == []


def test_the_layering_check_can_fail(tmp_path: Path) -> None:
    (tmp_path / "types.py").write_text("from junctor.engine import Engine\n")
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "x.py").write_text("def f() -> None:\n    import junctor.gateway.app\n")
    assert upward(tmp_path) == ["bench/x.py imports gateway", "types.py imports engine"]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_modules_and_functions_stay_short() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in modules()}
    assert median(lengths.values()) <= 250
    assert {str(path): n for path, n in lengths.items() if n > 800} == {}
    sizes = sorted(
        (f.end_lineno or 0) - f.lineno + 1 for path in modules() for f in functions(ast.parse(path.read_text("utf-8")))
    )
    assert median(sizes) <= 12
    assert sizes[int(len(sizes) * 0.95)] <= 50


def test_the_tree_is_flat_and_names_are_the_fields_own() -> None:
    for path in modules():
        assert len(path.relative_to(SRC).parts) <= 3, path
        assert path.stem not in {"utils", "helpers", "misc"}, path
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                assert not node.name.endswith(("Router", "Manager", "Handler")), f"{path}: {node.name}"


def load_time_imports(path: Path, known: set[str]) -> Iterator[str]:
    """The modules of junctor that a module imports when it is loaded: not inside functions, not for type checking."""
    nodes: list[ast.stmt] = list(ast.parse(path.read_text("utf-8")).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        nodes += [
            inner
            for inner in ast.iter_child_nodes(node)
            if isinstance(inner, ast.stmt) and not isinstance(node, ast.FunctionDef)
        ]
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("junctor"):
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in known else str(node.module)


def test_there_are_no_import_cycles() -> None:
    names = {
        path: ".".join(("junctor", *path.relative_to(SRC).with_suffix("").parts)).removesuffix(".__init__")
        for path in modules()
    }
    known = set(names.values())
    graph = {name: {i for i in load_time_imports(path, known) if i in known and i != name} for path, name in names.items()}
    # A package's __init__ re-exporting its own modules is not a cycle unless a module imports the package back.
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        if name not in done:
            for other in graph[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("junctor", "numpy torch polars sklearn matplotlib aiohttp uvicorn typer"),
        ("junctor.policies.utility", "torch polars sklearn scipy matplotlib aiohttp uvicorn"),
        ("junctor.testing", "torch"),
        ("junctor.engine", "torch polars sklearn scipy matplotlib uvicorn"),
        ("junctor.cli", "torch polars sklearn scipy matplotlib aiohttp uvicorn"),
    ],
)
def test_imports_are_light(module: str, banned: str) -> None:
    code = f"import sys, {module}; print([m for m in {banned.split()!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
