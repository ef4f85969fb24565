"""A small task whose gradient is predicted."""

import torch
from hypothesis import strategies as st
from torch import nn

import layerparallel as lp
from layerparallel.group import Link
from layerparallel.group.virtual import run
from layerparallel.predict.baselines import PLAIN, SERIAL, OneRank, Pass
from layerparallel.predict.counted import CountedDense
from layerparallel.predict.parallel import shared
from layerparallel.predict.task import Task

FREE = Link(0.0, 0.0)


def network(depth, width=2, layer=lp.Dense):
    torch.manual_seed(0)
    return lp.Network(nn.Linear(2, width), lp.chain(layer(width), depth, T=1.0), nn.Linear(width, 3))


def task(depth, batch=4, **options):
    torch.manual_seed(1)
    x, y = torch.randn(batch, 2), torch.randint(3, (batch,))
    return Task("small", network, depth, x, y, repeats=1, **options)


def counted(ranks, solver, depth, link=FREE):
    """Seconds of forward and backward in step evaluations, and the evaluations of all ranks by level."""
    whole = network(depth, layer=CountedDense)
    x = torch.randn(4, 2)

    def function(member):
        mine = shared(whole)
        mine.solver = solver
        lp.distribute(mine, member)
        member.restart()
        y = mine(x)
        forward = member.align()
        y.sum().backward()
        solutions = mine.solution, mine.adjoint_solution
        assert all(each is not None for each in solutions)
        return forward, [each.evaluations for each in solutions if each is not None]

    outcome = run(ranks, function, link, measured=False)
    assert outcome.unread == 0
    forward = max(each for each, _ in outcome.results)
    levels = [
        [sum(level) for level in zip(*each, strict=True)]
        for each in zip(*(r for _, r in outcome.results), strict=True)
    ]
    charged = sum(each.compute for each in outcome.statistics)
    return forward, outcome.seconds - forward, levels, charged


class Told(OneRank):
    """Times as if measured, half of the backward pass for weights.

    Of 64 layers and a sample `Serial()` takes 1 s forward and 2 s backward, and plain PyTorch `plain`
    times as long.
    """

    def __init__(self, task, plain=2.0):
        super().__init__(task, weights=0.5)
        self.factor = plain

    def __call__(self, samples=None, way=SERIAL):
        count = self.task.batch if samples is None else samples
        return Pass(count * 1.0, count * 2.0).times(self.factor if way == PLAIN else 1.0)


solvers = st.builds(
    lp.MGRIT,
    levels=st.integers(2, 4),
    coarsening=st.one_of(st.integers(2, 4), st.tuples(st.integers(2, 4), st.integers(2, 3))),
    relaxation=st.one_of(st.integers(0, 1), st.tuples(st.integers(0, 1), st.integers(0, 2))),
    cycle=st.sampled_from("VFW"),
    forward_cycles=st.integers(1, 3),
    adjoint_cycles=st.integers(1, 2),
    start=st.sampled_from(["coarse", "nested", "constant"]),
    first_down=st.booleans(),
    guard=st.just(False),
)
