"""The cost model: closed forms, schedules and what runs have counted are the same numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import layerparallel as lp
from layerparallel.solvers import cost

solvers = st.builds(
    lp.MGRIT,
    levels=st.integers(2, 5),
    coarsening=st.one_of(st.integers(2, 5), st.tuples(st.integers(2, 5), st.integers(2, 4))),
    relaxation=st.one_of(st.integers(0, 2), st.tuples(st.integers(0, 1), st.integers(0, 2))),
    cycle=st.sampled_from("VFW"),
    forward_cycles=st.integers(1, 3),
    adjoint_cycles=st.integers(1, 3),
    start=st.sampled_from(["coarse", "nested", "constant"]),
    first_down=st.booleans(),
    smallest=st.integers(1, 3),
    guard=st.just(False),
)


@given(solver=solvers, steps=st.integers(15, 70))
def test_formula_schedule_and_run_agree(solver: lp.MGRIT, steps: int) -> None:
    if solver.smallest == 1:  # levels that cannot be built are refused
        solver = replace(solver, levels=len(solver.factors(steps)) + 1)
    net = lp.Network(None, lp.chain(lp.Dense(2), steps), None, solver=solver)
    net(torch.randn(3, 2)).sum().backward()
    assert net.solution is not None
    assert net.adjoint_solution is not None
    for adjoint, solution in ((False, net.solution), (True, net.adjoint_solution)):
        formula = cost.step_evaluations(solver, steps, adjoint)
        assert cost.counted(cost.schedule(solver, steps, adjoint)) == formula
        assert solution.evaluations == formula


@given(solver=solvers, steps=st.integers(15, 70), adjoint=st.booleans())
def test_every_event_says_what_it_is_for(solver: lp.MGRIT, steps: int, adjoint: bool) -> None:
    factors = solver.factors(steps)
    if solver.smallest == 1:
        solver = replace(solver, levels=len(factors) + 1)
    depths = [steps // math.prod(factors[:level]) for level in range(len(factors) + 1)]
    for event in cost.schedule(solver, steps, adjoint):
        whole = (event.intervals, event.length) == (1, depths[event.level] - event.first)
        exact = event.role == "coarse solve" and not adjoint  # the first steps may be left out
        if event.role in ("start", "coarse solve"):
            assert event.level == len(factors)
            assert whole
            assert exact or event.first == 0
        elif event.role == "right-hand side":
            assert not adjoint  # a linear chain solves for the correction
            assert event.level > 0
            assert (event.intervals, event.length) == (depths[event.level], 1)
        elif event.role == "rest":
            assert event.first + event.intervals * event.stride == depths[event.level]
            assert event.length < factors[event.level]
        else:
            m = factors[event.level]
            assert event.role in ("relaxation", "correction")
            assert (event.intervals, event.stride) == (depths[event.level + 1], m)
            assert event.length == (m - 1 if event.role == "correction" else m)
            assert event.role == "relaxation" or event.level > 0
    assert [event.role for event in cost.schedule(lp.Serial(), steps, adjoint)] == ["serial"]


def test_serial_costs_one_evaluation_a_step() -> None:
    assert cost.step_evaluations(lp.Serial(), 17) == [17]
    assert cost.counted(cost.schedule(lp.Serial(), 17)) == [17]


@pytest.mark.parametrize(("cycle", "per_layer"), [("V", 4.92), ("F", 10.34), ("W", 17.5)])
def test_published_work_of_seven_levels(cycle: Literal["V", "F", "W"], per_layer: float) -> None:
    solver = lp.MGRIT(
        levels=7, coarsening=2, relaxation=(0, 1), cycle=cycle, forward_cycles=1, start="constant"
    )
    total = sum(cost.step_evaluations(solver, 1024, fused=False))
    assert total / 1024 == pytest.approx(per_layer, abs=0.01)
    assert cost.work_per_layer(2) == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("levels", "coarsening", "relaxation", "cycles"), [(7, 2, (0, 1), 2), (2, 16, 0, 1)]
)
def test_modelled_speedup_grows_with_workers(
    levels: int, coarsening: int, relaxation: int | tuple[int, ...], cycles: int
) -> None:
    solver = lp.MGRIT(
        levels=levels,
        coarsening=coarsening,
        relaxation=relaxation,
        forward_cycles=cycles,
        start="constant",
    )
    found = [cost.modelled_speedup(solver, 1024, workers) for workers in (1, 8, 16, 64)]
    assert found == sorted(found)
    assert found[0] < 1 < found[-1]
    assert cost.modelled_speedup(solver, 1024, 1024) == pytest.approx(
        1024 / cost.critical_path(solver, 1024)
    )


def test_parareal_is_bounded_by_workers_over_cycles() -> None:
    assert cost.parareal_speedup(16, 2, 1e9) == pytest.approx(8.0)
    assert cost.parareal_speedup(16, 2, 10) < 8


def test_exact_after() -> None:
    assert cost.exact_after(lp.MGRIT(coarsening=4), 37) == 9
    assert cost.exact_after(lp.MGRIT(coarsening=4, relaxation=1), 37) == 5
