"""Chains: batched intervals, coarse operators and adjoints, against single steps and formulas."""

from typing import Any

import pytest
import torch
from problems import BY_NAME, Problem, bound
from torch import nn

import layerparallel as lp
from layerparallel.chains.chain import Chain, Intervals
from layerparallel.chains.coarse import CoarseOperator
from layerparallel.solvers.settings import CHOICES
from layerparallel.steps.state import State, copy_into

DEPTH = 17
ONE_TENSOR = [
    "dense tanh",
    "dense gelu",
    "dense smoothrelu",
    "convolution tanh",
    "convolution tanh large",
    "convolution smoothrelu",
    "block",
    "tied",
    "tied, timed",
    "timed rk4",
    "unlike",
    "step function",
]
every_problem = pytest.mark.parametrize("name", ONE_TENSOR)


def states(chain: Chain, u0: State, count: int, seed: int = 0) -> State:
    """An array of `count` states of the chain's layout."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, *u0[0].shape[1:])
    return (torch.randn(shape, generator=generator, dtype=torch.float64),)


def made(name: str) -> tuple[Problem, lp.Network, Chain, State]:
    problem = BY_NAME[name]
    net = problem.network(DEPTH, "independent")
    with torch.no_grad():
        chain, u0 = bound(net, problem.input(DEPTH))
    return problem, net, chain, u0


def coarse(chain: Chain, level: bool) -> Chain:
    """The chain itself, or a coarse level of it: what holds for one holds for the other."""
    return chain.coarsen(2, CoarseOperator("inject")) if level else chain


@every_problem
@pytest.mark.parametrize("level", [False, True], ids=["fine", "coarse"])
@pytest.mark.parametrize("over", [Intervals(0, 4, 2), Intervals(1, 2, 3, walk=2), Intervals(3, 1, 5)])
def test_batched_intervals_are_single_steps(name: str, level: bool, over: Intervals):
    """With a right-hand side, with the states on the way, and walks that end early."""
    problem, _, chain, u0 = made(name)
    with problem.layout(), torch.no_grad():
        chain = coarse(chain, level)
        u = states(chain, u0, over.count)
        rhs = states(chain, u0, chain.steps + 1, seed=1)
        untouched = states(chain, u0, chain.steps + 1, seed=2)
        less = states(chain, u0, chain.steps + 1, seed=3)
        for given, taken in ((None, None), (rhs, None), (rhs, less)):
            into = tuple(a.clone() for a in untouched)
            kept = tuple(a.clone() for a in u)
            arrived = chain.advance(u, over, given, into, taken)
            alone = chain.advance(u, over, given, less=taken)
            expected = tuple(a.clone() for a in untouched)
            ends = []
            for i in range(over.count):
                v = tuple(a[i : i + 1] for a in u)
                for j in range(over.walked):
                    n = over.first + i * over.length + j
                    single = chain.advance if taken is None else chain.reference
                    v = single(v, Intervals(n, 1, 1))
                    if taken is not None:
                        v = tuple(a - t[n + 1] for a, t in zip(v, taken, strict=True))
                    if given is not None:
                        v = tuple(a + g[n + 1] for a, g in zip(v, given, strict=True))
                    copy_into(tuple(e[n + 1] for e in expected), tuple(a[0] for a in v))
                ends.append(v[0])
            torch.testing.assert_close(into[0], expected[0], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(arrived[0], torch.cat(ends), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(alone[0], torch.cat(ends), rtol=1e-12, atol=1e-12)
            assert torch.equal(u[0], kept[0])  # departures are left as they are


def merged(net: lp.Network, layers: list[int]) -> nn.Module:
    """The first of these layers, as a plain module with the mean of their parameters."""
    twin = net.to_serial().body
    assert isinstance(twin, nn.ModuleList)
    with torch.no_grad():
        if len(layers) > 1:
            for p, *others in zip(*(twin[n].parameters() for n in layers), strict=True):
                p.copy_(torch.stack([p, *others]).mean(0))
    return twin[layers[0]]


@pytest.mark.parametrize("name", ["dense tanh", "dense smoothrelu", "convolution tanh", "unlike"])
@pytest.mark.parametrize("samples", [None, 2])
@pytest.mark.parametrize("kind", CHOICES["coarse"])
def test_coarse_operators_are_their_formulas(name: str, kind: str, samples: int | None):
    problem, net, chain, u0 = made(name)
    if not problem.like and (kind == "mean_parameters" or samples):
        return
    factor, step = 4, 2
    here = list(range(step * factor, (step + 1) * factor))
    groups = {
        "inject": [here[:1]],
        "mean_parameters": [here],
    }.get(kind, [[n] for n in here] if samples is None else [here[:2], here[2:]])
    F = [merged(net, layers) for layers in groups]
    r = factor * net.body.h / len(F)
    with torch.no_grad():
        u = net.opening(problem.input(DEPTH))
        nothing = torch.zeros_like(u)
        inner = [u] * len(F)
        if kind == "picard":  # of its own steps the half that came before, (1 - s / M) / 2
            own = (1 - len(F) / factor) / 2
            inner = [u + r * (own * f(u) + sum((g(u) for g in F[:j]), nothing)) for j, f in enumerate(F)]
        expected = u + r * sum((f(v) for f, v in zip(F, inner, strict=True)), nothing)
        coarser = chain.coarsen(factor, CoarseOperator(kind, samples))
        found = chain.unpack(coarser.advance(u0, Intervals(step, 1, 1)), (u,))[0]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_groups_of_a_coarse_step():
    """As many as asked for, and as divide the interval; each stands at its middle."""
    assert [CoarseOperator("mean_residual", s).groups(8) for s in (None, 99, 5, 3, 1)] == [
        *(8, 8, 4, 2, 1)
    ]
    assert CoarseOperator("inject", 4).groups(8) == 1
    assert CoarseOperator("inject").places(8) == [0.0]
    assert CoarseOperator("mean_parameters").places(4) == [1.5]
    assert CoarseOperator("mean_residual", 2).places(8) == [1.5, 5.5]
    assert CoarseOperator("mean_residual").places(3) == [0.0, 1.0, 2.0]


@every_problem
@pytest.mark.parametrize("kind", CHOICES["coarse"])
@pytest.mark.parametrize("level", [False, True], ids=["fine", "coarse"])
def test_adjoint_is_the_transpose_of_the_linearised_chain(name: str, kind: Any, level: bool):
    """lambda . (dPhi v) = (dPhi^T lambda) . v with v's image by central differences."""
    problem, _, chain, u0 = made(name)
    if kind == "mean_parameters" and not problem.like:
        return
    if kind == "picard" and name in ("timed rk4", "step function"):
        with pytest.raises(ValueError, match="forward Euler"):
            chain.coarsen(4, CoarseOperator(kind))
        return
    with problem.layout(), torch.no_grad():
        whole = Intervals(0, 1, chain.steps)
        adjoint = chain.linearise()
        adjoint.record(u0, whole)
        trajectory = tuple(a.new_empty((chain.steps + 1, *a.shape[1:])) for a in u0)
        copy_into(tuple(a[:1] for a in trajectory), u0)
        chain.advance(u0, whole, into=trajectory)
        if level:
            operator = CoarseOperator(kind)
            chain, adjoint = chain.coarsen(4, operator), adjoint.coarsen(4, operator)
            trajectory = tuple(a[::4] for a in trajectory)
        over = Intervals(1, 3, 1)
        u = over.left(trajectory)
        (lam,), (v,) = states(chain, u0, 3, seed=3), states(chain, u0, 3, seed=4)
        eps = 1e-6
        up, down = (chain.advance((u[0] + s * eps * v,), over)[0] for s in (1, -1))
        pulled = adjoint.advance((lam,), over)[0]
        image = (up - down) / (2 * eps)
        for i in range(3):  # step by step: no interval leaks into another
            expected = float((lam[i] * image[i]).sum())
            assert float((pulled[i] * v[i]).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-7)


