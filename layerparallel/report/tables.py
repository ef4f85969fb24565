"""What the page says in tables: results, time, configuration, machines."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..solvers import MGRIT, Serial, Split
from .story import Line, Story, points

NONE = "–"
PARTS = (
    ("forward", "forward, fine steps"),
    ("forward_coarse", "forward, coarse levels"),
    ("adjoint", "adjoint, fine steps"),
    ("adjoint_coarse", "adjoint, coarse levels"),
    ("optimizer", "optimiser"),
    ("data", "data"),
    ("comparison", "comparisons with the exact gradient"),
    ("rest", "opening, closing, loss and the rest"),
)


@dataclass(frozen=True)
class Table:
    """Rows of equally many cells; the first cell of a row says what the others are."""

    head: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Bar:
    """Shares of one bar: (part, seconds, percent of the longest bar)."""

    name: str
    colour: int
    total: float
    shares: list[tuple[str, float, float]]


def results(stories: Sequence[Story]) -> Table:
    """Accuracies, errors, speed: what each run came to, or where it stands."""
    return of_each(
        stories,
        {
            "validation accuracy, propagated serially": _percent_of("validation_accuracy"),
            "propagated in parallel": lambda s: percent(s.parallel_accuracy),
            "gap between the two": _gap,
            "serially trained twin": _twin,
            "this run after about as many epochs": _as_many,
            "validation loss": lambda s: number(s.result("validation_loss")),
            "training accuracy": _training_accuracy,
            "training loss": lambda s: number(s.result("train_loss")),
            "error of the gradient, at the end": _gradient_error,
            "its cosine to the exact one": _gradient_cosine,
            "epochs": _epochs,
            "seconds of training": lambda s: number(s.result("seconds")),
            "seconds per epoch": lambda s: number(_epoch_seconds(s.epochs)),
            "serial PyTorch, seconds per epoch": lambda s: number(_epoch_seconds(s.serial)),
            "times as fast as serial PyTorch": _ratio,
            "fallbacks to the serial solver": lambda s: f"{s.fallbacks():,}",
            "adaptive: raised, lowered, went serial": _actions,
        },
    )


def network(stories: Sequence[Story]) -> Table:
    """Size of the networks, and how they were solved."""
    return of_each(
        stories,
        {
            "layers": _layers,
            "solver": _solvers,
            "parameters": lambda s: _of_network(s, "parameters"),
            "precision": lambda s: _of_network(s, "dtype"),
            "device": lambda s: _of_network(s, "device"),
            "training samples": lambda s: _of_data(s, "training"),
            "validation samples": lambda s: _of_data(s, "validation"),
        },
    )


def options(stories: Sequence[Story]) -> tuple[Table | None, Table]:
    """The options that are not the recipe's own, or not those of the other runs; and all of them."""
    every = dict.fromkeys(name for s in stories for name in s.options)
    chosen = {name for s in stories for name in s.start.get("changed") or ()}
    rows = {name: [name, *[option(s.options, name) for s in stories]] for name in every}
    first = [row for name, row in rows.items() if name in chosen or len(set(row[1:])) > 1]
    return (_table(stories, first) if first else None), _table(stories, list(rows.values()))


def machines(stories: Sequence[Story]) -> Table:
    """Machine and versions; a resumed run names the one that it ended on."""
    found = [(s.summary or {}).get("machine") or s.start.get("machine", {}) for s in stories]
    every = dict.fromkeys(name for each in found for name in each)
    rows = [[name, *[str(each.get(name, NONE)) for each in found]] for name in every]
    return _table(stories, rows)


