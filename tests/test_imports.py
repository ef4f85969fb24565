"""Imports run one way, and `import layerparallel` needs torch alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import layerparallel

PACKAGE = Path(layerparallel.__file__).parent
# From the ground up; a module imports only from rows below its own, or from its own row.
ROWS = [
    {"errors", "chain", "checks", "repeatable", "draws", "workspace", "measure", "group", "norms"},
    {"solution", "integrators", "fields", "taped", "activations"},
    {"closed_form", "convolution", "dense", "layers"},
    {"generic", "solvers", "cost"},
    {"propagate", "bodies", "body", "serial_twins", "stacking", "wrapping", "crossing"},
    {"network"},
    {"distribution", "team", "staged", "subnetworks"},
    {"refinement", "layerwise", "models", "tuning", "optim", "data"},
    {"training"},
    {"evaluate", "record", "progress", "stopwatch", "sums"},
    {"checkpoint", "report", "board"},
    {"trainer"},
    {"recipes"},
    {"predict"},
    {"cli", "__main__"},
]
ROW = {name: number for number, row in enumerate(ROWS) for name in row}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The rooms that a file imports at its top level or inside a function."""
    here = ("layerparallel", *path.relative_to(PACKAGE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        start = here[: len(here) - node.level + 1] if node.level else ()
        parts = [*start, *(node.module or "").split(".")]
        parts = [part for part in parts if part]
        if parts[:1] != ["layerparallel"]:
            continue
        found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return {name for name in found if name in ROW or (PACKAGE / f"{name}.py").exists()}


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_those_below_it(path):
    if "_benchmarks" in path.parts:
        return
    assert room(path) in ROW, f"give {room(path)} its row in ROWS"
    for other in imported(path):
        assert ROW[other] <= ROW[room(path)], f"{room(path)} must not import {other}"


def test_the_package_alone_loads_none_of_what_the_command_line_needs():
    call = "import sys, layerparallel; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "torch" in loaded
    assert not loaded & {"rich", "tyro", "matplotlib", "scipy", "PIL", "pooch", "sklearn", "requests"}
    assert not loaded & {"jinja2", "tensorboard"}
    application = {"layerparallel.trainer", "layerparallel.recipes", "layerparallel.report"}
    assert not application & set(done.stdout.split())


def test_only_a_few_rooms_know_torch_distributed():
    known = set()
    for path in FILES:
        if "_benchmarks" in path.parts:
            continue
        tree = ast.parse(path.read_text())
        for_types = [n for node in ast.walk(tree) if _for_types(node) for n in ast.walk(node)]
        for node in ast.walk(tree):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            wrapper = any(name.startswith("torch.nn.parallel") for name in names)
            if node not in for_types and (wrapper or any("torch.distributed" in name for name in names)):
                known.add(room(path))
    assert known <= {"group", "checkpoint", "team"}


def _for_types(node: ast.AST) -> bool:
    test = node.test if isinstance(node, ast.If) else None
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"
