"""One table of problems, and the measure of every solver on them: ordinary autograd."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

import layerparallel as lp
from layerparallel.chains import convolution
from layerparallel.chains.chain import Chain
from layerparallel.solvers import MGRIT
from layerparallel.solvers.variants import Solvers
from layerparallel.steps.state import State


class Block(nn.Module):
    """A pre-norm residual block, the next state itself."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.norm, self.up = nn.LayerNorm(width), nn.Linear(width, width + 2)
        self.down = nn.Linear(width + 2, width)

    def forward(self, u: Tensor) -> Tensor:
        return u + 0.1 * self.down(torch.tanh(self.up(self.norm(u))))


class Timed(nn.Module):
    """F(u, t)."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, u: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(self.linear(u)) * torch.cos(t)


class Cell(nn.Module):
    """F(u, x) of a recurrence."""

    def __init__(self, width: int = 4, features: int = 2):
        super().__init__()
        self.state, self.input = nn.Linear(width, width), nn.Linear(features, width)

    def forward(self, u: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.state(u) + self.input(x))


class Drive(nn.Module):
    """Opening of a recurrence: (B, N, features) to u[0] = 0 and an input per step."""

    def __init__(self, width: int = 4, features: int = 2):
        super().__init__()
        self.width, self.linear = width, nn.Linear(features, features)

    def forward(self, x: Tensor) -> lp.Driven:
        return lp.Driven(x.new_zeros(x.shape[0], self.width), self.linear(x).transpose(0, 1))


class Pair(nn.Module):
    """Opening to a state of two tensors."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.y, self.z = nn.Linear(3, width), nn.Linear(3, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.y(x), self.z(x)


class Join(nn.Module):
    """Closing of a state of two tensors."""

    def forward(self, u: tuple[Tensor, Tensor]) -> Tensor:
        return u[0] - 2 * u[1]


class Affine(nn.Module):
    """F(u) = A u + b, or tanh of it, with no closed form."""

    def __init__(self, width: int = 4, activation: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.linear, self.activation = nn.Linear(width, width), activation

    def forward(self, u: Tensor) -> Tensor:
        value = self.linear(u)
        return value if self.activation is None else self.activation(value)


def residual_block(width: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, width))


def pendulum(u: Tensor, t: Tensor, dt: float) -> Tensor:
    """A plain step function."""
    return u + dt * torch.sin(u + t)


@dataclass(frozen=True)
class Problem:
    """A network of a given depth and initialisation, and an input for it."""

    name: str
    opening: Callable[[], nn.Module | None]
    body: Callable[[int, Any], lp.Body]
    closing: Callable[[], nn.Module | None]
    shape: Callable[[int], tuple[int, ...]]
    like: bool = True
    """The steps are alike, so that parameters can be averaged."""
    large: bool = False
    """Convolve as if the states were large."""

    def network(self, depth: int, initial: str = "smooth", seed: int = 0) -> lp.Network:
        torch.manual_seed(seed)
        net = lp.Network(self.opening(), self.body(depth, initial), self.closing())
        return net.double()

    def input(self, depth: int, seed: int = 1) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self.shape(depth), generator=generator, dtype=torch.float64)

    @contextlib.contextmanager
    def layout(self) -> Iterator[None]:
        """The convolution's layout that this problem is about."""
        before = convolution.LARGE
        convolution.LARGE = 1 if self.large else before
        try:
            yield
        finally:
            convolution.LARGE = before


def _dense(activation: str) -> Problem:
    return Problem(
        f"dense {activation}",
        lambda: nn.Linear(3, 4),
        lambda depth, initial: lp.chain(lp.Dense(4, activation), depth, T=2.0, initial=initial),
        lambda: nn.Linear(4, 2),
        lambda depth: (5, 3),
    )


def _convolution(activation: str, large: bool = False, kernel: int = 3) -> Problem:
    return Problem(
        f"convolution {activation}{' large' * large}",
        lambda: nn.Conv2d(1, 2, 3, padding=1),
        lambda depth, initial: lp.chain(
            lp.Convolution(2, activation, kernel), depth, T=2.0, initial=initial
        ),
        nn.Flatten,
        lambda depth: (2, 1, 4, 3),
        large=large,
    )


def _narrow(name: str, body: Callable[[int, Any], lp.Body], like: bool = True) -> Problem:
    return Problem(
        name,
        lambda: nn.Linear(3, 4),
        body,
        lambda: nn.Linear(4, 2),
        lambda depth: (5, 3),
        like,
    )


PROBLEMS = [
    _dense("tanh"),
    _dense("gelu"),
    _dense("smoothrelu"),
    _dense("relu"),
    _dense("identity"),
    _convolution("tanh"),
    _convolution("gelu", kernel=1),
    _convolution("smoothrelu"),
    _convolution("tanh", large=True),
    _convolution("relu", large=True),
    _narrow(
        "block",
        lambda depth, initial: lp.chain(Block(), depth, integrator="block", initial=initial),
    ),
    _narrow(
        "tied",
        lambda depth, initial: lp.chain(residual_block(4, 3), depth, T=2.0, tied=True),
    ),
    _narrow("tied, timed", lambda depth, initial: lp.chain(Timed(), depth, T=2.0, tied=True)),
    _narrow(
        "timed rk4",
        lambda depth, initial: lp.chain(Timed(), depth, T=2.0, integrator="rk4", initial=initial),
    ),
    _narrow(
        "tied rk4",
        lambda depth, initial: lp.chain(residual_block(4, 3), depth, T=2.0, integrator="rk4", tied=True),
    ),
    _narrow(
        "unlike",
        lambda depth, initial: lp.chain([residual_block(4, 2 + n % 3) for n in range(depth)], T=2.0),
        like=False,
    ),
    _narrow("step function", lambda depth, initial: lp.chain(pendulum, depth, T=2.0)),
    Problem(
        "verlet",
        Pair,
        lambda depth, initial: lp.chain(
            lp.Hamiltonian(4), depth, T=2.0, integrator="verlet", initial=initial
        ),
        Join,
        lambda depth: (5, 3),
    ),
    Problem(
        "recurrence",
        Drive,
        lambda depth, initial: lp.chain(Cell(), depth, T=2.0, tied=True),
        lambda: nn.Linear(4, 2),
        lambda depth: (3, depth, 2),
    ),
]
BY_NAME = {problem.name: problem for problem in PROBLEMS}


