"""What a message costs between two processes: latency and seconds per byte.

    layerparallel bench network [--json]

Two processes of one machine, gloo, through the library's own layer group. Half a round trip, the median
of many, at sizes from 8 bytes to 16 MiB; ``latency + seconds_per_byte * bytes`` is fitted to them by
least squares of the relative deviations. What --json prints is for `predict --network FILE`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from layerparallel.group import Link
from layerparallel.group.ranks import Ranks
from layerparallel.predict.links import PRESETS

SIZES = tuple(8 << k for k in range(0, 22, 3))  # 8 bytes to 16 MiB
SECONDS = 0.5  # for every size
LEAST, MOST = 5, 2000  # round trips


def ping_pong(rank: int, store: str, results: str, seconds: float) -> None:
    """One of the two processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    group = Ranks(init_device_mesh("cpu", (2,)), Link(0.0, 0.0))
    peer, found = 1 - rank, {}
    for size in SIZES:
        message = torch.zeros(size, dtype=torch.uint8)

        def trip(message: torch.Tensor = message) -> float:
            start = time.perf_counter()
            if rank == 0:
                group.exchange([(peer, message)], []).wait()
            group.exchange([], [(peer, message)]).wait()
            if rank == 1:
                group.exchange([(peer, message)], []).wait()
            return time.perf_counter() - start

        trip()
        repeats = group.tell(min(MOST, max(LEAST, int(seconds / trip()))), 0)
        found[size] = statistics.median(trip() for _ in range(repeats)) / 2
    if rank == 0:
        Path(results).write_text(json.dumps(found))
    dist.destroy_process_group()


def measure(seconds: float = SECONDS) -> dict[int, float]:
    """Seconds of a message, by its bytes."""
    with tempfile.TemporaryDirectory() as folder:
        results = f"{folder}/results.json"
        call = [
            sys.executable,
            "-m",
            "layerparallel",
            "bench",
            "network",
            "--seconds",
            str(seconds),
            "--store",
            f"{folder}/store",
        ]
        calls = [[*call, "--results", results, "--rank", str(rank)] for rank in range(2)]
        processes = [subprocess.Popen(each) for each in calls]
        codes = [process.wait() for process in processes]
        if any(codes):
            raise RuntimeError("a process of the two has failed; its error stands above")
        return {int(size): each for size, each in json.loads(Path(results).read_text()).items()}


def fitted(measured: dict[int, float]) -> Link:
    """The link whose relative deviations from what was measured have the least squares."""
    sizes, times = np.array(list(measured)), np.array(list(measured.values()))
    rows = np.stack([1 / times, sizes / times], axis=1)
    latency, rate = np.linalg.lstsq(rows, np.ones_like(times), rcond=None)[0]
    return Link(max(float(latency), 0.0), max(float(rate), 0.0))


def main(argv: list[str] | None = None) -> int:
    parser = harness.parser(__file__, __doc__, "the network")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for every size")
    for option in ("--rank", "--store", "--results"):  # of one of the two processes
        parser.add_argument(option, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.rank is not None:
        ping_pong(int(args.rank), args.store, args.results, args.seconds)
        return 0
    measured = measure(args.seconds)
    link = fitted(measured)
    rows: list[dict[str, Any]] = [
        {"bytes": size, "measured": each, "fitted": link.seconds(size)}
        for size, each in measured.items()
    ]
    if args.json:
        found = {"latency": link.latency, "seconds_per_byte": link.seconds_per_byte, "rows": rows}
        machine = {"machine": platform.platform(), "torch": torch.__version__}
        harness.print_json({**found, **machine})
        return 0
    print(f"{'bytes':>12} {'measured µs':>12} {'fitted µs':>12}")
    for row in rows:
        print(f"{row['bytes']:12,} {1e6 * row['measured']:12.1f} {1e6 * row['fitted']:12.1f}")
    rate = link.seconds_per_byte
    print(f"\nlatency {1e6 * link.latency:.1f} µs, {1e-9 / rate:.2f} GB/s; beside it")
    for network in PRESETS.values():
        print(f"  {network}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
