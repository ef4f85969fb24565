"""One HTML page about one or several runs, in one file that needs no network."""

import base64
import time as clock
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..runs.files import write_atomically
from ..solvers import MGRIT, Serial, cost
from ..version import __version__
from . import curves, cycle, parareal, stages, tables, tradeoff
from .drawing import COLOURS, Panel, Plot, panel
from .story import Story, notes, tell

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
    time = tables.time(stories)
    recipes = dict.fromkeys(story.recipe for story in stories)
    violations, corrections = stages.violations(stories), parareal.corrections(stories)
    return {
        "title": " and ".join(recipes) + ("" if len(stories) == 1 else f", {len(stories)} runs"),
        "version": __version__,
        "written": clock.strftime("%Y-%m-%d %H:%M"),
        "colours": COLOURS,
        "runs": [
            {
                "name": story.name,
                "began": clock.strftime("%Y-%m-%d %H:%M", clock.localtime(story.start.get("time", 0))),
                "headline": _headline(story),
                "notes": notes(story),
            }
            for story in stories
        ],
        "serial": any(story.serial for story in stories),
        "serial_colour": curves.serial_colour(0, 1) if len(stories) == 1 else "currentColor",
        "ways": _ways(stories),
        "classifies": any(story.classifies for story in stories),
        "learning": _panels(curves.learning(stories)),
        "stages": stages.table(stories),
        "violations": _panels([violations] if violations else []),
        "subnetworks": parareal.table(stories),
        "corrections": _panels([corrections] if corrections else []),
        "compared": _panels(tradeoff.compared(stories)),
        "exactness": _panels(curves.exactness(stories)),
        "adaptive": _panels(curves.adaptive(stories)),
        "results": tables.results(stories),
        "network": tables.network(stories),
        "bars": time[0] if time else [],
        "shown": {part for bar in time[0] for part, _, _ in bar.shares} if time else set(),
        "time": time[1] if time else None,
        "parts": dict(tables.PARTS),
        "brief": tables.brief,
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


def _ways(stories: Sequence[Story]) -> str:
    """What the curves of the runs themselves are called."""
    if any(story.staged or story.parallel for story in stories):
        return "layer-parallel"
    return "trained serially"


def _headline(story: Story) -> str:
    """What the run came to, in a line."""
    parts = []
    accuracy, samples = story.result("validation_accuracy"), story.validation_samples
    if accuracy is not None:
        of = f" of {samples:,} validation samples" if samples else " validation accuracy"
        parts.append(f"{100 * accuracy:.2f} %{of}")
    elif (loss := story.result("validation_loss")) is not None:
        parts.append(f"validation loss {loss:.4g}")
    count = len(story.epochs)
    parts.append(
        f"{count} epoch{'s' if count > 1 else ''} in {tables.duration(story.result('seconds'))}"
    )
    ratio = story.result("serial_ratio")
    if ratio is not None:
        parts.append(f"{ratio:.1f} times as fast as serial PyTorch")
    return " · ".join(parts)


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
            *[f"{each[level]:,}" if level < len(each) else tables.NONE for each in evaluations],
        ]
        for level in range(levels)
    ]
    rows.append(["one after the other, a worker per interval", *[f"{path:,}" for path in paths]])
    rows.append(["serially", *[f"{steps:,}"] * 2])
    return tables.Table(["step evaluations", "forward", "adjoint"], rows)
