"""Curves over training: learning, exactness of the solves, and what the adaptive mode chose."""

from collections.abc import Callable, Sequence

import numpy as np

from . import stages
from .drawing import Array, Curve, Plot, Scale, plot
from .look import look
from .story import Line, Story
from .together import named, over_epochs
from .words import epochs

Horizontal = Callable[[list[Line]], Array]

LEARNING = (
    ("Training loss", "train_loss", "loss per sample"),
    ("Validation loss", "validation_loss", "loss per sample"),
    ("Accuracy", "validation_accuracy", "accuracy (%)"),
)
THEIRS = {"train_loss": "the loss", "validation_accuracy": "accuracy on the training samples"}
"""What of these plots is not the whole network's where stages train at once."""
TIME = "training time (s)"


def learning(stories: Sequence[Story]) -> list[Plot]:
    """Losses and accuracy over epochs and over seconds, with the serial slice of each run.

    Serial epochs among parallel ones are shaded; of several runs above the plot, a row for each.
    """
    found = []
    for title, key, up in LEARNING:
        scale: Scale = "percent" if key == "validation_accuracy" else "log"
        note = stages.note(stories)
        if note and key in THEIRS:
            note += f" In parallel epochs {THEIRS[key]} is that of the last stage, from where it starts."
        counted = f"{_phases(stories)} {note}".strip()
        found += [
            over_epochs(stories)(
                f"{title} over epochs",
                _learnt(stories, key, _numbers),
                up=up,
                scale=scale,
                note=counted,
                bands=stages.bands(stories, over_epochs=True),
            ),
            plot(
                f"{title} over time",
                _learnt(stories, key, _seconds),
                TIME,
                up,
                scale,
                note,
                "time",
                stages.bands(stories, over_epochs=False),
            ),
        ]
    return [each for each in found if each is not None]


def _learnt(stories: Sequence[Story], key: str, across: Horizontal) -> list[Curve]:
    curves = []
    for number, story in enumerate(stories):
        parts = []
        if key == "validation_accuracy" and story.classifies:
            parts = ["validation samples"]
            name = named(story, stories, "training samples")
            curves.append(_curve(story.epochs, across, "train_accuracy", number, name, "thin"))
        curves.append(_curve(story.epochs, across, key, number, named(story, stories, *parts)))
        twin = 1 if len(stories) == 1 else number
        name = named(story, stories, "serial twin", *parts)
        curves.append(_curve(story.serial, across, key, twin, name, "dashed"))
    return curves


def _phases(stories: Sequence[Story]) -> str:
    """Which epochs of runs in several phases are of which network."""
    found = []
    for story in stories:
        counts = [phase.get("epochs", 0) for phase in story.start.get("phases", [])]
        if len(counts) > 1 and len(story.depths) == len(counts):
            parts = [
                f"{epochs(count)} of {depth} layers"
                for count, depth in zip(counts, story.depths, strict=True)
            ]
            name = f"{story.name}: " if len(stories) > 1 else ""
            found.append(f"{name}{', then '.join(parts)}.")
    return " ".join(found)


def exactness(stories: Sequence[Story]) -> list[Plot]:
    """Errors of solves, convergence factors, gradient errors over training; residuals per cycle."""
    along = over_epochs(stories)
    found = [
        along(
            "Error at the end of the solves",
            _both(stories, "error"),
            up="estimated error / norm of the states",
            scale="log",
            note="Of the last solve of every epoch.",
        ),
        along(
            "Convergence factor",
            _both(stories, "factor"),
            up="factor per cycle",
            scale="log",
            note="Reduction of the residual per cycle, on one batch; below 1 it converges.",
        ),
        along(
            "Error of the gradient",
            [
                _curve(story.epochs, _numbers, "gradient_error", number, named(story, stories))
                for number, story in enumerate(stories)
            ],
            up="error / norm of the gradient",
            scale="log",
            note="Distance to the exact gradient, on one batch.",
        ),
        plot(
            "Residual per cycle, trained network",
            [
                _cycles(story, direction, number, named(story, stories, direction), style)
                for number, story in enumerate(stories)
                for direction, style in (("forward", "solid"), ("adjoint", "dashed"))
            ],
            "cycle",
            "residual / first residual",
            "log",
            "Over more cycles than training spends.",
        ),
        along(
            "Fallbacks to the serial solver",
            [
                _curve(story.epochs, _numbers, "fallbacks", number, named(story, stories))
                for number, story in enumerate(stories)
                if story.fallbacks()
            ],
            up="solves per epoch",
            note="Solves of each epoch that misbehaved.",
        ),
    ]
    return [each for each in found if each is not None]


def adaptive(stories: Sequence[Story]) -> list[Plot]:
    """Cycles that the adaptive mode chose, and the error that it measured."""
    chosen, measured = [], []
    for number, story in enumerate(stories):
        there = _moments(story)
        for direction, style in (("forward", "steps"), ("adjoint", "dashed steps")):
            # No cycles stand for serial propagation: they are drawn at 0.
            cycles = [line.get(f"{direction}_cycles") or 0 for line in story.decisions]
            name = named(story, stories, direction)
            values = np.array(cycles, dtype=float)
            chosen.append(Curve(there, values, look(number), style=style, label=name))
        errors = _column(story.decisions, "relative_error")
        measured.append(Curve(there, errors, look(number), label=named(story, stories)))
    along, up = over_epochs(stories), "error / norm of the gradient"
    found = [
        along("Cycles chosen", chosen, up="cycles of a solve", note="0 stands for serial propagation."),
        along("Error of the gradient before the choice", measured, up=up, scale="log"),
    ]
    return [each for each in found if each is not None]


def _moments(story: Story) -> Array:
    """When the decisions of a run were taken, in epochs from its beginning."""
    counts = [0, *(phase.get("epochs", 0) for phase in story.start.get("phases", []))]
    before, samples = np.cumsum(counts), story.start.get("data", {}).get("training", 1)
    steps = -(-samples // story.options.get("batch", samples))
    return np.array([before[d.get("phase", 0)] + d.get("step", 0) / steps for d in story.decisions])


def _both(stories: Sequence[Story], what: str) -> list[Curve]:
    return [
        _curve(
            story.epochs,
            _numbers,
            f"{direction}_{what}",
            number,
            named(story, stories, direction),
            style,
        )
        for number, story in enumerate(stories)
        for direction, style in (("forward", "solid"), ("adjoint", "dashed"))
    ]


def _cycles(story: Story, direction: str, number: int, label: str, style: str) -> Curve | None:
    values = np.array(story.cycles.get(direction) or [], dtype=float)
    if values.size == 0 or not values[0] > 0:
        return None
    x = np.arange(1.0, values.size + 1)
    return Curve(x, values / values[0], look(number), style=style, label=label)


def _curve(
    lines: list[Line], across: Horizontal, key: str, number: int, label: str, style: str = "solid"
) -> Curve:
    return Curve(across(lines), _column(lines, key), look(number), style=style, label=label)


def _numbers(lines: list[Line]) -> Array:
    """Number of a line, counted through all phases."""
    return np.arange(1.0, len(lines) + 1)


def _seconds(lines: list[Line]) -> Array:
    return _column(lines, "seconds")


def _column(lines: list[Line], key: str) -> Array:
    """One value of every line; NaN where a line has none."""
    values = [line.get(key) for line in lines]
    return np.array([np.nan if value is None else value for value in values], dtype=float)
