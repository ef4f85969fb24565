"""Which networks and data the tables have, how their rows are trained, and what was published of them.

Two plans: `paper`, the networks and data that Lee, Lee and Park (2022) name; `small`, a narrow ResNet of
54 units that two cores train: MNIST and CIFAR-10, 10,000 images of each.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerparallel.errors import InputError
from layerparallel.runs import record


@dataclass(frozen=True)
class Plan:
    """A table: a network and data, for some N.

    Args:
        title: of the table.
        recipe: that trains it.
        counts: N; 1 is the network itself.
        options: of all rows.
        published: accuracy in percent of the network itself, where we have it.
        source: of that.
        warps: K of rows of WarpNet's operator.
        shallower: depths of the same network with fewer units, trained serially: what a subnetwork's
            time would pay for.
    """

    title: str
    recipe: str
    counts: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    published: float | None = None
    source: str = ""
    warps: tuple[int, ...] = ()
    shallower: tuple[int, ...] = ()

    def rows(self) -> Iterator[Row]:
        """In the order of N, then WarpNet's, then those of fewer units."""
        for count in self.counts:
            yield Row(self, "parareal" if count > 1 else "serial", count)
        for units in self.warps:
            yield Row(self, "warp", units)
        for depth in self.shallower:
            yield Row(self, "serial", 1, depth)

    @property
    def folder(self) -> str:
        """Names the table's runs."""
        return f"{self.recipe}-{self.options['family']}"


@dataclass(frozen=True)
class Row:
    """A network of a table: of N subnetworks, of K units at a time, or of another depth."""

    plan: Plan
    method: str
    count: int
    depth: int | None = None

    @property
    def itself(self) -> bool:
        """Whether it is the network that the others are made of."""
        return self.method == "serial" and self.depth is None

    @property
    def label(self) -> str:
        """For people."""
        if self.method == "warp":
            return f"WarpNet, K = {self.count}"
        if self.depth is not None:
            return f"{self.depth} layers, serially"
        return f"N = {self.count}" + (" (the network itself)" if self.method == "serial" else "")

    def options(self, seed: int) -> dict[str, Any]:
        """With which it is trained."""
        own: dict[str, Any] = {"method": self.method, "seed": seed}
        if self.method != "serial":
            own["warp" if self.method == "warp" else "subnetworks"] = self.count
        if self.depth is not None:
            own["depth"] = self.depth
        return {**self.plan.options, **own}

    def folder(self, seed: int) -> Path:
        """Where a run of it is, below the folder of all runs."""
        name = f"{self.method}{self.count}" if self.depth is None else f"depth{self.depth}"
        return Path(self.plan.folder, name, f"seed{seed}")

    def command(self, seed: int, runs: Path, more: dict[str, Any]) -> list[str]:
        """What trains it, on one process: its numbers are those of N."""
        words = ["layerparallel", "train", self.plan.recipe]
        for name, value in {**self.options(seed), **more}.items():
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                words += [f"--{flag}", str(value)]
        return [*words, "--run", str(runs / self.folder(seed))]

    def ended(self, runs: Path) -> list[Path]:
        """The folders of its runs that have ended.

        Raises:
            InputError: a run has other options than the row.
        """
        found = []
        for path in sorted((runs / self.folder(0)).parent.glob("seed*")):
            if record.read_summary(path) is None:
                continue
            options = record.read(path)[0]["options"]
            for name, value in self.options(int(path.name.removeprefix("seed"))).items():
                if options.get(name) != value:
                    raise InputError(
                        f"The run {path} was trained with {name} = {options.get(name)}, its row is of "
                        f"{value}: move it away, or train it again."
                    )
            found.append(path)
        return found

    def measured(self, runs: Path) -> Measured | None:
        """The accuracy of its runs; None if none has ended."""
        found = []
        for path in self.ended(runs):
            summary = record.read_summary(path)
            assert summary is not None
            found.append(100 * summary["validation_accuracy"])
        if not found:
            return None
        return Measured(statistics.mean(found), statistics.pstdev(found), len(found))


@dataclass(frozen=True)
class Measured:
    """Accuracy in percent over the seeds there are."""

    score: float
    spread: float
    seeds: int


HE = "He et al. 2016, error 4.62 % and 22.71 % of ResNet-1001 with pre-activation"
SMALL: dict[str, Any] = {"family": "resnet", "depth": 110, "width": 8, "training": 10_000}
SMALL |= {"batch": 64, "learning_rate": 0.03, "rate": "cosine", "augment": False}
LARGE: dict[str, Any] = {"epochs": 200, "evaluate_every": 10}
DEEP = {**LARGE, "family": "preactivation", "depth": 1001, "width": 16}
VGG = {**LARGE, "family": "vgg", "width": 64}
SETS = {"CIFAR-10": "cifar10", "CIFAR-100": "cifar100", "SVHN": "svhn", "MNIST": "mnist"}
PUBLISHED = {"CIFAR-10": 100 - 4.62, "CIFAR-100": 100 - 22.71}
"""Of ResNet-1001 itself."""

PLANS: dict[str, tuple[Plan, ...]] = {
    "small": (
        Plan(
            "54 units, MNIST, 10,000 images",
            "mnist-parareal",
            (1, 2, 3),
            {**SMALL, "epochs": 5, "evaluate_every": 5},
            shallower=(56,),
        ),
        Plan(
            "54 units, CIFAR-10, 10,000 images",
            "cifar10-parareal",
            (1, 2, 3),
            {**SMALL, "epochs": 8, "evaluate_every": 4},
            shallower=(56,),
        ),
    ),
    "paper": (
        *(
            Plan(
                f"ResNet-1001, {name}",
                f"{recipe}-parareal",
                (1, 3, 6, 12, 18),
                DEEP,
                PUBLISHED.get(name),
                HE if name in PUBLISHED else "",
                (2, 3),
            )
            for name, recipe in SETS.items()
        ),
        # 12 of the 13 convolutions are behind the opening, so there is no N = 18.
        *(
            Plan(f"VGG-16, {name}", f"{recipe}-parareal", (1, 3, 6, 12), VGG)
            for name, recipe in SETS.items()
        ),
    ),
}
