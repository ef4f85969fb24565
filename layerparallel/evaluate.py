"""What a trained network is worth: accuracy serially and in parallel, residuals cycle by cycle."""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from layerparallel.network import Network
from layerparallel.solvers import MGRIT, Serial


def logits(network: nn.Module, x: Tensor, parallel: bool = False, batch: int = 4096) -> Tensor:
    """Outputs `(n, ...)` for inputs `(n, ...)` in evaluation mode, without a graph.

    Args:
        parallel: propagate with the network's own solver instead of serially.
        batch: samples at a time.
    """
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            if not isinstance(network, Network):
                return torch.cat([network(part) for part in x.split(batch)])
            with network.solved_by(network.solver if parallel else Serial()):
                return torch.cat([network(part) for part in x.split(batch)])
    finally:
        network.train(was_training)


def accuracy(network: nn.Module, x: Tensor, y: Tensor, parallel: bool = False) -> float:
    """Share of samples `(n, ...)` whose largest output is their class `(n,)`."""
    return (logits(network, x, parallel).argmax(dim=-1) == y).double().mean().item()


def residuals_per_cycle(
    network: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor], cycles: int
) -> tuple[list[float], list[float]]:
    """Residual norms of the forward and the adjoint solve over more cycles than training spends.

    Two empty lists for a network that is not solved by multigrid. No gradient is accumulated.
    """
    if not isinstance(network, Network) or not isinstance(network.solver, MGRIT):
        return [], []
    solver = dataclasses.replace(network.solver, forward_cycles=cycles, adjoint_cycles=cycles)
    was_training = network.training
    network.train()
    try:
        with network.solved_by(solver):
            torch.autograd.grad(loss(network(x)), list(network.parameters()), allow_unused=True)
    finally:
        network.train(was_training)
    forward, adjoint = network.solution, network.adjoint_solution
    return (
        list(forward.residuals) if forward else [],
        list(adjoint.residuals) if adjoint else [],
    )
