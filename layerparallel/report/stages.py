"""Runs whose stages train at once, from auxiliary variables: epochs of both kinds, and violations."""

import itertools
import statistics
from collections.abc import Sequence

import numpy as np

from .drawing import Band, Curve, Plot
from .look import GRID, kind, look
from .story import Line, Story
from .tables import Table, of_each
from .together import named, over_epochs
from .words import NONE, bytes_of, number, option, percent

ROW, MOST = 0.035, 0.3
"""Height of a run's row of serial epochs above a plot, and of all rows; in heights of the plot."""
METHODS = {"penalty": "penalty", "augmented": "augmented Lagrangian", "serial": "back-propagation"}
AUGMENTED = {"none": "none", "serial": "the serial ones", "both": "all"}


# ---- drawn -------------------------------------------------------------------------------------


def bands(stories: Sequence[Story], over_epochs: bool) -> list[Band]:
    """Where the serial epochs are: behind the curves of one run in stages, or above those of several.

    Args:
        over_epochs: along epochs, each about its number; else along the seconds it took.
    """
    staged = [(place, story) for place, story in enumerate(stories) if story.staged]
    height, found = min(ROW, MOST / max(1, len(staged))), []
    for row, (place, story) in enumerate(staged):
        seen = (GRID, 0.0, 1.0)
        if len(staged) > 1:
            seen = (look(place).colour, 1 + (row + 0.2) * height, 1 + (row + 1) * height)
        ends = [0.0, *[float(line.get("seconds") or 0) for line in story.epochs]]
        for mode, epochs in itertools.groupby(enumerate(story.epochs), lambda e: e[1].get("mode")):
            if mode == "serial":
                numbers = [number for number, _ in epochs]
                first, last = numbers[0], numbers[-1]
                span = (first + 0.5, last + 1.5) if over_epochs else (ends[first], ends[last + 1])
                found.append(Band(*span, *seen))
    return found


def note(stories: Sequence[Story]) -> str:
    """What `bands` are; empty where there are none."""
    staged = [story for story in stories if story.staged]
    if not any(line.get("mode") == "serial" for story in staged for line in story.epochs):
        return ""
    if len(staged) == 1:
        return "Shaded: serial epochs."
    return "Coloured above, a row for each run, in their order from below: serial epochs."


def violations(stories: Sequence[Story]) -> Plot | None:
    """‖λ - x‖ / ‖x‖ of every interface over the parallel epochs; dashes tell the interfaces of a run.

    So do colours and markers where there is one run alone.
    """
    curves = []
    for place, story in enumerate(stories):
        rows = [line.get("violations") or [] for line in story.epochs]
        for k in range(max(map(len, rows), default=0)):
            values = [row[k] if k < len(row) and row[k] is not None else np.nan for row in rows]
            x, y = np.arange(1.0, len(rows) + 1), np.array(values, dtype=float)
            seen, label = look(k if len(stories) == 1 else place), f"interface {k + 1}"
            label = named(story, stories, label)
            curves.append(Curve(x, y, seen, style=kind(k), label=label, gaps=True))
    return over_epochs(stories)(
        "Violation of the constraints",
        curves,
        up="‖λ − x‖ / ‖x‖",
        scale="log",
        note="Distance of auxiliary variables λ from the states x that they stand for, over each "
        f"parallel epoch. {note(stories)}".strip(),
        bands=bands(stories, over_epochs=True),
    )


# ---- in words ----------------------------------------------------------------------------------


def table(stories: Sequence[Story]) -> Table | None:
    """How stages were trained, and how far their auxiliary variables came; None without such a run."""
    if not any(story.staged for story in stories):
        return None
    return of_each(
        stories,
        {
            "method": _method,
            "stages": lambda s: str(s.stages) if s.staged else NONE,
            "cut before the pieces": _cut,
            "processes": _processes,
            "kept by the filter": _filter,
            "hybrid, parallel : serial": _hybrid,
            "parallel epochs": _parallel_epochs,
            "augmented epochs": lambda s: AUGMENTED.get(str(s.options.get("augment")), NONE),
            "β": _beta,
            "auxiliary variables kept": lambda s: bytes_of(s.last("kept_bytes")),
            "violation at the end, by interface": _violation,
            "training loss then, of the last stage": lambda s: _then(s, "train_loss"),
            "validation loss then, of the whole network": lambda s: _then(s, "validation_loss"),
            "training accuracy then, of the last stage": lambda s: _percent_then(s, "train_accuracy"),
            "validation accuracy then, of the whole network": lambda s: _percent_then(
                s, "validation_accuracy"
            ),
            "seconds of a parallel epoch": lambda s: number(_seconds(s, "parallel")),
            "seconds of a serial epoch": lambda s: number(_seconds(s, "serial")),
        },
    )


def _option(story: Story, name: str) -> str:
    return option(story.options, name) if story.staged else NONE


def _method(story: Story) -> str:
    method = str(story.options.get("method"))
    step = story.options.get("multiplier_step")
    said = METHODS.get(method, NONE)
    return f"{said}, {step} step" if method == "augmented" and step else said


def _cut(story: Story) -> str:
    return _option(story, "cut") if story.options.get("cut") else NONE


def _processes(story: Story) -> str:
    if not story.staged:
        return NONE
    ranks = story.layer_ranks
    return "one, its stages in turn" if ranks == 1 else f"{ranks}, a stage on each"


def _filter(story: Story) -> str:
    if story.staged and story.options.get("regenerate"):
        return "nothing, made anew from the input"
    return _option(story, "filter")


def _hybrid(story: Story) -> str:
    said = _option(story, "hybrid")
    return f"{said}, alternating" if story.options.get("alternating") and said != NONE else said


def _parallel_epochs(story: Story) -> str:
    if not story.staged:
        return NONE
    count = sum(line.get("mode") == "parallel" for line in story.epochs)
    return f"{count} of {len(story.epochs)}"


def _beta(story: Story) -> str:
    values = [line["beta"] for line in story.epochs if line.get("mode") == "parallel"]
    if not values:
        return NONE
    first, last = values[0], values[-1]
    return f"{first:g}" if first == last else f"{first:g} to {last:g}"


def _last_parallel(story: Story) -> Line:
    """The last parallel epoch; empty if there is none."""
    return next((line for line in reversed(story.epochs) if line.get("mode") == "parallel"), {})


def _violation(story: Story) -> str:
    return ", ".join(number(each) for each in _last_parallel(story).get("violations") or []) or NONE


def _then(story: Story, key: str) -> str:
    return number(_last_parallel(story).get(key))


def _percent_then(story: Story, key: str) -> str:
    return percent(_last_parallel(story).get(key)) if story.classifies else NONE


def _seconds(story: Story, mode: str) -> float | None:
    """Median over the epochs of a kind."""
    times = [line["epoch_seconds"] for line in story.epochs if line.get("mode") == mode]
    return statistics.median(times) if times else None
