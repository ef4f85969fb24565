"""Plots as parts of an HTML page: SVG that takes its colours from the page, and a legend beside it."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

from .drawing import Curve, Plot, draw, settings
from .look import COLOURS, GRID, INK, PAPER

SIZE = (4.4, 2.9)  # inches of 72 units: as wide as a narrow screen, so that text stays legible
KEY = (34, 10)  # units of a sample in a legend


@dataclass(frozen=True)
class Panel:
    """A titled plot: SVG, its legend as pairs of SVG and text, and what there is to say below it."""

    title: str
    svg: str
    keys: tuple[tuple[str, str], ...]
    note: str


def panel(plot: Plot) -> Panel:
    """The plot as a part of an HTML page."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with settings():
        figure = Figure(figsize=SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.subplots(), plot)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    keys = tuple((key(curve), curve.label) for curve in plot.labelled())
    return Panel(plot.title, _embedded(file.getvalue(), plot.title), keys, plot.note)


def _embedded(svg: str, title: str) -> str:
    """SVG as a part of an HTML page: scalable, ids of its own, colours as the page has them."""
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
    names = {INK: "ink", GRID: "grid", PAPER: "paper"} | {c: f"c{k}" for k, c in enumerate(COLOURS)}
    for colour, name in names.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg


def key(curve: Curve) -> str:
    """The sample of a curve in a legend, 34 by 10 units; its lines are as wide as in the plot."""
    style, (wide, high) = curve.line, KEY
    stroke, middle = f"stroke: {curve.look.colour}", high / 2
    drawn = ""
    if width := style["linewidth"]:
        dashes = " ".join(f"{width * length:.4g}" for length in style.get("dashes", ())) or "none"
        look = f"{stroke}; stroke-width: {width}; opacity: {style.get('alpha', 1)}"
        drawn = f'<path d="M0 {middle:g}H{wide}" stroke-dasharray="{dashes}" style="{look}"/>'
    if curve.look.marker:
        d = _outline(curve.look.marker, style["markersize"], wide / 2, middle)
        drawn += f'<path d="{d}" style="fill: {style["markerfacecolor"]}; {stroke}; stroke-width: 1"/>'
    return _themed(f'<svg viewBox="0 0 {wide} {high}" aria-hidden="true">{drawn}</svg>')


def _outline(marker: str, size: float, x: float, y: float) -> str:
    """The border of a marker about a point, as SVG has it."""
    from matplotlib.markers import MarkerStyle

    style: Any = MarkerStyle(marker)
    border = style.get_path().transformed(style.get_transform().scale(size, -size).translate(x, y))
    rings = ("L".join(f"{a:.2f} {b:.2f}" for a, b in ring) for ring in border.to_polygons())
    return "".join(f"M{ring}Z" for ring in rings)
