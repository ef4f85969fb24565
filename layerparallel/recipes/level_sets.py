"""Level sets: points of a square, classed by the height of MATLAB's `peaks`, by 1,024 layers."""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from layerparallel.body import chain
from layerparallel.data import level_sets as data
from layerparallel.data.base import Dataset
from layerparallel.evaluate import logits
from layerparallel.layers import Dense
from layerparallel.network import Network
from layerparallel.refinement import refine
from layerparallel.solvers import MGRIT, Serial
from layerparallel.trainer import Phase, Run
from layerparallel.training.backprop import Backprop

PICTURE_CELLS = 300
AT_LEAST_ONE = (
    "depth",
    "width",
    "epochs",
    "batch",
    "refine_epochs",
    "threads",
    "evaluate_every",
    "checkpoint_every",
)


@dataclass(frozen=True)
class LevelSets:
    """Class points of the square [-3, 3]² by the height of MATLAB's `peaks`, in five classes.

    A residual network `u[n+1] = u[n] + T/N act(W_n u[n] + b_n)` of Günther et al., SIAM J. Math.
    Data Sci. 2(1), 2020; Adam with a one-cycle learning rate.
    """

    depth: int = 1024
    """Layers N."""
    width: int = 8
    """Features of the state."""
    T: float = 5.0
    """Final time: the step size is T/N."""
    activation: Literal["tanh", "relu", "smoothrelu", "gelu"] = "tanh"
    """Activation of every layer."""
    epochs: int = 100
    """Epochs with the network of full depth."""
    batch: int = 128
    """Points in a mini batch."""
    learning_rate: float = 1e-2
    """Peak of the one-cycle learning rate."""
    solver: Literal["mgrit", "serial"] = "mgrit"
    """How training propagates; evaluation is serial, and at the end parallel, too."""
    levels: int = 2
    """Levels of the multigrid hierarchy."""
    coarsening: int | tuple[int, ...] = 32
    """Steps in an interval; one for all levels, or one from each level to the next."""
    smallest: int = 1
    """Fewest steps of the coarsest level."""
    relaxation: int | tuple[int, ...] = 0
    """CF-sweeps after the F-sweep, for all levels or for each: 0 is F-relaxation, 1 is FCF."""
    cycle: Literal["V", "F", "W"] = "V"
    """Kind of cycle."""
    forward_cycles: int = 1
    """Cycles of every forward solve."""
    adjoint_cycles: int = 1
    """Cycles of every adjoint solve."""
    coarse: Literal["inject", "mean_parameters", "mean_residual", "picard"] = "picard"
    """How a coarse step stands for the steps of its interval."""
    samples: int | None = 4
    """Groups of layers in a coarse step of mean_residual or picard; one a layer if None."""
    refine: tuple[int, ...] = ()
    """Nested iteration: depths to train first, each a divisor of the next and the last of depth;
    every network begins with the interpolated parameters of the one before."""
    refine_epochs: int = 20
    """Epochs with each of those networks."""
    training: int = 5000
    """Training points."""
    validation: int = 200
    """Validation points."""
    seed: int = 0
    """Seed of the points, the initial weights and the order of the mini batches."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of all states and parameters."""
    threads: int = 1
    """Threads that PyTorch may use."""
    serial_epochs: int = 3
    """Epochs for which the same network is then trained serially, to measure the ratio."""
    evaluate_every: int = 2
    """Epochs between two evaluations."""
    checkpoint_every: int = 10
    """Epochs between two checkpoints."""
    checkpoint_seconds: float = 30.0
    """Seconds after which a checkpoint is due within an epoch, too."""

    def build(self) -> Run:
        """The run with these options.

        Raises:
            ValueError: an option is out of its bounds.
        """
        self._check()
        points = data.level_sets(self.training, self.validation, self.seed, self._dtype)
        depths = (*self.refine, self.depth)
        phases = tuple(
            Phase(f"depth {depth}", epochs, partial(self._method, depth, epochs))
            for depth, epochs in zip(
                depths, [self.refine_epochs] * len(self.refine) + [self.epochs], strict=True
            )
        )
        for depth in depths:
            self._solver(depth).check(depth)
        return Run(
            recipe="level-sets",
            options=self,
            data=points,
            phases=phases,
            batch=self.batch,
            seed=self.seed,
            threads=self.threads,
            evaluate_every=self.evaluate_every,
            checkpoint_every=self.checkpoint_every,
            checkpoint_seconds=self.checkpoint_seconds,
            serial=self._serial_method,
            serial_epochs=self.serial_epochs,
            picture=partial(self._picture, points),
        )

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float32 if self.dtype == "float32" else torch.float64

    def _check(self) -> None:
        for name in AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} is below 1: give at least 1.")
        for name in ("T", "learning_rate", "checkpoint_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} = {getattr(self, name)} is not a positive number: give one.")
        if self.serial_epochs < 0:
            raise ValueError(f"serial_epochs = {self.serial_epochs} is below 0: give 0 for none.")
        for shallow, deep in pairwise((*self.refine, self.depth)):
            if shallow < 1 or deep <= shallow or deep % shallow:
                raise ValueError(
                    f"Depth {shallow} of refine cannot be refined to {deep}: give a proper divisor."
                )

    def _solver(self, depth: int) -> MGRIT | Serial:
        if self.solver == "serial":
            return Serial()
        return MGRIT(
            levels=self.levels,
            coarsening=self.coarsening,
            smallest=self.smallest,
            relaxation=self.relaxation,
            cycle=self.cycle,
            forward_cycles=self.forward_cycles,
            adjoint_cycles=self.adjoint_cycles,
            coarse=self.coarse,
            samples=self.samples,
        )

    def _network(self, depth: int) -> Network:
        torch.manual_seed(self.seed)
        network = Network(
            opening=nn.Linear(2, self.width),
            body=chain(Dense(self.width, self.activation), depth=depth, T=self.T),
            closing=nn.Linear(self.width, data.CLASSES),
            solver=self._solver(depth),
        )
        return network.to(self._dtype)

    def _method(self, depth: int, epochs: int, before: nn.Module | None) -> Backprop:
        if isinstance(before, Network):
            network = refine(before, depth // before.body.depth)
            network.solver = self._solver(depth)
        else:
            network = self._network(depth)
        return self._backprop(network, epochs)

    def _serial_method(self) -> Backprop:
        return self._backprop(self._network(self.depth).to_serial(), self.epochs)

    def _backprop(self, network: nn.Module, epochs: int) -> Backprop:
        # The fused form is the quickest for both: six times the plain loop over 2,048 tensors.
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate, fused=True)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.learning_rate,
            total_steps=epochs * -(-self.training // self.batch),
        )
        return Backprop(network, optimizer, nn.functional.cross_entropy, scheduler)

    def _picture(self, points: Dataset, network: nn.Module, folder: Path) -> None:
        from layerparallel import report

        cells = data.grid(PICTURE_CELLS, self._dtype)
        predicted = logits(network, cells.flatten(0, 1)).argmax(dim=-1)
        found = logits(network, points.validation_x).argmax(dim=-1)
        wrong = found != points.validation_y
        report.regions(
            folder / "regions.png",
            predicted.reshape(PICTURE_CELLS, PICTURE_CELLS).numpy(),
            data.SIDE,
            points.validation_x.double().numpy(),
            points.validation_y.numpy(),
            wrong.numpy(),
            title=f"Decision regions and the {len(wrong)} validation points, {int(wrong.sum())} missed",
        )
