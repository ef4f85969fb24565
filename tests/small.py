"""A level-set run that takes a second: what the tests of the application side train."""

from pathlib import Path
from typing import Any

import torch

from layerparallel import report, runs
from layerparallel.recipes.level_sets import LevelSets
from layerparallel.runs import checkpoint, record


class Killed(BaseException):
    """What ends a training that a test lets die."""


def dying(monkeypatch: Any, method: type, steps: int) -> None:
    """Let training end by itself at a step."""
    step, left = method.step, iter(range(steps))

    def mortal(self: Any, *args: Any, **options: Any) -> Any:
        if next(left, None) is None:
            raise Killed
        return step(self, *args, **options)

    monkeypatch.setattr(method, "step", mortal)


def recipe(**options: Any) -> LevelSets:
    """16 layers of width 4, 7 mini batches an epoch, the last one smaller; float64, one thread."""
    small: dict[str, Any] = {
        "depth": 16,
        "width": 4,
        "coarsening": 4,
        "training": 130,
        "validation": 40,
        "batch": 20,
        "epochs": 4,
        "evaluate_every": 2,
        "serial_epochs": 1,
        "dtype": "float64",
    }
    return LevelSets(**{**small, **options})


def shown(folder: Path, **options: Any) -> Path:
    """Train the small recipe in a folder and draw its pictures."""
    run = recipe(**options).build()
    outcome = runs.train(run, record.new_folder(folder))
    report.plots(folder)
    assert run.picture is not None
    run.picture(outcome.network, report.folder_of(folder))
    return folder


def flags(recipe: LevelSets) -> list[str]:
    """The options of a recipe as the command line takes them."""
    found = []
    for name in ("depth", "width", "coarsening", "training", "validation", "batch", "epochs"):
        found += [f"--{name}", str(getattr(recipe, name))]
    for name in ("evaluate_every", "checkpoint_seconds", "serial_epochs"):
        found += [f"--{name.replace('_', '-')}", str(getattr(recipe, name))]
    return [*found, "--dtype", recipe.dtype]


def final_state(folder: Path) -> dict[str, Any]:
    """What a run ended with: everything in its last checkpoint but the clock."""
    found = checkpoint.latest(folder)
    assert found is not None
    state = dict(found.state)
    progress = state.pop("progress")
    return {**state, "moment": found.moment, "order": progress["order"], "rng": progress["rng"]}


def losses(folder: Path) -> list[float]:
    """Training loss of every epoch, as the record has it."""
    return [line["train_loss"] for line in record.history(record.read(folder), "epoch")]


def same(a: Any, b: Any) -> bool:
    """Bitwise equality of nested states."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b
