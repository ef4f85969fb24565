"""Plots of curves and points, as SVG that takes its colours from the page it stands in, or as PNG."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

COLOURS = (
    "#2f7ed8", "#d9652b", "#2a9d6f", "#b357c9", "#c7427c", "#8a7a2f", "#3c9aa8", "#7f7f7f",
)  # fmt: skip
"""Of the runs, in their order; each to be told from white and from black."""
INK, GRID, PAPER = "#222222", "#d9d9d9", "#fefefe"  # what the page puts its own colours for
SIZE = (4.4, 2.9)  # inches of 72 units: as wide as a narrow screen, so that text stays legible
SHEET = (5.4, 4.2)  # of a plot among those of a PNG
DOTS = 130
WIDTH = 80
"""Characters of a line below a plot of a PNG."""

MARKED = 20  # points below which each is marked

Array = NDArray[np.float64]

STYLES: dict[str, dict[str, Any]] = {
    "solid": {"linewidth": 1.8},
    "dashed": {"linewidth": 1.6, "dashes": (4, 2)},
    "dotted": {"linewidth": 1.6, "dashes": (1, 1.5)},
    "dash-dot": {"linewidth": 1.6, "dashes": (5, 1.5, 1, 1.5)},
    "thin": {"linewidth": 1.0, "alpha": 0.55, "marker": ""},
    "level": {"linewidth": 1.4, "dashes": (4, 2), "marker": ""},
    "dotted level": {"linewidth": 1.4, "dashes": (1, 1.5), "marker": ""},
    "steps": {"linewidth": 1.8, "drawstyle": "steps-post"},
    "dashed steps": {"linewidth": 1.6, "dashes": (4, 2), "drawstyle": "steps-post"},
    "points": {"linestyle": "", "marker": "o", "markersize": 6.5},
    "hollow points": {"linestyle": "", "marker": "o", "markersize": 6.5, "markerfacecolor": PAPER},
    "squares": {"linestyle": "", "marker": "s", "markersize": 6},
}


@dataclass(frozen=True, eq=False)
class Curve:
    """One line of a plot, or points of one kind.

    Args:
        x: `(n,)`.
        y: `(n,)`; NaN where there is no value.
        colour: as CSS has it.
        style: a key of `STYLES`.
        label: in the legend of the plot; empty where the page explains its curves.
        gaps: whether the line is broken where there is no value, rather than drawn across.
        spread: `(n,)`, drawn as far above and below every point.
        texts: one beside every point.
    """

    x: Array
    y: Array
    colour: str
    style: str = "solid"
    label: str = ""
    gaps: bool = False
    spread: Array | None = None
    texts: tuple[str, ...] = ()


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


def colour(number: int) -> str:
    """Colour of a run, by its place among those compared."""
    return COLOURS[number % len(COLOURS)]


Scale = Literal["linear", "counts", "log", "percent"]
Ticks = Literal["whole", "time", "real", "percent"]


@dataclass(frozen=True)
class Plot:
    """What is to be drawn; see `plot`."""

    title: str
    curves: tuple[Curve, ...]
    over: str
    scale: Scale
    note: str
    ticks: Ticks
    bands: tuple[Band, ...]

    def labelled(self) -> list[Curve]:
        """What stands in the legend: of several curves of one label the first."""
        found: dict[str, Curve] = {}
        for curve in self.curves:
            if curve.label:
                found.setdefault(curve.label, curve)
        return list(found.values())


@dataclass(frozen=True)
class Panel:
    """A titled plot: SVG, its legend as pairs of SVG and text, and what there is to say below it."""

    title: str
    svg: str
    keys: tuple[tuple[str, str], ...] = ()
    note: str = ""


def plot(
    title: str,
    curves: Sequence[Curve | None],
    over: str,
    scale: Scale = "counts",
    note: str = "",
    ticks: Ticks = "whole",
    bands: Sequence[Band] = (),
) -> Plot | None:
    """A plot of curves; None where there is nothing to draw.

    Args:
        over: label of the horizontal axis.
        scale: vertical; "log" leaves out values that are not positive, "counts" begins at 0.
        note: to be said below it.
        ticks: of the horizontal axis.
        bands: shaded behind the curves.
    """
    drawn = [found for curve in curves if curve and (found := _there(curve, scale)) is not None]
    return Plot(title, tuple(drawn), over, scale, note, ticks, tuple(bands)) if drawn else None


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


# ---- in the page, or as a file -----------------------------------------------------------------


def panel(plot: Plot) -> Panel:
    """The plot as a part of an HTML page."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with _settings():
        figure = Figure(figsize=SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots(), plot)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    keys = tuple((_key(curve), curve.label) for curve in plot.labelled())
    return Panel(plot.title, _embedded(file.getvalue(), plot.title), keys, plot.note)


