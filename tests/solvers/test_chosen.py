"""What a solver chooses: a coarsening that fits the depth, and an operator that fits the steps."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from problems import PROBLEMS, Problem, batch, compare, gradients, small

import layerparallel as lp
from layerparallel.solvers import cost, describe, rebuild
from layerparallel.solvers.variants import fitted


def test_the_coarsening_is_near_the_root_of_the_depth():
    depths = (2, 3, 4, 15, 16, 32, 63, 64, 100, 255, 256, 512, 1000, 1024, 4096)
    chosen = (2, 2, 2, 2, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 64)
    assert [lp.MGRIT().factors(depth) for depth in depths] == [[m] for m in chosen]
    assert lp.MGRIT(levels=3).factors(512) == [8, 8]
    assert lp.MGRIT(levels=5).factors(1024) == [4, 4, 4, 4]
    assert lp.MGRIT(levels=12, smallest=8).factors(1024) == [2] * 7
    assert lp.MGRIT(smallest=8).factors(20) == [2]
    assert lp.Parareal().factors(256) == [16]


@pytest.mark.parametrize("levels", [2, 3, 4, 7, 40])
def test_every_depth_from_two_on_is_fitted(levels: int):
    solver = lp.MGRIT(levels=levels)
    for depth in range(2, 300):
        solver.check(depth)
        factors = solver.factors(depth)
        assert 1 <= len(factors) < levels
        (m,) = set(factors)
        assert m == 2 or m**levels <= depth < (2 * m) ** levels
        coarsest = depth // m ** len(factors)
        assert coarsest >= (1 if len(factors) == 1 else 2)
        written = solver.fitted(depth)
        written.check(depth)
        assert (written.coarsening, written.levels) == (m, len(factors) + 1)
        assert written.factors(depth) == factors


def test_a_chain_without_a_coarse_level_gets_one_sentence():
    for solver, steps, says in (
        (
            lp.MGRIT(),
            1,
            "no coarsening leaves 1 or more coarse steps of a chain of 1; use the serial solver",
        ),
        (lp.MGRIT(smallest=8), 15, "chain of 15; use smallest=7 or less or the serial solver"),
    ):
        with pytest.raises(ValueError, match="no coarsening") as error:
            solver.check(steps)
        assert str(error.value).endswith(says)
        with pytest.raises(ValueError, match="no coarsening"):
            solver.fitted(steps)
    with pytest.raises(ValueError, match="no coarsening"):
        lp.Network(None, lp.chain(lp.Dense(4), 1), None, lp.MGRIT())


def test_what_is_given_stays():
    for solver in (lp.MGRIT(coarsening=8), lp.MGRIT(levels=3, coarsening=(4, 2)), lp.Parareal(4)):
        assert solver.fitted(64) is solver
        assert (solver.coarse, solver.samples) == ("inject", None)
    picard = lp.MGRIT(coarse="picard").fitted(64, picard=False)
    assert (picard.coarsening, picard.coarse, picard.samples) == (8, "picard", None)
    assert lp.MGRIT(samples=2).fitted(64).samples == 2
    own = lp.MGRIT(forward_cycles=3, relaxation=1, memory="recompute", guard=False)
    written = own.fitted(256)
    assert replace(written, coarsening=None, coarse=None, samples=None) == own


def test_the_operator_is_chosen_by_the_steps():
    assert (lp.MGRIT().fitted(64).coarse, lp.MGRIT().fitted(64).samples) == ("picard", 4)
    other = lp.MGRIT().fitted(64, picard=False)
    assert (other.coarse, other.samples) == ("mean_residual", 4)


def test_both_halves_of_a_split_are_fitted():
    split = lp.Split(lp.Serial(), lp.MGRIT(levels=3))
    assert fitted(split, 64) == lp.Split(lp.Serial(), lp.MGRIT(levels=3).fitted(64))
    assert fitted(lp.Serial(), 64) == lp.Serial()


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
@pytest.mark.parametrize("levels", [2, 3])
def test_the_default_is_for_every_kind_of_steps(problem: Problem, levels: int):
    """Never refused, and exact after as many cycles as that takes whatever the weights."""
    for depth in (2, 5, 18):
        net, x = problem.network(depth), problem.input(depth)
        cycles = 1 + cost.exact_after(lp.MGRIT(levels=levels), depth)
        solver = lp.MGRIT(levels=levels, forward_cycles=cycles, adjoint_cycles=cycles, guard=False)
        with problem.layout():
            assert compare(net, x, solver).worst < 1e-9, depth


@pytest.mark.parametrize("memory", ["store", "recompute"])
def test_what_is_written_out_is_what_is_done(memory: Any):
    net, x = small(lp.Serial(), 70), batch()
    body = net.body
    found = []
    for solver in (lp.MGRIT(memory=memory), lp.MGRIT(memory=memory).fitted(70, body.allows_picard)):
        net.zero_grad()
        with net.solved_by(solver):
            net(x).sum().backward()
        assert net.solution is not None
        assert net.solution.evaluations == [
            2 * 70 - 6,
            8 + 8 + 7,
        ]  # six layers fill no interval of eight
        found.append(gradients(net))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_a_warm_start_finds_its_states():
    net = small(lp.MGRIT(forward_cycles=1, adjoint_cycles=1, warm_start=True), 64)
    residuals = []
    for _ in range(2):
        net(batch())
        assert net.solution is not None
        residuals.append(net.solution.residuals[-1])
    assert residuals[1] < residuals[0] / 5


def test_the_schedule_and_the_cost_are_those_of_what_is_chosen():
    for solver in (lp.MGRIT(), lp.MGRIT(levels=3, cycle="F")):
        written = solver.fitted(100)
        assert cost.schedule(solver, 100) == cost.schedule(written, 100)
        assert cost.step_evaluations(solver, 100) == cost.step_evaluations(written, 100)
        assert cost.exact_after(solver, 100) == cost.exact_after(written, 100)


def test_a_solver_that_chooses_comes_back_from_a_record():
    for solver in (lp.MGRIT(), lp.MGRIT(levels=3, coarse="picard"), lp.MGRIT().fitted(64)):
        assert rebuild(describe(solver)) == solver
