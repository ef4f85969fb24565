"""The compute-bound chain, and its gradient on one process by every means there is."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from baselines import CompiledBlocks
from torch import Tensor, nn
from torch.nn import functional

import layerparallel as lp
from layerparallel.recipes.base import channels_last
from layerparallel.solvers.measure import Gradients
from layerparallel.solvers.variants import Solver


@dataclass(frozen=True)
class Case:
    """A chain of convolutions at full resolution, and a batch for it.

    One state has ``batch * channels * side**2`` entries: a step fills a core.
    """

    depth: int = 128
    channels: int = 16
    side: int = 28
    batch: int = 64
    T: float = 1.0
    classes: int = 10
    seed: int = 0

    @property
    def inputs(self) -> tuple[int, int, int]:
        """Shape of an input."""
        return 1, self.side, self.side

    @property
    def state(self) -> tuple[int, int, int]:
        """Shape of a state."""
        return self.channels, self.side, self.side

    def data(self) -> tuple[Tensor, Tensor]:
        """Inputs (batch, *inputs) and classes (batch,)."""
        generator = torch.Generator().manual_seed(1000 + self.seed)
        x = torch.randn(self.batch, *self.inputs, generator=generator)
        return x, torch.randint(self.classes, (self.batch,), generator=generator)

    def opening(self) -> nn.Module:
        """From inputs to states."""
        return Opening(self.channels)

    def layer(self) -> lp.Convolution:
        """The template of the chain's layers."""
        return lp.Convolution(self.channels)

    def closing(self) -> nn.Module:
        """From states to (batch, classes)."""
        return nn.Sequential(nn.Flatten(), nn.Linear(self.channels * self.side**2, self.classes))

    def network(self, solver: Solver | None = None) -> lp.Network:
        """With weights that are independent from layer to layer, the same in every process."""
        torch.manual_seed(self.seed)
        body = lp.chain(self.layer(), self.depth, T=self.T, initial="independent")
        closing = self.closing()
        return lp.Network(self.opening(), body, closing, solver or lp.Serial())

    def plain(self) -> nn.Module:
        """The network as ordinary PyTorch, channels-last, which takes a tenth less time or so."""
        return channels_last(self.network().to_serial())

    def halves(self, closed: bool) -> tuple[nn.Module, nn.Module]:
        """The network cut in the middle: the library's exact steps (`closed`) or plain modules."""
        whole: Any = self.plain()
        layers: list[Any] = list(whole.body.children())
        middle, h = self.depth // 2, self.T / self.depth
        runs = [layers[:middle], layers[middle:]]
        bodies: list[nn.Module]
        if closed:
            nets = [lp.Network(None, lp.chain(self.layer(), len(run), h=h), None) for run in runs]
            for net, run in zip(nets, runs, strict=True):
                state = {
                    f"body.{n}.{key}": p for n, la in enumerate(run) for key, p in la.named_parameters()
                }
                net.load_state_dict(state)
            bodies = [*nets]
        else:
            bodies = [PlainChain(run, h) for run in runs]
        left = {"opening": whole.opening, "body": bodies[0], "seam": Seam(sends=True)}
        right = {"seam": Seam(sends=False), "body": bodies[1], "closing": whole.closing}
        return nn.Sequential(OrderedDict(left)), nn.Sequential(OrderedDict(right))


class _Laid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, forth: torch.memory_format, back: torch.memory_format) -> Tensor:
        ctx.back = back
        return u.contiguous(memory_format=forth).view_as(u)

    @staticmethod
    def backward(ctx: Any, *outgoing: Tensor) -> tuple[Any, ...]:
        return outgoing[0].contiguous(memory_format=ctx.back), None, None


class Seam(nn.Module):
    """State and adjoint contiguous where they are messages, and channels-last where they come from one.

    Args:
        sends: the state; it receives it if not.
    """

    def __init__(self, sends: bool):
        super().__init__()
        formats = (torch.contiguous_format, torch.channels_last)
        self.formats = formats if sends else formats[::-1]

    def forward(self, u: Tensor) -> Tensor:
        return _Laid.apply(u, *self.formats)


class Opening(nn.Module):
    """(B, 1, H, W) to (B, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__()
        self.convolution = nn.Conv2d(1, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.convolution(x))


class PlainChain(nn.ModuleList):
    """Layer by layer, as anyone would write it."""

    def __init__(self, layers: list[nn.Module], h: float):
        super().__init__(layers)
        self.h = h

    def forward(self, u: Tensor) -> Tensor:
        for layer in self:
            u = torch.add(u, layer(u), alpha=self.h)
        return u


class Gradient:
    """One gradient of the cross-entropy: calling it leaves it in the parameters."""

    def __init__(self, module: nn.Module, x: Tensor, y: Tensor):
        self.module, self.x, self.y = module, x, y

    def __call__(self) -> None:
        self.module.zero_grad(set_to_none=True)
        functional.cross_entropy(self.module(self.x), self.y).backward()

    def found(self) -> Gradients:
        """The gradient under the names of a state_dict, layer by layer; of this rank's part alone."""
        return named_gradients(self.module)


def named_gradients(module: nn.Module) -> Gradients:
    """Gradients where `state_dict` has the parameters: under names that count layers over all ranks."""
    parameters = [p for p in module.parameters() if p.numel()]
    kept = [p.data for p in parameters]
    try:
        for p in parameters:
            p.data = torch.zeros_like(p) if p.grad is None else p.grad
        return {name: value.detach().clone() for name, value in module.state_dict().items()}
    finally:
        for p, value in zip(parameters, kept, strict=True):
            p.data = value


def on_one_process(rank: int, case: Case, how: str) -> Callable[[], None]:
    """The gradient by one process: "Serial()", "eager" or "compiled"."""
    x, y = case.data()
    net = case.network()
    if how == "Serial()":
        return Gradient(net, x, y)
    serial: Any = case.plain()
    return Gradient(serial if how == "eager" else CompiledBlocks(serial), x, y)


def exact_gradient(rank: int, case: Case) -> Gradient:
    """By the serial solver in float64."""
    x, y = case.data()
    return Gradient(copy.deepcopy(case.network()).double(), x.double(), y)
