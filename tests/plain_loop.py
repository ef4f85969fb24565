"""An ordinary training loop, and what it trains: the measure of other libraries' trainers."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import layerparallel as lp

SOLVERS = {"serial": lp.Serial(), "multigrid": lp.MGRIT(coarsening=4, coarse="picard")}
EXACT = {"serial": lp.Serial(), "multigrid": lp.MGRIT(coarsening=4, forward_cycles=4, adjoint_cycles=4)}
"""As many cycles as there are intervals."""
PARTS, CLIP = 2, 0.5
"""Micro-batches of a step, and what its gradient is clipped to."""


class Block(nn.Module):
    """A residual block; with all that has a state of its own where it is `stateful`."""

    def __init__(self, width: int, stateful: bool):
        super().__init__()
        self.norm = nn.BatchNorm1d(width) if stateful else nn.LayerNorm(width)
        self.linear, self.drop = nn.Linear(width, width), nn.Dropout(0.2 * stateful)
        self.register_buffer("scale", torch.tensor(0.1))

    def forward(self, u: Tensor) -> Tensor:
        return u + self.scale * self.drop(torch.tanh(self.linear(self.norm(u))))


def network(solver: lp.Serial | lp.MGRIT, stateful: bool = False) -> lp.Network:
    """Two chains, one in closed form; the same weights each time."""
    torch.manual_seed(0)
    return lp.Network(
        opening=nn.Linear(3, 6),
        body=[
            lp.chain(lp.Dense(6), 16, T=2.0),
            nn.Linear(6, 5),
            lp.chain(Block(5, stateful), 16, integrator="block"),
        ],
        closing=nn.Linear(5, 4),
        solver=solver,
    )


def data() -> TensorDataset:
    """96 points in four classes."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(96, 3, generator=generator)
    return TensorDataset(x, (x[:, 0] > 0) + 2 * (x[:, 1] > 0))


def loader() -> DataLoader:
    return DataLoader(data(), batch_size=16)


def optimizer(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.1)


def train(net: nn.Module, epochs: int, half: bool = False) -> list[float]:
    """Losses of all micro-batches; `half` is bfloat16 by autocast."""
    step, losses = optimizer(net), []
    for k, (x, y) in enumerate(_batches(net, epochs), start=1):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = net(x)
        loss = F.cross_entropy(output.to(x.dtype), y)
        (loss / PARTS).backward()
        losses.append(loss.item())
        if k % PARTS == 0:
            nn.utils.clip_grad_norm_(net.parameters(), CLIP)
            step.step()
            step.zero_grad()
    return losses


def _batches(net: nn.Module, epochs: int) -> Iterator[tuple[Tensor, Tensor]]:
    dtype = next(net.parameters()).dtype
    for _ in range(epochs):
        for x, y in loader():
            yield x.to(dtype), y


def whole_gradient(net: nn.Module) -> list[Tensor]:
    """Of the first step's micro-batches as one batch."""
    x, y = (torch.cat(parts) for parts in zip(*list(_batches(net, 1))[:PARTS], strict=True))
    return list(torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters())))


def assert_in_parameters_dtype(net: lp.Network, optimizer: torch.optim.Optimizer) -> None:
    """The states that left the chains, and those of the optimiser."""
    dtype = next(net.parameters()).dtype
    assert {a.dtype for solution in net.solutions for a in solution.end} == {dtype}
    assert {a.dtype for solution in net.adjoint_solutions for a in solution.end} == {dtype}
    assert {p.dtype for p in net.parameters()} == {dtype}
    kept = [a for each in optimizer.state.values() for key, a in each.items() if key != "step"]
    assert {a.dtype for a in kept} == {dtype}
