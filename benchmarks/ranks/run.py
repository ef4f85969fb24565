"""Two processes of one thread against one process: gradients, training, pipelines.

    layerparallel bench ranks [--json] [--row NAME ...] [--quick] [--data FOLDER]

Rows: `gradient`, one gradient of the compute-bound chain against the best exact serial gradient of one
process with one thread, and with two; `training`, the MNIST recipe to the same loss; `inside`, step
evaluations per owned layer and the time outside steps and waiting; `pipelining`, the gradient of the
same chain by torch.distributed.pipelining on the same two processes, from small batches to large ones.

Everything that is compared takes turns in one run, A B A B, on processes that wait for their turn
without using a core; figures are medians. `capacity` is the speed-up of two independent copies of the
serial job that run at the same time: what two processes of this machine can do at all. A row measured
while it was below 1.8 is repeated, up to three times, and then marked as not judged.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path
from typing import Any

import harness
import torch

sys.path.insert(0, str(Path(__file__).parent))

from cases import Case
from comparing import Row
from mnist_training import Plan
from rows import ROWS, Sizes
from workers import Crew


def sizes_of(args: argparse.Namespace) -> Sizes:
    if not args.quick:
        plan = Plan(data=args.data) if args.data else Plan()
        batches = tuple(args.batches) if args.batches else Sizes.batches
        return Sizes(plan=plan, batches=batches, rounds=args.rounds, compiled=not args.no_compile)
    case = Case(depth=8, channels=2, side=8, batch=8)
    plan = Plan(training=64, epochs=2, held=64, every=1, depth=8, channels=2, pool=2, data=args.data)
    batches = tuple(args.batches) if args.batches else (4, 8)
    return Sizes(case, plan, batches, rounds=2, attempts=1, compiled=False)


def main(argv: list[str] | None = None) -> int:
    parser = harness.parser(__file__, __doc__)
    parser.add_argument("--row", nargs="+", choices=[*ROWS], default=[*ROWS], help="only these")
    parser.add_argument("--batches", nargs="+", type=int, help="of `pipelining`")
    parser.add_argument("--data", type=Path, help="folder in the layout of MNIST, in place of it")
    parser.add_argument("--rounds", type=int, default=Sizes.rounds, help="turns that are timed")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--quick", action="store_true", help="a network too small to judge anything by")
    args = parser.parse_args(argv)
    sizes, rows = sizes_of(args), []
    torch.set_num_threads(1)
    with Crew() as crew:
        for name in args.row:
            for row in ROWS[name](crew, sizes):
                rows.append(row)
                print(line(row), flush=True, file=sys.stderr if args.json else sys.stdout)
    if args.json:
        harness.print_json(rows)
    else:
        print(f"\ntorch {torch.__version__}, {platform.machine()}, Python {platform.python_version()}")
    return 0


def line(row: Row) -> str:
    """One line for people."""
    parts = [f"{row['case']:42}"]
    if row["ratio"] is not None:
        parts += [
            f"{row['baseline_ms']:9.1f} ms ({row['baseline']})",
            f"ours {row['ours_ms']:9.1f} ms  {row['ratio']:5.2f}x",
        ]
    for key, text in SHOWN.items():
        if row.get(key) is not None:
            parts.append(f"{text} {shown(row[key])}")
    if row.get("judged") is False:
        parts.append("NOT JUDGED: the machine was not quiet")
    return "  ".join(parts)


SHOWN = {
    "step_ratio": "a step",
    "ratio_to_serial": "over serial",
    "ratio_to_two_threads": "over 2 threads",
    "GPipe_ms": "GPipe ms",
    "1F1B_ms": "1F1B ms",
    "data_parallel_ms": "data-parallel ms",
    "steps": "steps",
    "our_steps": "ours",
    "forward": "forward",
    "adjoint": "adjoint",
    "outside": "outside",
    "waiting": "waiting",
    "cosine": "cosine",
    "relative_error": "error",
    "capacity": "capacity",
    "at_least": "at least",
    "at_most": "at most",
    "aim": "aim",
}


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
