"""What the tests of distributed networks run on every rank, and the one-process results beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from problems import BY_NAME, oscillation, residual_block
from torch import Tensor, nn

import layerparallel as lp
from layerparallel.group import ALONE, Group
from layerparallel.solvers.variants import Solvers


@dataclass(frozen=True)
class Case:
    """A network, an input and a solver, that every process can make for itself."""

    problem: str
    depth: int
    solver: Solvers
    initial: str = "independent"
    seed: int = 0


def sentence(work: Callable[[], object]) -> str:
    """What a call raises, with the kind of error."""
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def several_chains(depth: int) -> lp.Network:
    """Three chains, stacked, unlike and tied, with transitions in front, between and no closing."""
    parts = [
        nn.Linear(3, 4),
        lp.chain(lp.Dense(4), depth, T=2.0, initial="independent"),
        nn.Sequential(nn.Linear(4, 3), nn.Tanh()),
        lp.chain([residual_block(3, 2 + n % 3) for n in range(max(depth // 2, 1))], T=1.0),
        lp.chain(residual_block(3, 3), depth, T=1.0, tied=True),
    ]
    return lp.Network(None, parts, None)


def network(case: Case) -> tuple[lp.Network, Tensor]:
    """The whole network on one process, and its input."""
    torch.manual_seed(case.seed)
    if case.problem == "several chains":
        net, shape = several_chains(case.depth).double(), (5, 3)
        net.solver = case.solver
    elif case.problem == "oscillation":
        net, shape = oscillation(lp.Dense(8, "identity"), case.depth, 3.1 / 16), (4, 8)
        net.solver = case.solver
    else:
        problem = BY_NAME[case.problem]
        body = problem.body(case.depth, case.initial)
        net = lp.Network(problem.opening(), body, problem.closing(), case.solver).double()
        shape = problem.shape(case.depth)
    generator = torch.Generator().manual_seed(case.seed + 1)
    return net, torch.randn(shape, dtype=torch.float64, generator=generator)


def by_layer(net: lp.Network, values: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """Values of parameters, named as in a network that is layer by layer and whole."""
    found = {}
    for name, value in values.items():
        if value is None or name.endswith("nothing"):
            continue
        pattern, _ = net.layer_name(name)
        body = next((b for b in net.chains if "{n}" in pattern and _inside(net, b, name)), None)
        if body is None:
            found[pattern] = value
        else:
            found |= {pattern.format(n=n): value[row] for row, n in enumerate(body.block)}
    return found


def _inside(net: lp.Network, body: lp.Body, name: str) -> bool:
    wanted = dict(net.named_parameters()).get(name)
    return any(wanted is p for p in body.parameters())


def pull_back(net: lp.Network, y: Tensor) -> Tensor:
    """A loss that weighs every output differently, back-propagated."""
    weights = torch.linspace(-1.0, 2.0, y.numel(), dtype=y.dtype).view(y.shape)
    loss = (weights * y + y.square() / 2).sum()
    loss.backward()
    return loss.detach()


@dataclass
class Found:
    """What one rank has after a training step's propagation and back-propagation."""

    output: Tensor
    gradients: dict[str, Tensor]
    residuals: list[list[float]]
    layers: list[range]


def propagated(group: Group, case: Case, layers: Sequence[Sequence[int]] | None = None) -> Found:
    """One forward and backward on a rank of the group."""
    net, x = network(case)
    lp.distribute(net, group, layers=layers)
    net.train()
    y = net(x)
    pull_back(net, y)
    solutions = (*net.solutions, *net.adjoint_solutions)
    return Found(
        y.detach(),
        by_layer(net, {name: p.grad for name, p in net.named_parameters()}),
        [[*solution.residuals, solution.relative_error] for solution in solutions],
        [body.block for body in net.chains],
    )


def worst(found: Sequence[Found], case: Case) -> float:
    """Largest deviation from one process: outputs, every gradient, residuals and the estimated error.

    Gradients are relative to the largest of the chains, residuals to the states.
    """
    one = propagated(ALONE, case)
    off = 0.0
    scale = max(
        [float(g.abs().max()) for n, g in one.gradients.items() if n.startswith("body.")] or [1.0]
    )
    met: set[str] = set()
    for rank in found:
        off = max(off, float((rank.output - one.output).abs().max() / one.output.abs().max()))
        for name, gradient in rank.gradients.items():
            assert gradient.shape == one.gradients[name].shape, name
            met.add(name)
            off = max(off, float((gradient - one.gradients[name]).abs().max()) / scale)
        for mine, theirs in zip(rank.residuals, one.residuals, strict=True):
            assert len(mine) == len(theirs)
            for a, b in zip(mine, theirs, strict=True):
                off = max(off, abs(a - b) / max(1.0, b))
    assert met == set(one.gradients), set(one.gradients) - met
    for chain, whole in enumerate(one.layers):  # every layer is on one rank
        assert [n for rank in found for n in rank.layers[chain]] == list(whole)
    return off