def time(stories: Sequence[Story]) -> tuple[list[Bar], Table] | None:
    """Where an epoch's seconds went: bars, and a table of the same; None where it is not on record."""
    columns: list[tuple[str, int, dict[str, float]]] = []
    for number, story in enumerate(stories):
        alone = len(stories) == 1
        for lines, name in (
            (story.epochs, "layer-parallel" if alone else story.name),
            (story.serial, "serial PyTorch" if alone else f"{story.name}, serial PyTorch"),
        ):
            split = _mean_split(lines)
            if split:
                columns.append((name, number, split))
    if not columns:
        return None
    longest = max(sum(split.values()) for _, _, split in columns)
    bars = [
        Bar(
            name,
            number,
            sum(split.values()),
            [
                (part, split[part], 100 * split[part] / longest)
                for part, _ in PARTS
                if split.get(part, 0.0) > 0
            ],
        )
        for name, number, split in columns
    ]
    rows = [
        [said, *[_seconds_and_share(split, part) for _, _, split in columns]]
        for part, said in PARTS
        if any(split.get(part) for _, _, split in columns)
    ]
    rows.append(["an epoch", *[brief(sum(split.values())) for _, _, split in columns]])
    evaluations = [_mean(line.get("evaluation_seconds") for line in s.epochs) for s in stories]
    if any(seconds is not None for seconds in evaluations):
        shown = {number: brief(seconds) for number, seconds in enumerate(evaluations) if seconds}
        first = [number for _, number, _ in columns]
        cells = [
            shown.get(number, NONE) if first.index(number) == k else NONE
            for k, number in enumerate(first)
        ]
        rows.append(["an evaluation, not counted", *cells])
    return bars, Table(["seconds per epoch", *[name for name, _, _ in columns]], rows)


def short(solver: Serial | MGRIT | Split) -> str:
    """A solver in a few words: MGRIT, 2 levels, m = 32, cycles 1 + 1, picard (4)."""
    if isinstance(solver, Serial):
        return "serial"
    if isinstance(solver, Split):
        return f"forward {short(solver.forward)}; adjoint {short(solver.adjoint)}"
    factors = solver.coarsening
    coarsening = ", ".join(map(str, factors)) if isinstance(factors, tuple) else factors
    words = [
        f"MGRIT, {solver.levels} levels",
        f"m = {coarsening or 'by depth'}",
        f"cycles {solver.forward_cycles} + {solver.adjoint_cycles}",
    ]
    if solver.coarse is not None:
        groups = "" if solver.samples is None else f" ({solver.samples} groups)"
        words.append(solver.coarse + groups)
    if solver.cycle != "V":
        words.append(f"{solver.cycle}-cycle")
    if solver.relaxation:
        words.append(f"relaxation {solver.relaxation}")
    if solver.warm_start:
        words.append("warm start")
    return ", ".join(words)


