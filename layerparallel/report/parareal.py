"""Runs of parareal networks: what their parts cost, and what the coarse network corrects."""

from collections.abc import Sequence

import numpy as np

from .drawing import Curve, Plot
from .look import look
from .story import Line, Story
from .tables import Table, of_each
from .together import named, over_epochs
from .words import NONE, number, option

STYLES = ("solid", "dashed")
"""Of jumps and of corrections."""


def corrections(stories: Sequence[Story]) -> Plot | None:
    """Jumps and corrections over the epochs that were evaluated: the mean over the interfaces."""
    curves = []
    for place, story in enumerate(stories):
        lines = [line for line in story.epochs if line.get("jumps")]
        epochs = np.array([story.epochs.index(line) + 1.0 for line in lines])
        for key, style in zip(("jumps", "corrections"), STYLES, strict=True):
            values = np.array([float(np.mean(line[key])) for line in lines])
            label = named(story, stories, key)
            if lines:
                curves.append(Curve(epochs, values, look(place), style=style, label=label))
    return over_epochs(stories)(
        "What the coarse network corrects",
        curves,
        up="relative size",
        scale="log",
        note="Jumps: distance of what subnetworks were given from what those in front of them made, "
        "relative to that. Corrections: what the coarse network adds, relative to what it is added to. "
        "Means over the interfaces, on validation samples.",
    )


def table(stories: Sequence[Story]) -> Table | None:
    """How the networks are divided, and what their parts cost; None without such a run."""
    if not any(_parts(story) for story in stories):
        return None
    return of_each(
        stories,
        {
            "subnetworks": _count,
            "processes": _processes,
            "coarse network on the ranks": lambda s: (
                option(s.options, "holders") if _parts(s) and s.layer_ranks > 1 else NONE
            ),
            "units of a coarse part": lambda s: option(s.options, "coarse_depth") if _parts(s) else NONE,
            "parameters of the subnetworks": lambda s: _sum(s, "parameters", "Cgh"),
            "of the coarse network": lambda s: _sum(s, "parameters", "F"),
            "operations of a sample, of the subnetworks": lambda s: _sum(s, "operations", "Cg"),
            "of the costliest of them": _costliest,
            "of the coarse network and the postprocessing": lambda s: _sum(s, "operations", "Fh"),
            "jumps at the end, by interface": lambda s: _each(s, "jumps"),
            "corrections at the end, by interface": lambda s: _each(s, "corrections"),
        },
    )


def _parts(story: Story) -> list[Line]:
    """Those of the last network; empty of any other than a parareal one."""
    return (story.networks[-1].get("parts") or []) if story.networks else []


def _count(story: Story) -> str:
    return str(sum(part["name"].startswith("g") for part in _parts(story)) or NONE)


def _processes(story: Story) -> str:
    if not _parts(story):
        return NONE
    ranks = story.layer_ranks
    return "one, its subnetworks in turn" if ranks == 1 else f"{ranks}, a subnetwork on each"


def _sum(story: Story, what: str, kinds: str) -> str:
    parts = _parts(story)
    return f"{sum(p[what] for p in parts if p['name'][0] in kinds):,}" if parts else NONE


def _costliest(story: Story) -> str:
    """Operations of C^j and g^j together, of the j that has most."""
    totals: dict[str, int] = {}
    for each in _parts(story):
        kind, _, j = each["name"].partition("^")
        if kind in ("C", "g"):
            totals[j] = totals.get(j, 0) + each["operations"]
    return f"{max(totals.values()):,}" if totals else NONE


def _each(story: Story, key: str) -> str:
    return ", ".join(number(value) for value in story.last(key) or []) or NONE
