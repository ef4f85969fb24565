"""Predictions as tables on the screen, as plots, and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..network.tuning import describe
from ..solvers import describe as as_json
from .baselines import SERIAL, Plain, Timed, Way
from .scaling import Row

NAMES = {
    "data": "data parallel",
    "1f1b": "GPipe, 1F1B",
    "zb-h1": "zero bubble H1",
    "zb-h2": "zero bubble H2",
}
HEADS = {"data": "data", "1f1b": "1F1B", "zb-h2": "ZB-H2"}
NOTE = "predicted: computing measured on this machine, messages modelled"
LEGEND = (
    "PyTorch, our best: on one core. Layer: layer-parallel, by the solvers listed. Data parallel,\n"
    "GPipe and 1F1B (the same time) and zero bubble: one core measured, with the quicker of plain\n"
    "PyTorch and Serial(), and a formula."
)
LINES = {"data": "#2f7ed8", "1f1b": "#2a9d6f", "zb-h1": "#b357c9", "zb-h2": "#8a7a2f"}
OURS, PLAIN_LINE, DEVICE = "#d9652b", "#7f7f7f", "#333333"


def name_of(way: Way) -> str:
    """A way of propagating in a few words."""
    return "plain PyTorch" if isinstance(way, Plain) else describe(way)


def ms(seconds: float) -> str:
    """Milliseconds, three figures."""
    return f"{1e3 * seconds:.3g}" if seconds < 0.1 else f"{1e3 * seconds:,.0f}"


# ---- tables ---------------------------------------------------------------------------------------


def devices(row: Row) -> list[str]:
    """What the network takes on one core: a line for each way."""
    ways = [("plain PyTorch", row.plain), ("Serial()", row.serial)]
    if row.device.split.way != SERIAL:
        error = f", error {row.device.error.relative:.0e}"
        ways.append((name_of(row.device.split.way) + error, row.device.seconds))
    return [
        f"  {ms(seconds):>6} ms  {row.plain / seconds:5.2f} x PyTorch  {name}" for name, seconds in ways
    ]


def table(title: str, rows: Sequence[Row]) -> Any:
    """A rich table of a scaling; seconds in ms."""
    found = _table(title)
    heads = ("ranks", "PyTorch", "our best", "layer", "x PyTorch", "x our best", "error")
    for head in (*heads, *HEADS.values()):
        found.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        cells = [str(row.ranks), *map(ms, (row.plain, row.device.seconds, row.layer.seconds))]
        cells += [_ratio(row.speedup), _ratio(row.over_device), f"{row.layer.error.relative:.0e}"]
        found.add_row(*cells, *(ms(row.others[key].seconds) for key in HEADS))
    return found


def solvers(rows: Sequence[Row]) -> str:
    """How the ranks of every row are shared out, and by which solver."""
    lines = ["Layer, ranks as data x layer x stages and the solver:"]
    for row in rows:
        split = row.layer.split
        unable = "; no MGRIT is exact enough" if split.ranks < row.ranks else ""
        shape = f"{split.data} x {split.layer} x {split.stages}"
        lines.append(f"  {row.ranks:>5} as {shape}: {name_of(split.way)}{unable}")
    return "\n".join(lines)


def split_table(title: str, splits: Sequence[Timed], plain: float) -> Any:
    """A rich table of splits; `plain` is the time that speed-ups are over."""
    found = _table(title)
    for head in ("data", "layer", "stages", "ms", "x PyTorch", "error"):
        found.add_column(head, justify="right", no_wrap=True)
    found.add_column("schedule", no_wrap=True)
    found.add_column("every layer group")
    for each in splits:
        split = each.split
        schedule = f"{split.schedule} x {split.microbatches}" if split.schedule else ""
        cells = [str(split.data), str(split.layer), str(split.stages), ms(each.seconds)]
        cells += [_ratio(plain / each.seconds), f"{each.error.relative:.0e}", schedule]
        found.add_row(*cells, name_of(split.way))
    return found


def _table(title: str) -> Any:
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _ratio(speedup: float) -> str:
    """A speed-up; one that is none says so."""
    return f"{speedup:.2f}" if speedup >= 1 else f"loses {speedup:.2f}"


# ---- plots ----------------------------------------------------------------------------------------


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
    for colour, label, times in (
        (PLAIN_LINE, "one core, plain PyTorch: measured", [row.plain for row in rows]),
        (DEVICE, "one core, our quickest: measured", [row.device.seconds for row in rows]),
    ):
        axes.plot(ranks, [1e3 * each for each in times], color=colour, dashes=(4, 2), label=label)
    for key, colour in LINES.items():
        values = [1e3 * row.others[key].seconds for row in rows]
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


# ---- JSON -----------------------------------------------------------------------------------------


def row_json(row: Row) -> dict[str, Any]:
    """A row as numbers and names."""
    return {
        "ranks": row.ranks,
        "depth": row.depth,
        "plain_seconds": row.plain,
        "serial_seconds": row.serial,
        "one_device": timed_json(row.device),
        "layer": timed_json(row.layer),
        "speedup": row.speedup,
        "speedup_over_one_device": row.over_device,
        "predicted": dataclasses.asdict(row.predicted),
        "others": {name: timed_json(each) for name, each in row.others.items()},
    }


def timed_json(timed: Timed) -> dict[str, Any]:
    """A split and its time as numbers and names."""
    split = timed.split
    return {
        **{name: getattr(split, name) for name in ("depth", "data", "layer", "stages")},
        "solver": {"kind": "PyTorch"} if isinstance(split.way, Plain) else as_json(split.way),
        "schedule": split.schedule,
        "microbatches": split.microbatches,
        "seconds": timed.seconds,
        "relative_error": timed.error.relative,
        "cosine": timed.error.cosine,
    }
