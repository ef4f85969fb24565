"""Training by the MNIST recipe: on one process serially, or on two ranks layer-parallel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from baselines import CompiledBlocks
from cases import named_gradients
from layered import evaluations, layer_mesh, shares
from torch import nn

import layerparallel as lp
from layerparallel.data.batches import Batch, Batches
from layerparallel.recipes.mnist import Mnist
from layerparallel.runs.evaluate import accuracy
from layerparallel.solvers.measure import Gradients

CHUNK = 250
"""Images evaluated together."""


@dataclass(frozen=True)
class Plan:
    """The recipe's network and settings, on a part of its images.

    Args:
        training, epochs: how many images, how often.
        held: training images, as they are, whose loss is followed.
        every: training steps from one look at it to the next.
        depth, channels, pool, smoothness, seed, data: of the recipe.
    """

    training: int = 16_000
    epochs: int = 3
    held: int = 1000
    every: int = 25
    depth: int = 32
    channels: int = 8
    pool: int = 4
    smoothness: float = 1e-4
    seed: int = 0
    data: Path | None = None

    @property
    def recipe(self) -> Mnist:
        return Mnist(
            training=self.training,
            validation=min(2000, self.training),
            epochs=self.epochs,
            depth=self.depth,
            channels=self.channels,
            pool=self.pool,
            smoothness=self.smoothness,
            seed=self.seed,
            data=self.data,
        )


@dataclass(frozen=True)
class Course:
    """How a training went: the loss of the held images after so many steps, and where it ended."""

    steps: list[int]
    loss: list[float]
    accuracy: float
    fallbacks: int

    def smooth(self) -> list[float]:
        """The loss, each a mean of itself and its two neighbours."""
        loss = self.loss
        return [sum(part) / len(part) for k in range(len(loss)) if (part := loss[max(0, k - 1) : k + 2])]

    def reached(self, wanted: float) -> int | None:
        """The first of the steps at which the smoothed loss is as low; None if it never is."""
        return next((n for n, x in zip(self.steps, self.smooth(), strict=True) if x <= wanted), None)


class Training:
    """Adam with a one-cycle rate on the recipe's objective.

    `how` is a solver, for one process or both ranks; or "eager" or "compiled", ordinary PyTorch on the
    same weights without the smoothness term. A call is one training step, on one and the same batch.
    """

    def __init__(
        self, rank: int, plan: Plan, how: lp.Serial | lp.MGRIT | lp.Split | str, ranks: int = 1
    ):
        recipe, self.plan = plan.recipe, plan
        self.data = recipe.load()
        self.prepare = recipe.prepare(self.data)
        torch.manual_seed(recipe.seed)
        opening, layer, closing = recipe.parts(self.data)
        body = lp.chain(layer, recipe.depth, T=recipe.T)
        net = lp.Network(opening, body, closing, lp.Serial() if isinstance(how, str) else how)
        if ranks > 1:
            lp.distribute(net, layer_mesh())
        self.network: nn.Module = net
        if isinstance(how, str):
            serial = net.to_serial()
            self.network = serial if how == "eager" else CompiledBlocks(serial)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), fused=True
        )
        steps = plan.epochs * -(-plan.training // recipe.batch)
        self.rate = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, recipe.learning_rate, total_steps=steps
        )
        self.criterion = nn.functional.cross_entropy
        if isinstance(self.network, lp.Network):
            objective = lp.Objective(self.criterion, smoothness=recipe.smoothness)
            self.criterion = partial(objective, self.network)
        self.order = torch.Generator().manual_seed(recipe.seed)
        self.same = self.batches()[0]

    def batches(self) -> Batches:
        return Batches(self.data, self.plan.recipe.batch, self.order, self.prepare)

    def __call__(self) -> None:
        self.step(self.same)

    def step(self, batch: Batch) -> None:
        self.gradient(batch)
        self.optimizer.step()

    def gradient(self, batch: Batch) -> None:
        self.optimizer.zero_grad()
        self.criterion(self.network(batch.x), batch.y).backward()

    def follow(self) -> Course:
        """Trains for all epochs."""
        steps: list[int] = []
        loss: list[float] = []
        done = 0
        for _ in range(self.plan.epochs):
            self.network.train()
            for batch in self.batches():
                self.step(batch)
                self.rate.step()
                done += 1
                if done % self.plan.every == 0:
                    steps.append(done)
                    loss.append(self.held_loss())
        data = self.data
        right = accuracy(self.network, data.validation_x, data.validation_y, prepare=self.prepare)
        return Course(steps, loss, right, getattr(self.network, "fallbacks", 0))

    @torch.no_grad()
    def held_loss(self) -> float:
        """Mean cross-entropy of the first training images, propagated serially."""
        self.network.eval()
        x, y = self.data.train_x[: self.plan.held], self.data.train_y[: self.plan.held]
        total = 0.0
        for some, classes in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
            output = self.network(self.prepare(some))
            total += float(nn.functional.cross_entropy(output, classes, reduction="sum"))
        self.network.train()
        return total / len(y)

    def found(self) -> Gradients:
        """The last gradient, by the names of a state_dict; of this rank's part alone."""
        return named_gradients(self.network)

    def evaluations(self) -> tuple[float, float]:
        """Of one gradient with the weights as they are; see `layered.evaluations`."""
        assert isinstance(self.network, lp.Network)
        self.gradient(self.same)
        return evaluations(self.network)

    def shares(self, repeats: int) -> tuple[float, float, float]:
        """Of the time of a gradient; see `layered.shares`."""
        return shares(lambda: self.gradient(self.same), repeats)
