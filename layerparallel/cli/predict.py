"""`layerparallel predict RECIPE`: how its gradient would scale on a cluster, from one process."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch

from ..errors import InputError
from ..group.virtual import MOST
from ..predict import links, show
from ..predict.scaling import Row, Study
from ..predict.search import splits
from ..predict.task import Task, check_layers, from_recipe
from ..recipes.options import Bound, Count, Positive, check_bounds
from .named import named_recipe
from .options import Shown
from .parsing import parse

RANKS = ",".join(str(1 << k) for k in range(11))
SHOWN = 5
"""Splits in the table."""
ABOUT = "How one gradient of it would take on more and more ranks, predicted from one process."
WIDTH = 100
"""Characters of a line where there is no terminal."""


@dataclass(frozen=True)
class Settings:
    """What is asked for besides the recipe's options."""

    sections: ClassVar[dict[str, str]] = {"ranks": "Prediction"}

    ranks: Annotated[str, Shown("P,P,...")] = RANKS
    """Numbers of ranks."""
    network: Annotated[str, Shown("NAME|FILE")] = "ethernet"
    """Its links: none, loopback, ethernet or nvlink, or what `bench network --json` has written."""
    layers_per_rank: Annotated[int, Bound(least=0)] = 4
    """Layers on every rank in weak scaling; 0 leaves it out."""
    error: Positive = 0.1
    """Bound on the relative error of the gradient."""
    few: Count = 2
    """Solvers that are run for every number of ranks."""
    repeats: Count = 3
    """Repetitions of every measurement."""
    json: bool = False
    """Print numbers, no tables."""
    output: Annotated[Path | None, Shown("DIR")] = None
    """Folder for plots."""

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
    recipe, _, flags = named_recipe("predict", arguments)
    check_layers(recipe)  # before options that it may have, too
    settings, options = parse(f"predict {recipe.name}", ABOUT, flags, Settings, recipe)
    ranks, network = settings.checked(), links.find(settings.network)
    if settings.output is not None:
        _make(settings.output)
    torch.set_num_threads(1)
    task = dataclasses.replace(from_recipe(options), repeats=settings.repeats)
    _predict(task, settings, ranks, network)


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
