"""How the rows of the tables are trained: by which recipe, with which options, into which folder.

Two plans: `paper`, the networks and the 200 epochs of the paper; `small`, the same rows in what two
cores train in minutes: ResNet-20, 5,000 images of CIFAR-10, ten epochs; for table 5 ResNet-14, of MNIST.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from tables import RATIOS, ROWS, Row

from layerparallel import recipes
from layerparallel.errors import InputError
from layerparallel.runs import record

GIB = 1 << 30
IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "mnist-vae": 60_000}
"""Training images, all of them."""
DOWN = "pool:2"
"""The paper's filter: a square of 2x2 entries kept as one."""
SMALL_DOWN = "pool:2:bilinear+int8"
"""That of the small plan, chosen on test images: with the paper's one seed had 47.6, not 51.6 %."""


@dataclass(frozen=True)
class Plan:
    """How the rows of a table are trained: a recipe and its options, the same for all of them."""

    recipe: str
    options: dict[str, Any] = field(default_factory=dict)
    down: str = DOWN
    """Filter of the DS rows."""
    ours: str = ""
    """What is trained where it is not what the table's title says."""

    def of(self, row: Row, seed: int = 0) -> dict[str, Any]:
        """The options of a row: the plan's and its own."""
        found = {**self.options, "seed": seed, "method": row.method}
        if row.method == "serial":
            epochs = max(1, round(row.share * self.options["epochs"]))
            return {**found, "epochs": epochs, **self._augment(row.images_augmented)}
        return {
            **found,
            "stages": row.stages,
            "filter": self.down if row.down else "none",
            **self._augment(row.ratio is not None),
            "hybrid": hybrid(row.ratio),
        }

    def _augment(self, wanted: bool) -> dict[str, str]:
        return {} if self.draws else {"augment": "serial" if wanted else "none"}

    @property
    def draws(self) -> bool:
        """Whether images are drawn anew, never augmented; else they are classed."""
        return self.recipe == "mnist-vae"


def hybrid(ratio: Fraction | None) -> str:
    """The option for gamma_H = n/m: "m:n", the parallel epochs first."""
    return "1:0" if ratio is None else f"{ratio.denominator}:{ratio.numerator}"


SGD = {"learning_rate": 0.1, "epochs": 200, "budget": 110.0}
RESNET = {**SGD, "family": "resnet", "depth": 110, "rate": "steps", "beta": 100.0}
WIDE = {**SGD, "family": "wide", "depth": 40, "widen": 10, "rate": "cosine", "beta": 10.0}
SMALL = {"family": "resnet", "depth": 20, "training": 5000, "validation": 5000, "epochs": 10}
SMALL |= {"rate": "cosine", "serial_start": 0, "evaluate_every": 2}
VAE = {"depth": 110, "epochs": 200, "budget": 110.0}
SMALL_VAE = {"depth": 14, "width": 8, "batch": 64, "training": 5000, "validation": 2000, "epochs": 10}
SMALL_SIZE = "5,000 training images, ten epochs"

PLANS = {
    "paper": {
        1: Plan("cifar10", RESNET),
        2: Plan("cifar100", WIDE),
        3: Plan("cifar10", RESNET),
        4: Plan("cifar100", WIDE),
        5: Plan("mnist-vae", VAE),
    },
    "small": {
        1: Plan("cifar10", SMALL, SMALL_DOWN, f"ResNet-20, {SMALL_SIZE}, {SMALL_DOWN}"),
        3: Plan("cifar10", SMALL, SMALL_DOWN, f"ResNet-20, {SMALL_SIZE}, {SMALL_DOWN}"),
        5: Plan("mnist-vae", SMALL_VAE, SMALL_DOWN, f"encoder ResNet-14, {SMALL_SIZE}, {SMALL_DOWN}"),
    },
}
"""By name and table."""


