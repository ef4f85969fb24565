"""`layerparallel predict RECIPE`: how its gradient would scale on a cluster, from one process."""

from __future__ import annotations

import dataclasses
import json
import sys
import textwrap
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from .. import recipes
from ..errors import InputError, UnknownNameError
from ..group.virtual import MOST
from . import links, show
from .advice import advice, best
from .baselines import Timed
from .scaling import Row, Study
from .task import Task, check_recipe, from_recipe

RANKS = ",".join(str(1 << k) for k in range(11))
SHOWN = 5
"""Splits that are measured for the table, besides those of the rows above it."""
WIDTH = 100
"""Characters of a line of text, and of a table where there is no terminal."""

Switch = tyro.conf.FlagCreatePairsOff[bool]
NO_PART = (
    *("epochs", "learning_rate", "smoothness", "serial_epochs", "refine", "refine_epochs", "validation"),
    *("device", "threads", "evaluate_every", "checkpoint_seconds"),
    *("solver", "levels", "coarsening", "smallest", "relaxation", "cycle", "forward_cycles"),
    *("adjoint_cycles", "coarse", "samples", "adaptive", "adaptive_every", "adaptive_target"),
)
"""Options of recipes that the prediction of one gradient does without; solvers are searched for."""
USAGE = """usage: layerparallel predict RECIPE [options]

How one gradient of a recipe's network would take on more and more ranks of a cluster, predicted from
one process: beside plain PyTorch on one core, the quickest of the library on one core, data
parallelism and pipelines.

RECIPE is one of
{recipes}

  layerparallel predict level-sets --ranks 1,2,4,8,16 --network ethernet
  layerparallel predict RECIPE --help    all options"""


@dataclass(frozen=True)
class Settings:
    """What is predicted, and how it is shown."""

    ranks: Annotated[
        str, tyro.conf.arg(metavar="P,P,...", help=f"Numbers of ranks, of one core each, up to {MOST}.")
    ] = RANKS
    network: Annotated[
        str,
        tyro.conf.arg(
            metavar="NAME|FILE",
            help=f"{', '.join(links.PRESETS)}, or what `bench network --json` wrote.",
        ),
    ] = "ethernet"
    layers_per_rank: int = 4
    """Layers on every rank in weak scaling; 0 leaves it out."""
    error: float = 0.1
    """Bound on the relative error of the gradient."""
    few: int = 2
    """Solvers that are measured for every number of ranks, of those an estimate finds quickest."""
    repeats: int = 3
    """Times that every measurement is done, of which the median counts."""
    json: Switch = False
    """Print JSON in place of tables."""
    output: Annotated[
        Path | None, tyro.conf.arg(metavar="DIR", help="Folder for plots, strong.png and weak.png.")
    ] = None

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
        for name, least in (("layers_per_rank", 0), ("few", 1), ("repeats", 1)):
            if getattr(self, name) < least:
                value = getattr(self, name)
                raise InputError(f"{name} = {value} is out of range: give at least {least}.")
        if not self.error > 0:
            raise InputError(f"error = {self.error} is out of range: give a positive bound.")
        return sorted(set(ranks))


def predict(arguments: list[str]) -> None:
    """`predict RECIPE [--ranks P,P,...] [--network NAME] [options of the recipe]`."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE.format(recipes="\n".join(_predictable())))
        return
    if not arguments or arguments[0].startswith("-"):
        names = ", ".join(recipes.names())
        raise InputError(f"`predict` takes the name of a recipe first: there is {names}.")
    settings, options = _parsed(arguments[0], arguments[1:])
    ranks, network = settings.checked(), links.find(settings.network)
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


def _predictable() -> list[str]:
    """The recipes that can be predicted, and what each is."""
    found = {name: recipes.get(name) for name in recipes.names()}
    return [
        f"  {name:<14}{(recipe.__doc__ or '').partition(chr(10))[0]}"
        for name, recipe in found.items()
        if hasattr(recipe, "solver")
    ]


# ---- options --------------------------------------------------------------------------------------


def _parsed(name: str, flags: list[str]) -> tuple[Settings, Any]:
    recipe: Any = recipes.get(name)
    check_recipe(recipe)
    own = {_flag(each): each for each in dataclasses.fields(recipe)}
    shown = {flag for flag, each in own.items() if each.name not in NO_PART}
    shown |= {_flag(each) for each in dataclasses.fields(Settings)}
    for argument in flags:
        if not argument.startswith("--"):
            continue
        flag = argument.partition("=")[0].removeprefix("--").replace("_", "-")
        either = {flag, flag.removeprefix("no-")}
        if either & {*own} - shown:
            raise InputError(f"--{flag} plays no part in the time of one gradient: leave it out.")
        if not either & {*shown, "help"}:
            raise UnknownNameError(f"option of predict {name}", flag, shown)
    kind = dataclasses.make_dataclass(
        "Predict",
        [
            ("prediction", tyro.conf.OmitArgPrefixes[Settings]),
            (name.replace("-", "_"), tyro.conf.OmitArgPrefixes[_short(recipe)]),
        ],
    )
    about = "How one gradient of it would take on more and more ranks, predicted from one process."
    chosen: Any = tyro.cli(kind, args=flags, prog=f"layerparallel predict {name}", description=about)
    return chosen.prediction, getattr(chosen, name.replace("-", "_"))


def _flag(each: dataclasses.Field[Any]) -> str:
    return each.name.replace("_", "-")


def _short(recipe: Any) -> Any:
    """The recipe with `NO_PART` left out of its help."""
    hints = typing.get_type_hints(recipe, include_extras=True)
    hidden = [
        (each.name, tyro.conf.Suppress[hints[each.name]], dataclasses.field(default=each.default))
        for each in dataclasses.fields(recipe)
        if each.name in NO_PART
    ]
    about = {"__doc__": recipe.__doc__}
    return dataclasses.make_dataclass(
        recipe.__name__, hidden, bases=(recipe,), namespace=about, frozen=True
    )


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
