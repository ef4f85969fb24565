"""Estimates, the search for solvers, and splits of the ranks."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from predicting import FREE, solvers, task

import layerparallel as lp
from layerparallel.group import Link
from layerparallel.predict.baselines import OneRank, Split
from layerparallel.predict.estimate import Estimates, Estimator, work
from layerparallel.predict.scaling import Study
from layerparallel.predict.search import Search, candidates
from layerparallel.solvers import cost

pytestmark = pytest.mark.slow


@given(solver=solvers, steps=st.integers(15, 70))
def test_the_estimates_work_is_that_of_the_closed_form(solver, steps):
    solver = replace(solver, levels=len(solver.factors(steps)) + 1)
    found = work(solver, steps, 1)
    total = sum(sum(cost.step_evaluations(solver, steps, way)) for way in (False, True))
    assert found.recorded[1] + found.other[1] == total
    assert found.recorded[1] == 2 * steps
    assert found.messages == 0
    assert work(solver, steps, 4).messages > 0


def test_positions_with_many_ranks_are_the_critical_path():
    solver = lp.MGRIT(3, 4)
    found = work(solver, 64, 64)
    paths = sum(cost.critical_path(solver, 64, way) for way in (False, True))
    assert found.recorded[0] + found.other[0] == paths
    assert found.recorded[1] + found.other[1] == paths


def test_candidates_fit_the_depth():
    for steps in (4, 17, 1024):
        assert candidates(steps)
        for solver in candidates(steps):
            solver.check(steps)


def test_estimates_of_parts_of_a_batch_are_on_the_line_through_the_whole_and_one_sample():
    one, whole = Estimator((1.0,) * 7, 0.0, 8), Estimator((3.0,) * 7, 0.0, 72)
    estimates = Estimates(task(64, batch=9), {1: one, 9: whole})
    solver, link = lp.MGRIT(2, 8), Link(1.0, 1.0)

    def seconds(samples):
        return estimates(solver, 4, link, depth=64, samples=samples)

    assert seconds(1) == one(solver, 64, 4, link)
    assert seconds(9) == whole(solver, 64, 4, link)
    assert seconds(5) == pytest.approx((seconds(1) + seconds(9)) / 2)


def test_the_search_takes_only_what_is_exact_enough():
    rough = lp.MGRIT(2, 16, forward_cycles=1, adjoint_cycles=1)
    fine = lp.MGRIT(2, 2, coarse="picard", samples=1)
    chosen = task(64)
    estimates = Estimates(chosen, {chosen.batch: Estimator((1.0,) * 7, 0.0, 0)})
    search = Search(chosen, FREE, estimates, OneRank(chosen), bound=1e-3, wanted=(rough, fine))
    assert search.errors(rough).relative > 1e-3 > search.errors(fine).relative
    assert search.best(4) == [fine]
    search.bound = 1.0
    assert search.best(4) == [rough, fine]  # the quicker one first


def test_a_solver_whose_solves_are_replaced_by_serial_ones_is_not_exact_enough():
    chosen = task(64)
    with torch.no_grad():
        for parameter in chosen.network.body.parameters():
            parameter.mul_(1000)
    search = Search(chosen, FREE, Estimates(chosen), OneRank(chosen), bound=1e9)
    rough = lp.MGRIT(2, 32, forward_cycles=1, adjoint_cycles=1)
    assert not search.exact_enough(rough)
    assert search.exact_enough(replace(rough, guard=False))


def test_what_was_measured_is_not_measured_again():
    study = Study(task(16), FREE, bound=0.5, few=1)
    search = study.at(16)
    assert study.at(16) is search
    solver = lp.MGRIT(2, 4)
    assert search.on(2, solver) is search.on(2, solver, samples=4)
    assert search.on(2, solver) is not search.on(2, solver, samples=2)


def test_one_device_has_the_quickest_of_serial_and_multigrid():
    row = Study(task(16), FREE, bound=0.5, few=1).strong([1])[0]
    assert row.device == row.layer
    assert row.device.seconds <= row.serial
    assert row.over_device == 1
    assert row.speedup == row.plain / row.layer.seconds


def test_ranks_without_a_solver_that_is_exact_enough_are_one_rank():
    rough = lp.MGRIT(2, 16, forward_cycles=1, adjoint_cycles=1)
    row = Study(task(64), FREE, bound=1e-9, solvers=(rough,)).strong([4])[0]
    assert row.layer.split == Split(64, lp.Serial())
    assert row.layer.seconds == row.serial


def test_splits_use_all_ranks_and_keep_what_the_row_has():
    study = Study(task(16, batch=4), FREE, bound=0.5, few=1)
    row = study.strong([4])[0]
    found = study.splits(row, 99)
    shapes = {(each.split.data, each.split.layer, each.split.stages) for each in found}
    assert shapes == {(1, 4, 1), (4, 1, 1), (1, 1, 4), (2, 2, 1), (2, 1, 2), (1, 2, 2)}
    assert {each.split.ranks for each in found} == {4}
    assert len({each.split for each in found}) == len(found)
    assert [each.seconds for each in found] == sorted(each.seconds for each in found)
    for mine in (row.layer, row.others["data"]):
        assert mine in found
    for each in found:
        assert (each.error.relative > 0) == isinstance(each.split.way, lp.MGRIT)
    assert len(study.splits(row, 1)) == 4  # layers, data and pipeline alone, and one more
