"""Curves over training as SVG that stands in the page and takes its colours from it."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerparallel.report.story import Line, Story

COLOURS = (
    "#2f7ed8", "#d9652b", "#2a9d6f", "#b357c9", "#c7427c", "#8a7a2f", "#3c9aa8", "#7f7f7f",
)  # fmt: skip
"""Of the runs, in their order; each to be told from white and from black."""
INK, GRID, PAPER = "#222222", "#d9d9d9", "#fefefe"  # what the page puts its own colours for
SIZE = (4.4, 2.9)  # inches of 72 units: as wide as a narrow screen, so that text stays legible

MARKED = 20  # points below which each is marked

Array = NDArray[np.float64]
Horizontal = Callable[[list[Line]], Array]


@dataclass(frozen=True)
class Curve:
    """One line of a panel. style: a key of `STYLES`, which the legends of the page explain."""

    x: Array
    y: Array
    colour: str
    style: str = "solid"


@dataclass(frozen=True)
class Panel:
    """A titled plot: SVG, and what there is to say below it."""

    title: str
    svg: str
    note: str = ""


STYLES: dict[str, dict[str, Any]] = {
    "solid": {"linewidth": 1.8},
    "dashed": {"linewidth": 1.6, "dashes": (4, 2)},
    "thin": {"linewidth": 1.0, "alpha": 0.55},
    "steps": {"linewidth": 1.8, "drawstyle": "steps-post"},
    "dashed steps": {"linewidth": 1.6, "dashes": (4, 2), "drawstyle": "steps-post"},
}


def colour(number: int) -> str:
    """Colour of a run, by its place among those compared."""
    return COLOURS[number % len(COLOURS)]


def serial_colour(number: int, runs: int) -> str:
    """Colour of a run's serial twin: its own where there are several, another where it is alone."""
    return COLOURS[1] if runs == 1 else colour(number)


def learning(stories: Sequence[Story]) -> list[Panel]:
    """Loss and accuracy over epochs and over seconds, with the serial slice of each run."""
    found = []
    for title, key in (("Training loss", "train_loss"), ("Accuracy", "validation_accuracy")):
        for over, across in (("epochs", _numbers), ("seconds of training", _seconds)):
            curves = []
            for number, story in enumerate(stories):
                if key == "validation_accuracy":
                    curves.append(_curve(story.epochs, across, "train_accuracy", number, "thin"))
                curves.append(_curve(story.epochs, across, key, number))
                serially = serial_colour(number, len(stories))
                curves.append(
                    Curve(across(story.serial), _column(story.serial, key), serially, "dashed")
                )
            scale = "log" if key == "train_loss" else "percent"
            found.append(panel(f"{title} over {over}", curves, over, scale))
    return [each for each in found if each is not None]


def exactness(stories: Sequence[Story]) -> list[Panel]:
    """Residuals, convergence factors and gradient errors over training; residuals per cycle."""
    found = [
        panel(
            "Residual at the end of the solves",
            _both(stories, "residual"),
            "epochs",
            "log",
            note="Of the last solve of every epoch, relative to the states.",
        ),
        panel(
            "Convergence factor",
            _both(stories, "factor"),
            "epochs",
            "log",
            note="Reduction of the residual per cycle, on one batch; below 1 it converges.",
        ),
        panel(
            "Error of the gradient",
            [
                _curve(story.epochs, _numbers, "gradient_error", number)
                for number, story in enumerate(stories)
            ],
            "epochs",
            "log",
            note="Distance to the exact gradient on one batch, relative to its norm.",
        ),
        panel(
            "Residual per cycle, trained network",
            [
                curve
                for number, story in enumerate(stories)
                for direction, style in (("forward", "solid"), ("adjoint", "dashed"))
                if (curve := _cycles(story, direction, number, style)) is not None
            ],
            "cycle",
            "log",
            note="Over more cycles than training spends, relative to the first.",
        ),
        panel(
            "Fallbacks to the serial solver",
            [
                _curve(story.epochs, _numbers, "fallbacks", number)
                for number, story in enumerate(stories)
                if story.fallbacks()
            ],
            "epochs",
            note="Solves of each epoch that misbehaved.",
        ),
    ]
    return [each for each in found if each is not None]


