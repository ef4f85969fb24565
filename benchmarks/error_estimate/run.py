"""The estimated error of a solve beside its error, of 50 chains.

    layerparallel bench error_estimate [--json] [--chains N] [--seed S]

Chains of many kinds and depths, each by a solver drawn at random, forward and back, in float64. The
error is that of the C-point states, over their norm, beside serial propagation. From 1 on nothing of
the states is right, so errors and estimates above 1 count as 1.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from typing import Any

import harness
import torch
from torch import Tensor, nn

import layerparallel as lp
from layerparallel.chains.chain import Chain, Intervals
from layerparallel.steps.state import State

FACTOR = 3.0
KINDS = ("undamped", "damped", "growing", "drawn")
WIDTH, SAMPLES = 8, 16


class Block(nn.Module):
    """A pre-norm residual block, the next state itself."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, u: Tensor) -> Tensor:
        return u + 0.05 * torch.tanh(self.linear(self.norm(u)))


def turning(damping: float, rng: random.Random) -> lp.Body:
    """Skew-symmetric layers but for the damping, about one set of axes or each about its own."""
    depth = rng.choice((128, 256, 512))
    layer = lp.Dense(WIDTH, rng.choice(("tanh", "identity")))
    body = lp.chain(layer, depth, h=1.0, initial="independent").double()
    turn = 10 ** rng.uniform(-2, -0.7)
    plane = torch.zeros(WIDTH, WIDTH, dtype=torch.float64)
    plane[::2, 1::2].fill_diagonal_(turn)
    # explicit Euler itself grows by half the square of the turn
    decay = (damping + turn**2 / 2) * torch.eye(WIDTH, dtype=torch.float64)
    axes = torch.linalg.qr(torch.randn(depth, WIDTH, WIDTH, dtype=torch.float64))[0]
    axes = axes[:1] if rng.random() < 0.5 else axes
    with torch.no_grad():
        body.get_parameter("layer.weight").copy_(axes @ (plane - plane.t() - decay) @ axes.mT)
        body.get_parameter("layer.bias").zero_()
    return body


def drawn(rng: random.Random) -> lp.Body:
    """Layers of other kinds, as they are initialised."""
    initial: Any = rng.choice(("smooth", "independent"))
    depth, T = rng.choice((128, 256)), rng.choice((1.0, 4.0, 10.0))
    residual = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
    made = rng.choice(
        (
            lambda: lp.chain(lp.Dense(WIDTH, "tanh"), depth, T=T, initial=initial),
            lambda: lp.chain(lp.Dense(WIDTH, "relu"), depth, T=T, initial=initial),
            lambda: lp.chain(lp.Convolution(WIDTH, "tanh"), depth, T=T, initial=initial),
            lambda: lp.chain(Block(), depth, integrator="block", initial=initial),
            lambda: lp.chain(residual, depth, T=T, initial=initial),
            lambda: lp.chain(residual, depth, T=T, tied=True),
        )
    )
    return made().double()


def chain(kind: str, rng: random.Random) -> lp.Body:
    """A chain of this kind; damped and growing ones change errors by e to e^4 from end to end."""
    if kind == "drawn":
        return drawn(rng)
    sign = {"undamped": 0.0, "damped": 1.0, "growing": -1.0}[kind]
    return turning(sign * rng.uniform(1, 4) / 256, rng)


def solver(rng: random.Random) -> lp.MGRIT:
    cycles = rng.choice((1, 1, 2, 3))
    coarse: Any = rng.choice(("inject", "mean_parameters", "mean_residual", "picard"))
    return lp.MGRIT(
        levels=rng.choice((2, 2, 3)),
        coarsening=(rng.choice((4, 8, 16)), 2),
        relaxation=rng.choice((0, 0, 1)),
        forward_cycles=cycles,
        adjoint_cycles=cycles,
        coarse=coarse,
        samples=4 if coarse in ("mean_residual", "picard") else None,
        guard=False,
    )


