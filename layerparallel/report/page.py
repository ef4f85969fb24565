"""One HTML page about one or several runs, in one file that needs no network."""

import base64
import time as clock
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..runs.files import write_atomically
from ..solvers import MGRIT, Serial, cost
from ..version import __version__
from . import curves, cycle, parareal, seconds, stages, tables, tradeoff
from .drawing import Curve, Plot
from .look import COLOURS, ON_DARK, TINTS, look
from .story import Story, headline, notes, tell
from .svg import Panel, key, panel
from .together import unlike
from .words import NONE, brief

TEMPLATE = Path(__file__).with_name("page.html")
MOST_SOLVERS = 4
"""Solvers that are drawn; of more runs than that the others are named in the table only."""


def write(runs: Sequence[Path], output: Path) -> Path:
    """Write the page of runs to a file, and return it.

    Raises:
        InputError: one of them is no run folder or has no epoch yet, or the file cannot be written.
    """
    if output.suffix not in (".html", ".htm") or output.is_dir():
        raise InputError(f"The page cannot be {output}: name a file that ends in .html with --output.")
    page = render(runs)
    try:
        write_atomically(output, page.encode())
    except OSError as error:
        raise InputError(
            f"The page cannot be written to {output}: {error.strerror}; name another file with --output."
        ) from error
    return output


def render(runs: Sequence[Path]) -> str:
    """The page of runs as HTML.

    Raises:
        InputError: one of them is no run folder, or has no epoch yet.
    """
    from jinja2 import Environment, StrictUndefined

    stories = [tell(run) for run in runs]
    stories = [_told_apart(story, stories) for story in stories]
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(**_contents(stories))


def _told_apart(story: Story, stories: Sequence[Story]) -> Story:
    """A run by the path that was given where its name alone is another's, too."""
    from dataclasses import replace

    alike = sum(each.name == story.name for each in stories) > 1
    return replace(story, name=str(story.folder)) if alike else story


def _contents(stories: Sequence[Story]) -> dict[str, Any]:
    """All that the template lays out."""
    changed, options = tables.options(stories)
    recipes = dict.fromkeys(story.recipe for story in stories)
    violations, corrections = stages.violations(stories), parareal.corrections(stories)
    return {
        "title": ", ".join(recipes) + ("" if len(stories) == 1 else f": {len(stories)} runs"),
        "version": __version__,
        "written": clock.strftime("%Y-%m-%d %H:%M"),
        "colours": COLOURS,
        "on_dark": ON_DARK,
        "runs": [
            {
                "name": story.name,
                "key": _key(number),
                "began": clock.strftime("%Y-%m-%d %H:%M", clock.localtime(story.start.get("time", 0))),
                "headline": headline(story),
                "notes": notes(story),
            }
            for number, story in enumerate(stories)
        ],
        "unlike": unlike(stories),
        "learning": _panels(curves.learning(stories)),
        "stages": stages.table(stories),
        "violations": _panels([violations] if violations else []),
        "subnetworks": parareal.table(stories),
        "corrections": _panels([corrections] if corrections else []),
        "compared": _panels(tradeoff.compared(stories)),
        "exactness": _panels(curves.exactness(stories)),
        "adaptive": _panels(curves.adaptive(stories)),
        "results": tables.results(stories),
        "alike": tables.alike(stories),
        "network": tables.network(stories),
        "time": seconds.time(stories),
        "tints": TINTS,
        "brief": brief,
        "on_gpu": any("cuda" in str(line.get("device")) for s in stories for line in s.networks),
        "solvers": _solvers(stories),
        "pictures": [
            {
                "run": story.name,
                "title": path.stem.replace("_", " ").capitalize(),
                "source": _inline(path),
            }
            for story in stories
            for path in story.pictures
        ],
        "changed": changed,
        "options": options,
        "machines": tables.machines(stories),
    }


def _panels(plots: Sequence[Plot]) -> list[Panel]:
    return [panel(each) for each in plots]


def _key(number: int) -> str:
    """What the curves of a run look like."""
    nothing = np.empty(0)
    return key(Curve(nothing, nothing, look(number)))


def _inline(path: Path) -> str:
    """A PNG as part of the page."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _solvers(stories: Sequence[Story]) -> list[dict[str, Any]]:
    """Drawings of the solvers and their counts, each solver and depth once."""
    users: dict[Any, list[str]] = {}
    for story in stories:
        for pair in story.chains():
            users.setdefault(pair, []).append(story.name)
    found = []
    for (steps, solver), names in users.items():
        ways = ((solver.forward.forward, False), (solver.adjoint.adjoint, True))
        if all(isinstance(part, Serial) for part, _ in ways) or len(found) == MOST_SOLVERS:
            continue
        try:
            drawings = [cycle.draw(part, steps, adjoint) for part, adjoint in ways]
            counts = _counts(ways, steps)
        except ValueError:  # a solver that does not fit its depth: the record was changed
            continue
        found.append(
            {
                "name": f"{steps:,} layers, {tables.short(solver)}",
                "runs": names,
                "drawings": drawings,
                "counts": counts,
            }
        )
    return found


def _counts(ways: Sequence[tuple[Serial | MGRIT, bool]], steps: int) -> tables.Table:
    """Step evaluations per level, and those that follow one another."""
    evaluations = [cost.step_evaluations(part, steps, adjoint) for part, adjoint in ways]
    paths = [
        sum(event.length for event in cost.schedule(part, steps, adjoint)) for part, adjoint in ways
    ]
    levels = max(map(len, evaluations))
    rows = [
        [
            f"level {level}",
            *[f"{each[level]:,}" if level < len(each) else NONE for each in evaluations],
        ]
        for level in range(levels)
    ]
    rows.append(["one after the other, a worker per interval", *[f"{path:,}" for path in paths]])
    rows.append(["serially", *[f"{steps:,}"] * 2])
    return tables.Table(["step evaluations", "forward", "adjoint"], rows)
