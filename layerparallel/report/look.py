"""How curves are told apart: by colour and marker which run it is, by dashes what of it.

No two colours are alike to the colour-blind, and each is to be seen on its paper. In print without
colours markers and dashes are left.
"""

from dataclasses import dataclass
from typing import Any

COLOURS = ("#3258c8", "#e66700", "#174e2e", "#63007c", "#679bab", "#310c0d")
"""Of the runs, in their order; on white paper."""
ON_DARK = ("#5f80ff", "#eba42c", "#b4f0c2", "#9c6a9a", "#24c1c9", "#d9541f")
"""The same on dark paper."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Of the runs, too; not as many as colours, so that both together begin again much later."""
INK, GRID, PAPER = "#222222", "#d9d9d9", "#fefefe"  # what the page puts its own colours for

DASHED, DOTTED, DASH_DOT, LONG = (4.0, 2.0), (1.0, 1.5), (5.0, 1.5, 1.0, 1.5), (8.0, 2.0)
STYLES: dict[str, dict[str, Any]] = {
    "solid": {"linewidth": 1.8},
    "dashed": {"linewidth": 1.6, "dashes": DASHED},
    "dotted": {"linewidth": 1.6, "dashes": DOTTED},
    "dash-dot": {"linewidth": 1.6, "dashes": DASH_DOT},
    "long": {"linewidth": 1.6, "dashes": LONG},
    "thin": {"linewidth": 1.0, "dashes": DOTTED, "alpha": 0.75},
    "level": {"linewidth": 1.4, "dashes": DASHED},
    "dotted level": {"linewidth": 1.4, "dashes": DOTTED},
    "limit": {"linewidth": 0.9, "dashes": (1.0, 3.0)},
    "steps": {"linewidth": 1.8, "drawstyle": "steps-post", "markersize": 7.0},
    "dashed steps": {
        "linewidth": 1.6,
        "dashes": DASHED,
        "drawstyle": "steps-post",
        "markerfacecolor": PAPER,
    },
    "joined": {"linewidth": 0.9},
    "points": {"linewidth": 0.0, "markersize": 6.5},
    "joined points": {"linewidth": 0.9, "markersize": 6.5},
    "hollow points": {"linewidth": 0.0, "markersize": 6.5, "markerfacecolor": "none"},
    "grey points": {"linewidth": 0.0, "markersize": 6.5, "markerfacecolor": GRID},
}
KINDS = ("solid", "dashed", "dotted", "dash-dot", "long")
"""Of the first, second, ... of several curves of one run; beyond the last they begin again."""

TINTS = {
    "data": (4, 100),
    "forward": (0, 100),
    "forward_fine": (0, 70),
    "forward_coarse": (0, 40),
    "loss": (5, 100),
    "adjoint_fine": (1, 70),
    "adjoint_coarse": (1, 40),
    "backward": (1, 100),
    "optimizer": (2, 100),
    "comparison": (3, 100),
    "filling": (3, 70),
    "auxiliary": (3, 45),
    "messages": (2, 45),
    "rest": (4, 40),
}
"""Colours of the parts of an epoch: which one, and how much of it in the paper's."""


@dataclass(frozen=True)
class Look:
    """A colour, as CSS has it, and a marker at points, as matplotlib has it; empty for none."""

    colour: str = INK
    marker: str = ""


def look(number: int) -> Look:
    """That of a run, by its place among those compared."""
    return Look(COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)])


def kind(number: int) -> str:
    """Style of one of several curves of a run."""
    return KINDS[number % len(KINDS)]
