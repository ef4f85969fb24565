"""What a trained network is worth: accuracy serially and in parallel, residuals cycle by cycle."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from layerparallel.network import Network
from layerparallel.solvers import Serial
from layerparallel.solvers.cycles import is_serial, with_cycles
from layerparallel.training.comparison import error_of

VALUES = 1 << 18
"""Most input values of a batch in evaluation, so that states of a few channels fit the cache."""
PROBE_CYCLES = 3
"""Cycles over which `probe` measures the convergence factor."""


def logits(
    network: nn.Module,
    x: Tensor,
    parallel: bool = False,
    batch: int | None = None,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Outputs `(n, ...)` for inputs `(n, ...)` in evaluation mode, without a graph.

    Args:
        parallel: propagate with the network's own solver instead of serially.
        batch: samples at a time; None for 4096, or fewer where samples are large.
        prepare: makes inputs of stored samples, a batch at a time (`layerparallel.data.Preparation`);
            None where x are inputs already.
    """
    if batch is None:
        batch = min(4096, max(1, VALUES // x[0].numel()))
    parts = (prepare(part) if prepare else part for part in x.split(batch))
    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            if not isinstance(network, Network):
                return torch.cat([network(part) for part in parts])
            with network.solved_by(network.solver if parallel else Serial()):
                return torch.cat([network(part) for part in parts])
    finally:
        network.train(was_training)


def accuracy(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    parallel: bool = False,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> float:
    """Share of samples `(n, ...)` whose largest output is their class `(n,)`; see `logits`."""
    found = logits(network, x, parallel, prepare=prepare)
    return (found.argmax(dim=-1) == y).double().mean().item()


def residuals_per_cycle(
    network: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor], cycles: int
) -> tuple[list[float], list[float]]:
    """Residual norms of the forward and the adjoint solve over more cycles than training spends.

    Two empty lists for a network that is not solved by multigrid. The network is left as it was.
    """
    if not isinstance(network, Network) or is_serial(network.solver):
        return [], []
    solver = with_cycles(network.solver, lambda _: cycles)
    with _apart(network), network.solved_by(solver):
        torch.autograd.grad(loss(network(x)), list(network.parameters()), allow_unused=True)
        forward, adjoint = network.solution, network.adjoint_solution
    return forward.residuals if forward else [], adjoint.residuals if adjoint else []


def probe(network: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor]) -> dict[str, float | None]:
    """How well a network's solver does on a batch; nothing for one that is propagated serially.

    `gradient_error` and `gradient_cosine` compare its gradient with the exact one; `forward_factor`
    and `adjoint_factor` are the residual's mean reduction per cycle over `PROBE_CYCLES`, None where
    there is no residual. The network is left as it was.
    """
    if not isinstance(network, Network) or is_serial(network.solver):
        return {}
    with _apart(network):
        error, cosine = error_of(network, network.solver, lambda: loss(network(x)))
    found: dict[str, float | None] = {"gradient_error": error, "gradient_cosine": cosine}
    residuals = residuals_per_cycle(network, x, loss, PROBE_CYCLES)
    for direction, r in zip(("forward", "adjoint"), residuals, strict=True):
        measurable = len(r) > 1 and r[0] > 0
        found[f"{direction}_factor"] = (r[-1] / r[0]) ** (1 / (len(r) - 1)) if measurable else None
    return found


@contextmanager
def _apart(network: Network) -> Iterator[None]:
    """In training mode, but apart from training, which sees and hears nothing of it."""
    was_training = network.training
    network.train()
    try:
        with network.undisturbed(), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of fallbacks, which are no training's
            yield
    finally:
        network.train(was_training)
