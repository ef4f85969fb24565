"""Plots of curves and points: what is drawn, and how matplotlib draws it; as PNG, too."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .look import GRID, INK, MARKERS, PAPER, STYLES, Look

SHEET = (5.4, 4.6)  # inches of a plot among those of a PNG
DOTS = 130
WIDTH = 80
"""Characters of a line below a plot of a PNG."""
MARKED = 20
"""Points below which each is marked; of more, every so often one."""
CLOSE = 1.5
"""Least ratio of the ends of a logarithmic axis."""
TICKS = 8
"""Most ticks of a logarithmic axis."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curve:
    """One line of a plot, or points of one kind.

    Args:
        x: `(n,)`.
        y: `(n,)`; NaN where there is no value.
        look: its colour and marker.
        style: a key of `look.STYLES`.
        label: in the legend of the plot.
        gaps: whether the line is broken where there is no value, rather than drawn across.
        spread: `(n,)`, drawn as far above and below every point.
        texts: one beside every point.
    """

    x: Array
    y: Array
    look: Look
    style: str = "solid"
    label: str = ""
    gaps: bool = False
    spread: Array | None = None
    texts: tuple[str, ...] = ()

    @property
    def line(self) -> dict[str, Any]:
        """What it looks like, as matplotlib has it; in the legend, too."""
        colour, marker, style = self.look.colour, self.look.marker, STYLES[self.style]
        hollow = "dashes" in style and self.style != "thin"
        face = "none" if hollow else colour
        return {"color": colour, "marker": marker, "markersize": 4.0, "markerfacecolor": face, **style}


@dataclass(frozen=True)
class Band:
    """A shaded stretch of the horizontal axis.

    low, high: where it begins and ends above the axis, in heights of the plot; beyond 1 it is on top.
    """

    left: float
    right: float
    colour: str = GRID
    low: float = 0.0
    high: float = 1.0


Scale = Literal["linear", "counts", "log", "percent"]
Ticks = Literal["whole", "time", "real", "percent"]


@dataclass(frozen=True)
class Plot:
    """What is to be drawn; see `plot`."""

    title: str
    curves: tuple[Curve, ...]
    over: str
    up: str
    scale: Scale
    note: str
    ticks: Ticks
    bands: tuple[Band, ...]
    until: float
    shared: float | None

    @property
    def limit(self) -> Curve | None:
        """A line from bottom to top, in heights of the plot, where the shortest curves end."""
        if self.shared is None:
            return None
        said = f"epoch {self.shared:.0f}: the last one of all runs"
        return Curve(np.full(2, self.shared), np.array([0.0, 1.0]), Look(), style="limit", label=said)

    def labelled(self) -> list[Curve]:
        """What stands in the legend: all that is drawn."""
        return [*self.curves, *([self.limit] if self.limit else [])]


def plot(
    title: str,
    curves: Sequence[Curve | None],
    over: str,
    up: str,
    scale: Scale = "counts",
    note: str = "",
    ticks: Ticks = "whole",
    bands: Sequence[Band] = (),
    until: float = 0.0,
    shared: float | None = None,
) -> Plot | None:
    """A plot of curves; None where there is nothing to draw.

    Args:
        over: label of the horizontal axis, with its unit.
        up: label of the vertical one.
        scale: vertical; "log" leaves out values that are not positive, "counts" begins at 0.
        note: to be said below it.
        ticks: of the horizontal axis.
        bands: shaded behind the curves.
        until: how far the horizontal axis reaches at least.
        shared: up to where there are curves of all runs, if some go on.
    """
    drawn = [found for curve in curves if curve and (found := _there(curve, scale)) is not None]
    if not drawn:
        return None
    return Plot(title, tuple(drawn), over, up, scale, note, ticks, tuple(bands), until, shared)


def _there(curve: Curve, scale: Scale) -> Curve | None:
    """The curve without what cannot be drawn; None if nothing is left."""
    there = np.isfinite(curve.x) & np.isfinite(curve.y)
    if scale == "log":
        there &= np.nan_to_num(curve.y) > 0
    if not there.any():
        return None
    if curve.gaps:
        return replace(curve, y=np.where(there, curve.y, np.nan))
    spread = None if curve.spread is None else curve.spread[there]
    texts = tuple(text for text, here in zip(curve.texts, there, strict=False) if here)
    return replace(curve, x=curve.x[there], y=curve.y[there], spread=spread, texts=texts)


# ---- as a file ---------------------------------------------------------------------------------


def sheet(plots: Sequence[Plot], path: Path, title: str = "", columns: int = 2) -> Path:
    """Some plots with their titles and legends, as PNG, or as what else the path ends in."""
    from matplotlib.figure import Figure

    columns = min(columns, len(plots))
    rows = -(-len(plots) // columns)
    with settings():
        size = (SHEET[0] * columns, SHEET[1] * rows)
        figure = Figure(figsize=size, dpi=DOTS, layout="constrained", facecolor="white")
        places = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, each in zip(places, plots, strict=False):
            handles = draw(axes, each)
            above = 6 + 72 * SHEET[1] * 0.8 * max((band.high - 1 for band in each.bands), default=0.0)
            axes.set_title(each.title, loc="left", fontweight="bold", fontsize=11, pad=above)
            below = [each.over, *textwrap.wrap(each.note, WIDTH)]
            axes.set_xlabel("\n".join(below))
            _legend(axes, handles, len(below))
        for axes in places[len(plots) :]:
            axes.set_axis_off()
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12.5)
        figure.savefig(path)
    return path


