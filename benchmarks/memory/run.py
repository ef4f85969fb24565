"""Peak memory of one gradient, by memory policy, beside ordinary autograd.

    layerparallel bench memory [--json] [--ranks 1,2,4]

Policies are "store" and "recompute". Every row is a fresh process: the peak resident size (Linux,
VmHWM) over the resident size before the first step, in MiB. With ``--ranks`` the rows are layer groups:
what a rank has in memory in the middle of a training step (parameters, gradients, Adam's state, kept
states), and how much of that 1 / P is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import harness

ROWS = (
    "eager autograd",
    "Serial store",
    "Serial recompute",
    "MGRIT store",
    "MGRIT recompute",
)

CHILD = """
import sys, time
from pathlib import Path
import torch, layerparallel as lp
kind, depth, width, batch = sys.argv[1], *map(int, sys.argv[2:5])
torch.set_num_threads(1)
torch.manual_seed(0)
net = lp.Network(None, lp.chain(lp.Dense(width), depth, T=5.0), None)
module = net
if kind == "eager autograd":
    module = net.to_serial()
    del net
else:
    name, memory = kind.split()
    net.solver = (
        lp.Serial(memory)
        if name == "Serial"
        else lp.MGRIT(coarsening=16, forward_cycles=2, adjoint_cycles=2, memory=memory)
    )
x = torch.randn(batch, width)
small = torch.randn(1, width)
module(small).sum().backward()  # code and gradients are there before the first reading
module.zero_grad(set_to_none=False)
def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
before = resident("VmRSS")
times = []
for _ in range(3):
    start = time.perf_counter()
    module(x).square().mean().backward()
    times.append((time.perf_counter() - start) * 1e3)
print(resident("VmHWM") - before, sorted(times)[1])
"""


def measure(kind: str, depth: int, width: int, batch: int) -> tuple[float, float]:
    """Peak MiB over the resident size before, and milliseconds per gradient."""
    found = subprocess.run(
        [sys.executable, "-c", CHILD, kind, str(depth), str(width), str(batch)],
        check=True,
        capture_output=True,
        text=True,
    )
    mib, milliseconds = map(float, found.stdout.split())
    return mib, milliseconds


def on_ranks(counts: list[int], depth: int, width: int, batch: int) -> list[dict[str, Any]]:
    """The most that a rank of a layer group has, for groups of several sizes."""
    script, rows = Path(__file__).with_name("ranks.py"), []
    for ranks in counts:
        alone = [sys.executable, str(script)]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
        command = [*(alone if ranks == 1 else [*torchrun, str(script)])]
        command += [str(n) for n in (depth, width, batch, ranks)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        every = json.loads(done.stdout.splitlines()[-1])
        mib, counted = (max(column) for column in zip(*every, strict=True))
        one = rows[0] if rows else {"mib": mib, "ranks": 1}
        rows.append(
            {
                "case": f"{ranks} ranks",
                "ranks": ranks,
                "mib": mib,
                "parameters_gradients_adam_mib": counted,
                "over_its_share": mib * ranks / (one["mib"] * one["ranks"]),
            }
        )
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = harness.parser(__file__, __doc__)
    parser.add_argument("--depth", type=int, default=1024)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--ranks", help="sizes of layer groups, 1,2,4")
    args = parser.parse_args(argv)
    if args.ranks:
        counts = [int(n) for n in args.ranks.split(",")]
        found = on_ranks(counts, args.depth, args.width, args.batch)
        if args.json:
            harness.print_json(found)
            return 0
        for row in found:
            print(
                f"{row['case']:10} {row['mib']:8.1f} MiB on a rank, {row['over_its_share']:.3f} of its "
                f"share; {row['parameters_gradients_adam_mib']:.1f} MiB in parameters, gradients, Adam"
            )
        return 0
    rows: list[dict[str, Any]] = []
    for kind in ROWS:
        mib, milliseconds = measure(kind, args.depth, args.width, args.batch)
        base = rows[0] if rows else {"mib": mib, "ours_ms": milliseconds}
        rows.append(
            {
                "case": kind,
                "threads": 1,
                "baseline": ROWS[0],
                "baseline_ms": base["ours_ms"],
                "ours_ms": milliseconds,
                "ratio": base["ours_ms"] / milliseconds,
                "relative_error": None,
                "cosine": None,
                "mib": mib,
                "memory_ratio": base["mib"] / mib,
            }
        )
    if args.json:
        harness.print_json(rows)
        return 0
    print(f"N={args.depth}, width {args.width}, batch {args.batch}, float32, 1 thread")
    for row in rows:
        print(f"{row['case']:18} {row['mib']:8.1f} MiB {row['ours_ms']:9.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
