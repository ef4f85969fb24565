"""Curves over training: learning, exactness of the solves, and what the adaptive mode chose."""

from collections.abc import Callable, Sequence

import numpy as np

from . import stages
from .drawing import COLOURS, Array, Curve, Plot, colour, plot
from .story import Line, Story

Horizontal = Callable[[list[Line]], Array]

LEARNING = (
    ("Training loss", "train_loss"),
    ("Validation loss", "validation_loss"),
    ("Accuracy", "validation_accuracy"),
)
THEIRS = {"train_loss": "the loss", "validation_accuracy": "accuracy on the training samples"}
"""What of these plots is not the whole network's where stages train at once."""


def serial_colour(number: int, runs: int) -> str:
    """Colour of a run's serial twin: its own where there are several, another where it is alone."""
    return COLOURS[1] if runs == 1 else colour(number)


def learning(stories: Sequence[Story]) -> list[Plot]:
    """Losses and accuracy over epochs and over seconds, with the serial slice of each run.

    Serial epochs among parallel ones are shaded; of several runs above the plot, a row for each.
    """
    found = []
    for title, key in LEARNING:
        for over, across in (("epochs", _numbers), ("seconds of training", _seconds)):
            curves = []
            for number, story in enumerate(stories):
                if key == "validation_accuracy" and story.classifies:
                    curves.append(_curve(story.epochs, across, "train_accuracy", number, "thin"))
                curves.append(_curve(story.epochs, across, key, number))
                serially = serial_colour(number, len(stories))
                curves.append(
                    Curve(across(story.serial), _column(story.serial, key), serially, "dashed")
                )
            note = stages.note(stories)
            if note and key in THEIRS:
                note += (
                    f" In parallel epochs {THEIRS[key]} is that of the last stage, from where it starts."
                )
            found.append(
                plot(
                    f"{title} over {over}",
                    curves,
                    over,
                    "percent" if key == "validation_accuracy" else "log",
                    note,
                    "whole" if over == "epochs" else "time",
                    stages.bands(stories, over == "epochs"),
                )
            )
    return [each for each in found if each is not None]


def exactness(stories: Sequence[Story]) -> list[Plot]:
    """Residuals, convergence factors and gradient errors over training; residuals per cycle."""
    found = [
        plot(
            "Residual at the end of the solves",
            _both(stories, "residual"),
            "epochs",
            "log",
            "Of the last solve of every epoch, relative to the states.",
        ),
        plot(
            "Convergence factor",
            _both(stories, "factor"),
            "epochs",
            "log",
            "Reduction of the residual per cycle, on one batch; below 1 it converges.",
        ),
        plot(
            "Error of the gradient",
            [
                _curve(story.epochs, _numbers, "gradient_error", number)
                for number, story in enumerate(stories)
            ],
            "epochs",
            "log",
            "Distance to the exact gradient on one batch, relative to its norm.",
        ),
        plot(
            "Residual per cycle, trained network",
            [
                _cycles(story, direction, number, style)
                for number, story in enumerate(stories)
                for direction, style in (("forward", "solid"), ("adjoint", "dashed"))
            ],
            "cycle",
            "log",
            "Over more cycles than training spends, relative to the first.",
        ),
        plot(
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


def adaptive(stories: Sequence[Story]) -> list[Plot]:
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
    over = "comparisons with the exact gradient"
    found = [
        plot("Cycles chosen", chosen, over, note="0 stands for serial propagation."),
        plot("Error of the gradient before the choice", measured, over, "log"),
    ]
    return [each for each in found if each is not None]


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
