"""Predictions as tables on the screen, as plots, and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..network.tuning import describe
from ..solvers import MGRIT, Serial
from ..solvers import describe as as_json
from .scaling import Row
from .search import Split

NAMES = {
    "data": "data parallel",
    "1f1b": "GPipe, 1F1B",
    "zb-h1": "zero bubble H1",
    "zb-h2": "zero bubble H2",
}
HEADS = {"data": "data", "1f1b": "1F1B", "zb-h1": "ZB-H1", "zb-h2": "ZB-H2"}
NOTE = "predicted: computing measured on this machine, messages modelled"
LINES = {"data": "#2f7ed8", "1f1b": "#2a9d6f", "zb-h1": "#b357c9", "zb-h2": "#8a7a2f"}
OURS, SERIAL = "#d9652b", "#7f7f7f"


def name_of(solver: MGRIT | Serial) -> str:
    """A solver in a few words."""
    return describe(solver)


def table(title: str, rows: Sequence[Row]) -> Any:
    """A rich table of a scaling; seconds in ms."""
    from rich import box
    from rich.table import Table

    found = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("ranks", "layers", "1 rank", "layer", "speed-up", "error", *HEADS.values()):
        found.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        cells = [str(row.ranks), str(row.depth), *map(_ms, (row.serial, row.layer.seconds))]
        cells += [f"{row.speedup:.2f}", f"{row.error.relative:.0e}" if row.ranks > 1 else "0"]
        found.add_row(*cells, *(_ms(row.others[key]) for key in HEADS))
    return found


def solvers(rows: Sequence[Row]) -> str:
    """Which solver every row has."""
    return "\n".join(f"  {row.ranks:>5} ranks: {name_of(row.solver)}" for row in rows)


def split_table(title: str, splits: Sequence[Split]) -> Any:
    """A rich table of splits."""
    from rich import box
    from rich.table import Table

    found = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("data", "layer", "pipeline", "ms", "schedule", "solver of the layer groups"):
        found.add_column(head, justify="right" if len(head) < 9 else "left", no_wrap=True)
    for each in splits:
        schedule = f"{each.schedule} x {each.microbatches}" if each.schedule else ""
        sizes = [str(each.data), str(each.layer), str(each.stages)]
        found.add_row(*sizes, _ms(each.seconds), schedule, name_of(each.solver))
    return found


def plot(path: Path, rows: Sequence[Row], title: str, note: str = "", claim: str | None = None) -> Path:
    """Seconds over ranks, both logarithmic, as PNG.

    Args:
        note: below the title.
        claim: what was published, beside it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ranks = [row.ranks for row in rows]
    serial = [1e3 * row.serial for row in rows]
    axes.plot(ranks, serial, color=SERIAL, dashes=(4, 2), label="one rank, Serial(): measured")
    for key, colour in LINES.items():
        values = [1e3 * row.others[key] for row in rows]
        axes.plot(ranks, values, color=colour, linewidth=1.2, label=f"{NAMES[key]}: formula")
    ours = [1e3 * row.layer.seconds for row in rows]
    axes.plot(ranks, ours, "o-", color=OURS, linewidth=2.2, label="layer-parallel: predicted")
    axes.set(xscale="log", yscale="log", xlabel="ranks", ylabel="ms per gradient")
    axes.set_xticks(ranks, [str(r) for r in ranks])
    axes.minorticks_off()
    axes.grid(color="#d9d9d9", linewidth=0.6)
    axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold")
    foot = ". ".join(part for part in (NOTE[0].upper() + NOTE[1:], note, claim) if part)
    figure.text(0.01, -0.02, foot, fontsize=8, va="top", wrap=True)
    axes.legend(fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    return path


def row_json(row: Row) -> dict[str, Any]:
    """A row as numbers and names."""
    return {
        "ranks": row.ranks,
        "depth": row.depth,
        "serial_seconds": row.serial,
        "layer": dataclasses.asdict(row.layer),
        "speedup": row.speedup,
        "solver": as_json(row.solver),
        "relative_error": row.error.relative,
        "cosine": row.error.cosine,
        "others_seconds": row.others,
        "microbatches": row.microbatches,
    }


def split_json(split: Split) -> dict[str, Any]:
    """A split as numbers and names."""
    return {**dataclasses.asdict(split), "solver": as_json(split.solver)}


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 0.1 else f"{1e3 * seconds:,.0f}"
