"""Predictions beside real runs: one and two gloo processes of this machine.

Each real run is processes of its own (`python real.py CASE ...`): wall time of a gradient, the slower
rank's, the median of many. The predictions take turns with them, with the link that was measured
between the two in between their gradients; what is compared is the median of five rounds. `capacity` is
what two independent copies of the serial run do at the same time; where it is not near 2 the machine was
not quiet, and the row is not judged.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tasks import convolution, dense
from torch.distributed.device_mesh import init_device_mesh

import layerparallel as lp
from layerparallel.group import Group, Link
from layerparallel.predict.baselines import OneRank
from layerparallel.predict.parallel import gradient_on
from layerparallel.predict.task import Task

QUICK = lp.MGRIT(2, 16, forward_cycles=1, adjoint_cycles=1, coarse="picard", samples=1)
TWICE = lp.MGRIT(2, 16, coarse="picard", samples=1)
CASES: dict[str, tuple[Any, lp.MGRIT]] = {
    "dense 1024 x 8, batch 256, one cycle": (lambda: dense(1024, 8, 256), QUICK),
    "dense 1024 x 8, batch 256, two cycles": (lambda: dense(1024, 8, 256), TWICE),
    "dense 512 x 220, batch 100, one cycle": (lambda: dense(512, 220, 100), QUICK),
    "convolution 64 x 8 x 28^2, batch 16, one cycle": (lambda: convolution(64, 8, 28, 16), QUICK),
}
WITHIN = 0.15
QUIET = (1.8, 2.1)
ROUNDS = 5
SECONDS = 0.7
"""At least, of the gradients of which the median counts."""
LARGE = 1 << 20
WARM = 3
COMPUTE = 3e-3


def gradients(task: Task, repeats: int, rank: int, store: str | None, solver: lp.MGRIT) -> list[float]:
    """Seconds of gradients on one process, or of the slower of two; the first ones do not count."""
    net, group, small, large = task.network, None, [], []
    if store is not None:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
        net.solver = solver
        lp.distribute(net, init_device_mesh("cpu", (2,)))
        group = net.group
    found: list[float] = []
    while len(found) < WARM + repeats or sum(found[WARM:]) < SECONDS:  # the same sums on both ranks
        net.zero_grad(set_to_none=True)
        if group is not None:
            group.gather(None)  # together
        start = time.perf_counter()
        task.criterion(net(task.x), task.y).backward()
        spent = time.perf_counter() - start
        found.append(spent if group is None else max(group.gather(spent)))
        if group is not None:
            small += [between(group, 8) for _ in range(5)]
            large += [between(group, LARGE) for _ in range(3)]
    if store is None:
        return [*found[WARM:], 0.0, 0.0]
    dist.destroy_process_group()
    latency = statistics.median(small)
    return [*found[WARM:], latency, max(0.0, statistics.median(large) - latency) / LARGE]


def between(group: Group, size: int) -> float:
    """Seconds of an exchange of messages behind a while in which both processes compute.

    It is longer than half of a ping-pong: gloo's own threads wait until one of the computing ones has
    used up its slice of time, milliseconds, where there are no more cores than ranks.
    """
    a, peer = torch.ones(64, 64), 1 - group.rank
    mine, other = torch.zeros(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    start = time.perf_counter()
    while time.perf_counter() - start < COMPUTE:
        torch.tanh(a @ a)
    start = time.perf_counter()
    group.exchange([(peer, mine)], [(peer, other)]).wait()
    return time.perf_counter() - start


def child(arguments: list[str]) -> None:
    """One process of a real run."""
    case, repeats, rank, store, results = arguments
    torch.set_num_threads(1)
    make, solver = CASES[case]
    found = gradients(make(), int(repeats), int(rank), store or None, solver)
    if rank == "0":
        Path(results).write_text(json.dumps(found))


def together(case: str, repeats: int, processes: int, apart: bool = False) -> list[float]:
    """What rank 0 of so many processes found; `apart`: each does the whole gradient by itself."""
    with tempfile.TemporaryDirectory() as folder:
        store = "" if apart or processes == 1 else f"{folder}/store"
        call = [sys.executable, __file__, case, str(repeats)]
        ends = [[str(rank), store, f"{folder}/found.json"] for rank in range(processes)]
        running = [subprocess.Popen([*call, *end]) for end in ends]
        codes = [each.wait() for each in running]
        if any(codes):
            raise RuntimeError(f"a process of the real run of {case} has failed")
        return json.loads(Path(f"{folder}/found.json").read_text())


@dataclass(frozen=True)
class Round:
    """Seconds of a gradient, on one process and on two, real and predicted, one after the other."""

    one: float
    copies: float
    two: float
    one_predicted: float
    two_predicted: float
    link: Link


def measured(case: str, repeats: int) -> Round:
    """One round of a case."""
    make, solver = CASES[case]
    task = dataclasses.replace(make(), repeats=repeats)
    *alone, _, _ = together(case, repeats, 1)
    *copies, _, _ = together(case, repeats, 2, apart=True)
    *real, latency, rate = together(case, repeats, 2)
    link = Link(latency, rate)
    predicted = gradient_on(2, task, solver, link).seconds
    one, both, two = (statistics.median(times) for times in (alone, copies, real))
    return Round(one, both, two, OneRank(task)().total, predicted, link)


def row(case: str, repeats: int) -> dict[str, Any]:
    """Medians of `ROUNDS` rounds: the speed of a shared machine changes from one second to the next."""
    found = [measured(case, repeats) for _ in range(ROUNDS)]

    def median(value: Callable[[Round], float]) -> float:
        return statistics.median(map(value, found))

    capacity = median(lambda r: 2 * r.one / r.copies)
    return {
        "case": case,
        "threads": 1,
        "baseline": "real",
        "baseline_ms": 1e3 * median(lambda r: r.two),
        "ours_ms": 1e3 * median(lambda r: r.two_predicted),
        "ratio": median(lambda r: r.two / r.two_predicted),
        "relative_error": None,
        "cosine": None,
        "deviation": median(lambda r: r.two_predicted / r.two - 1),
        "deviations": [r.two_predicted / r.two - 1 for r in found],
        "one_ms": 1e3 * median(lambda r: r.one),
        "one_predicted_ms": 1e3 * median(lambda r: r.one_predicted),
        "one_deviation": median(lambda r: r.one_predicted / r.one - 1),
        "latency": median(lambda r: r.link.latency),
        "seconds_per_byte": median(lambda r: r.link.seconds_per_byte),
        "capacity": capacity,
        "judged": QUIET[0] <= capacity <= QUIET[1],
        "within": WITHIN,
    }


def rows(repeats: int) -> list[dict[str, Any]]:
    return [row(case, repeats) for case in CASES]


def show(found: list[dict[str, Any]], say: Callable[[str], None]) -> None:
    say(f"{'case':48}{'ranks':>6}{'real ms':>10}{'predicted':>10}{'':>8}{'capacity':>10}")
    for each in found:
        one = (each["one_ms"], each["one_predicted_ms"], each["one_deviation"])
        two = (each["baseline_ms"], each["ours_ms"], each["deviation"])
        for ranks, (real, predicted, off) in ((1, one), (2, two)):
            name = each["case"] if ranks == 1 else ""
            capacity = f"{each['capacity']:10.2f}" if ranks == 2 else ""
            capacity += "" if each["judged"] or ranks == 1 else "  NOT JUDGED: the machine was not quiet"
            say(f"{name:48}{ranks:6}{real:10.2f}{predicted:10.2f}{off:+8.1%}{capacity}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("arguments", nargs=5)
    child(parser.parse_args().arguments)
