"""Commands are found by their own names, and every module has one name."""

from __future__ import annotations

import ast
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
from warm_commands import run_warm

ROOT = Path(__file__).parents[3]
RECIPE = ROOT / "recipe" / "knapsack"
MODULES = [path for path in RECIPE.rglob("*.py") if not path.name.startswith("__")]
COMMANDS = sorted(path.stem for path in MODULES if "__main__" in path.read_text())


def imported_names(source: str) -> set[str]:
    """The full names that a file's import statements may refer to."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_the_commands_are_those_of_the_documentation():
    assert {"plan", "step_plan", "simulate", "compare", "quickstart", "dashboard", "warm_start"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_found_by_its_own_name(command):
    spec = find_spec(f"recipe.knapsack.{command}")
    assert spec is not None and Path(spec.origin) in MODULES


@pytest.mark.parametrize("command", ["report", "evaluate", "simulate"])
def test_a_command_runs_by_its_own_name_whichever_folder_holds_it(command):
    result = run_warm(["-m", f"recipe.knapsack.{command}", "--help"])
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage: ")


def test_no_two_modules_have_the_same_short_name():
    folders = [path.name for path in RECIPE.iterdir() if path.is_dir() and path.name != "__pycache__"]
    in_folders = [path.stem for path in MODULES if path.parent.parent == RECIPE]
    repeated = [name for name, count in Counter(in_folders + folders).items() if count > 1]
    # The command `report` is the package; `report.report` is what its `__main__` runs.
    assert repeated == ["report"]


@pytest.mark.parametrize("folder", ["recipe", "tests", "verl", "examples", ".ci"])
def test_code_imports_recipes_by_their_full_names_so_that_no_module_exists_twice(folder):
    shortened = {f"recipe.knapsack.{path.stem}": path for path in MODULES if path.stem != "report"}
    found = [
        (str(path.relative_to(ROOT)), name)
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in imported_names(path.read_text()) & set(shortened)
    ]
    assert found == []
