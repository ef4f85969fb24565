"""The rooms of the package, in the order of imports; called, it writes them into docs/design.md.

A room imports from rooms above it in the list, never from one below; tests/test_imports.py holds that.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "layerparallel"
PAGE = ROOT / "docs" / "design.md"
BEGIN, END = "<!-- rooms: written by dev/rooms.py -->", "<!-- end of rooms -->"

ROOMS = (
    "version",
    "errors",
    "group",
    "steps",
    "chains",
    "solvers",
    "network",
    "models",
    "staged",
    "parareal",
    "data",
    "training",
    "runs",
    "report",
    "recipes",
    "predict",
    "cli",
    "__main__",
)


def docstring(room: str) -> str:
    """That of a room."""
    file = PACKAGE / room / "__init__.py"
    file = file if file.exists() else PACKAGE / f"{room}.py"
    return ast.get_docstring(ast.parse(file.read_text())) or ""


def table() -> str:
    """The rooms and the first line of each docstring, as they stand in docs/design.md."""
    rows = [f"| `{room}` | {docstring(room).partition(chr(10))[0]} |" for room in ROOMS]
    return "\n".join([BEGIN, "", "| room | what it is |", "|---|---|", *rows, "", END])


def page() -> str:
    """The page with the table of today."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    return before + table() + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page())
