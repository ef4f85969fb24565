"""The recipes, each trained layer-parallel and serially: accuracy, gap, and time.

    layerparallel bench experiments [--json] [--quick] [--only NAME ...] [--seeds 3]
                                    [--keep DIR] [--plot FILE]

Of each seed two runs of the same recipe: with its own solver, and with `--solver serial`, whose
gradients are exact to rounding; same data, initial weights, mini batches and optimiser. The ratio is
that of the seconds of a training step, ordinary eager PyTorch over layer-parallel, taken in turn
(A B A B) apart from the runs, so that whatever else the machine does meets both alike.

Accuracies are those of the network propagated serially unless they say otherwise, on validation
samples (MNIST: the test images). `--quick` trains for a few mini batches, to see that all works.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import harness
import torch

from layerparallel import recipes, runs
from layerparallel.data import Batches
from layerparallel.runs import record
from layerparallel.solvers.measure import median, rounds
from layerparallel.training.base import Method

Row = dict[str, Any]
QUICK = {
    "depth": 16,
    "coarsening": 4,
    "training": 300,
    "validation": 200,
    "epochs": 2,
}
ROUNDS = 7


@dataclass(frozen=True)
class Experiment:
    """A recipe with options, and what it must reach."""

    recipe: str
    must_reach: float | None
    """Validation accuracy; None where nothing was asked for."""
    seeds: int
    """Most seeds: 3 where a run fits in 10 minutes."""
    options: dict[str, Any] = field(default_factory=dict)

    def choose(self, seed: int, quick: bool) -> Any:
        """The recipe with its options."""
        options = {**self.options, **(QUICK if quick else {}), "seed": seed, "serial_epochs": 0}
        return recipes.get(self.recipe)(**options)


EXPERIMENTS = {
    "level-sets": Experiment("level-sets", 0.97, 3),
    "indian-pines": Experiment("indian-pines", 0.85, 3),
    "indian-pines-regions": Experiment("indian-pines", None, 3, {"split": "regions"}),
    "mnist": Experiment("mnist", 0.99, 1),
}


def trained(recipe: Any, folder: Path) -> tuple[Row, list[Row]]:
    """Summary and epochs of a run; one that has ended is not done again, one that has begun goes on."""
    done = record.read_summary(folder)
    if done is None and (folder / record.RECORD).exists():
        done = runs.resume(recipe.build(), folder).summary
    elif done is None:
        done = runs.train(recipe.build(), record.new_folder(folder)).summary
    return done, record.history(record.read(folder), "epoch")


def step_times(recipe: Any, exact: Any) -> list[float]:
    """Milliseconds of a training step: layer-parallel, by our exact `Serial()`, and eager PyTorch."""
    torch.set_num_threads(recipe.threads)
    recipe, exact = (replace(each, epochs=100) for each in (recipe, exact))  # enough for all rounds
    run = recipe.build()
    methods: list[Method] = [
        run.phases[-1].build(None),
        exact.build().phases[-1].build(None),
        run.serial(),
    ]
    batches = Batches(run.data, run.batch, torch.Generator().manual_seed(run.seed), run.prepare)
    x, y = batches[0].x, batches[0].y
    for method in methods:
        method.network.train()
    return [median(t) for t in rounds([lambda m=m: m.step(x, y) for m in methods], ROUNDS)]


def measure(case: str, experiment: Experiment, seed: int, quick: bool, folder: Path) -> Row:
    recipe = experiment.choose(seed, quick)
    exact = replace(recipe, solver="serial")
    ours, epochs = trained(recipe, folder / f"{case}-{seed}")
    theirs, _ = trained(exact, folder / f"{case}-{seed}-serial")
    step, exact_step, eager_step = step_times(recipe, exact)
    accuracy = ours["validation_accuracy"]
    return {
        "case": case,
        "seed": seed,
        "threads": ours["machine"]["threads"],
        "epochs": ours["epochs"],
        "baseline": "eager, a step",
        "baseline_ms": eager_step,
        "ours_ms": step,
        "ratio": eager_step / step,
        "exact_ms": exact_step,
        "relative_error": epochs[-1].get("gradient_error"),
        "cosine": epochs[-1].get("gradient_cosine"),
        "must_reach": experiment.must_reach,
        "accuracy": accuracy,
        "evaluated_in_parallel": ours["validation_accuracy_parallel"],
        "trained_serially": theirs["validation_accuracy"],
        "gap_points": 100 * (ours["validation_accuracy_parallel"] - accuracy),
        "difference_points": 100 * (accuracy - theirs["validation_accuracy"]),
        "seconds": ours["seconds"],
        "exact_seconds": theirs["seconds"],
        "fallbacks": ours["fallbacks"],
    }


def rows(names: list[str], seeds: int, quick: bool, folder: Path) -> Iterator[Row]:
    for case in names:
        experiment = EXPERIMENTS[case]
        for seed in range(min(seeds, experiment.seeds)):
            yield measure(case, experiment, seed, quick, folder)


def shown(row: Row) -> str:
    return (
        f"{row['case']:21} seed {row['seed']}  {row['accuracy']:7.2%}  in parallel "
        f"{row['evaluated_in_parallel']:7.2%}  trained serially {row['trained_serially']:7.2%}  "
        f"a step {row['ours_ms']:.1f} ms, eager {row['baseline_ms']:.1f} ms: "
        f"{row['ratio']:.2f} times as fast"
    )


def plot(names: list[str], folder: Path, found: list[Row], path: Path) -> None:
    """Validation accuracy and training loss, epoch by epoch, of every seed; both ways of training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(names), 5.6), dpi=110, layout="constrained")
    grid = figure.subplots(2, len(names), squeeze=False, sharex="col")
    colors = {"": "#1f5fbf", "-serial": "#d1495b"}
    for (loss, accuracy), case in zip(zip(*grid, strict=True), names, strict=True):
        seeds = [row["seed"] for row in found if row["case"] == case]
        for seed in seeds:
            for ending, color in reversed(colors.items()):
                lines = record.history(record.read(folder / f"{case}-{seed}{ending}"), "epoch")
                told = [line for line in lines if line.get("validation_accuracy") is not None]
                style = {"color": color, "linewidth": 1.3, "alpha": 0.8}
                if ending:
                    style |= {"linewidth": 3.0, "alpha": 0.35}
                label = ("trained serially" if ending else "layer-parallel") if not seed else None
                epochs = [line["epoch"] for line in lines]
                loss.plot(epochs, [line["train_loss"] for line in lines], label=label, **style)
                points = [100 * line["validation_accuracy"] for line in told]
                accuracy.plot([line["epoch"] for line in told], points, **style)
        loss.set_title(f"{case}, {len(seeds)} seed{'s' * (len(seeds) > 1)}", fontsize=11, loc="left")
        loss.set_yscale("log")
        accuracy.set_xlabel("epoch")
        for axes in (loss, accuracy):
            axes.grid(color="#d9d9d9", linewidth=0.7)
            axes.spines[["top", "right"]].set_visible(False)
    grid[0, 0].set_ylabel("training loss")
    grid[1, 0].set_ylabel("validation accuracy, %")
    grid[0, 0].legend(frameon=False)
    figure.savefig(path)


def main(argv: list[str] | None = None) -> int:
    parser = harness.parser(__file__, __doc__)
    parser.add_argument("--quick", action="store_true", help="a few mini batches of each")
    every = list(EXPERIMENTS)
    parser.add_argument("--only", nargs="+", choices=every, default=every, metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3, help="most seeds of each")
    parser.add_argument("--keep", type=Path, help="folder for the runs; what ended is kept")
    parser.add_argument("--plot", type=Path, help="draw the curves of all runs into this file")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder, found = args.keep or Path(temporary), []
        for row in rows(args.only, args.seeds, args.quick, folder):
            found.append(row)
            if not args.json:
                print(shown(row), flush=True)
        if args.plot:
            plot(args.only, folder, found, args.plot)
    if args.json:
        harness.print_json(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
