"""Two subnetworks on two processes against the network on one: time and bytes.

    layerparallel bench parareal [--json] [--depth 110] [--width 8] [--batch 64] [--counts 3 6 12 18]

A ResNet on random images of CIFAR's size, one thread a process. Measured rows, each against the serial
network on one process: the parareal network with N = 2, the coarse network on every rank or on the
last; data parallelism (DDP) on the same two processes, with half of the batch each; both halves of the
network in turn (layer-by-layer model parallelism). Predicted rows: the parareal network for other N, by
the layer group in virtual time, against the serial network by the same clock; the prediction for N = 2
stands beside the measurement, with its error in percent.

A step is the making of a batch, forward, backward, exchange and update. What is compared takes turns, A
B A B; figures are medians. `capacity` is what two copies of the serial training gain when they run at
the same time; where it was below 1.8 the turns are repeated, up to three times, and then marked as not
judged. `bytes sent` are those of the rank that sends most; of DDP those of a ring.
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
from parareal_steps import Case, on_processes, percent_off, predicted, shared_bytes
from workers import BOTH, Crew, Job

from layerparallel.predict.links import PRESETS

COUNTS = (3, 6, 12, 18)
"""N of the rows that are predicted alone."""
MOST_OFF = 15.0
"""Percent by which the prediction for N = 2 may be off."""
SHOWN = ("mark", "bytes_sent", "at_least", "aim", "capacity", "predicted_ms", "off_percent")
WAYS = {
    "parareal, N = 2, every": ("parareal", "every", "layer"),
    "parareal, N = 2, last": ("parareal", "last", "layer"),
    "DDP": ("serial", "every", "data"),
    "layer by layer": ("serial", "every", "layer"),
}
"""Method, holders of the coarse network, and what the two processes are."""


def measured(crew: Crew, case: Case, rounds: int, attempts: int) -> list[Row]:
    """Rows of two processes, timed in turn with one."""
    serial = {"serial": Job("serial", on_processes, (case, "serial", "every", "alone"))}
    jobs = {name: Job(name, on_processes, (case, *way), BOTH) for name, way in WAYS.items()}
    found = judged(attempts, lambda: turns(crew, rounds, serial, jobs))
    times = found.pop("times")
    crew.forget()
    link, rows = PRESETS["loopback"].link, []
    for name, (method, holders, kind) in WAYS.items():
        more: Row = {
            "depth": case.depth,
            "width": case.width,
            "count": 2,
            "mark": "measured",
            "setting": str(case),
        }
        if kind == "data":
            more["bytes_sent"] = shared_bytes(case, 2)
        else:
            ahead = predicted(case, method, 2, holders, link, rounds)
            more |= {"bytes_sent": ahead.bytes, "predicted_ms": ahead.milliseconds}
            more["off_percent"] = percent_off(ahead.milliseconds, times[name])
        if method == "parareal":
            more |= {"at_least": 1.5, "aim": 1.8, "at_most_off_percent": MOST_OFF}
        rows.append(row(name, **found, ours_ms=times[name], **more))
    return rows


def foreseen(case: Case, counts: Sequence[int], rounds: int) -> list[Row]:
    """Rows that are predicted alone."""
    preset = PRESETS["loopback"]
    one = predicted(case, "serial", 1, "every", preset.link, rounds)
    rows = []
    for count, holders in itertools.product(counts, ("every", "last")):
        ours = predicted(case, "parareal", count, holders, preset.link, rounds)
        more: Row = {"depth": case.depth, "width": case.width, "count": count}
        more |= {"mark": "predicted", "link": str(preset)}
        more |= {"bytes_sent": ours.bytes, "threads": f"{count} processes of 1"}
        more |= {"baseline": "serial", "baseline_ms": one.milliseconds, "setting": str(case)}
        rows.append(row(f"parareal, N = {count}, {holders}", ours_ms=ours.milliseconds, **more))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.parser(__file__, __doc__)
    parser.add_argument("--quick", action="store_true", help="a network too small to judge anything by")
    parser.add_argument("--depth", type=int, default=Case.depth, help="of the ResNet, 6 n + 2")
    parser.add_argument("--width", type=int, default=Case.width, help="channels at the beginning")
    parser.add_argument("--batch", type=int, default=Case.batch)
    parser.add_argument("--counts", type=int, nargs="*", default=[*COUNTS], help="N to be predicted")
    parser.add_argument("--rounds", type=int, default=5, help="turns that are timed")
    parser.add_argument("--attempts", type=int, default=3)
    args = parser.parse_args(argv)
    case = Case(args.depth, args.width, args.batch)
    rounds, attempts, counts = args.rounds, args.attempts, args.counts
    if args.quick:
        case, rounds, attempts, counts = Case(14, 2, batch=4), 1, 1, [3]
    torch.set_num_threads(1)
    with Crew() as crew:
        rows: list[dict[str, Any]] = measured(crew, case, rounds, attempts)
    rows += foreseen(case, counts, rounds)
    told(rows, args.json, *SHOWN)
    return 0


if __name__ == "__main__":
    sys.exit(main())
