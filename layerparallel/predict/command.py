"""`layerparallel predict RECIPE`: how its gradient would scale on a cluster, from one process."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from .. import recipes
from ..errors import InputError, UnknownNameError
from ..group.virtual import MOST
from . import links, show
from .scaling import Row, Study
from .search import splits
from .task import Task, from_recipe

RANKS = ",".join(str(1 << k) for k in range(11))
SHOWN = 5
"""Splits in the table."""
WIDTH = 100
"""Characters of a line where there is no terminal."""

Switch = tyro.conf.FlagCreatePairsOff[bool]
OWN = ("ranks", "network", "layers-per-rank", "error", "few", "repeats", "json", "output")


@dataclass(frozen=True)
class Settings:
    """What is asked for besides the recipe's options."""

    ranks: Annotated[str, tyro.conf.arg(metavar="P,P,...", help="Numbers of ranks.")] = RANKS
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
    """Solvers that are run for every number of ranks."""
    repeats: int = 3
    """Of every measurement."""
    json: Switch = False
    """Print numbers, no tables."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help="Folder for plots.")] = None

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
    names = ", ".join(recipes.names())
    if arguments[:1] in (["-h"], ["--help"]):
        print(f"usage: layerparallel predict RECIPE [options]\n\nRECIPE is one of: {names}")
        return
    if not arguments or arguments[0].startswith("-"):
        raise InputError(f"`predict` takes the name of a recipe first: there is {names}.")
    settings, options = _parsed(arguments[0], arguments[1:])
    ranks, network = settings.checked(), links.find(settings.network)
    torch.set_num_threads(1)
    task = dataclasses.replace(from_recipe(options), repeats=settings.repeats)
    _predict(task, settings, ranks, network)


def _parsed(name: str, flags: list[str]) -> tuple[Settings, Any]:
    recipe = recipes.get(name)
    known = [*OWN, *(each.name.replace("_", "-") for each in dataclasses.fields(recipe))]
    for flag in flags:
        option = flag.partition("=")[0].removeprefix("--").replace("_", "-")
        if flag.startswith("--") and not {option, option.removeprefix("no-")} & {*known, "help"}:
            raise UnknownNameError(f"option of predict {name}", option, known)
    group = name.replace("-", "_")
    kind = dataclasses.make_dataclass(
        "Predict",
        [
            ("settings", tyro.conf.OmitArgPrefixes[Settings]),
            (group, tyro.conf.OmitArgPrefixes[recipe]),
        ],
    )
    about = "How one gradient of it would take on more and more ranks, predicted from one process."
    chosen: Any = tyro.cli(kind, args=flags, prog=f"layerparallel predict {name}", description=about)
    return chosen.settings, getattr(chosen, group)


def _predict(task: Task, settings: Settings, ranks: list[int], network: links.Network) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDTH, soft_wrap=True)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    study = Study(network.link, settings.error, settings.few, say=say)
    strong, search, one = study.strong(task, ranks)
    exact = [solver for solver in search.errors.known() if search.exact_enough(solver)]
    found = splits(search, one, max(ranks), network.link, exact)[:SHOWN]
    weak = study.weak(task, ranks, settings.layers_per_rank) if settings.layers_per_rank else []
    best = min(strong, key=lambda row: row.layer.seconds)
    if settings.json:
        json.dump(_json(task, settings, network, strong, weak, found, best), sys.stdout, indent=1)
        print()
    else:
        console.print(f"{task.name}: one gradient of {task.depth} layers, {task.batch} samples")
        console.print(f"network {network}\n")
        console.print(show.table(f"Strong scaling: {task.depth} layers; times in ms", strong))
        console.print(show.solvers(strong), highlight=False)
        if weak:
            per = settings.layers_per_rank
            console.print(show.table(f"\nWeak scaling: {per} layers a rank; times in ms", weak))
            console.print(show.solvers(weak), highlight=False)
        console.print(
            f"\n{show.NOTE[0].upper()}{show.NOTE[1:]}; data parallel, GPipe and 1F1B (the same"
        )
        console.print("time) and zero bubble: computing measured on one rank, and formulas.\n")
        title = f"{max(ranks)} ranks as data x layer x pipeline: estimates"
        console.print(show.split_table(title, found))
        console.print(_advice(best))
    if settings.output is not None:
        title = f"{task.name}: {task.depth} layers, {task.batch} samples"
        say(str(show.plot(settings.output / "strong.png", strong, title, str(network))))
        if weak:
            title = f"{task.name}: {settings.layers_per_rank} layers a rank, {task.batch} samples"
            say(str(show.plot(settings.output / "weak.png", weak, title, str(network))))


def _advice(best: Row) -> str:
    if best.ranks == 1:
        return "Layer-parallel no number of ranks is quicker than one with Serial()."
    return (
        f"Quickest layer-parallel: {best.ranks} ranks with {show.name_of(best.solver)},\n"
        f"{best.speedup:.1f} times one rank; error of the gradient {best.error.relative:.0e} at the "
        "initial weights."
    )


def _json(
    task: Task,
    settings: Settings,
    network: links.Network,
    strong: list[Row],
    weak: list[Row],
    found: list[Any],
    best: Row,
) -> dict[str, Any]:
    return {
        "task": {"name": task.name, "depth": task.depth, "batch": task.batch},
        "network": {"name": network.name, "about": network.about, **dataclasses.asdict(network.link)},
        "error_bound": settings.error,
        "note": show.NOTE,
        "strong": [show.row_json(row) for row in strong],
        "weak": [show.row_json(row) for row in weak],
        "splits": [show.split_json(split) for split in found],
        "recommended": show.row_json(best),
    }
