"""One network and one data set, trained by every family and by what else there is.

    layerparallel bench families [--json] [--quick]               # time, memory, bytes, predictions
    layerparallel bench families --commands --speed speed.json    # what trains the rows
    layerparallel bench families --table --speed speed.json --runs runs/families [--json]
    layerparallel bench families --plot FILE --speed speed.json --runs runs/families

The network is a chain of 64 residual layers with small steps, 3x3 convolutions of 16 channels, on images
of CIFAR's size; batch 64. On two processes of one thread each: data parallelism (DDP), a pipeline
(torch.distributed.pipelining, the quicker of GPipe and 1F1B with its best number of microbatches), MGRIT
with one cycle each way, stages with auxiliary variables by the penalty method and by the augmented
Lagrangian (downsampled; four epochs in which stages train at once to a serial one), and the parareal
network of two subnetworks. The baseline is serial training on one thread by the quickest of three
means. Plain modules, those in stages too, have channels-last weights.

Measured times take turns, A B A B; figures are medians; `capacity` is what two copies of the serial
training gain side by side. For more processes the same programs run on ranks in virtual time; data
parallelism and pipelines are predicted by formulas over measured parts, in their favour. Memory is the
peak of a step beyond what a fresh process had; auxiliary variables of all images come on top.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import harness
import torch

sys.path.insert(0, str(Path(__file__).parent))

from comparing import Row, told, written
from families_recipe import Families, Name
from families_speed import Sizes, best_pipelines, kept, measured, predicted, weighed
from families_steps import MIB
from families_table import Budget, drawn, folder, joined, markdown, wanted
from workers import Crew

from layerparallel import runs
from layerparallel.runs import progress, record

SHOWN = ("mark", "ranks", "mib", "kept_mib", "bytes_sent", "capacity", "setting")
RUNS = Path("runs/families")
TINY = Families(depth=8, channels=4, batch=8)
QUICK = Sizes(TINY, 2, rounds=1, attempts=1, ranks=(2,), compiled=False, weighed=("serial", "mgrit"))


def speed(sizes: Sizes) -> list[Row]:
    """All rows of time, memory and bytes."""
    with Crew() as crew:
        rows, piped = measured(crew, sizes, best_pipelines(crew, sizes))
    memory = weighed(sizes, piped)
    for row in rows:
        row["mib"] = memory.get(row["method"])
        row["kept_mib"] = kept(sizes, row["method"]) / MIB
    return [*rows, *predicted(sizes)]


def train(method: Name, epochs: int, seed: int, path: Path) -> None:
    """One row's training, on this process; its numbers are those of two."""
    recipe = replace(Families(), method=method, epochs=epochs, seed=seed)
    display = progress.display()
    runs.train(recipe.build(), record.new_folder(path), display)


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.parser(__file__, __doc__)
    parser.add_argument("--quick", action="store_true", help="a network too small to judge anything by")
    parser.add_argument("--rounds", type=int, default=Sizes.rounds, help="turns that are timed")
    parser.add_argument("--speed", type=Path, help="what this command printed with --json")
    parser.add_argument("--runs", type=Path, default=RUNS, help="the rows' runs")
    parser.add_argument("--commands", action="store_true", help="print what trains the rows")
    parser.add_argument("--seeds", type=int, default=3, help="of --commands")
    parser.add_argument("--epochs", type=int, default=Budget.epochs, help="at which all are compared")
    parser.add_argument("--time", type=int, default=Budget.time, help="the same, in serial epochs")
    parser.add_argument("--table", action="store_true", help="print the comparison")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the comparison there")
    parser.add_argument(
        "--train", choices=get_args(Name), help="train one row for --epochs, in the folder --run"
    )
    parser.add_argument("--seed", type=int, default=0, help="of --train")
    parser.add_argument("--run", type=Path, help="of --train")
    args = parser.parse_args(argv)
    budget = Budget(args.epochs, args.time)
    if args.train:
        if args.run is None:
            parser.error("--train needs the folder of the run: --run")
        train(args.train, args.epochs, args.seed, args.run)
        return 0
    if args.seeds < 1:
        parser.error(f"--seeds {args.seeds} is below 1: give at least 1")
    if args.commands or args.table or args.plot:
        if args.runs != RUNS and not (args.commands or args.runs.is_dir()):
            parser.error(
                f"--runs {args.runs} is no folder: give that of the runs that --commands prints"
            )
        if args.speed is None:
            parser.error("give the rows that `layerparallel bench families --json` printed: --speed")
        return compared(args, budget)
    torch.set_num_threads(1)
    sizes = QUICK if args.quick else Sizes(Families(), rounds=args.rounds, epochs=args.epochs)
    rows = speed(sizes)
    told(rows, args.json, *SHOWN)
    return 0


def compared(args: argparse.Namespace, budget: Budget) -> int:
    """The commands, the table, the picture."""
    rows = written(
        args.speed, "layerparallel bench families --json", ("method", "ratio", "mark", "ranks")
    )
    if args.commands:
        for seed in range(args.seeds):
            for method, epochs in wanted(rows, budget):
                path = folder(args.runs, method, epochs, seed)
                words = ["layerparallel", "bench", "families", "--train", method, "--epochs", epochs]
                print(shlex.join(map(str, [*words, "--seed", seed, "--run", path])))
        return 0
    table = joined(rows, args.runs, budget, Families().options())
    if args.plot:
        print(drawn(table, args.runs, budget, args.plot))
    elif args.json:
        harness.print_json(table)
    else:
        print(markdown(table, budget))
    return 0


if __name__ == "__main__":
    sys.exit(main())