def adaptive(stories: Sequence[Story]) -> list[Panel]:
    """Cycles that the adaptive mode chose, and the error that it measured."""
    chosen, measured = [], []
    for number, story in enumerate(stories):
        steps = _numbers(story.decisions)
        for direction, style in (("forward", "steps"), ("adjoint", "dashed steps")):
            # No cycles stand for serial propagation: they are drawn at 0.
            cycles = [line.get(f"{direction}_cycles") or 0 for line in story.decisions]
            chosen.append(Curve(steps, np.array(cycles, dtype=float), colour(number), style))
        measured.append(
            Curve(steps, _column(story.decisions, "relative_error"), colour(number), "solid")
        )
    found = [
        panel(
            "Cycles chosen",
            chosen,
            "comparisons with the exact gradient",
            note="0 stands for serial propagation.",
        ),
        panel(
            "Error of the gradient before the choice",
            measured,
            "comparisons with the exact gradient",
            "log",
        ),
    ]
    return [each for each in found if each is not None]


def panel(
    title: str, curves: Sequence[Curve | None], over: str, scale: str = "linear", note: str = ""
) -> Panel | None:
    """A plot of curves; None where there is nothing to draw.

    Args:
        over: label of the horizontal axis.
        scale: "linear", "log" (values that are not positive are left out) or "percent".
    """
    drawn = []
    for curve in curves:
        if curve is None:
            continue
        there = np.isfinite(curve.x) & np.isfinite(curve.y)
        if scale == "log":
            there &= curve.y > 0
        if there.any():
            drawn.append(Curve(curve.x[there], curve.y[there], curve.colour, curve.style))
    if not drawn:
        return None
    return Panel(title, _svg(drawn, over, scale, title), note)


def _both(stories: Sequence[Story], what: str) -> list[Curve]:
    return [
        _curve(story.epochs, _numbers, f"{direction}_{what}", number, style)
        for number, story in enumerate(stories)
        for direction, style in (("forward", "solid"), ("adjoint", "dashed"))
    ]


def _cycles(story: Story, direction: str, number: int, style: str) -> Curve | None:
    values = np.array(story.cycles.get(direction) or [], dtype=float)
    if values.size == 0 or not values[0] > 0:
        return None
    return Curve(np.arange(1.0, values.size + 1), values / values[0], colour(number), style)


def _curve(lines: list[Line], across: Horizontal, key: str, number: int, style: str = "solid") -> Curve:
    return Curve(across(lines), _column(lines, key), colour(number), style)


def _numbers(lines: list[Line]) -> Array:
    """Number of a line, counted through all phases."""
    return np.arange(1.0, len(lines) + 1)


def _seconds(lines: list[Line]) -> Array:
    return _column(lines, "seconds")


def _column(lines: list[Line], key: str) -> Array:
    """One value of every line; NaN where a line has none."""
    values = [line.get(key) for line in lines]
    return np.array([np.nan if value is None else value for value in values], dtype=float)


# ---- drawing -----------------------------------------------------------------------------------


def _svg(curves: list[Curve], over: str, scale: str, title: str) -> str:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

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
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        for curve in curves:
            style = STYLES[curve.style]
            if curve.x.size < MARKED and curve.style != "thin":
                hollow = "dashes" in style
                face = PAPER if hollow else curve.colour
                style = {"marker": "o", "markersize": 4, "markerfacecolor": face, **style}
            axes.plot(curve.x, curve.y, color=curve.colour, **style)
        axes.set_xlabel(over)
        axes.grid(True)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        whole = over != "seconds of training"
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole))
        if not whole:
            axes.set_xlim(left=0)
        elif max(curve.x.max() for curve in curves) == 1:
            axes.set_xlim(0, 2)
        if scale == "log":
            _logarithmic(axes, curves)
        elif scale == "percent":
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
            axes.yaxis.set_major_locator(MaxNLocator(6))
        else:
            axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.set_ylim(bottom=0)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _embedded(file.getvalue(), title)


def _logarithmic(axes: Any, curves: list[Curve]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    low = min(float(curve.y.min()) for curve in curves)
    high = max(float(curve.y.max()) for curve in curves)
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


def _embedded(svg: str, title: str) -> str:
    """SVG as a part of an HTML page: scalable, ids of its own, ink and grid as the page has them."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    prefix = re.sub(r"\W+", "-", title.lower()) + "-"
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = svg.replace("url(#", f"url(#{prefix}").replace('href="#', f'href="#{prefix}')
    for colour, name in ((INK, "ink"), (GRID, "grid"), (PAPER, "paper")):
        svg = svg.replace(colour, f"var(--{name})")
    svg = re.sub(r'(<svg [^>]*?)\swidth="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?)\sheight="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
