"""Two stages on two processes against serial training on one: time and memory.

    layerparallel bench auxiliary [--json] [--quick] [--depth 20] [--batch 128] [--filter pool:2]

ResNet for CIFAR-10 on random images, K = 2, one thread a process, cut where the recipe cuts it. Rows:
the penalty method and the augmented Lagrangian with downsampled auxiliary variables (DS-P, DS-AL) and
with whole ones (Penalty, AL), each against the quicker of two serial trainings with augmentation; the
hybrid of four parallel epochs to a serial one on the same two processes (DS-SPH-P, DS-SPH-AL), from the
steps of both kinds that were timed in the same run; and the host memory for auxiliary variables, against
that of AL with whole ones in float32.

A step is what an epoch consists of: making the batch, forward, backward, exchange, updates. What is
compared takes turns, A B A B; figures are medians. `capacity` is what two copies of the serial training
gain when they run at the same time; where it was below 1.8 the turns are repeated, up to three times,
and then marked as not judged. `fill` is what propagating all samples once costs, in serial epochs: it
begins every parallel phase.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import torch

sys.path.insert(0, str(Path(__file__).parent))

from comparing import Row, judged, row, told, turns
from staged_steps import Case, Filling, Training, memory
from workers import BOTH, Crew, Job

ROUNDED = ("bf16", "int8")
PARALLEL, SERIAL = 4, 1
"""Epochs of either kind in the hybrid, gamma_H = 1:4."""
WANTED = {
    "DS-P": (1.53, 1.7, 1.9),
    "DS-AL": (1.42, 1.6, 1.85),
    "Penalty": (1.41, None, None),
    "AL": (1.36, None, None),
    "DS-SPH-P": (1.38, 1.49, 1.6),
    "DS-SPH-AL": (1.31, None, None),
}
"""Published by Sun et al. for ResNet-110 on two GPUs (table 1), at least, and aim."""


def speed(crew: Crew, case: Case, rounds: int, attempts: int) -> list[Row]:
    """Rows of all methods, timed in turn."""
    serial = {how: Job(how, Training, (case, "serial", how)) for how in ("eager", "Serial()")}
    jobs = {
        name: Job(name, Training, (case, method, filter_), BOTH)
        for name, method, filter_ in (
            ("DS-P", "penalty", case.filter),
            ("DS-AL", "augmented", case.filter),
            ("Penalty", "penalty", "none"),
            ("AL", "augmented", "none"),
        )
    }
    jobs["serial epoch"] = Job("serial epoch", Training, (case, "relayed", case.filter), BOTH)
    jobs["fill"] = Job("fill", Filling, (case,), BOTH)
    found = judged(attempts, lambda: turns(crew, rounds, serial, jobs))
    times = found.pop("times")
    crew.forget()
    step = found["baseline_ms"]
    fill = times.pop("fill") / case.batches / step
    for kind in ("P", "AL"):
        parallel = times[f"DS-{kind}"]
        mixed = PARALLEL * parallel + SERIAL * times["serial epoch"]
        times[f"DS-SPH-{kind}"] = mixed / (PARALLEL + SERIAL)
    rows = []
    for name, (paper, least, aim) in WANTED.items():
        gamma = f", {SERIAL}:{PARALLEL}" if "SPH" in name else ""
        more: Row = {"serial_epoch_ms": times["serial epoch"]} if gamma else {"fill": fill}
        shown = f"{name} (K = 2{gamma})"
        more |= {"paper": paper, "at_least": least, "aim": aim, "setting": str(case)}
        rows.append(row(shown, **found, ours_ms=times[name], depth=case.depth, **more))
    return rows


def spared(case: Case) -> list[Row]:
    """Host memory of auxiliary variables, full-size AL over ours; counted, not timed."""
    whole = memory(case, "augmented", "none")
    rows = []
    filters = [case.filter] + [f"{case.filter}+{kind}" for kind in ROUNDED if "+" not in case.filter]
    for filter_, method in itertools.product(filters, ("penalty", "augmented")):
        ours = memory(case, method, filter_)
        name = f"host memory, {method}, {filter_}"
        counts = {"baseline": "AL, whole, float32", "baseline_bytes": whole, "our_bytes": ours}
        rows.append(row(name, **counts, at_least=8, aim=30) | {"ratio": whole / ours})
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.parser(__file__, __doc__)
    parser.add_argument("--quick", action="store_true", help="a network too small to judge anything by")
    parser.add_argument("--depth", type=int, default=Case.depth, help="of the ResNet, 6 n + 2")
    parser.add_argument("--batch", type=int, default=Case.batch)
    parser.add_argument("--filter", default=Case.filter, help="of the DS rows")
    parser.add_argument("--rounds", type=int, default=7, help="turns that are timed")
    parser.add_argument("--attempts", type=int, default=3)
    args = parser.parse_args(argv)
    case = Case(depth=args.depth, batch=args.batch, filter=args.filter)
    rounds, attempts = args.rounds, args.attempts
    if args.quick:
        case, rounds, attempts = Case(14, 2, batch=4, batches=2, filter=args.filter), 1, 1
    torch.set_num_threads(1)
    with Crew() as crew:
        rows: list[dict[str, Any]] = speed(crew, case, rounds, attempts)
    rows += spared(case)
    told(rows, args.json, "paper", "at_least", "aim", "fill", "capacity")
    return 0


if __name__ == "__main__":
    sys.exit(main())
