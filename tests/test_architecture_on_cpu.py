"""Who may import whom, read from the source: the method stands alone, and recipes are nobody's base."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LONGEST_FILE, LONGEST_FUNCTION = 400, 60


def sources(*packages: str) -> list[Path]:
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path, *, at_import_time: bool = False) -> Iterator[str]:
    """Every module that a file imports; ``from a import b`` counts as ``a`` and as ``a.b``."""
    nodes = _outside_functions(tree_of(path)) if at_import_time else ast.walk(tree_of(path))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imported = _absolute(node, path)
            yield imported
            yield from (f"{imported}.{alias.name}" for alias in node.names)


def _absolute(node: ast.ImportFrom, path: Path) -> str:
    """The module that ``from ... import`` names; one leading dot is the package that the file lies in."""
    if node.level == 0:
        return node.module
    package = path.relative_to(ROOT).parent.parts
    return ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from _outside_functions(child)


def is_in(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("path", sources("knapsack_rl"), ids=module_of)
def test_the_method_imports_no_trainer(path):
    foreign = {name for name in imports(path) if is_in(name, "verl", "torch", "ray", "transformers", "recipe", "tests")}
    assert foreign == set()


@pytest.mark.parametrize("path", sources("knapsack_verl09"), ids=module_of)
def test_the_plug_in_imports_the_method_and_an_unpatched_verl(path):
    assert not {name for name in imports(path) if is_in(name, "verl.upstream", "verl.trainer.config.checks")}


@pytest.mark.parametrize("path", sources("knapsack_rl", "verl"), ids=module_of)
def test_the_plug_in_is_imported_by_neither_the_method_nor_the_overlay(path):
    assert not {name for name in imports(path) if is_in(name, "knapsack_verl09")}


@pytest.mark.parametrize("path", sources("knapsack_rl", "knapsack_verl09", "verl"), ids=module_of)
def test_recipes_and_tests_are_imported_by_none(path):
    assert not {name for name in imports(path) if is_in(name, "recipe", "tests")}


@pytest.mark.parametrize("path", sources("verl"), ids=module_of)
def test_upstream_is_reached_only_by_the_module_that_replaces_it(path):
    own = "verl.upstream" + module_of(path).removeprefix("verl")
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            reached = {alias.name for alias in node.names if is_in(alias.name, "verl.upstream")}
        elif isinstance(node, ast.ImportFrom) and is_in(_absolute(node, path), "verl.upstream"):
            reached = {f"{node.module}.{alias.name}" for alias in node.names} - {"verl.upstream.keep_upstream_names"}
        else:
            continue
        assert all(is_in(name, own) for name in reached), f"{path}, line {node.lineno}: imports {sorted(reached)}"


def test_there_is_no_import_cycle():
    paths = {module_of(path): path for path in sources("knapsack_rl", "knapsack_verl09", "verl", "recipe")}
    edges = {
        module: {name for name in imports(path, at_import_time=True) if name in paths and name != module}
        for module, path in paths.items()
    }
    # A package that re-exports its modules is not a cycle, and neither is the fork's root that every verl.X is below.
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"import cycle: {' -> '.join([*trail[trail.index(module) :], module])}"
        if module in done:
            return
        for name in sorted(edges[module]):
            if not is_in(module, name):
                visit(name, (*trail, module))
        done.add(module)

    for module in sorted(edges):
        visit(module, ())


@pytest.mark.parametrize("path", sources("knapsack_rl", "knapsack_verl09", "verl", "recipe"), ids=module_of)
def test_files_and_functions_are_short(path):
    assert len(path.read_text().splitlines()) <= LONGEST_FILE
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body
            has_docstring = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
            first_line = body[0].end_lineno if has_docstring else node.lineno
            assert node.end_lineno - first_line <= LONGEST_FUNCTION, f"{path}: {node.name} is too long"


def test_every_test_file_has_a_name_of_its_own():
    """Test folders are no packages, so that two files of one name are one module to pytest."""
    names = [path.name for path in sources("tests") if path.name.startswith("test_")]
    assert sorted(names) == sorted(set(names))
