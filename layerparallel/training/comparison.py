"""The gradient of a network beside the exact one, apart from training, which sees no difference."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..network.network import Network
from ..solvers.variants import Solvers, serially


def error_of(network: Network, solver: Solvers, loss: Callable[[], Tensor]) -> tuple[float, float]:
    """Relative error ``|g - g*| / |g*|`` and cosine of a solver's gradient g; the network is left alone.

    Args:
        loss: propagates the network and returns the loss whose gradient is compared.

    Returns:
        Infinity and 0 where g is not finite or a solve had to fall back to the serial one.
    """
    gradients, fell_back = [], False
    for each in (serially(solver), solver):
        with network.undisturbed(), network.solved_by(each), torch.enable_grad():
            before = network.fallbacks
            gradients.append(_gradient(network, loss()))
            fell_back = network.fallbacks > before
    exact, inexact = gradients
    off = inexact - exact
    products = torch.stack([exact @ exact, inexact @ inexact, off @ off, inexact @ exact])
    size, other, error, inner = network.group.total(products).tolist()
    if fell_back or not math.isfinite(error):
        return math.inf, 0.0
    if size == 0.0:
        return (0.0, 1.0) if error == 0.0 else (math.inf, 0.0)
    return math.sqrt(error / size), inner / math.sqrt(size * other) if other else 0.0


def _gradient(network: Network, loss: Tensor) -> Tensor:
    """This rank's part of the gradient as one vector, in float64; ``.grad`` is left alone."""
    params = [p for p in network.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, params, allow_unused=True)
    skipped = {id(p) for p in network.uncounted()}
    parts = [g for g, p in zip(found, params, strict=True) if g is not None and id(p) not in skipped]
    return torch.cat([loss.new_zeros(0).double(), *(g.double().flatten() for g in parts)])
