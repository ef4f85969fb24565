"""Multigrid on standard ResNets, h = 1: how few cycles do, and on which weights.

    layerparallel bench resnet_cycles [--json] [--quick] [--families NAME ...] [--steps 200]

Three networks: post-activation ResNet-56, pre-activation ResNet-164 and, when asked for, ResNet-1001,
both with bottlenecks. Weights as they are initialised and after some training, the residual branches
begun at the usual size, at 1 / sqrt(L) of it with L the blocks in all chains, and at zero. For each the
error of the output and of the gradient against the exact ones, in float64, after 1, 2, 3, ... cycles
forward and backward. A gain scales the last batch norm of a post-activation block, the last convolution
of a pre-activation one; h scales what a block adds for good, in training, too.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import harness
import torch
from torch import Tensor, nn

import layerparallel as lp
from layerparallel import data
from layerparallel.models import preactivation_resnet, resnet
from layerparallel.network.serial_twins import SerialBody, SerialChains
from layerparallel.solvers import cost
from layerparallel.solvers.measure import compare, gradients

Coarse = Literal["inject", "mean_parameters", "mean_residual", "picard"]
Row = dict[str, Any]
GOOD = 0.99
"""Cosine to the exact gradient from which a setting counts as good enough."""


@dataclass(frozen=True)
class Family:
    """A network, the images it is trained and measured on, and what is tried.

    Its chains are stacked, since "mean_parameters" needs like layers.
    """

    make: Callable[[float, float], lp.Network]
    """Of gain and h."""
    images: str
    euler: bool = True
    coarsenings: tuple[int, ...] = (2, 4, 8)
    coarse: tuple[Coarse, ...] = ("inject", "mean_parameters", "mean_residual", "picard")


FAMILIES = {
    "resnet-56": Family(
        lambda gain, h: resnet(56, gain=gain, stacked=True), "cifar-10", euler=False, coarsenings=(2, 4)
    ),
    "preactivation-164": Family(
        lambda gain, h: preactivation_resnet(164, gain=gain, h=h, stacked=True), "cifar-10"
    ),
    "preactivation-1001": Family(
        lambda gain, h: preactivation_resnet(1001, in_channels=1, gain=gain, h=h, stacked=True),
        "digits",
        coarsenings=(8, 16),
        coarse=("inject", "mean_residual", "picard"),
    ),
}
QUICK = {
    "preactivation-47": Family(
        lambda gain, h: preactivation_resnet(47, in_channels=1, width=2, gain=gain, h=h, stacked=True),
        "digits",
        coarsenings=(2,),
    ),
}


# ---- images -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Images:
    """Normalised images; CIFAR-10 at half its resolution, which costs a quarter."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    @classmethod
    def load(cls, name: str) -> Images:
        found = data.load(name)
        mean, deviation = (torch.tensor(m).view(1, -1, 1, 1) for m in found.moments())

        def prepared(x: Tensor) -> Tensor:
            x = (x.float() / 255 - mean) / deviation
            return nn.functional.avg_pool2d(x, 2) if name == "cifar-10" else x

        return cls(
            prepared(found.train_x), found.train_y, prepared(found.validation_x), found.validation_y
        )


