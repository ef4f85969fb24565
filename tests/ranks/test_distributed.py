"""A distributed network is the network: outputs, residuals and every gradient, on every rank."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import PROBLEMS
from ranks.rank_cases import Case, propagated, worst

import layerparallel as lp
from layerparallel.group import ALONE, Link, virtual
from layerparallel.solvers.cost import exact_after
from layerparallel.solvers.variants import Solver

TIGHT = 1e-12
NAMES = [problem.name for problem in PROBLEMS if "large" not in problem.name]
NO_PICARD = ("verlet", "timed rk4", "tied rk4", "step function")
RELAYED, GATHERED = Link(1e-6, 1e-3), Link(1.0, 1e-12)
"""Messages that are cheap, and messages so slow that every rank solves the coarsest level itself."""


@st.composite
def solvers(draw: st.DrawFn, name: str, depth: int) -> Solver:
    """Any that fits the depth and the kind of steps."""
    if depth < 2 or draw(st.integers(0, 6)) == 0:
        return lp.Serial(memory=draw(st.sampled_from(["store", "recompute"])))
    coarse = ["inject", "mean_residual"]
    coarse += [] if name in NO_PICARD else ["picard"]
    coarse += [] if name == "unlike" else ["mean_parameters"]
    options = {
        "levels": draw(st.integers(2, 4)),
        "coarsening": draw(
            st.one_of(
                st.none(),
                st.integers(2, min(5, depth)),
                st.tuples(st.integers(2, min(4, depth)), st.integers(2, 3)),
            )
        ),
        "relaxation": draw(st.sampled_from([0, 1, 2, (0, 1)])),
        "cycle": draw(st.sampled_from("VFW")),
        "forward_cycles": draw(st.integers(1, 3)),
        "adjoint_cycles": draw(st.integers(1, 3)),
        "coarse": draw(st.sampled_from(coarse)),
        "samples": draw(st.sampled_from([None, 1, 2])),
        "start": draw(st.sampled_from(["coarse", "nested", "constant"])),
        "first_down": draw(st.booleans()),
        "memory": draw(st.sampled_from(["store", "recompute"])),
        "smallest": 2,
        "guard": False,
    }
    whole = lp.MGRIT(**options)
    if not whole.factors(depth):
        return lp.Serial()
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return lp.Split(lp.Serial(memory=whole.memory), whole)
    if kind == 1 and depth >= 6:  # intervals of the two directions that do not match
        return lp.Split(whole, lp.MGRIT(coarsening=3, memory=whole.memory, guard=False))
    return whole


@st.composite
def cases(draw: st.DrawFn, names: list[str], deepest: int = 23) -> Case:
    name, depth = draw(st.sampled_from(names)), draw(st.integers(1, deepest))
    return Case(name, depth, draw(solvers(name, depth)), seed=draw(st.integers(0, 3)))


@st.composite
def distributions(draw: st.DrawFn, depth: int, ranks: int) -> list[list[int]] | None:
    """How many layers every rank gets: as the library has it, or any numbers."""
    if draw(st.booleans()):
        return None
    cuts = sorted(draw(st.lists(st.integers(1, depth), min_size=ranks - 1, max_size=ranks - 1)))
    ends = [0, *cuts, depth]
    return [[b - a for a, b in pairwise(ends)]]


@settings(max_examples=40)
@given(data=st.data())
def test_real_processes_give_what_one_process_gives(pool, data):
    case, ranks = data.draw(cases(NAMES)), data.draw(st.integers(1, 5))
    layers = data.draw(distributions(case.depth, ranks))
    assert worst(pool.run(ranks, propagated, case, layers), case) < TIGHT


@settings(max_examples=120)
@given(data=st.data())
def test_any_number_of_ranks_gives_what_one_process_gives(data):
    case, ranks = data.draw(cases(NAMES)), data.draw(st.integers(1, 9))
    layers = data.draw(distributions(case.depth, ranks))
    link = data.draw(st.sampled_from([RELAYED, GATHERED]))
    found = virtual.run(ranks, propagated, link, case, layers, measured=False).results
    assert worst(found, case) < TIGHT


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ranks", [2, 3])
def test_every_kind_of_chain_in_real_processes(pool, name, ranks):
    for solver in (lp.Serial(), lp.MGRIT(coarsening=2, relaxation=1, smallest=2, guard=False)):
        case = Case(name, 11, solver)
        assert worst(pool.run(ranks, propagated, case), case) < TIGHT


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("depth", [3, 12])
def test_several_chains_with_transitions(pool, ranks, depth):
    each = lp.MGRIT(coarsening=2, relaxation=1, forward_cycles=3, guard=False)
    one = lp.Serial() if depth == 3 else each
    for solver in (lp.Serial(), (each, one, lp.MGRIT(coarsening=3, guard=False))):
        case = Case("several chains", depth, solver)
        assert worst(pool.run(ranks, propagated, case), case) < TIGHT


def test_more_ranks_than_intervals_and_than_layers(pool):
    for depth in (1, 2, 3, 4):
        solver = lp.Serial() if depth < 4 else lp.MGRIT(coarsening=4, guard=False)
        case = Case("dense tanh", depth, solver)
        assert worst(pool.run(5, propagated, case), case) < TIGHT


@pytest.mark.parametrize("link", [RELAYED, GATHERED], ids=["relayed", "gathered"])
@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize("coarsening", [(16,), (4, 4)], ids=["two levels", "three levels"])
def test_after_as_many_cycles_as_intervals_ranks_are_exact_bit_by_bit(ranks, link, coarsening):
    """On an oscillation whose coarse steps grow by 3 each, the worst there is for rounding."""
    solver = lp.MGRIT(len(coarsening) + 1, coarsening, relaxation=1, guard=False)
    cycles = 1 + exact_after(solver, 384)
    solver = replace(solver, forward_cycles=cycles, adjoint_cycles=cycles)
    exact = propagated(ALONE, Case("oscillation", 384, lp.Serial()))
    case = Case("oscillation", 384, solver)
    for rank in virtual.run(ranks, propagated, link, case, measured=False).results:
        assert torch.equal(rank.output, exact.output)
        assert [residuals[-1] for residuals in rank.residuals] == [0, 0]
        for name, gradient in rank.gradients.items():
            torch.testing.assert_close(gradient, exact.gradients[name], rtol=1e-12, atol=0)
