"""Ranks that fail at random moments: whether and when all others end.

    layerparallel bench faults [--trials N] [--ranks P] [--json]

Each trial trains on P real processes and, at a moment drawn at random, kills one (SIGKILL), stops one
(SIGSTOP) or makes one raise. All others have to end within the limit of `Patience`, with one sentence
that names the rank; one that was stopped has to be killed by them.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import broken_training
import harness

from layerparallel.group.lookout import Patience

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "raise": signal.SIGUSR1}
WORDS = {
    "kill": ("ended without an exception", "has ended"),
    "stop": ("was stopped", "sent no sign of life", "has ended", "does not answer"),
    "raise": ("raised ValueError: this rank is out of sorts",),
}
"""What the sentence says, of a rank that keeps the store, too."""
PRELOAD = ["torch._dynamo", "layerparallel.runs.checkpoint.shards", "layerparallel.network.distribution"]
PRELOAD += ["layerparallel.group.start", "layerparallel.training.backprop"]
STARTING = 120.0
"""Seconds that the processes have for their first step; more than they ever need."""


@dataclass(frozen=True)
class Fault:
    """What happens to which rank, and how many seconds after the first step of all."""

    kind: str
    rank: int
    moment: float


def draw(trials: int, ranks: int, seed: int, longest: float = 1.0) -> list[Fault]:
    """Three kills for a stop and a raise; any rank; any moment."""
    chance = random.Random(seed)
    kinds = ["kill", "stop", "kill", "raise", "kill"]
    return [
        Fault(kinds[k % 5], chance.randrange(ranks), chance.uniform(0.0, longest)) for k in range(trials)
    ]


def trial(fault: Fault, ranks: int, patience: Patience) -> dict[str, Any]:
    """One training that is broken, and how the others ended."""
    with tempfile.TemporaryDirectory(prefix="layerparallel-faults-") as name:
        folder = Path(name)
        processes = start(ranks, [str(folder), *options(patience)], folder)
        try:
            wait_until(lambda: all((folder / f"ready-{r}").exists() for r in range(ranks)), processes)
            time.sleep(fault.moment)
            os.kill(processes[fault.rank].pid, SIGNALS[fault.kind])
            begin = time.monotonic()
            seconds = ends(processes, begin + 2 * patience.limit, begin)
        finally:
            for process in processes:
                process.kill()
                process.join()
        said = [(folder / f"said-{r}").read_text() for r in range(ranks)]
    others = [r for r in range(ranks) if r != fault.rank]
    good = [named(said[r], fault) for r in others]
    return {
        **asdict(fault),
        "seconds": max((seconds[r] for r in others if r in seconds), default=None),
        "ended": all(r in seconds for r in range(ranks)),
        "named": all(good),
        "said": "" if all(good) else said[others[good.index(False)]],
    }


def named(said: str, fault: Fault) -> bool:
    """Whether a rank said one sentence, and that one of the right rank and the right fault."""
    lines = [line for line in said.splitlines() if line.startswith(("Rank ", "A rank", "A message"))]
    right = [line for line in lines if line.startswith(f"Rank {fault.rank} (")]
    return len(lines) == 1 == len(right) and any(word in right[0] for word in WORDS[fault.kind])


# ---- processes ----------------------------------------------------------------------------------


def options(patience: Patience) -> list[str]:
    return ["--silence", str(patience.silence), "--grace", str(patience.grace)]


def start(ranks: int, arguments: list[str], folder: Path) -> list[Any]:
    """One process per rank, as torchrun starts them; forked from one that has torch, to be quick."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
    processes = []
    for rank in range(ranks):
        environment = {
            "RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        process = context.Process(
            target=broken_training.become, args=(rank, environment, arguments, str(folder))
        )
        process.start()
        processes.append(process)
    return processes


def wait_until(happened: Any, processes: Sequence[Any]) -> None:
    deadline = time.monotonic() + STARTING
    while not happened():
        if time.monotonic() > deadline or not all(p.is_alive() for p in processes):
            raise RuntimeError("the ranks did not start")
        time.sleep(0.01)


def ends(processes: Sequence[Any], deadline: float, begin: float) -> dict[int, float]:
    """Seconds after which each process has ended, of those that have by then."""
    seconds: dict[int, float] = {}
    while len(seconds) < len(processes) and time.monotonic() < deadline:
        for rank, process in enumerate(processes):
            if rank not in seconds and not process.is_alive():
                seconds[rank] = time.monotonic() - begin
        time.sleep(0.01)
    return seconds


# ---- the table ----------------------------------------------------------------------------------


def summary(rows: list[dict[str, Any]], kind: str, ranks: int, limit: float) -> dict[str, Any]:
    mine = [row for row in rows if row["kind"] == kind]
    seconds = [row["seconds"] for row in mine if row["seconds"] is not None]
    return {
        "case": f"{kind} one of {ranks} ranks",
        "threads": ranks,
        "trials": len(mine),
        "ended": sum(row["ended"] for row in mine),
        "in_time": sum(row["seconds"] is not None and row["seconds"] <= limit for row in mine),
        "named": sum(row["named"] for row in mine),
        "limit_s": limit,
        "median_s": statistics.median(seconds) if seconds else None,
        "longest_s": max(seconds, default=None),
    }


def main(argv: list[str] | None = None) -> int:
    parser = harness.parser(__file__, __doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    patience = Patience()
    rows = []
    for fault in draw(args.trials, args.ranks, args.seed):
        rows.append(trial(fault, args.ranks, patience))
        if not (rows[-1]["ended"] and rows[-1]["named"]):
            print(f"{rows[-1]}", file=sys.stderr, flush=True)
    kinds = [kind for kind in SIGNALS if any(row["kind"] == kind for row in rows)]
    table = [summary(rows, kind, args.ranks, patience.limit) for kind in kinds]
    if args.json:
        harness.print_json(table)
    else:
        for row in table:
            print(
                f"{row['case']:24} {row['trials']:4} trials, {row['in_time']} ended within "
                f"{row['limit_s']:g} s, {row['named']} named the rank; median {row['median_s']:.1f} s, "
                f"longest {row['longest_s']:.1f} s"
            )
    return int(any(row["in_time"] + row["named"] < 2 * row["trials"] for row in table))


if __name__ == "__main__":
    sys.exit(main())