def duration(seconds: float | None) -> str:
    """37 s, 12 min, 3.4 h."""
    if seconds is None:
        return "unknown time"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def brief(seconds: float) -> str:
    """A part of an epoch: 2.13 s, 34 ms."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


# ---- cells -------------------------------------------------------------------------------------


def of_each(stories: Sequence[Story], rows: dict[str, Callable[[Story], str]]) -> Table:
    """A row for each thing that is said of every run."""
    return _table(stories, [[said, *map(tell, stories)] for said, tell in rows.items()])


def _table(stories: Sequence[Story], rows: list[list[str]]) -> Table:
    """Rows that say nothing about any run are left out."""
    told = [row for row in rows if any(cell != NONE for cell in row[1:])]
    return Table(["", *[story.name for story in stories]], told)


def _percent_of(key: str) -> Callable[[Story], str]:
    return lambda story: percent(story.result(key))


def _gap(story: Story) -> str:
    gap = story.gap()
    return NONE if gap is None else points(gap)


def _training_accuracy(story: Story) -> str:
    return percent(story.result("train_accuracy")) if story.classifies else NONE


def _gradient_error(story: Story) -> str:
    if not story.probed:
        return NONE
    error = story.probed.get("gradient_error")
    return "fell back" if error is None else number(error)


def _gradient_cosine(story: Story) -> str:
    known = story.probed.get("gradient_error") is not None
    return number(story.probed["gradient_cosine"], 4) if known else NONE


def _ratio(story: Story) -> str:
    ratio = story.result("serial_ratio")
    return NONE if ratio is None else f"{ratio:.2f}"


def _solvers(story: Story) -> str:
    return "; ".join(dict.fromkeys(short(solver) for _, solver in story.chains())) or NONE


def percent(value: float | None) -> str:
    """A share with two digits: 97.25 %."""
    return NONE if value is None else f"{100 * value:.2f} %"


def number(value: float | None, digits: int = 3) -> str:
    """Three digits of it, or more in front of the point."""
    if value is None:
        return NONE
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def _epochs(story: Story) -> str:
    return f"{len(story.epochs)}" if story.ended else f"{len(story.epochs)} of {story.planned}"


def _epoch_seconds(lines: list[Line]) -> float | None:
    """Median over the epochs of the last phase, as the summary takes it."""
    last = [line for line in lines if line.get("phase") == lines[-1].get("phase")]
    times = [line["epoch_seconds"] for line in last if line.get("epoch_seconds") is not None]
    return statistics.median(times) if times else None


def _twin(story: Story) -> str:
    accuracy = story.serial[-1].get("validation_accuracy") if story.serial else None
    count = len(story.serial)
    if accuracy is None:
        return NONE
    return f"{percent(accuracy)} after {count} epoch{'s' if count > 1 else ''}"


def _as_many(story: Story) -> str:
    """Accuracy after as many epochs as the serial slice had, or the nearest that was evaluated."""
    count = len(story.serial)
    evaluated = [
        (number, line["validation_accuracy"])
        for number, line in enumerate(story.epochs, start=1)
        if line.get("validation_accuracy") is not None
    ]
    if not count or not evaluated:
        return NONE
    number, accuracy = min(evaluated, key=lambda each: (abs(each[0] - count), each[0]))
    return f"{percent(accuracy)} after {number} epoch{'s' if number > 1 else ''}"


def _actions(story: Story) -> str:
    if not story.decisions:
        return NONE
    actions = [decision.get("action") for decision in story.decisions]
    return ", ".join(str(actions.count(action)) for action in ("raise", "lower", "serial"))


def _layers(story: Story) -> str:
    if not story.networks:
        return NONE
    chains = [chain.get("steps", 0) for chain in story.networks[-1].get("chains", [])]
    return " + ".join(f"{steps:,}" for steps in chains) or NONE


def _of_network(story: Story, key: str) -> str:
    return _plain(story.networks[-1].get(key) if story.networks else None)


def _of_data(story: Story, key: str) -> str:
    return _plain(story.start.get("data", {}).get(key))


def _plain(value: Any) -> str:
    if value is None:
        return NONE
    return f"{value:,}" if isinstance(value, int) else str(value)


def bytes_of(value: float | None) -> str:
    """Memory: 12 kB, 3.4 MB, 1.2 GB."""
    if value is None:
        return NONE
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e3:.3g} kB"


def option(options: dict[str, Any], name: str) -> str:
    """The value of an option."""
    if name not in options:
        return NONE
    value = options[name]
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _mean(values: Any) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _mean_split(lines: list[Line]) -> dict[str, float]:
    """Seconds by part, the mean over the epochs of the last phase."""
    last = [line for line in lines if line.get("phase") == lines[-1].get("phase")]
    splits = [line["split"] for line in last if line.get("split")]
    if not splits:
        return {}
    return {part: sum(split.get(part, 0.0) for split in splits) / len(splits) for part, _ in PARTS}


def _seconds_and_share(split: dict[str, float], part: str) -> str:
    seconds = split.get(part, 0.0)
    if not seconds:
        return NONE
    share = 100 * seconds / sum(split.values())
    return f"{brief(seconds)}, {f'{share:.0f}' if share >= 1 else '< 1'} %"
