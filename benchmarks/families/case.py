"""The network that all methods train: an opening, a chain of residual layers, a closing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cases
import torch
from torch import nn

import layerparallel as lp
from layerparallel.solvers.variants import Solver


@dataclass(frozen=True)
class Case(cases.Case):
    """u + h relu(K u + b), 3x3 convolutions; no norms, small steps h = T/N.

    The opening halves the resolution of the images, which is twice `side`. Nothing depends on what else
    is in a mini batch, so halves of a batch and microbatches give the same gradient as the whole.
    """

    depth: int = 64
    channels: int = 16
    side: int = 16
    batch: int = 64
    T: float = 4.0

    @property
    def inputs(self) -> tuple[int, int, int]:
        """Shape of an image."""
        return 3, 2 * self.side, 2 * self.side

    def opening(self) -> nn.Module:
        """A convolution of stride 2."""
        return nn.Sequential(nn.Conv2d(3, self.channels, 3, stride=2, padding=1), nn.ReLU())

    def layer(self) -> lp.Convolution:
        """The template of the chain's layers."""
        return lp.Convolution(self.channels, "relu")

    def closing(self) -> nn.Module:
        """Pooling over squares of four, and a linear layer."""
        features = self.channels * (self.side // 4) ** 2
        return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(features, self.classes))

    def network(self, solver: Solver | None = None) -> lp.Network:
        """With the weights of the seed, which are smooth in depth at first."""
        torch.manual_seed(self.seed)
        body = lp.chain(self.layer(), self.depth, T=self.T)
        return lp.Network(self.opening(), body, self.closing(), solver or lp.Serial())


def multigrid(depth: int, interval: int, levels: int = 2) -> lp.Split:
    """One cycle each way, over intervals of so many layers.

    Trained weights change with depth: a coarse step of two Picard iterates forward.
    """

    def solver(coarse: str, samples: int | None) -> lp.MGRIT:
        kind: dict[str, Any] = {"coarse": coarse, "samples": samples}
        kind |= {"coarsening": interval, "levels": levels}
        return lp.MGRIT(**kind, forward_cycles=1, adjoint_cycles=1)

    return lp.Split(forward=solver("picard", 2), adjoint=solver("mean_parameters", None))


def longest(depth: int, T: float) -> int:
    """Layers in the longest interval: a coarse step is no longer than 1.

    With steps of 2 the guard rejected 1121 of 3140 solves of a training, and every adjoint
    from its sixth epoch on.
    """
    return max(2, int(depth / T))


def hierarchies(depth: int, ranks: int, T: float) -> list[tuple[int, int]]:
    """Layers in an interval, and levels, that so many ranks may have."""
    most = longest(depth, T)
    least = min(max(2, depth // ranks), most)
    two = [(m, 2) for m in (least, 2 * least, 4 * least, 8 * least) if m <= most and 2 * m <= depth]
    return [*two, *((m, 3) for m in (least, 2 * least) if m * m <= most and m * m * 2 <= depth)]