def sheet(
    plots: Sequence[Plot], path: Path, title: str = "", names: Sequence[str] = (), columns: int = 2
) -> Path:
    """Some plots with their titles and legends, as PNG, or as what else the path ends in.

    Args:
        names: of the runs, in the order of their colours, where the legends do not tell them.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = min(columns, len(plots))
    rows = -(-len(plots) // columns)
    with _settings():
        size = (SHEET[0] * columns, SHEET[1] * rows)
        figure = Figure(figsize=size, dpi=DOTS, layout="constrained", facecolor="white")
        places = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, each in zip(places, plots, strict=False):
            handles = draw(axes, each)
            above = 6 + 72 * SHEET[1] * 0.8 * max((band.high - 1 for band in each.bands), default=0.0)
            axes.set_title(each.title, loc="left", fontweight="bold", fontsize=11, pad=above)
            axes.set_xlabel("\n".join([each.over, *textwrap.wrap(each.note, WIDTH)]))
            if handles:
                axes.legend(handles=handles, frameon=False, fontsize=8.5, loc="best")
        for axes in places[len(plots) :]:
            axes.set_axis_off()
        runs = [Line2D([], [], color=colour(k), label=name) for k, name in enumerate(names)]
        if runs:
            figure.legend(handles=runs, loc="outside lower center", ncols=4, frameon=False)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12.5)
        figure.savefig(path)
    return path


def _settings() -> Any:
    import matplotlib

    settings: dict[Any, Any] = {
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
    return matplotlib.rc_context(settings)


# ---- axes --------------------------------------------------------------------------------------


def draw(axes: Any, plot: Plot) -> list[Any]:
    """Draw a plot into axes of matplotlib; the lines that stand in its legend."""
    for band in plot.bands:
        alpha = 0.45 if band.high <= 1 else 0.8
        style = {"facecolor": band.colour, "alpha": alpha, "linewidth": 0, "zorder": 0}
        axes.axvspan(band.left, band.right, band.low, band.high, clip_on=band.high <= 1, **style)
    handles, labelled = [], plot.labelled()
    for curve in plot.curves:
        line = _draw_curve(axes, curve)
        if curve in labelled:
            line.set_label(curve.label)
            handles.append(line)
    axes.set_xlabel(plot.over)
    axes.grid(True)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _across(axes, plot)
    _upwards(axes, plot)
    return handles


def _draw_curve(axes: Any, curve: Curve) -> Any:
    style = STYLES[curve.style]
    if curve.gaps or curve.x.size < MARKED:
        hollow = "dashes" in style
        face = PAPER if hollow else curve.colour
        size = 4 if curve.x.size < MARKED else 2.5
        style = {"marker": "o", "markersize": size, "markerfacecolor": face, **style}
    (line,) = axes.plot(curve.x, curve.y, color=curve.colour, **style)
    if curve.spread is not None:
        low, high = curve.y - curve.spread, curve.y + curve.spread
        axes.vlines(curve.x, low, high, color=curve.colour, linewidth=1.2)
    for x, y, text in zip(curve.x, curve.y, curve.texts, strict=False):
        axes.annotate(text, (x, y), (5, 4), textcoords="offset points", fontsize=8.5, color=INK)
    return line


def _across(axes: Any, plot: Plot) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=plot.ticks == "whole"))
    if plot.ticks in ("real", "percent"):
        axes.margins(x=0.1)
    if plot.ticks == "percent":
        axes.xaxis.set_major_formatter(_percent)
    elif plot.ticks == "time":
        axes.set_xlim(left=0)
    elif plot.ticks == "whole" and max(curve.x.max() for curve in plot.curves) == 1:
        axes.set_xlim(0, 2)


def _upwards(axes: Any, plot: Plot) -> None:
    from matplotlib.ticker import MaxNLocator

    if plot.scale == "log":
        _logarithmic(axes, plot.curves)
        return
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=plot.scale == "counts"))
    if plot.scale == "percent":
        axes.yaxis.set_major_formatter(_percent)
    elif plot.scale == "counts":
        axes.set_ylim(bottom=0)


def _percent(value: float, _: int = 0) -> str:
    """A tick: 40%, 93.75%."""
    return f"{100 * value:.4g}%"


def _logarithmic(axes: Any, curves: Sequence[Curve]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low = min(float(np.nanmin(curve.y)) for curve in curves)
    high = max(float(np.nanmax(curve.y)) for curve in curves)
    axes.set_yscale("log")
    if high < 1.5 * low:  # almost constant: ticks would fall together
        low, high = low / 1.5, high * 1.5
        axes.set_ylim(low, high)
    if high < 4 * low:  # hardly more than one power of two: even ticks are the better ones
        axes.yaxis.set_major_locator(MaxNLocator(5))
    else:
        subs = (1, 2, 5) if high < 50 * low else (1,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()


def _short(value: float) -> str:
    """A tick of a logarithmic axis: 0.05, 20, 1.5e-7."""
    if 1e-3 <= value < 1e4:
        return f"{value:.4g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


# ---- SVG in a page -----------------------------------------------------------------------------


def _embedded(svg: str, title: str) -> str:
    """SVG as a part of an HTML page: scalable, ids of its own, ink and grid as the page has them."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    prefix = re.sub(r"\W+", "-", title.lower()) + "-"
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = svg.replace("url(#", f"url(#{prefix}").replace('href="#', f'href="#{prefix}')
    svg = _themed(svg)
    svg = re.sub(r'(<svg [^>]*?)\swidth="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?)\sheight="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def _themed(svg: str) -> str:
    for colour, name in ((INK, "ink"), (GRID, "grid"), (PAPER, "paper")):
        svg = svg.replace(colour, f"var(--{name})")
    return svg


def _key(curve: Curve) -> str:
    """The sample of a curve in a legend, 32 by 8 units."""
    style, colour = STYLES[curve.style], curve.colour
    if style.get("linestyle") == "":
        look = f'style="fill: {style.get("markerfacecolor", colour)}; stroke: {colour}"'
        square = style["marker"] == "s"
        shape = '<rect x="13" y="1" width="6" height="6" {}/>' if square else _CIRCLE
        return _themed(shape.format(look))
    dashes = " ".join(f"{1.8 * length:.3g}" for length in style.get("dashes", ()))
    look = f"stroke: {colour}; stroke-width: {style['linewidth']}; opacity: {style.get('alpha', 1)}"
    return _themed(f'<path d="M0 4H32" stroke-dasharray="{dashes or "none"}" style="{look}"/>')


_CIRCLE = '<circle cx="16" cy="4" r="3.4" {}/>'