def train(net: lp.Network, images: Images, steps: int, batch: int) -> None:
    """SGD as in the papers, serially: 0.1 after a warm-up over a tenth of the steps, momentum 0.9."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    rise = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=max(1, steps // 10))
    generator = torch.Generator().manual_seed(0)
    net.train()
    for _ in range(steps):
        chosen = torch.randint(len(images.x), (batch,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images.x[chosen]), images.y[chosen]).backward()
        optimizer.step()
        rise.step()


@torch.no_grad()
def accuracy(net: lp.Network, images: Images, most: int = 1000) -> float:
    """In evaluation, on the first test images."""
    net.eval()
    right = 0
    for x, y in zip(images.test_x[:most].split(100), images.test_y[:most].split(100), strict=True):
        right += int((net(x).argmax(1) == y).sum())
    net.train()
    return right / min(most, len(images.test_y))


# ---- what is measured ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """A network before or after training."""

    name: str
    net: lp.Network
    accuracy: float | None


def weights(family: Family, images: Images, steps: int, batch: int) -> Iterator[Weights]:
    """The branches at full size, at 1 / sqrt(blocks) and at zero; then h at 1 / sqrt(blocks)."""

    def network(gain: float, h: float = 1.0) -> lp.Network:
        torch.manual_seed(0)
        return family.make(gain, h)

    blocks = sum(chain.depth for chain in network(1.0).chains)
    small = blocks**-0.5
    for label, gain, h in (("gain 1", 1.0, 1.0), ("gain 1/sqrt(L)", small, 1.0), ("gain 0", 0.0, 1.0)):
        net = network(gain, h)
        if gain:  # at zero every block is the identity and every solver exact
            yield Weights(f"{label}, initial", net, None)
        if steps:
            train(net, images, steps, batch)
            yield Weights(f"{label}, trained", net, accuracy(net, images))
    if family.euler and steps:
        net = network(1.0, small)
        train(net, images, steps, batch)
        yield Weights("h = 1/sqrt(L), trained", net, accuracy(net, images))


def change(net: lp.Network, x: Tensor) -> float:
    """Median over the blocks of all chains of ``|u[n+1] - u[n]| / |u[n]|``."""
    twin = copy.deepcopy(net).to_serial()
    assert isinstance(twin.body, SerialChains)
    found = []
    with torch.no_grad():
        u = twin.opening(x)
        for part in twin.body:
            if not isinstance(part, SerialBody):
                u = part(u)
                continue
            for block in part:
                later = SerialBody([block], part.h, part.integrator)(u)
                found.append(float((later - u).norm() / u.norm()))
                u = later
    return statistics.median(found)


def path(solver: lp.MGRIT, steps: int) -> float:
    """Consecutive evaluations of a block, forward, over those of a serial solve.

    One worker an interval; a coarse step of "picard" counts twice, since its two batches follow each
    other.
    """
    twice = 2 if solver.coarse == "picard" else 1
    taken = sum(e.length * (twice if e.level else 1) for e in cost.schedule(solver, steps))
    return taken / steps


def measure(name: str, family: Family, state: Weights, x: Tensor, y: Tensor, cycles: int) -> list[Row]:
    """Errors of every setting on one batch, against the exact output and gradient."""
    net = copy.deepcopy(state.net).double()

    def solved(solver: lp.Serial | lp.MGRIT) -> tuple[Tensor, dict[str, Tensor], list[float]]:
        net.zero_grad()
        with net.undisturbed(), net.solved_by(solver):
            output = net(x)
            nn.functional.cross_entropy(output, y).backward()
            residuals = [solution.relative_residual for solution in net.solutions]
        return output.detach(), gradients(net), residuals

    output, exact, _ = solved(lp.Serial())
    moved, deepest = change(net, x), max(chain.depth for chain in net.chains)
    rows = []
    for coarse in family.coarse:
        for m in family.coarsenings:
            for k in range(1, min(cycles, deepest // m) + 1):
                solver = lp.MGRIT(
                    coarsening=m, coarse=coarse, forward_cycles=k, adjoint_cycles=k, guard=False
                )
                found, mine, residuals = solved(solver)
                error = compare(mine, exact)
                rows.append(
                    {
                        "case": f"{name}, {state.name}, {coarse} m={m}, {k} cycles",
                        "threads": torch.get_num_threads(),
                        "baseline": None,
                        "baseline_ms": None,
                        "ours_ms": None,
                        "ratio": None,
                        "relative_error": error.relative,
                        "cosine": error.cosine,
                        "residuals": residuals,  # chain by chain
                        "forward_error": float((found - output).norm() / output.norm()),
                        "network": name,
                        "weights": state.name,
                        "coarse": coarse,
                        "coarsening": m,
                        "cycles": k,
                        "terminates": k >= deepest // m,  # exact whatever the coarse operator
                        "path": path(solver, deepest),
                        "change": moved,
                        "accuracy": state.accuracy,
                        "depth": deepest,
                    }
                )
    return rows


# ---- tables -------------------------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    """Per weights: rows are coarse operators, columns cycles; cosine (error of output, of gradient)."""
    lines = []
    for key in dict.fromkeys((row["network"], row["weights"]) for row in rows):
        mine = [row for row in rows if (row["network"], row["weights"]) == key]
        right = mine[0]["accuracy"]
        lines.append(
            f"\n{key[0]}, {key[1]}: chains of {mine[0]['depth']} blocks at most, "
            f"a block changes the state by {mine[0]['change']:.0%}"
            + (f", {right:.1%} of test images right" if right is not None else "")
        )
        for setting in dict.fromkeys((row["coarse"], row["coarsening"]) for row in mine):
            cells = [
                f"{row['cosine']:6.3f} ({row['forward_error']:.0e}, {row['relative_error']:.0e})"
                + ("=" if row["terminates"] else " ")
                + f" {row['path']:.2f}"
                for row in mine
                if (row["coarse"], row["coarsening"]) == setting
            ]
            lines.append(f"  {setting[0]:16} m={setting[1]:<3}" + "   ".join(cells))
    return "\n".join(lines)


def summary(rows: list[Row]) -> str:
    """Cosine after the most cycles whose critical path is below the serial one; bold if good."""
    settings = sorted(
        {(row["coarse"], row["coarsening"]) for row in rows},
        key=lambda setting: (get_args(Coarse).index(setting[0]), setting[1]),
    )
    head = ["network, weights", "block moves", *(f"{coarse} {m}" for coarse, m in settings)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for key in dict.fromkeys((row["network"], row["weights"]) for row in rows):
        mine = [row for row in rows if (row["network"], row["weights"]) == key]
        cells = []
        for setting in settings:
            tried = [row for row in mine if (row["coarse"], row["coarsening"]) == setting]
            shorter = [row for row in tried if row["path"] < 1]
            if not shorter:
                cells.append("–" if tried else "")
                continue
            best = max(shorter, key=lambda row: row["cycles"])
            cell = f"{best['cycles']}: {best['cosine']:.3f}"
            cells.append(f"**{cell}**" if best["cosine"] >= GOOD else cell)
        lines.append(f"| {', '.join(key)} | {mine[0]['change']:.0%} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = harness.parser(__file__, __doc__)
    parser.add_argument("--quick", action="store_true", help="a small network, two training steps")
    parser.add_argument(
        "--families", nargs="+", choices=FAMILIES, default=["resnet-56", "preactivation-164"]
    )
    parser.add_argument("--steps", type=int, default=200, help="training steps")
    parser.add_argument("--batch", type=int, default=64, help="images in a training step")
    parser.add_argument("--measured", type=int, default=8, help="images of the gradient measured")
    parser.add_argument("--cycles", type=int, default=3, help="most cycles")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    families = QUICK if args.quick else {name: FAMILIES[name] for name in args.families}
    steps = min(args.steps, 2) if args.quick else args.steps
    rows: list[Row] = []
    start = time.perf_counter()
    for name, family in families.items():
        images = Images.load(family.images)
        x, y = images.test_x[: args.measured].double(), images.test_y[: args.measured]
        for state in weights(family, images, steps, args.batch):
            found = measure(name, family, state, x, y, args.cycles)
            rows += found
            print(table(found), file=sys.stderr if args.json else sys.stdout, flush=True)
    if args.json:
        harness.print_json(rows)
        return 0
    print(
        "\ncycles: cosine, after the most cycles whose critical path is below that of a serial solve\n"
    )
    print(summary(rows))
    print(f"\n{time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
