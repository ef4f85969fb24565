"""What the page says in tables: results, time, configuration, machines."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..solvers import MGRIT, Serial, Split
from .story import Line, Story
from .together import after_as_many, last_of_all, told
from .words import NONE, epochs, number, option, percent, plain, points


@dataclass(frozen=True)
class Table:
    """Rows of equally many cells; the first cell of a row says what the others are."""

    head: list[str]
    rows: list[list[str]]


def results(stories: Sequence[Story]) -> Table:
    """Accuracies, errors, speed: what each run came to, or where it stands."""
    return of_each(
        stories,
        {
            "validation accuracy, propagated serially": _percent_of("validation_accuracy"),
            "propagated in parallel": lambda s: percent(s.parallel_accuracy),
            "gap between the two": _gap,
            "serially trained twin": lambda s: _beside_twin(s, "validation_accuracy")[0],
            "this run after as many epochs": lambda s: _beside_twin(s, "validation_accuracy")[1],
            "validation loss": lambda s: number(s.result("validation_loss")),
            "training accuracy": _training_accuracy,
            "training loss": lambda s: number(s.result("train_loss")),
            "training loss of the twin": lambda s: _beside_twin(s, "train_loss")[0],
            "of this run after as many epochs": lambda s: _beside_twin(s, "train_loss")[1],
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


def alike(stories: Sequence[Story]) -> Table | None:
    """What runs of unlike length came to after as many epochs; None where all are as long."""
    rows = after_as_many(stories)
    return _table(stories, rows) if rows else None


def network(stories: Sequence[Story]) -> Table:
    """Size of the networks, and how they were solved."""
    return of_each(
        stories,
        {
            "layers": lambda s: s.layers,
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
    every = dict.fromkeys(name for story in stories for name in story.machine)
    rows = [[name, *[str(story.machine.get(name, NONE)) for story in stories]] for name in every]
    return _table(stories, rows)


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


# ---- cells -------------------------------------------------------------------------------------


def of_each(stories: Sequence[Story], rows: dict[str, Callable[[Story], str]]) -> Table:
    """A row for each thing that is said of every run."""
    return _table(stories, [[said, *map(tell, stories)] for said, tell in rows.items()])


def _table(stories: Sequence[Story], rows: list[list[str]]) -> Table:
    """Rows that say nothing about any run are left out."""
    saying = [row for row in rows if any(cell != NONE for cell in row[1:])]
    return Table(["", *[story.name for story in stories]], saying)


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


def _epochs(story: Story) -> str:
    return f"{len(story.epochs)}" if story.ended else f"{len(story.epochs)} of {story.planned}"


def _epoch_seconds(lines: list[Line]) -> float | None:
    """Median over the epochs of the last phase, as the summary takes it."""
    last = [line for line in lines if line.get("phase") == lines[-1].get("phase")]
    times = [line["epoch_seconds"] for line in last if line.get("epoch_seconds") is not None]
    return statistics.median(times) if times else None


def _beside_twin(story: Story, key: str) -> tuple[str, str]:
    """A figure of the serially trained twin, and of the run after as many epochs: as both have."""
    tell = percent if key.endswith("accuracy") else number
    epoch = last_of_all([story.serial, story.epochs], key)
    if epoch is None:
        return NONE, NONE
    after = f"after {epochs(epoch)}"
    return f"{tell(story.serial[epoch - 1][key])} {after}", f"{told(story, epoch, key, tell)} {after}"


def _actions(story: Story) -> str:
    if not story.decisions:
        return NONE
    actions = [decision.get("action") for decision in story.decisions]
    return ", ".join(str(actions.count(action)) for action in ("raise", "lower", "serial"))


def _of_network(story: Story, key: str) -> str:
    return plain(story.networks[-1].get(key) if story.networks else None)


def _of_data(story: Story, key: str) -> str:
    return plain(story.start.get("data", {}).get(key))
