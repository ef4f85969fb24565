"""Training the level-set network end to end: 1024 layers of width 8, batch 64.

    layerparallel bench training [--json] [--seeds 3] [--epochs 40]

Layer-parallel training against the best ordinary serial PyTorch: time to the training loss that serial
training reaches in 10 epochs, time to 90 % validation accuracy, accuracy at the end. All losses and
accuracies are those of serial propagation, evaluated after every epoch outside the clock. A validation
point is half a percent, so the accuracy at the end is also taken on 20,000 fresh points ("test").

Serial training's learning curve is followed with `Serial()`, whose gradients are exact to rounding;
its time is that of the faster of eager autograd and compiled blocks of 16 layers, with the same fused
Adam, measured step by step in turn with ours (A B A B). The last row is the shortcut: a network of as
many layers as we have intervals, trained serially for the time of the layer-parallel run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import harness
import torch
from baselines import COMPILED, CompiledBlocks
from torch import Tensor, nn
from torch.nn import functional

import layerparallel as lp
from layerparallel.data.base import Dataset
from layerparallel.data.level_sets import level_sets
from layerparallel.solvers.measure import median, rounds

BATCH, CLASSES, DEPTH, TARGET = 64, 5, 1024, 0.9
SOLVER = lp.MGRIT(
    levels=2, coarsening=32, forward_cycles=1, adjoint_cycles=1, coarse="picard", samples=4
)


@dataclass(frozen=True)
class Curve:
    """Loss and validation accuracy after every epoch, and seconds spent training until then."""

    loss: list[float]
    accuracy: list[float]
    seconds: list[float]

    def epoch_of_loss(self, wanted: float) -> int | None:
        return next((k for k, loss in enumerate(self.loss, 1) if loss <= wanted), None)

    def epoch_of_accuracy(self, wanted: float) -> int | None:
        return next((k for k, a in enumerate(self.accuracy, 1) if a >= wanted), None)


def network(depth: int, seed: int) -> lp.Network:
    torch.manual_seed(seed)
    body = lp.chain(lp.Dense(8), depth, T=5.0)
    return lp.Network(nn.Linear(2, 8), body, nn.Linear(8, CLASSES))


class Training:
    """Adam with a one-cycle rate up to 1e-2 over shuffled batches of 64."""

    def __init__(self, net: nn.Module, points: Dataset, seed: int, epochs: int):
        self.net, self.points = net, points
        self.batches = len(points.train_x) // BATCH
        self.optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, fused=True)
        self.rate = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, 1e-2, total_steps=epochs * self.batches
        )
        self.order = torch.Generator().manual_seed(seed)

    def step(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad()
        functional.cross_entropy(self.net(x), y).backward()
        self.optimizer.step()

    def epoch(self) -> None:
        x, y = self.points.train_x, self.points.train_y
        shuffled = torch.randperm(len(x), generator=self.order)[: self.batches * BATCH]
        for mine in shuffled.split(BATCH):
            self.step(x[mine], y[mine])
            self.rate.step()

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """Training loss and validation accuracy, propagated serially."""
        self.net.eval()
        loss = functional.cross_entropy(self.net(self.points.train_x), self.points.train_y)
        found = self.net(self.points.validation_x).argmax(1)
        self.net.train()
        return float(loss), float((found == self.points.validation_y).float().mean())

    @torch.no_grad()
    def test(self, seed: int) -> float:
        """Accuracy on 20,000 points that nothing else has seen."""
        fresh = level_sets(5, 20_000, 1000 + seed)
        self.net.eval()
        right = [
            (self.net(x).argmax(1) == y).float().mean()
            for x, y in zip(fresh.validation_x.split(2000), fresh.validation_y.split(2000), strict=True)
        ]
        self.net.train()
        return float(torch.stack(right).mean())

    def run(self, epochs: int, seconds: float = float("inf")) -> Curve:
        curve = Curve([], [], [])
        spent = 0.0
        for _ in range(epochs):
            start = time.perf_counter()
            self.epoch()
            spent += time.perf_counter() - start
            loss, accuracy = self.evaluate()
            curve.loss.append(loss)
            curve.accuracy.append(accuracy)
            curve.seconds.append(spent)
            if spent >= seconds:
                break
        return curve


def step_times(points: Dataset, seed: int) -> tuple[dict[str, float], float]:
    """Milliseconds of one training step: every serial baseline, and ours."""
    x, y = points.train_x[:BATCH], points.train_y[:BATCH]

    def stepping(net: nn.Module) -> Callable[[], None]:
        training = Training(net, points, seed, 100)
        return lambda: training.step(x, y)

    ours = network(DEPTH, seed)
    ours.solver = SOLVER
    baselines = {
        "eager": stepping(network(DEPTH, seed).to_serial()),
        COMPILED: stepping(CompiledBlocks(network(DEPTH, seed).to_serial())),
    }
    *theirs, mine = (median(t) for t in rounds([*baselines.values(), stepping(ours)], 15))
    return dict(zip(baselines, theirs, strict=True)), mine


def measure(seed: int, epochs: int) -> list[dict[str, Any]]:
    points = level_sets(seed=seed)
    baselines, ours_step = step_times(points, seed)
    name = min(baselines, key=lambda k: baselines[k])
    reference = network(DEPTH, seed)
    exactly = Training(reference, points, seed, epochs)
    exact = exactly.run(epochs)
    net = network(DEPTH, seed)
    net.solver = SOLVER
    training = Training(net, points, seed, epochs)
    ours = training.run(epochs)
    coarse_net = network(DEPTH // 32, seed).to_serial()
    # its one-cycle rate is spread over about as many epochs as it has time for
    coarsely = Training(coarse_net, points, seed, epochs * 3)
    coarse = coarsely.run(epochs * 3, ours.seconds[-1])
    batches = len(points.train_x) // BATCH
    serial_epoch = baselines[name] * batches / 1e3

    def row(case: str, serial_seconds: float | None, our_seconds: float | None) -> dict[str, Any]:
        return {
            "case": case,
            "seed": seed,
            "threads": 1,
            "baseline": name,
            "baseline_ms": None if serial_seconds is None else serial_seconds * 1e3,
            "ours_ms": None if our_seconds is None else our_seconds * 1e3,
            "ratio": serial_seconds / our_seconds if serial_seconds and our_seconds else None,
            "relative_error": None,
            "cosine": None,
        }

    def reached(epoch: int | None, seconds: Callable[[int], float]) -> float | None:
        return None if epoch is None else seconds(epoch)

    wanted = exact.loss[min(10, epochs) - 1]
    k = ours.epoch_of_loss(wanted)
    rows = [
        row("step", baselines[name] / 1e3, ours_step / 1e3),
        row(
            "loss of 10 serial epochs",
            10 * serial_epoch,
            reached(k, lambda n: ours.seconds[n - 1]),
        ),
        row(
            "90 % validation",
            reached(exact.epoch_of_accuracy(TARGET), lambda n: n * serial_epoch),
            reached(ours.epoch_of_accuracy(TARGET), lambda n: ours.seconds[n - 1]),
        ),
        row("whole run", epochs * serial_epoch, ours.seconds[-1]),
    ]
    rows[1] |= {"loss": wanted, "our_epochs": k}
    rows[3] |= {
        "serial_accuracy": exact.accuracy[-1],
        "our_accuracy": ours.accuracy[-1],
        "serial_test": exactly.test(seed),
        "our_test": training.test(seed),
        "serial_loss": exact.loss[-1],
        "our_loss": ours.loss[-1],
        "fallbacks": net.fallbacks,
    }
    shortcut = row("coarse network for the same time", None, coarse.seconds[-1])
    shortcut |= {
        "layers": DEPTH // 32,
        "our_accuracy": coarse.accuracy[-1],
        "our_test": coarsely.test(seed),
        "our_loss": coarse.loss[-1],
        "our_epochs": len(coarse.loss),
    }
    return [*rows, shortcut]


def main(argv: list[str] | None = None) -> int:
    parser = harness.parser(__file__, __doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for seed in range(args.seeds):
        found = measure(seed, args.epochs)
        rows += found
        if not args.json:
            for row in found:
                skip = {"threads", "relative_error", "cosine", "seed"}
                shown = {k: v for k, v in row.items() if v is not None and k not in skip}
                print(
                    f"seed {seed}: "
                    + ", ".join(
                        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items()
                    ),
                    flush=True,
                )
    if args.json:
        harness.print_json(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
