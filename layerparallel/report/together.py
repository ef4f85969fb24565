"""Several runs together: in what they are unlike, and which epochs all of them have."""

from collections.abc import Callable, Sequence
from functools import partial

from .drawing import Plot, plot
from .story import Line, Story
from .words import NONE, epochs, number, option, percent, plain


def named(story: Story, stories: Sequence[Story], *parts: str) -> str:
    """What a curve is called: the run, where there are several, and what of it."""
    run = [story.name] if len(stories) > 1 else []
    return ", ".join([*run, *parts]) or "this run"


# ---- what is unlike ------------------------------------------------------------------------------


def unlike(stories: Sequence[Story]) -> str:
    """What a comparison of runs has to allow for, with its values; empty where there is nothing."""
    found: dict[tuple[str, ...], str] = {}
    for said, tell in THINGS:
        values = tuple(tell(story) for story in stories)
        if len(set(values)) > 1:
            found.setdefault(values, said)  # a recipe is often called after its data
    return "; ".join(f"{said} {' / '.join(values)}" for values, said in found.items())


def _data(key: str) -> Callable[[Story], str]:
    return lambda story: plain(story.start.get("data", {}).get(key))


def _option(name: str) -> Callable[[Story], str]:
    return lambda story: option(story.options, name)


def _machine(key: str) -> Callable[[Story], str]:
    return lambda story: plain(story.machine.get(key))


THINGS: tuple[tuple[str, Callable[[Story], str]], ...] = (
    ("recipe", lambda story: story.recipe),
    ("data", _data("name")),
    ("training samples", _data("training")),
    ("validation samples", _data("validation")),
    ("layers", lambda story: story.layers),
    ("width", _option("width")),
    ("epochs", lambda story: story.lengths),
    ("learning rate scheduled over", lambda story: story.schedule),
    ("samples in a batch", _option("batch")),
    ("seed", lambda story: plain(story.start.get("seed"))),
    ("precision", _option("dtype")),
    ("device", _option("device")),
    ("processes", lambda story: story.processes),
    ("threads", _machine("threads")),
    ("processor", _machine("processor")),
)


# ---- epochs that all have ------------------------------------------------------------------------


def longest(stories: Sequence[Story]) -> int:
    """Epochs of the run that has most."""
    return max(len(story.epochs) for story in stories)


def shared(stories: Sequence[Story]) -> int | None:
    """The last epoch that all runs have; None where none of them goes on."""
    fewest = min(len(story.epochs) for story in stories)
    return fewest if fewest < longest(stories) else None


def over_epochs(stories: Sequence[Story]) -> Callable[..., Plot | None]:
    """`drawing.plot` over epochs: one axis in all plots, which says how far all of these runs go."""
    return partial(plot, over="epochs", until=longest(stories), shared=shared(stories))


def last_of_all(lines: Sequence[list[Line]], key: str) -> int | None:
    """The last epoch, counted from 1, of which all have a figure; None if there is none."""
    there = [{n for n, line in enumerate(each, 1) if line.get(key) is not None} for each in lines]
    return max(set.intersection(*there), default=None)


FIGURES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("validation accuracy", "validation_accuracy", percent),
    ("validation loss", "validation_loss", number),
    ("training accuracy", "train_accuracy", percent),
    ("training loss", "train_loss", number),
    ("seconds of training", "seconds", number),
)


def after_as_many(stories: Sequence[Story]) -> list[list[str]]:
    """Rows with what runs of unlike length came to after as many epochs; none where all are as long.

    Each figure is that of the last epoch in which all runs that have it know it.
    """
    rows = []
    for said, key, tell in FIGURES if shared(stories) else ():
        having = [story for story in stories if _has(story, key)]
        if len(having) < 2:
            continue
        epoch = last_of_all([story.epochs for story in having], key)
        if epoch is None:
            rows.append([f"{said}: known in no epoch of all", *[NONE] * len(stories)])
            continue
        cells = [told(s, epoch, key, tell) if s in having else NONE for s in stories]
        rows.append([f"{said} after {epochs(epoch)}", *cells])
    return rows


def told(story: Story, epoch: int, key: str, tell: Callable[[float], str]) -> str:
    """A figure of an epoch, and of what it is where that is not the whole network of the last phase."""
    line = story.epochs[epoch - 1]
    said, phase = tell(line[key]), line.get("phase", 0)
    if key.startswith("train_") and line.get("mode") == "parallel":
        said += ", of the last stage"
    if phase + 1 < len(story.depths):
        said += f", of {story.depths[phase]} layers"
    return said


def _has(story: Story, key: str) -> bool:
    known = any(line.get(key) is not None for line in story.epochs)
    return known and (story.classifies or not key.endswith("accuracy"))
