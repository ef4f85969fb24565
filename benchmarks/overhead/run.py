"""Time outside the steps: what the solver, autograd and Python add.

    layerparallel bench overhead [--json]

One gradient by MGRIT; every call that evaluates steps, their adjoints or parameter gradients is timed,
and the rest of the wall time is overhead.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import harness
import torch

import layerparallel as lp
from layerparallel.chains.dense import DenseAdjoint, DenseChain
from layerparallel.solvers.measure import median

CASES = ((256, 64, 256), (1024, 8, 256), (1024, 8, 32))


def timed(function: Callable[..., Any], spent: list[float], depth: list[int]) -> Callable[..., Any]:
    """The function, adding the time of outermost calls to `spent`."""

    def call(*args: Any, **kwargs: Any) -> Any:
        depth[0] += 1
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            depth[0] -= 1
            if depth[0] == 0:
                spent[0] += time.perf_counter() - start

    return call


def measure(depth: int, width: int, batch: int, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    solver = lp.MGRIT(coarsening=16, forward_cycles=2, adjoint_cycles=2)
    net = lp.Network(None, lp.chain(lp.Dense(width), depth, T=5.0), None, solver=solver)
    x = torch.randn(batch, width)
    spent, nested = [0.0], [0]
    originals = {
        (owner, name): owner.__dict__[name]
        for owner, name in (
            (DenseChain, "advance"),
            (DenseAdjoint, "_tape"),
            (DenseAdjoint, "_pull"),
        )
    }
    totals, inside = [], []
    try:
        for (owner, name), function in originals.items():
            setattr(owner, name, timed(function, spent, nested))
        for repeat in range(repeats + 2):
            net.zero_grad(set_to_none=True)
            spent[0] = 0.0
            start = time.perf_counter()
            net(x).square().mean().backward()
            total = time.perf_counter() - start
            if repeat >= 2:
                totals.append(total * 1e3)
                inside.append(spent[0] * 1e3)
    finally:
        for (owner, name), function in originals.items():
            setattr(owner, name, function)
    total, steps = median(totals), median(inside)
    return {
        "case": f"N={depth} width={width} batch={batch}",
        "threads": 1,
        "baseline": "step evaluations",
        "baseline_ms": steps,
        "ours_ms": total,
        "ratio": steps / total,
        "overhead": 1 - steps / total,
        "relative_error": None,
        "cosine": None,
    }


def main(argv: list[str] | None = None) -> int:
    parser = harness.parser(__file__, __doc__)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = [measure(*case, args.repeats) for case in CASES]
    if args.json:
        harness.print_json(rows)
        return 0
    for row in rows:
        print(
            f"{row['case']:30} {row['ours_ms']:8.2f} ms, in steps {row['baseline_ms']:8.2f} ms, "
            f"outside {100 * float(row['overhead']):.1f} %"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