@every_problem
def test_adjoint_with_a_right_hand_side(name: str):
    """Batched intervals of the adjoint are its single steps, from right to left."""
    problem, _, chain, u0 = made(name)
    over = Intervals(1, 4, 3)
    with problem.layout(), torch.no_grad():
        adjoint = chain.linearise()
        adjoint.record(u0, Intervals(0, 1, chain.steps))
        lam = states(chain, u0, 4, seed=5)
        rhs = states(chain, u0, chain.steps + 1, seed=6)
        into = states(chain, u0, chain.steps + 1, seed=7)
        less = states(chain, u0, chain.steps + 1, seed=8)
        for walk in (3, 2):
            part = Intervals(1, 4, 3, walk=walk)
            expected = into[0].clone()
            ends = []
            for i in range(over.count):
                v = (lam[0][i : i + 1],)
                for j in range(over.length - 1, over.length - 1 - walk, -1):
                    n = over.first + i * over.length + j
                    v = (adjoint.advance(v, Intervals(n, 1, 1))[0] - less[0][n] + rhs[0][n],)
                    expected[n] = v[0][0]
                ends.append(v[0])
            found = (into[0].clone(),)
            arrived = adjoint.advance(lam, part, rhs, found, less)
            torch.testing.assert_close(arrived[0], torch.cat(ends), rtol=1e-11, atol=1e-12)
            torch.testing.assert_close(found[0], expected, rtol=1e-11, atol=1e-12)


def test_intervals():
    over = Intervals(2, 3, 4)
    array = (torch.arange(20),)
    assert over.stop == 14
    assert over.evaluations == 12
    assert Intervals(2, 3, 4, walk=1).evaluations == 3
    assert over.left(array)[0].tolist() == [2, 6, 10]
    assert over.right(array)[0].tolist() == [6, 10, 14]
    assert [p[0].tolist() for p in over.positions(array, 1)] == [
        [3, 7, 11],
        [4, 8, 12],
        [5, 9, 13],
        [6, 10, 14],
    ]


def test_packing():
    """The chain's own layout and back."""
    for name in ("dense tanh", "convolution tanh", "block"):
        problem, net, chain, u0 = made(name)
        u = net.opening(problem.input(DEPTH)).detach()
        assert u0[0].shape[0] == 1
        assert torch.equal(chain.unpack(u0, (u,))[0], u)