def trajectory(one: Chain, u0: State) -> State:
    """The exact states 0..N, serially."""
    states = tuple(a.new_empty(one.steps + 1, *a.shape[1:]) for a in u0)
    for array, a in zip(states, u0, strict=True):
        array[-1 if one.reverse else 0] = a[0]
    one.advance(u0, Intervals(0, 1, one.steps), into=states)
    return states


def off(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The error over the norm of what was found."""
    error = sum(float((a - b).square().sum()) for a, b in zip(found, exact, strict=True))
    return (error / sum(float(a.square().sum()) for a in found)) ** 0.5


def measure(number: int, seed: int) -> list[dict[str, Any]]:
    """The rows of one chain: forward, and its adjoint about the exact states."""
    rng = random.Random(f"{seed} {number}")
    torch.manual_seed(rng.randrange(1 << 31))
    kind = KINDS[number % len(KINDS)]
    body, solved = chain(kind, rng), solver(rng)
    rows = []
    with torch.no_grad():
        images = isinstance(getattr(body, "template", None), lp.Convolution)
        images = images or body.get_parameter(next(n for n, _ in body.named_parameters())).dim() == 5
        shape = (4, WIDTH, 6, 6) if images else (SAMPLES, WIDTH)
        first = (torch.randn(shape, dtype=torch.float64),)
        forward = body.fastest(body.bind(body.tensors()), first)
        adjoint = forward.linearise()
        u0 = forward.pack(first)
        lp.Serial().solve(forward, u0, None, adjoint)
        outgoing = tuple(torch.randn_like(a) for a in u0)
        for direction, one, begin in (("forward", forward, u0), ("adjoint", adjoint, outgoing)):
            part = solved if direction == "forward" else solved.adjoint
            solution, exact = part.solve(one, begin), trajectory(one, begin)
            m = solved.factors(one.steps)[0]
            points = solution.points
            assert points is not None
            rows.append(
                {
                    "case": f"{number} {direction}",
                    "kind": kind,
                    "direction": direction,
                    "depth": one.steps,
                    "intervals": one.steps // m,
                    "coarse": solved.coarse,
                    "relaxation": solved.relaxation,
                    "cycles": solved.forward_cycles,
                    "residual": solution.relative_residual,
                    "estimate": solution.relative_error,
                    "relative_error": off(points, [a[::m] for a in exact]),
                    "threads": 1,
                    "baseline": None,
                    "baseline_ms": None,
                    "ours_ms": None,
                    "ratio": None,
                    "cosine": None,
                }
            )
    return rows


def quotient(row: dict[str, Any], name: str = "estimate") -> float:
    """The estimate over the error, both of them 1 at most."""
    return min(row[name], 1.0) / min(row["relative_error"], 1.0)


def within(rows: Sequence[dict[str, Any]], name: str = "estimate") -> float:
    """Share of the rows where it is within the factor."""
    return sum(1 / FACTOR <= quotient(row, name) <= FACTOR for row in rows) / len(rows)


def main(argv: list[str] | None = None) -> int:
    parser = harness.parser(__file__, __doc__)
    parser.add_argument("--chains", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    harness.at_least_one(parser, args, "chains")
    torch.set_num_threads(1)
    rows = [row for number in range(args.chains) for row in measure(number, args.seed)]
    if args.json:
        harness.print_json(rows)
        return 0
    heads = f"{'solves':24}{'number':>7}{'within 3':>10}{'5 %':>7}{'median':>8}{'95 %':>7}"
    print(f"{heads}{'residual within 3':>19}")
    groups = {kind: [row for row in rows if row["kind"] == kind] for kind in KINDS}
    groups["one cycle"] = [row for row in rows if row["cycles"] == 1]
    groups["more cycles"] = [row for row in rows if row["cycles"] > 1]
    groups["error below 0.3"] = [row for row in rows if row["relative_error"] < 0.3]
    groups["all"] = rows
    for name, some in groups.items():
        if some:
            q = sorted(map(quotient, some))
            five, half, most = (q[round(part * (len(q) - 1))] for part in (0.05, 0.5, 0.95))
            print(
                f"{name:24}{len(q):7}{within(some):10.0%}{five:7.2f}{half:8.2f}{most:7.2f}"
                f"{within(some, 'residual'):19.0%}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
