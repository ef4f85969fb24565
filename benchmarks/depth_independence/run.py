"""Multigrid cycles against depth: the residual's way to 1e-9, 64 to 4096 layers.

    layerparallel bench depth_independence [--json]

Coarsening 2 down to 8 steps, V-cycles, smooth weights, T = 5, width 8, float64; F-relaxation on the
finest level and FCF below, or FCF everywhere.
"""

from __future__ import annotations

import sys
from typing import Any

import harness
import torch

import layerparallel as lp

DEPTHS = (64, 128, 256, 512, 1024, 2048, 4096)
TARGET = 1e-9


def solver(relaxation: int | tuple[int, ...], cycles: int) -> lp.MGRIT:
    return lp.MGRIT(
        levels=12,
        coarsening=2,
        smallest=8,
        relaxation=relaxation,
        forward_cycles=cycles,
        adjoint_cycles=cycles,
        start="constant",
        guard=False,
    )


def cycles_needed(residuals: list[float]) -> int | None:
    """Cycles until the residual is TARGET of its first value; None if never."""
    return next((k for k, r in enumerate(residuals) if r <= TARGET * residuals[0]), None)


def measure(depth: int, relaxation: int | tuple[int, ...], most: int) -> dict[str, Any]:
    torch.manual_seed(0)
    body = lp.chain(lp.Dense(8), depth, T=5.0, initial="smooth")
    net = lp.Network(None, body, None, solver=solver(relaxation, most)).double()
    net(torch.randn(16, 8, dtype=torch.float64)).square().sum().backward()
    forward, adjoint = net.solution, net.adjoint_solution
    assert forward is not None
    assert adjoint is not None
    return {
        "case": f"{relaxation} N={depth}",
        "relaxation": "FCF" if relaxation == 1 else "F, FCF below",
        "depth": depth,
        "levels": len(forward.evaluations),
        "forward_cycles": cycles_needed(forward.residuals),
        "adjoint_cycles": cycles_needed(adjoint.residuals),
        "forward_factor": factor(forward.residuals),
        "adjoint_factor": factor(adjoint.residuals),
        "threads": 1,
        "baseline": None,
        "baseline_ms": None,
        "ours_ms": None,
        "ratio": None,
        "relative_error": None,
        "cosine": None,
    }


def factor(residuals: list[float]) -> float:
    """Mean reduction per cycle down to the target."""
    last = cycles_needed(residuals) or len(residuals) - 1
    return (residuals[last] / residuals[0]) ** (1 / last)


def main(argv: list[str] | None = None) -> int:
    parser = harness.parser(__file__, __doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=list(DEPTHS))
    parser.add_argument("--most", type=int, default=30, help="most cycles")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = [measure(n, r, args.most) for r in ((0, 1), 1) for n in args.depths]
    if args.json:
        harness.print_json(rows)
        return 0
    print(f"{'relaxation':14}{'N':>6}{'levels':>8}{'forward':>9}{'adjoint':>9}{'factor':>9}")
    for row in rows:
        print(
            f"{row['relaxation']:14}{row['depth']:6}{row['levels']:8}{row['forward_cycles']!s:>9}"
            f"{row['adjoint_cycles']!s:>9}{row['forward_factor']:9.3f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
