"""A drawing of what a solver does: layers across, time downwards, one line a step.

It is drawn from the schedule that `cost.schedule` lists by running the solver's own algorithm. Where
the network is too deep to draw every step, a small one is drawn that has as many levels.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape

from ..solvers import MGRIT, Serial, cost
from ..solvers.cost import Event

WIDTH, MARGIN = 380.0, 12.0
STEP = 7.0
"""Height of the time that one step takes."""
LINE = 15.0
"""Height of a line of text."""
MOST_STEPS = 64
"""Depth up to which a network is drawn as it is."""
MOST_TIME = 60
"""Consecutive steps up to which all cycles are drawn."""
MOST_LEVELS = {"V": 6, "F": 4, "W": 4}
"""Levels up to which all are drawn, by the kind of cycle."""


@dataclass(frozen=True)
class Drawing:
    """A picture of a solve, and in words what it shows.

    svg: the picture. text: of what it was drawn. steps, time: depth of the network that was drawn,
    and its consecutive step evaluations with one worker for each interval.
    """

    svg: str
    text: str
    steps: int
    time: int


def draw(solver: Serial | MGRIT, steps: int, adjoint: bool = False) -> Drawing:
    """Draw a solve, of a network as large as can be drawn.

    Args:
        solver: of the direction that is drawn; an adjoint is drawn with its own number of cycles.
        steps: N of the network.
    """
    small, drawn = reduced(solver, steps, adjoint)
    events = cost.schedule(small, drawn, adjoint)
    return Drawing(
        svg="".join(_svg(small, drawn, events, adjoint)),
        text=_what(solver, steps, small, drawn),
        steps=drawn,
        time=sum(event.length for event in events),
    )


def reduced(solver: Serial | MGRIT, steps: int, adjoint: bool = False) -> tuple[Serial | MGRIT, int]:
    """A solver and a depth of the same kind, small enough that every step can be drawn."""
    if isinstance(solver, Serial):
        return solver, min(steps, MOST_STEPS // 2)
    factors = solver.factors(steps)
    depths = [steps // math.prod(factors[:level]) for level in range(len(factors) + 1)]
    if steps > MOST_STEPS or len(factors) >= MOST_LEVELS[solver.cycle]:
        kept = factors[: MOST_LEVELS[solver.cycle] - 1]
        most = next(
            m
            for m in (8, 6, 5, 4, 3, 2)
            if m == 2 or math.prod(min(each, m) for each in kept) * 4 <= 0.75 * MOST_STEPS
        )
        kept = [min(each, most) for each in kept]
        bottom = min(depths[len(kept)], max(2, round(0.75 * MOST_STEPS) // math.prod(kept)))
        steps = math.prod(kept) * bottom
        solver = replace(solver, levels=len(kept) + 1, coarsening=tuple(kept), smallest=1)
    while cost.critical_path(solver, steps, adjoint) > MOST_TIME and _cycles(solver, adjoint) > 1:
        fewer = _cycles(solver, adjoint) - 1
        solver = replace(solver, **{"adjoint_cycles" if adjoint else "forward_cycles": fewer})
    return solver, steps


def _cycles(solver: MGRIT, adjoint: bool) -> int:
    return solver.adjoint_cycles if adjoint else solver.forward_cycles


def _what(solver: Serial | MGRIT, steps: int, small: Serial | MGRIT, drawn: int) -> str:
    """What was drawn, in a sentence."""
    if (small, drawn) == (solver, steps):
        return f"All {steps} layers, every step."
    text = f"A network of {drawn} layers stands for {steps:,}"
    if isinstance(solver, MGRIT) and isinstance(small, MGRIT):
        factors = solver.factors(steps)
        if factors != small.factors(drawn):
            text += f", coarsened by {_by(small.factors(drawn))} in place of {_by(factors)}"
        for which in ("forward_cycles", "adjoint_cycles"):
            if getattr(small, which) != getattr(solver, which):
                text += f", with {getattr(small, which)} of {getattr(solver, which)} cycles"
    return text + "."


def _by(factors: list[int]) -> str:
    return " × ".join(map(str, factors))


# ---- the picture -------------------------------------------------------------------------------


def _svg(solver: Serial | MGRIT, steps: int, events: list[Event], adjoint: bool) -> Iterator[str]:
    """Header with the points of every level, then event after event."""
    factors = [] if isinstance(solver, Serial) else solver.factors(steps)
    scale = (WIDTH - 2 * MARGIN) / steps
    strides = [math.prod(factors[:level]) for level in range(len(factors) + 1)]

    def x(level: int, point: float) -> float:
        return MARGIN + scale * strides[level] * point

    body, y = [], LINE
    for level, stride in enumerate(strides):
        body.append(_text(y, _level(level, steps // stride, factors), f"l{level} b"))
        y += 8
        coarse = factors[level] if level < len(factors) else 0
        for point in range(steps // stride + 1):
            marked = coarse and point % coarse == 0 and point // coarse <= steps // stride // coarse
            body.append(
                f'<circle class="l{level} {"c" if marked else "f"}" cx="{x(level, point):.1f}" '
                f'cy="{y:.1f}" r="{3 if marked else 1.6}"/>'
            )
        y += LINE + 6
    top = y
    for k, event in enumerate(events):
        label = _label(events, k)
        body.append(_text(y, label, f"l{event.level}"))
        y += 6
        for i in range(event.intervals):
            body.append(_walk(event, i, x, y, adjoint))
        y += event.length * STEP + LINE + 3
    height = y - LINE + 4
    name = "Adjoint" if adjoint else "Forward"
    yield (
        f'<svg role="img" aria-label="{name} solve, layers across, time downwards" class="cycle" '
        f'viewBox="0 0 {WIDTH:.0f} {height:.0f}">'
    )
    if factors:
        for point in range(steps // factors[0] + 1):
            across = x(0, point * factors[0])
            yield f'<path class="guide" d="M{across:.1f} {top - 8:.1f}V{height - 4:.1f}"/>'
    yield from body
    yield "</svg>"


def _walk(event: Event, interval: int, x, y: float, adjoint: bool) -> str:
    """The steps of one interval, one after the other: a line down and across."""
    start = event.first + interval * event.stride + (event.stride if adjoint else 0)
    onward = -1 if adjoint else 1
    places = [(x(event.level, start + onward * j), y + STEP * j) for j in range(event.length + 1)]
    path = "M" + "L".join(f"{across:.1f} {down:.1f}" for across, down in places)
    (first, top), (end, bottom) = places[0], places[-1]
    dots = "".join(
        f'<circle class="l{event.level} f" cx="{across:.1f}" cy="{down:.1f}" r="1.3"/>'
        for across, down in places[1:-1]
    )
    kind = " rhs" if event.role == "right-hand side" else ""
    return (
        f'<path class="l{event.level} walk{kind}" d="{path}"/>{dots}'
        f'<circle class="l{event.level} c" cx="{first:.1f}" cy="{top:.1f}" r="2.4"/>'
        f'<circle class="l{event.level} end" cx="{end:.1f}" cy="{bottom:.1f}" r="2"/>'
    )


def _level(level: int, count: int, factors: list[int]) -> str:
    what = "layers" if level == 0 else "coarse step" if count == 1 else "coarse steps"
    text = f"level {level}: {count} {what}"
    if level < len(factors):
        return text + f", every {_ordinal(factors[level])} state a C-point (●)"
    return text


def _label(events: list[Event], k: int) -> str:
    """What happens in an event, in one line."""
    event = events[k]
    many = f"{event.intervals} × {_count(event.length)} at once"
    return {
        "serial": f"serial propagation, {_count(event.length)}",
        "start": f"first guess: coarse solve, {_count(event.length)}",
        "relaxation": f"{_relaxation(events, k)}: {many}",
        "right-hand side": f"right-hand side: {many}",
        "coarse solve": f"coarse solve, {_count(event.length)}",
        "correction": f"F-points from the new C-points: {many}",
        "rest": f"{_count(event.length)} that fill no interval",
    }[event.role]


def _relaxation(events: list[Event], k: int) -> str:
    """An F-relaxation by where its C-points come from: the level below, or the relaxation before."""
    before = next((event for event in reversed(events[:k]) if event.role != "rest"), None)
    level = events[k].level
    if before is None or before.level < level:
        return "F-relaxation"
    if before.level > level:
        return "F-relaxation from the new C-points"
    return "CF-relaxation" if before.role == "relaxation" else "F-relaxation"


def _ordinal(number: int) -> str:
    teen = 10 <= number % 100 < 20
    return f"{number}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def _count(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"


def _text(y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{MARGIN - 4:.0f}" y="{y:.1f}">{escape(text)}</text>'