@dataclass(frozen=True)
class Errors:
    """Greatest deviations from ordinary autograd.

    output: relative to the largest entry of the output. gradient: over every parameter and the
    input, relative to the largest gradient of the chain.
    """

    output: float
    gradient: float

    @property
    def worst(self) -> float:
        return max(self.output, self.gradient)


def twin_gradients(net: lp.Network, twin: nn.Module) -> dict[str, Tensor]:
    """The gradients of the serial twin, under the network's parameter names."""
    serial = {name: p.grad for name, p in twin.named_parameters()}
    found = {}
    for name, _ in net.named_parameters():
        pattern, layers = net.layer_name(name)
        if layers:
            each = [serial[pattern.format(n=n)] for n in range(layers)]
            found[name] = torch.stack([cast(Tensor, g) for g in each])
        else:
            found[name] = cast(Tensor, serial[pattern])
    return found


def pull_back(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output and input gradient of a loss that weighs every output differently."""
    x = x.clone().requires_grad_()
    y = module(x)
    weights = torch.linspace(-1.0, 2.0, y.numel(), dtype=y.dtype).view(y.shape)
    (weights * y + y.square() / 2).sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


def compare(net: lp.Network, x: Tensor, solver: Solvers) -> Errors:
    """A training step's output and gradients, by `solver` and by ordinary autograd."""
    twin = net.to_serial()
    expected, expected_x = pull_back(twin, x)
    net.zero_grad()
    net.train()
    with net.solved_by(solver):
        output, input_gradient = pull_back(net, x)
    reference = twin_gradients(net, twin)
    chain = [g for name, g in reference.items() if name.startswith("body.")] or [expected_x]
    scale = max(float(g.abs().max()) for g in chain)
    worst = float((input_gradient - expected_x).abs().max())
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        worst = max(worst, float((p.grad - reference[name]).abs().max()))
    off = float((output - expected).abs().max() / expected.abs().max())
    return Errors(off, worst / scale)


def small(solver: Solvers, depth: int = 12, width: int = 4, **options: Any) -> lp.Network:
    """A dense network of 3 inputs and 2 outputs, smooth in depth unless told otherwise."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"T": 2.0} | options
    body = lp.chain(lp.Dense(width), depth, **settings)
    return lp.Network(nn.Linear(3, width), body, nn.Linear(width, 2), solver).double()


def oscillation(
    layer: nn.Module, depth: int, turn: float, damping: float = 0.0, seed: int = 0
) -> lp.Network:
    """Steps ``u + F(u)`` that turn by about `turn` and damp by `damping`, every one about other axes.

    `layer` has one square weight, skew-symmetric but for the damping, and a bias of zero.
    """
    body = lp.chain(layer, depth, h=1.0, initial="independent").double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in body.parameters():
            if parameter.dim() < 3:
                parameter.zero_()
                continue
            width = parameter.shape[-1]
            axes = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            axes = torch.linalg.qr(axes)[0]
            turning = torch.zeros(width, width, dtype=torch.float64)
            turning[::2, 1::2].fill_diagonal_(turn)
            turning = turning - turning.t() - damping * torch.eye(width, dtype=torch.float64)
            parameter.copy_(axes @ turning @ axes.mT)
    return lp.Network(None, body, None)


def batch(size: int = 5, seed: int = 1) -> Tensor:
    """An input of `small`."""
    return torch.randn(size, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(net: nn.Module) -> list[Tensor]:
    """Those there are, as they are now."""
    return [p.grad.clone() for p in net.parameters() if p.grad is not None]


def bound(net: lp.Network, x: Tensor) -> tuple[Chain, State]:
    """The chain of a network's body, and its first state in the chain's layout."""
    first = (net.opening(x).detach(),)
    chain = net.body.fastest(net.body.bind(net.body.tensors()), first)
    return chain, chain.pack(first)


def c_points(chain: Chain, u0: State, coarsening: int) -> Tensor:
    """The exact states at the C-points of a chain of one-tensor states, by single steps."""
    from layerparallel.chains.chain import Intervals

    u, found = u0, [u0[0]]
    order = range(chain.steps)
    for n in reversed(order) if chain.reverse else order:
        u = chain.advance(u, Intervals(n, 1, 1))
        found.append(u[0])
    states = torch.cat(found[::-1] if chain.reverse else found)
    return states[: chain.steps // coarsening * coarsening + 1 : coarsening].clone()


def last_cycle(solver: MGRIT, steps: int) -> int:
    """At which cycle the C-points are exact whatever the weights: ceil(floor(N/m) / (nu + 1))."""
    count = steps // solver.factors(steps)[0]
    return -(-count // (solver.relaxations(0) + 1))
