"""Counts in virtual time are those of the cost model."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from predicting import FREE, counted, network, solvers, task

import layerparallel as lp
from layerparallel.group import Link
from layerparallel.group.virtual import run
from layerparallel.predict.parallel import gradient_on, shared
from layerparallel.solvers import cost
from layerparallel.solvers.measure import gradients


@settings(max_examples=25)
@given(solver=solvers, depth=st.integers(12, 40), ranks=st.integers(2, 7))
def test_evaluations_of_all_ranks_are_those_of_the_closed_form(solver, depth, ranks):
    solver = replace(solver, levels=len(solver.factors(depth)) + 1)
    _, _, (forward, adjoint), charged = counted(ranks, solver, depth)
    assert forward == cost.step_evaluations(solver, depth)
    assert adjoint == cost.step_evaluations(solver, depth, adjoint=True)
    assert charged == sum(forward) + sum(adjoint)


def test_a_coarsest_level_that_all_ranks_solve_counts_on_each():
    solver, slow = lp.MGRIT(2, 4), Link(1.0, 0.0)  # 7 messages along it, or 6 to gather it
    _, _, levels, charged = counted(8, solver, 64, slow)
    for found, adjoint in zip(levels, (False, True), strict=True):
        fine, coarse = cost.step_evaluations(solver, 64, adjoint)
        rhs = 0 if adjoint else 16  # of the right-hand sides, which are evaluated where they are
        assert found[0] == fine
        assert found[1] in (8 * coarse, 8 * (coarse - rhs) + rhs)
    assert charged == sum(map(sum, levels))


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("coarsening", [(4,), (8,), (4, 4), (2, 4)])
def test_one_cycle_takes_the_time_of_its_schedule(ranks, coarsening):
    solver = lp.MGRIT(len(coarsening) + 1, coarsening, forward_cycles=1, adjoint_cycles=1)
    times = counted(ranks, solver, 64)[:2]
    for time, adjoint in zip(times, (False, True), strict=True):
        events = cost.schedule(solver, 64, adjoint)
        assert time == sum(-(-event.intervals // ranks) * event.length for event in events)


def test_a_coarse_step_is_charged_what_it_evaluates():
    def times(**operator):
        solver = lp.MGRIT(2, 8, forward_cycles=1, adjoint_cycles=1, **operator)
        return counted(8, solver, 64)[:2]

    assert times() == (8 + 8, 8 + 8)
    assert times(coarse="mean_residual", samples=4) == (4 * 8 + 8,) * 2
    assert times(coarse="picard", samples=4) == (8 * 8 + 8,) * 2
    assert times(coarse="picard", samples=1) == (2 * 8 + 8,) * 2


@pytest.mark.parametrize(("levels", "coarsening"), [(2, 8), (3, 4)])
def test_the_critical_path_is_reached_with_a_rank_for_every_interval(levels, coarsening):
    solver = lp.MGRIT(levels, coarsening, forward_cycles=1, adjoint_cycles=1)
    forward, backward = counted(64 // coarsening, solver, 64)[:2]
    assert forward == cost.critical_path(solver, 64)
    assert backward == cost.critical_path(solver, 64, adjoint=True)


def test_more_cycles_overlap_where_the_schedule_has_one_event_after_the_other():
    """A rank goes on as soon as the coarse solve has passed it: less than the schedule, never less than
    the work of a rank."""
    solver, ranks = lp.MGRIT(2, 8), 8
    forward, _, (evaluations, _), _ = counted(ranks, solver, 64)
    assert sum(evaluations) / ranks <= forward < cost.critical_path(solver, 64)


def test_crossover_of_the_published_setting_is_near_16_cores():
    """Slides: N = 1024, coarsening 2, F- then FCF-relaxation, 2 cycles; forward, messages free."""
    solver = lp.MGRIT(7, 2, relaxation=(0, 1), start="constant")
    assert 1024 / counted(8, solver, 1024)[0] < 1 < 1024 / counted(16, solver, 1024)[0]


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize(("cycles", "relaxation"), [(1, 0), (2, 0), (3, 1)])
def test_messages_of_a_two_level_solve(ranks, cycles, relaxation):
    """Along the coarsest level once a cycle, to the next rank once a CF-relaxation, each from all ranks
    but one; and log2 P exchanges of all ranks for the norms. The coarsest level is begun on the rank
    where it is not exact yet."""
    solver = lp.MGRIT(2, 4, relaxation, forward_cycles=cycles)
    whole = network(64, width=3)

    def function(member):
        mine = shared(whole)
        mine.solver = solver
        lp.distribute(mine, member)
        body = mine.chains[0]
        chain = body.bind(body.tensors(), body.placement(4))
        member.restart()
        with torch.no_grad():
            solver.solve(chain, chain.pack((torch.ones(5, 3),)))

    statistics = run(ranks, function, FREE).statistics
    exact = [(k + 1) * (relaxation + 1) for k in range(cycles - 1)]  # of 16 coarse steps
    states = (cycles + relaxation * (cycles - 1)) * (ranks - 1)
    states -= sum((f - 1) // (16 // ranks) for f in exact)
    sums = ranks * (ranks.bit_length() - 1)
    assert sum(each.messages for each in statistics) == states + sums
    norms = 2 * cycles + 1  # residuals, corrections, the scale and one for the error, in float64
    assert sum(each.bytes for each in statistics) == states * 60 + sums * 8 * norms


def test_a_gradient_in_virtual_time_is_that_of_one_process():
    solver = lp.MGRIT(2, 3, coarse="picard", samples=2)
    whole = network(13, width=4).double()
    whole.solver = solver
    x = torch.randn(5, 2, dtype=torch.float64)
    whole(x).square().sum().backward()
    exact = gradients(whole)
    whole.zero_grad()

    def function(member):
        mine = lp.distribute(shared(whole), member)
        mine(x).square().sum().backward()
        return mine.chains[0].block, gradients(mine)

    for block, found in run(4, function, FREE).results:
        for name, gradient in found.items():
            reference = exact[name]
            if name.startswith("body."):
                reference = reference[block.start : block.stop]
            assert torch.allclose(gradient, reference, rtol=1e-12, atol=1e-14), name
    assert torch.equal(next(whole.parameters()), next(network(13, width=4).double().parameters()))


def test_ranks_share_the_network_until_they_keep_their_blocks():
    whole = network(8)
    mine = shared(whole)
    for p, q in zip(whole.parameters(), mine.parameters(), strict=True):
        assert p is not q
        assert p.data_ptr() == q.data_ptr()


def test_predicted_computing_shrinks_and_messages_cost():
    solver = lp.MGRIT(2, 8, forward_cycles=1, adjoint_cycles=1)
    free, dear = (gradient_on(4, task(64), solver, Link(latency, 0.0)) for latency in (0.0, 1.0))
    assert free.messages == dear.messages > 0
    assert free.bytes == dear.bytes > 0
    assert free.fallback is None
    assert dear.seconds > 10 > 1 > free.seconds > 0
    assert dear.waiting > 5
