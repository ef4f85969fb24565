"""Solvers that choose their coarsening: for every chain its own, for ranks, in tuning."""

import torch
from problems import batch, small
from torch import nn

import layerparallel as lp
from layerparallel.network.distribution import even_blocks
from layerparallel.network.propagate import interval_length


def test_every_chain_gets_what_fits_its_depth():
    torch.manual_seed(0)
    body = [lp.chain(lp.Dense(4), 64), nn.Linear(4, 4), lp.chain(lp.Dense(4), 6)]
    net = lp.Network(None, body, None, lp.MGRIT())
    net(torch.randn(3, 4)).sum().backward()
    evaluated = [solution.evaluations for solution in net.solutions]
    assert evaluated == [[2 * 64, 8 + 8 + 7], [2 * 6, 3 + 3 + 2]]


def test_ranks_get_whole_intervals_of_what_is_chosen():
    assert interval_length(lp.MGRIT(), 64) == 8
    assert [len(block) for block in even_blocks(64, 4, lp.MGRIT()).ranges] == [16] * 4


def test_tuning_shows_what_was_chosen():
    net = small(lp.Serial(), 64)
    x, y = batch(), torch.zeros(5, 2, dtype=torch.float64)
    found = lp.tune(net, (x, y), nn.functional.mse_loss, solvers=[lp.MGRIT()], repeats=1)
    (trial,) = [trial for trial in found.trials if isinstance(trial.solver, lp.MGRIT)]
    assert trial.solver == lp.MGRIT().fitted(64)
    assert trial.name == "MGRIT L=2 m=8 (2,2) picard:4"
