"""What --help shows: usage, what a command does, and its options by sections."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from textwrap import fill, wrap

from .options import Option

WIDTH = 100
"""Characters of a line, on a wider terminal or on none, too."""
COLUMN = 28
"""Where the help of an option begins."""
ORDER = ("Prediction", "Training", "Data", "Network", "", "Run")
"""Of the sections; the empty name stands for all others, in the order of their options."""


def page(command: str, about: str, options: Sequence[Option]) -> str:
    """The help of a command.

    Args:
        command: what is typed, without "layerparallel".
        about: paragraphs; their lines are filled anew.
    """
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 0)).columns)
    places = [option.shown.metavar for option in options if option.shown.positional]
    lines = [" ".join(["usage: layerparallel", command, *places, "[options]"])]
    for paragraph in about.replace("``", "`").split("\n\n"):
        lines += ["", fill(" ".join(paragraph.split()), width, break_on_hyphens=False)]
    sections = dict.fromkeys(option.section for option in options)
    for section in sorted(sections, key=lambda name: ORDER.index(name if name in ORDER else "")):
        lines += ["", section]
        for option in options:
            if option.section == section:
                lines += _lines(option, width)
    return "\n".join(lines)


def table(rows: Iterable[Sequence[str]]) -> str:
    """Rows of texts, column below column."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _lines(option: Option, width: int) -> list[str]:
    """The flag, and beside it, or below where it is long, its help."""
    head = f"  {_head(option)}"
    text = wrap(option.help, max(width - COLUMN, 20), break_on_hyphens=False)
    if text and len(head) <= COLUMN - 2:
        head = head.ljust(COLUMN) + text.pop(0)
    return [head, *(" " * COLUMN + line for line in text)]


def _head(option: Option) -> str:
    if option.shown.positional:
        return option.shown.metavar
    if option.switch:
        return f"{option.flag}, {option.opposite}" if option.default else option.flag
    flags = ", ".join(option.flags)
    return f"{flags} {option.metavar}"
