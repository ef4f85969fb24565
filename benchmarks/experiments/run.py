"""The recipes, each trained layer-parallel and serially: accuracy, gap, and time.

    layerparallel bench experiments [--json] [--quick] [--only NAME ...] [--seeds 3] [--keep DIR]

Of each seed two runs of the same recipe: with its own solver, and with `--solver serial`, whose
gradients are exact to rounding; same data, initial weights, mini batches and optimiser. The ratio is
that of the median seconds of an epoch, ordinary eager PyTorch over layer-parallel, both taken in the
first run; `serial_seconds` are those of the whole second run, which our exact `Serial()` propagates.

Accuracies are those of the network propagated serially unless they say otherwise, on validation
samples (MNIST: the test images). `--quick` trains for a few mini batches, to see that all works.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from layerparallel import recipes, record, trainer

Row = dict[str, Any]
QUICK = {
    "depth": 16,
    "coarsening": 4,
    "training": 300,
    "validation": 200,
    "epochs": 2,
    "serial_epochs": 1,
}


@dataclass(frozen=True)
class Experiment:
    """A recipe with options, and what it must reach."""

    recipe: str
    must_reach: float | None
    """Validation accuracy; None where nothing was asked for."""
    seeds: int
    """Most seeds: 3 where a run fits in 10 minutes."""
    options: dict[str, Any] = field(default_factory=dict)


EXPERIMENTS = {
    "level-sets": Experiment("level-sets", 0.97, 3),
    "indian-pines": Experiment("indian-pines", 0.85, 3),
    "indian-pines-regions": Experiment("indian-pines", None, 3, {"split": "regions"}),
    "mnist": Experiment("mnist", 0.99, 1),
}


def trained(recipe: Any, folder: Path) -> tuple[Row, list[Row]]:
    """Summary and epochs of a run; that of a folder where it has ended already."""
    done = record.read_summary(folder) if folder.exists() else None
    if done is None:
        run = recipe.build()
        started = (folder / record.RECORD).exists()
        done = (trainer.resume if started else trainer.train)(
            run, folder if started else record.new_folder(folder)
        ).summary
    return done, record.history(record.read(folder), "epoch")


def measure(case: str, experiment: Experiment, seed: int, quick: bool, folder: Path) -> Row:
    options = {**experiment.options, **(QUICK if quick else {}), "seed": seed}
    recipe = recipes.get(experiment.recipe)(**options)
    serial: Any = replace(recipe, solver="serial", serial_epochs=0)  # type: ignore[type-var]
    ours, epochs = trained(recipe, folder / f"{case}-{seed}")
    theirs, _ = trained(serial, folder / f"{case}-{seed}-serial")
    accuracy, exact = ours["validation_accuracy"], theirs["validation_accuracy"]
    return {
        "case": case,
        "seed": seed,
        "threads": ours["machine"]["threads"],
        "epochs": ours["epochs"],
        "baseline": "eager, an epoch",
        "baseline_ms": 1e3 * ours["serial_epoch_seconds"],
        "ours_ms": 1e3 * ours["epoch_seconds"],
        "ratio": ours["serial_ratio"],
        "relative_error": epochs[-1].get("gradient_error"),
        "cosine": epochs[-1].get("gradient_cosine"),
        "must_reach": experiment.must_reach,
        "accuracy": accuracy,
        "evaluated_in_parallel": ours["validation_accuracy_parallel"],
        "trained_serially": exact,
        "gap_points": 100 * (ours["validation_accuracy_parallel"] - accuracy),
        "difference_points": 100 * (accuracy - exact),
        "seconds": ours["seconds"],
        "serial_seconds": theirs["seconds"],
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
        f"an epoch {row['ours_ms'] / 1e3:.2f} s, eager {row['baseline_ms'] / 1e3:.2f} s: "
        f"{row['ratio']:.2f} times as fast"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="layerparallel bench experiments")
    parser.add_argument("--json", action="store_true", help="print rows as JSON")
    parser.add_argument("--quick", action="store_true", help="a few mini batches of each")
    parser.add_argument(
        "--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS), metavar="NAME"
    )
    parser.add_argument("--seeds", type=int, default=3, help="most seeds of each")
    parser.add_argument("--keep", type=Path, help="folder for the runs; what ended is kept")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        found = []
        for row in rows(args.only, args.seeds, args.quick, args.keep or Path(temporary)):
            found.append(row)
            if not args.json:
                print(shown(row), flush=True)
    if args.json:
        json.dump(found, sys.stdout, indent=1)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
