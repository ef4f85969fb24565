"""`layerparallel predict RECIPE`: how its gradient would scale on a cluster, from one process."""

from __future__ import annotations

import dataclasses
import json
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch

from ..errors import InputError
from ..group.virtual import MOST
from ..predict import links, show
from ..predict.advice import advice, best
from ..predict.baselines import Timed
from ..predict.scaling import Row, Study
from ..predict.task import Task, check_recipe, from_recipe
from ..recipes.options import Bound, Count, Positive, check_bounds
from .named import named_recipe
from .options import Shown, options_of
from .parsing import parse

RANKS = ",".join(str(1 << k) for k in range(11))
SHOWN = 5
"""Splits that are measured for the table, besides those of the rows above it."""
WIDTH = 100
"""Characters of a line of text, and of a table where there is no terminal."""

NO_PART = (
    *("epochs", "learning_rate", "smoothness", "serial_epochs", "refine", "refine_epochs", "validation"),
    *("device", "threads", "evaluate_every", "checkpoint_seconds"),
    *("solver", "levels", "coarsening", "smallest", "relaxation", "cycle", "forward_cycles"),
    *("adjoint_cycles", "coarse", "samples", "adaptive", "adaptive_every", "adaptive_target"),
)
"""Options of recipes that the prediction of one gradient does without; solvers are searched for."""
ABOUT = """How one gradient of a recipe's network would take on more and more ranks of a cluster.

It is predicted from one process: beside plain PyTorch on one core, the quickest of the library on one
core, data parallelism and pipelines, as in `layerparallel predict level-sets --ranks 1,2,4,8,16
--network ethernet`."""


@dataclass(frozen=True)
class Settings:
    """What is predicted, and how it is shown."""

    sections: ClassVar[dict[str, str]] = {"ranks": "Prediction"}

    ranks: Annotated[str, Shown("P,P,...")] = RANKS
    """Numbers of ranks, of one core each, up to 1024."""
    network: Annotated[str, Shown("NAME|FILE")] = "ethernet"
    """Its links: none, loopback, ethernet or nvlink, or what `bench network --json` has written."""
    layers_per_rank: Annotated[int, Bound(least=0)] = 4
    """Layers on every rank in weak scaling; 0 leaves it out."""
    error: Positive = 0.1
    """Bound on the relative error of the gradient."""
    few: Count = 2
    """Solvers that are measured for every number of ranks, of those an estimate finds quickest."""
    repeats: Count = 3
    """Times that every measurement is done, of which the median counts."""
    json: bool = False
    """Print JSON in place of tables."""
    output: Annotated[Path | None, Shown("DIR")] = None
    """Folder for plots, strong.png and weak.png."""

    def checked(self) -> list[int]:
        """The numbers of ranks.

        Raises:
            InputError: something is out of its bounds.
        """
        try:
            ranks = [int(part) for part in self.ranks.split(",")]
        except ValueError as error:
            raise InputError(
                f"ranks = {self.ranks!r} is no list of numbers: give such as 1,2,4."
            ) from error
        for count in ranks:
            if not 1 <= count <= MOST:
                raise InputError(f"{count} ranks cannot be predicted: give 1 to {MOST}.")
        check_bounds(self)
        return sorted(set(ranks))


def predict(arguments: list[str]) -> None:
    """`predict RECIPE [--ranks P,P,...] [--network NAME] [options of the recipe]`."""
    recipe, _, flags = named_recipe("predict", arguments, lambda recipe: hasattr(recipe, "solver"))
    check_recipe(recipe)  # before options that it may have, too
    for flag in (text.partition("=")[0].replace("_", "-") for text in flags):
        if any(flag in option.flags for option in options_of(recipe) if option.field in NO_PART):
            raise InputError(f"{flag} plays no part in the time of one gradient: leave it out.")
    settings, options = parse(f"predict {recipe.name}", ABOUT, flags, Settings, recipe, without=NO_PART)
    ranks, network = settings.checked(), links.find(settings.network)
    if settings.output is not None:
        _make(settings.output)
    torch.set_num_threads(1)
    task = dataclasses.replace(from_recipe(options), repeats=settings.repeats)
    found = _predicted(task, settings, ranks, network)
    if settings.json:
        json.dump(_json(found), sys.stdout, indent=1)
        print()
    else:
        _print(found)
    if settings.output is not None:
        _plot(found, settings.output)


def _make(folder: Path) -> None:
    """The folder of the plots, before anything is measured.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The folder {folder} cannot be made: {error.strerror}; name another by --output."
        ) from error


# ---- what was found -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """All rows of one call; they share one set of measurements."""

    task: Task
    settings: Settings
    network: links.Network
    strong: list[Row]
    splits: list[Timed]
    weak: list[Row]


def _predicted(task: Task, settings: Settings, ranks: list[int], network: links.Network) -> Prediction:
    study = Study(task, network.link, settings.error, settings.few, say=_say)
    strong = study.strong(ranks)
    found = study.splits(strong[-1], SHOWN) if ranks[-1] > 1 else []
    weak = study.weak(ranks, settings.layers_per_rank) if settings.layers_per_rank else []
    return Prediction(task, settings, network, strong, found, weak)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print(found: Prediction) -> None:
    from rich.console import Console

    width = None if sys.stdout.isatty() else WIDTH
    say = Console(width=width, soft_wrap=True, highlight=False).print
    task, strong = found.task, found.strong
    say(f"{task.name}: one gradient of {task.depth} layers, {task.batch} samples")
    say(f"network {found.network}\n\nOne core, measured:")
    say("\n".join(show.devices(strong[0])))
    say(show.table(f"\nStrong scaling: {task.depth} layers; times in ms", strong))
    say(show.solvers(strong))
    if found.splits:
        title = f"\n{strong[-1].ranks} ranks as data x layer x pipeline stages"
        say(show.split_table(title, found.splits, strong[0].plain))
    if found.weak:
        per = found.settings.layers_per_rank
        say(show.table(f"\nWeak scaling: {per} layers a rank; times in ms", found.weak))
        say(show.solvers(found.weak))
    say(f"\n{show.NOTE[0].upper()}{show.NOTE[1:]}.\n{show.LEGEND}\n")
    say(textwrap.fill(advice(strong, found.splits), WIDTH))


def _plot(found: Prediction, folder: Path) -> None:
    task, per = found.task, found.settings.layers_per_rank
    for name, rows, layers in (
        ("strong.png", found.strong, f"{task.depth} layers"),
        ("weak.png", found.weak, f"{per} layers a rank"),
    ):
        if rows:
            title = f"{task.name}: {layers}, {task.batch} samples"
            _say(str(show.plot(folder / name, rows, title, str(found.network))))


def _json(found: Prediction) -> dict[str, Any]:
    task, network = found.task, found.network
    return {
        "task": {"name": task.name, "depth": task.depth, "batch": task.batch},
        "network": {"name": network.name, "about": network.about, **dataclasses.asdict(network.link)},
        "error_bound": found.settings.error,
        "note": show.NOTE,
        "strong": [show.row_json(row) for row in found.strong],
        "splits": [show.timed_json(each) for each in found.splits],
        "weak": [show.row_json(row) for row in found.weak],
        "recommended": show.timed_json(best(found.strong, found.splits)),
        "advice": advice(found.strong, found.splits),
    }
