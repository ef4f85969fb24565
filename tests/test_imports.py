"""Imports run one way and in no circle, and `import layerparallel` needs torch alone."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from scripts import script

import layerparallel

PACKAGE = Path(layerparallel.__file__).parent
rooms = script("dev", "rooms.py")
PLACE = {room: number for number, room in enumerate(rooms.ROOMS)}
FILES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py" and "_benchmarks" not in path.parts
]


def name(path: Path) -> str:
    """A file's module, without the package: ``solvers.mgrit``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TRAINERS = {"lightning", "pytorch_lightning", "accelerate", "safetensors"}
MODULES = {name(path): path for path in FILES}


def room(module: str) -> str:
    return module.partition(".")[0]


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports: at its top, in a function, or for types."""
    here = list(path.relative_to(PACKAGE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.partition(".") for alias in node.names]
            found |= {rest for first, _, rest in names if first == "layerparallel"}
            continue
        if not isinstance(node, ast.ImportFrom):
            continue
        parts = [part for part in (node.module or "").split(".") if part]
        if node.level:
            parts = here[: len(here) - node.level + 1] + parts
        elif parts[:1] == ["layerparallel"]:
            parts = parts[1:]
        else:
            continue
        for alias in node.names:
            whole = ".".join([*parts, alias.name])
            found.add(whole if whole in MODULES else ".".join(parts))
    return found - {name(path)}


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_from_those_above_it(module):
    assert room(module) in PLACE, f"give {room(module)} its place among the rooms of dev/rooms.py"
    for other in imported(MODULES[module]):
        if other == "":  # the command line's `import layerparallel`, for the version and its folder
            assert room(module) == "cli"
            continue
        assert PLACE[room(other)] <= PLACE[room(module)], f"{module} must not import {other}"


def test_files_import_each_other_in_no_circle():
    graph = {module: imported(path) for module, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(f"a circle of imports: {' -> '.join(circle.args[1])}")


def test_every_room_says_what_it_is_and_holds_names_alone():
    for each in PLACE:
        init = PACKAGE / each / "__init__.py"
        if not init.exists():
            continue
        lines = rooms.docstring(each).splitlines()
        assert len([line for line in lines if line]) >= 2, f"{each} opens with a docstring"
        assert "Open `" in " ".join(rooms.docstring(each).split()), (
            f"{each} says which file to open first"
        )
        for node in ast.parse(init.read_text()).body:
            kinds = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign)
            assert isinstance(node, kinds), f"{each}/__init__.py hands names on and does nothing else"


def test_the_design_page_has_the_rooms_of_today():
    assert rooms.PAGE.read_text() == rooms.page(), "run `python dev/rooms.py`"


def test_there_are_few_rooms():
    things = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()}
    things -= {"__init__", "__pycache__", "py.typed", "_benchmarks"}
    assert things == set(PLACE)
    assert len(things) <= 18


def test_the_package_alone_loads_none_of_what_the_command_line_needs():
    call = "import sys, layerparallel; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "torch" in loaded
    assert not loaded & {"rich", "matplotlib", "scipy", "PIL", "pooch", "sklearn", "requests"}
    assert not loaded & {"jinja2", "tensorboard"}
    assert not loaded & TRAINERS
    application = {"layerparallel.runs", "layerparallel.recipes", "layerparallel.report"}
    assert not application & set(done.stdout.split())


def test_the_library_never_imports_the_trainers_that_it_works_inside():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            found = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {each.partition(".")[0] for each in found} & TRAINERS, path


def test_only_a_few_rooms_know_torch_distributed():
    known = set()
    for path in FILES:
        tree = ast.parse(path.read_text())
        for_types = [n for node in ast.walk(tree) if _for_types(node) for n in ast.walk(node)]
        for node in ast.walk(tree):
            found = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            wrapper = any(each.startswith("torch.nn.parallel") for each in found)
            if node not in for_types and (wrapper or any("torch.distributed" in each for each in found)):
                known.add(room(name(path)))
    assert known <= {"group", "runs"}  # in runs checkpoints alone


def _for_types(node: ast.AST) -> bool:
    test = node.test if isinstance(node, ast.If) else None
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"
