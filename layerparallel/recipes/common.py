"""What all recipes share: the options of the run and of the solver, and the run they make."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

import torch
from torch import nn

from layerparallel.body import chain
from layerparallel.data.augment import Preparation
from layerparallel.data.base import Dataset
from layerparallel.network import Network
from layerparallel.refinement import refine
from layerparallel.solvers import MGRIT, Serial
from layerparallel.trainer import Phase, Run
from layerparallel.training.adaptive import Adaptive
from layerparallel.training.backprop import Backprop
from layerparallel.training.base import Method

Data = TypeVar("Data", bound=Dataset)


@dataclass(frozen=True)
class Common(ABC):
    """Options of every recipe: ``u[n+1] = u[n] + T/N act(K_n u[n] + b_n)`` between two plain layers.

    Adam with a one-cycle learning rate on the cross-entropy. A recipe says which data, which layers
    and which picture; it overrides what defaults do not suit it.
    """

    name: ClassVar[str]
    counts: ClassVar[tuple[str, ...]] = ()
    """Options of the recipe's own that are at least 1."""

    depth: int = 1024
    """Layers N."""
    T: float = 5.0
    """Final time: the step size is T/N."""
    activation: Literal["tanh", "relu", "smoothrelu", "gelu"] = "tanh"
    """Activation of every layer."""
    epochs: int = 100
    """Epochs with the network of full depth."""
    batch: int = 128
    """Samples in a mini batch."""
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
    samples: int | None = 8
    """Groups of layers in a coarse step of mean_residual or picard; one a layer if None."""
    adaptive: bool = False
    """Compare the gradient with the exact one every so often, and raise or lower the cycles by it."""
    adaptive_every: int = 200
    """Mini batches from one comparison to the next."""
    adaptive_target: float = 0.05
    """Relative error of the gradient that is wanted then."""
    refine: tuple[int, ...] = ()
    """Nested iteration: depths to train first, each a divisor of the next and the last of depth;
    every network begins with the interpolated parameters of the one before."""
    refine_epochs: int = 20
    """Epochs with each of those networks."""
    seed: int = 0
    """Seed of the data, the initial weights and the order of the mini batches."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision of all states and parameters."""
    threads: int = 1
    """Threads that PyTorch may use."""
    serial_epochs: float = 3
    """Epochs for which the same network is then trained serially, to measure the ratio."""
    evaluate_every: int = 2
    """Epochs between two evaluations."""
    checkpoint_every: int = 10
    """Epochs between two checkpoints."""
    checkpoint_seconds: float = 30.0
    """Seconds after which a checkpoint is due within an epoch, too."""