def honest(row: Row) -> list[Row]:
    """Serial trainings beside a hybrid: its serial epochs alone, and as long as the hybrid takes.

    The latter by the hybrid's published speed-up, since the paper's red dots (figure 5) are made so.
    """
    if row.ratio is None or row.speedup is None:
        return []
    alone = row.ratio / (1 + row.ratio)
    plain = Row(row.table, "serial", images_augmented=True)
    return [replace(plain, share=float(alone)), replace(plain, share=1 / row.speedup)]


def rows(name: str, table: int) -> Iterator[tuple[Plan | None, Row]]:
    """The rows of a table with how they are trained by the plan of a name; None where they are not."""
    plan = PLANS[name].get(table)
    mine = [row for row in ROWS if row.table == table]
    extra = [row for row in mine if plan and row.down and row.stages == 2 and row.method == "penalty"]
    added = [other for row in extra if row.ratio == RATIOS[0] for other in honest(row)]
    for row in mine + added:
        yield plan, row


# ---- folders and commands -----------------------------------------------------------------------


def folder(plan: Plan, row: Row, seed: int) -> Path:
    """Where a run of it is, below the folder of all runs; rows of two tables may share one."""
    parts: list[str] = [row.method]
    if row.method == "serial":
        parts += ["augmented" if row.images_augmented else "plain", f"{plan.of(row)['epochs']}epochs"]
    else:
        parts += [f"K{row.stages}"] + ["ds"] * row.down
        parts += [] if row.ratio is None else [f"{row.ratio.numerator}to{row.ratio.denominator}"]
    return Path(plan.recipe, "-".join(parts), f"seed{seed}")


def command(plan: Plan, row: Row, seed: int, runs: Path, more: dict[str, Any]) -> list[str]:
    """What trains it, on one process: stages in turn are exactly as accurate."""
    words = ["layerparallel", "train", plan.recipe]
    for name, value in {**plan.of(row, seed), "serial_epochs": 0, **more}.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return [*words, "--run", str(runs / folder(plan, row, seed))]


# ---- what was found, and what can be counted ----------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Accuracy in percent, of images drawn anew the test loss, over the seeds there are."""

    score: float
    spread: float
    seeds: int


def measured(plan: Plan, row: Row, runs: Path) -> Measured | None:
    """The score of the ended runs of a row; None if there is none.

    Raises:
        InputError: a run has other options than the plan.
    """
    found = []
    for path in sorted((runs / folder(plan, row, 0)).parent.glob("seed*")):
        summary = record.read_summary(path)
        if summary is None:
            continue
        _refuse_others(path, plan.of(row, int(path.name.removeprefix("seed"))))
        found.append(summary["validation_loss"] if plan.draws else 100 * summary["validation_accuracy"])
    if not found:
        return None
    return Measured(statistics.mean(found), statistics.pstdev(found), len(found))


def _refuse_others(path: Path, wanted: dict[str, Any]) -> None:
    options = record.read(path)[0]["options"]
    for name, value in wanted.items():
        if options.get(name) != value:
            raise InputError(
                f"The run {path} was trained with {name} = {options.get(name)}, its row is of {value}: "
                "move it away, or train it again."
            )


SHAPING = ("family", "depth", "width", "widen", "method", "stages", "filter")
"""Options that decide what is kept of a sample."""


def memory(plan: Plan, row: Row) -> float | None:
    """GiB of host memory for auxiliary variables and multipliers: counted from shapes, not run."""
    if row.method == "serial":
        return None
    options = plan.of(row)
    shaping = {name: options[name] for name in SHAPING if name in options}
    return options.get("training", IMAGES[plan.recipe]) * _bytes(plan.recipe, json.dumps(shaping)) / GIB


@cache
def _bytes(recipe: str, options: str) -> int:
    """Kept of one sample, by a recipe with options as JSON."""
    chosen: Any = recipes.rebuild(recipe, json.loads(options))
    return chosen.bytes_per_sample()