def _legend(axes: Any, handles: list[Any], lines: int) -> None:
    """Below the axes and as many lines of text."""
    from matplotlib.transforms import ScaledTranslation

    down = ScaledTranslation(0, -(20 + 12.5 * lines) / 72, axes.figure.dpi_scale_trans)
    place = {"loc": "upper left", "bbox_to_anchor": (0, 0), "bbox_transform": axes.transAxes + down}
    columns = 2 if max(len(handle.get_label()) for handle in handles) < WIDTH // 3 else 1
    axes.legend(
        handles=handles,
        ncols=columns,
        frameon=False,
        fontsize=8.5,
        handlelength=3.4,
        borderaxespad=0,
        **place,
    )


def settings() -> Any:
    """What matplotlib is told of texts and axes."""
    import matplotlib

    told: dict[Any, Any] = {
        "svg.fonttype": "none",
        "font.size": 9.3,
        "axes.edgecolor": GRID,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "text.color": INK,
        "axes.linewidth": 0.8,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
    }
    return matplotlib.rc_context(told)


# ---- axes --------------------------------------------------------------------------------------


def draw(axes: Any, plot: Plot) -> list[Any]:
    """Draw a plot into axes of matplotlib; the lines that stand in its legend."""
    for band in plot.bands:
        alpha = 0.45 if band.high <= 1 else 0.8
        style = {"facecolor": band.colour, "alpha": alpha, "linewidth": 0, "zorder": 0}
        axes.axvspan(band.left, band.right, band.low, band.high, clip_on=band.high <= 1, **style)
    handles = [_draw_curve(axes, curve, axes.transData) for curve in plot.curves]
    if plot.limit is not None:
        handles.append(_draw_curve(axes, plot.limit, axes.get_xaxis_transform()))
    axes.set_xlabel(plot.over)
    axes.set_ylabel(plot.up)
    axes.grid(True)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _across(axes, plot)
    _upwards(axes, plot)
    return handles


def _draw_curve(axes: Any, curve: Curve, transform: Any) -> Any:
    style, count = curve.line, curve.x.size
    if count >= MARKED and curve.gaps:
        style["markersize"] = 2.5  # each of them, as one without neighbours is no line
    elif count >= MARKED and curve.look.marker:
        every = max(count // 8, len(MARKERS))  # at other points of every run: curves may fall together
        style["markevery"] = (MARKERS.index(curve.look.marker) * every // len(MARKERS), every)
    (line,) = axes.plot(curve.x, curve.y, label=curve.label, transform=transform, **style)
    if curve.spread is not None:
        low, high = curve.y - curve.spread, curve.y + curve.spread
        axes.vlines(curve.x, low, high, color=curve.look.colour, linewidth=1.2)
    for x, y, text in zip(curve.x, curve.y, curve.texts, strict=False):
        told = axes.annotate(text, (x, y), (6, 6), textcoords="offset points", fontsize=8.5, zorder=4)
        told.set_bbox({"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.5})
    return line


def _across(axes: Any, plot: Plot) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=plot.ticks == "whole"))
    if plot.ticks in ("real", "percent"):
        axes.margins(x=0.1, y=0.1)
    else:
        end = max(plot.until, *(float(np.nanmax(curve.x)) for curve in plot.curves))
        axes.set_xlim(0, max(1.03 * end, *(band.right for band in plot.bands), 0.0))
    if plot.ticks == "percent":
        axes.xaxis.set_major_formatter(_percent)


def _upwards(axes: Any, plot: Plot) -> None:
    from matplotlib.ticker import MaxNLocator

    if plot.scale == "log":
        low = min(float(np.nanmin(curve.y)) for curve in plot.curves)
        high = max(float(np.nanmax(curve.y)) for curve in plot.curves)
        low, high = log_limits(low, high)
        ticks = log_ticks(low, high)
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axes.set_yticks(ticks, labels=[_short(tick) for tick in ticks])
        axes.minorticks_off()
        return
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=plot.scale == "counts"))
    if plot.scale == "percent":
        axes.yaxis.set_major_formatter(_percent)
    elif plot.scale == "counts":
        axes.set_ylim(bottom=0)


def _percent(value: float, _: int = 0) -> str:
    """A tick in per cent: 40, 93.75."""
    return f"{100 * value:.4g}"


def log_limits(low: float, high: float) -> tuple[float, float]:
    """Ends of a logarithmic axis for values from low to high."""
    wide = max(math.log(high / low), math.log(CLOSE))
    middle, half = math.sqrt(low) * math.sqrt(high), math.exp(0.55 * wide)
    return middle / half, middle * half


def log_ticks(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis that ends there, two at least: powers of ten, if these suffice."""
    from matplotlib.ticker import MaxNLocator

    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 2, 5), (1, 2, 3, 4, 6, 8), range(1, 10)):
        every = [digit * 10.0**power for power in powers for digit in digits]
        found = [tick for tick in every if low <= tick <= high]
        if len(found) > 2:
            return found[:: -(-len(found) // TICKS)]
    even = MaxNLocator(5).tick_values(low, high)
    return [float(tick) for tick in even if low <= tick <= high]


def _short(value: float) -> str:
    """A tick of a logarithmic axis: 0.05, 20, 1.5e-7."""
    if 1e-3 <= value < 1e4:
        return f"{value:.4g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
