"""What recipes of layer-parallel networks share: the options of the network and of the solver."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from torch import nn

from ..data.augment import Preparation
from ..data.base import Dataset
from ..errors import InputError
from ..group.team import Team
from ..network.chain import chain
from ..network.distribution import distribute
from ..network.network import Network
from ..network.refinement import refine
from ..runs import Phase
from ..solvers import MGRIT, Serial
from ..training.adaptive import Adaptive
from ..training.backprop import Backprop
from ..training.base import Method
from ..training.objective import Objective
from .base import Base
from .options import Bound, Count, NotNegative, Positive, Several


@dataclass(frozen=True)
class Common(Base):
    """Options of those recipes: ``u[n+1] = u[n] + T/N act(K_n u[n] + b_n)`` between two plain layers.

    Adam with a one-cycle learning rate on the cross-entropy. A recipe says which data, which layers
    and which picture; it overrides what defaults do not suit it.
    """

    sections: ClassVar[dict[str, str]] = {
        "depth": "Network",
        "smoothness": "Training",
        "solver": "Solver",
        "adaptive": "Adaptive solver",
        "refine": "Nested iteration",
    }

    depth: Count = 1024
    """Layers N."""
    T: Positive = 5.0
    """Final time: the step size is T/N."""
    activation: Literal["tanh", "relu", "smoothrelu", "gelu"] = "tanh"
    """Activation of every layer."""
    epochs: int = 100
    """Epochs with the network of full depth."""
    learning_rate: float = 1e-2
    """Peak of the one-cycle learning rate."""
    smoothness: NotNegative = 0.0
    """Weight, in the objective, of the smoothness of the weights in depth; 0 leaves it out."""
    solver: Literal["mgrit", "serial"] = "mgrit"
    """How training propagates; evaluation is serial, and at the end parallel, too."""
    levels: Annotated[int, Bound(least=2)] = 2
    """Levels of the multigrid hierarchy."""
    coarsening: Several[Annotated[int, Bound(least=2)]] | None = None
    """Steps in an interval; one for all levels, or one from each level to the next; none for what fits
    the depth: on two levels 8 from 64 layers on, 16 from 256, 32 from 1,024."""
    smallest: Count = 1
    """Fewest steps of the coarsest level."""
    relaxation: Several[Annotated[int, Bound(least=0)]] = 0
    """CF-sweeps after the F-sweep, for all levels or for each: 0 is F-relaxation, 1 is FCF."""
    cycle: Literal["V", "F", "W"] = "V"
    """Kind of cycle."""
    forward_cycles: Count | None = None
    """Cycles of every forward solve; none for 1, and 2 on fewer layers than the recipe's own."""
    adjoint_cycles: Count | None = None
    """Cycles of every adjoint solve; none for 1, and 2 on fewer layers than the recipe's own."""
    coarse: Literal["inject", "mean_parameters", "mean_residual", "picard"] = "picard"
    """How a coarse step stands for the steps of its interval."""
    samples: Count | None = 8
    """Groups of layers in a coarse step of mean_residual or picard; none for one a layer."""
    adaptive: bool = False
    """Compare the gradient with the exact one every so often, and raise or lower the cycles by it."""
    adaptive_every: Count = 200
    """Mini batches from one comparison to the next."""
    adaptive_target: Positive = 0.05
    """Relative error of the gradient that is wanted then."""
    refine: tuple[Count, ...] = ()
    """Nested iteration: depths to train first, each a divisor of the next and the last of depth;
    every network begins with the interpolated parameters of the one before."""
    refine_epochs: Count = 20
    """Epochs with each of those networks."""
    serial_epochs: int = 3
    """Epochs for which the same network is then trained serially, to measure the ratio; on several
    ranks none."""
    evaluate_every: int = 5
    """Epochs between two evaluations."""

    @abstractmethod
    def parts(self, data: Dataset) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Opening, the template of all layers, and closing, with fresh weights."""

    def prepare(self, data: Dataset) -> Preparation:
        """How stored samples become inputs: as they are."""
        return Preparation(dtype=self.torch_dtype)

    def phases(self, data: Dataset, team: Team) -> tuple[Phase, ...]:
        depths = (*self.refine, self.depth)
        epochs = (*(self.refine_epochs for _ in self.refine), self.epochs)
        return tuple(
            Phase(f"depth {depth}", count, partial(self._method, data, team, depth, count))
            for depth, count in zip(depths, epochs, strict=True)
        )

    def check(self) -> None:
        super().check()
        if self.adaptive and self.solver == "serial":
            raise ValueError("adaptive chooses cycles and the serial solver has none: leave one out.")
        for shallow, deep in pairwise((*self.refine, self.depth)):
            if deep <= shallow or deep % shallow:
                raise ValueError(
                    f"Depth {shallow} of refine cannot be refined to {deep}: give a proper divisor."
                )
        for depth in (*self.refine, self.depth):
            self._solver(depth).check(depth)

    def fits(self, team: Team) -> None:
        super().fits(team)
        if self.adaptive and not team.data.alone:
            raise InputError(
                f"adaptive compares gradients of whole mini batches, of which {team.data.size} "
                "data-parallel ranks have a part each: use as many layer ranks as processes."
            )

    def _solver(self, depth: int) -> MGRIT | Serial:
        """That of a network of so many layers."""
        if self.solver == "serial":
            return Serial()
        cycles = 1 if depth >= type(self).depth else 2  # of fewer layers every coarse step is longer
        return MGRIT(
            levels=self.levels,
            coarsening=self.coarsening,
            smallest=self.smallest,
            relaxation=self.relaxation,
            cycle=self.cycle,
            forward_cycles=cycles if self.forward_cycles is None else self.forward_cycles,
            adjoint_cycles=cycles if self.adjoint_cycles is None else self.adjoint_cycles,
            coarse=self.coarse,
            samples=self.samples,
        )

    def _network(self, data: Dataset, depth: int) -> Network:
        torch.manual_seed(self.seed)
        opening, layer, closing = self.parts(data)
        body = chain(layer, depth=depth, T=self.T)
        return Network(opening, body, closing, self._solver(depth)).to(self.place, self.torch_dtype)

    def _method(
        self, data: Dataset, team: Team, depth: int, epochs: int, before: nn.Module | None
    ) -> Method:
        if isinstance(before, Network):
            before = self._whole(data, before, team)
            network = refine(before, depth // before.body.depth)
            network.solver = self._solver(depth)
        else:
            network = self._network(data, depth)
        if not team.layer.alone:
            distribute(network, team.layer)
        method = self._backprop(data, network, epochs, team.wrapped(network))
        if not self.adaptive:
            return method
        return Adaptive(method, method.criterion, every=self.adaptive_every, target=self.adaptive_target)

    def _whole(self, data: Dataset, network: Network, team: Team) -> Network:
        """The network with the layers of all ranks."""
        if team.layer.alone:
            return network
        whole, state = self._network(data, network.body.depth), {}
        for part in team.layer.gather({k: v.cpu() for k, v in network.state_dict().items()}):
            state |= part
        whole.load_state_dict(state)
        return whole

    def serially(self, data: Dataset) -> Method:
        epochs = max(self.epochs, self.serial_epochs)
        return self._backprop(data, self._network(data, self.depth).to_serial(), epochs)

    def _backprop(
        self, data: Dataset, network: nn.Module, epochs: int, model: nn.Module | None = None
    ) -> Backprop:
        # A short memory of squared gradients leaves the weights smoother in depth. The fused form is
        # the quickest for both networks: six times the plain loop over 2,048 tensors.
        optimizer = torch.optim.Adam(
            network.parameters(), lr=self.learning_rate, betas=(0.9, 0.99), fused=True
        )
        steps = epochs * -(-len(data.train_y) // self.batch)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=steps)
        criterion = nn.functional.cross_entropy
        if self.smoothness and isinstance(network, Network):
            criterion = partial(Objective(criterion, smoothness=self.smoothness), network)
        return Backprop(network, optimizer, criterion, rate, model)
