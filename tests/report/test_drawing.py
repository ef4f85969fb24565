"""Plots: ticks and titles of axes, legends, and what tells curves apart."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from layerparallel import report
from layerparallel.report import curves, drawing, look, pictures, seconds, story, svg, tradeoff
from layerparallel.report.drawing import Curve
from layerparallel.runs.stopwatch import PARTS


def drawn(plot):
    """The axes of a plot, and the lines that stand in its legend."""
    axes = Figure().subplots()
    return axes, drawing.draw(axes, plot)


def every_plot(*runs):
    """All that a page of these runs draws along epochs, time or cycles."""
    told = [story.tell(run) for run in runs]
    along = [*curves.learning(told), *curves.exactness(told), *curves.adaptive(told)]
    return [*along, *tradeoff.compared(told)]


@pytest.fixture(scope="module")
def plots(plain_run, adaptive_run):
    """Of one run, and of two."""
    return {1: every_plot(adaptive_run), 2: every_plot(plain_run, adaptive_run)}


# ---- axes --------------------------------------------------------------------------------------


@given(low=st.floats(1e-20, 1e6), ratio=st.floats(1.0, 1e3) | st.floats(1.0, 1e25))
def test_a_logarithmic_axis_has_ticks_and_no_two_alike(low, ratio):
    values = np.array([low, low * ratio])
    plot = drawing.plot("R", [Curve(np.arange(2.0), values, look.look(0))], "epochs", "size", "log")
    axes, _ = drawn(plot)
    bottom, top = axes.get_ylim()
    assert bottom < low <= low * ratio < top
    labels = [
        text.get_text()
        for tick, text in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
        if bottom <= tick <= top
    ]
    assert 2 <= len(labels) <= 9
    assert len(set(labels)) == len(labels)
    assert all(float(label) for label in labels)


@pytest.mark.parametrize("values", [[1.1, 4.5], [0.5], [1.401e-4, 1.402e-4], [0.11, 0.42]])
def test_ticks_are_written_where_values_span_less_than_a_decade(values):
    x = np.linspace(1, 1e3, len(values))
    plot = drawing.plot("R", [Curve(x, np.array(values), look.look(0))], "time (s)", "size", "log")
    assert plot is not None
    written = re.findall(r"<text[^>]*>([^<]*)</text>", svg.panel(plot).svg)
    ticks = written[written.index("time (s)") + 1 : -1]
    assert len(set(ticks)) == len(ticks) >= 2
    assert written[-1] == "size"


def test_the_pictures_of_a_run_have_axes_to_be_read(plain_run, tmp_path):
    told = story.tell(plain_run)
    residuals = [{**line, "forward_error": 1.2e-3 * (1 + 3.5 * k)} for k, line in enumerate(told.epochs)]
    found = pictures.shown(replace(told, epochs=residuals))
    assert list(found) == ["training", "residuals"]
    for plot in itertools.chain(*found.values()):
        axes, handles = drawn(plot)
        assert axes.get_xlabel()
        assert axes.get_ylabel()
        assert len(handles) == len(plot.curves)
        bottom, top = axes.get_ylim()
        shown = [
            text.get_text() for text in axes.get_yticklabels() if bottom <= text.get_position()[1] <= top
        ]
        assert len(list(filter(None, shown))) >= 2


def test_every_axis_has_a_title_with_its_unit(plots):
    for plot in (*plots[1], *plots[2]):
        axes, _ = drawn(plot)
        assert axes.get_xlabel() == plot.over
        assert axes.get_ylabel() == plot.up != ""
        assert plot.over in ("epochs", "cycle", "training time (s)") or "(times)" in plot.over
        assert (plot.scale == "percent") == (plot.up == "accuracy (%)")


# ---- legends -----------------------------------------------------------------------------------


def lines_of(text):
    """Colour and dashes of the lines of an SVG that are in the colour of a run or dashed."""
    found = set()
    for style in re.findall(r'(?:<path d="M[^"]*"[^>]*) style="([^"]*)"', text):
        stroke = re.search(r"stroke: (var\(--(?:c\d|ink)\))", style)
        dashes = re.search(r"stroke-dasharray: ([\d., ]+)", style)
        if stroke and "fill: none" in style:
            found.add((stroke[1], tuple(map(float, dashes[1].split(","))) if dashes else ()))
    return found


def keys_of(panel):
    """The same of the lines of its legend."""
    found = set()
    for sample, _ in panel.keys:
        for dashes, style in re.findall(r'stroke-dasharray="([^"]*)" style="([^"]*)"', sample):
            stroke = re.search(r"stroke: (var\(--\w+\))", style)
            assert stroke
            found.add((stroke[1], () if dashes == "none" else tuple(map(float, dashes.split()))))
    return found


@pytest.mark.parametrize("count", [1, 2])
def test_a_legend_has_what_is_drawn_and_looks_like_it(plots, count):
    for plot in plots[count]:
        panel, labels = svg.panel(plot), [curve.label for curve in plot.labelled()]
        _, handles = drawn(plot)
        assert [said for _, said in panel.keys] == labels == [line.get_label() for line in handles]
        assert len(set(labels)) == len(labels)
        assert all(labels)
        if all(curve.spread is None for curve in plot.curves):
            assert lines_of(panel.svg) == keys_of(panel), plot.title
        for curve, line in zip(plot.labelled(), handles, strict=True):
            assert (line.get_color(), line.get_marker()) == (curve.look.colour, curve.look.marker)


def test_what_is_not_drawn_has_no_entry(tmp_path, plain_run, adaptive_run):
    titles = {plot.title: plot for plot in every_plot(adaptive_run)}
    alone = [curve.label for curve in titles["Training loss over epochs"].curves]
    assert alone == ["this run", "serial twin"]
    accuracy = [curve.label for curve in titles["Accuracy over epochs"].curves]
    assert accuracy == ["training samples", "validation samples", "serial twin, validation samples"]
    told = [story.tell(run) for run in (plain_run, adaptive_run)]
    found = {plot.title: plot for plot in curves.learning(told) + curves.adaptive(told)}
    names = [each.name for each in told]
    both = [curve.label for curve in found["Training loss over epochs"].curves]
    assert both == [name + part for name in names for part in ("", ", serial twin")]
    chosen = [curve.label for curve in found["Cycles chosen"].curves]
    assert chosen == ["adaptive, forward", "adaptive, adjoint"]  # the other run is not adaptive


@pytest.mark.parametrize("count", [1, 2])
def test_curves_are_told_apart_without_colours(plots, count):
    for plot in plots[count]:
        seen = [
            (
                curve.look.marker,
                look.STYLES[curve.style].get("dashes"),
                curve.line["markerfacecolor"] == "none",
            )
            for curve in plot.labelled()
        ]
        assert len(set(seen)) == len(seen), plot.title


@pytest.mark.parametrize("points", [20, 55, 300])
def test_runs_that_fall_together_are_all_seen(points):
    x, runs = np.arange(float(points)), range(len(look.MARKERS))
    plot = drawing.plot("R", [Curve(x, x, look.look(k)) for k in runs], "epochs", "size")
    _, lines = drawn(plot)
    marked = [range(points)[line.get_markevery()[0] :: line.get_markevery()[1]] for line in lines]
    assert len(set(itertools.chain(*marked))) == sum(map(len, marked))
    assert min(map(len, marked)) >= 2


# ---- colours -----------------------------------------------------------------------------------

BLIND = {
    "not at all": np.eye(3),
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
"""From linear RGB to what the colour-blind see of it (Machado et al., 2009)."""
CONES = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
OKLAB = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
PAPERS = {"#ffffff": look.COLOURS, "#15181c": look.ON_DARK}


def linear(colour):
    encoded = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def seen_by(eyes, colour):
    """A colour in a space of even differences, Oklab, where 1 is from black to white."""
    return OKLAB @ np.cbrt(CONES @ np.clip(np.array(BLIND[eyes]) @ linear(colour), 0, 1))


@pytest.mark.parametrize("eyes", BLIND)
@pytest.mark.parametrize("paper", PAPERS)
def test_no_two_colours_are_alike_to_anybody(eyes, paper):
    for first, second in itertools.combinations(PAPERS[paper], 2):
        assert np.linalg.norm(seen_by(eyes, first) - seen_by(eyes, second)) > 0.1, (first, second)


@pytest.mark.parametrize("paper", PAPERS)
def test_every_colour_is_to_be_seen_on_its_paper(paper):
    def luminance(colour):
        return float(linear(colour) @ [0.2126, 0.7152, 0.0722]) + 0.05

    for colour in PAPERS[paper]:
        dark, light = sorted([luminance(colour), luminance(paper)])
        assert light / dark > 3


def test_the_page_has_all_colours_on_both_papers(plain_run):
    page = report.render([plain_run])
    for number, both in enumerate(zip(look.COLOURS, look.ON_DARK, strict=True)):
        assert re.findall(rf"--c{number}: (#\w+);", page) == list(both)
    assert not [colour for colour in look.COLOURS if f"stroke: {colour}" in page]


def test_every_part_of_an_epoch_has_a_name_and_a_tint_of_its_own():
    assert set(seconds.SAID) == set(look.TINTS) == set(PARTS)
    assert len(set(look.TINTS.values())) == len(PARTS)


def test_many_runs_look_unlike():
    assert len({look.look(number) for number in range(40)}) == 40
