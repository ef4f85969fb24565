"""Tuning on a layer group: all ranks find the same, and the errors of one process."""

from typing import Any

import pytest
import torch
from problems import small
from ranks.rank_cases import several_chains
from torch import Tensor

import layerparallel as lp
from layerparallel.group import ALONE, Group, Link, virtual
from layerparallel.network.tuning import Tuning

SOLVERS = [
    lp.MGRIT(coarsening=4, forward_cycles=1, adjoint_cycles=1, coarse="picard"),
    lp.MGRIT(coarsening=64),
    lp.MGRIT(coarsening=2, forward_cycles=2, adjoint_cycles=2, coarse="mean_parameters"),
]


def loss(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def tuned(group: Group, kind: str, options: dict[str, Any], output: Any = "all") -> tuple[Tuning, bool]:
    """What tuning finds on this rank, and whether it left gradients and weights alone."""
    torch.manual_seed(0)
    net = small(lp.Serial(), 16) if kind == "dense" else several_chains(16).double()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).double()
    y = torch.ones(5, 2 if kind == "dense" else 3).double()
    if not group.alone:
        lp.distribute(net, group, output=output)
    before = [p.detach().clone() for p in net.parameters()]
    found = lp.tune(net, (x, y), loss, **{"seconds": 600, "repeats": 1, "error": 1e9} | options)
    alone = all(
        torch.equal(p, b) and p.grad is None for p, b in zip(net.parameters(), before, strict=True)
    )
    return found, alone


def outcome(found: Tuning) -> list[Any]:
    """Everything but the plain network, which is there on one process alone."""
    return [found.solver, found.untried, found.trials]


@pytest.mark.parametrize("kind", ["dense", "several"])
@pytest.mark.parametrize("output", ["all", "last"])
def test_all_ranks_find_the_same_and_the_errors_of_one_process(pool: Any, kind: str, output: str):
    alone, _ = tuned(ALONE, kind, {"solvers": SOLVERS})
    ranks = pool.run(2, tuned, kind, {"solvers": SOLVERS}, output)
    assert all(untouched for _, untouched in ranks)
    first, *others = [found for found, _ in ranks]
    assert all(outcome(found) == outcome(first) for found in others)
    assert first.plain.milliseconds is None
    assert first.plain.note == "not timed: a layer group has no net.to_serial()"
    assert first.plain.note in first.table()
    assert first.speedup is None
    assert not first.plain_won
    refused = [
        [bool(t.note and t.note.startswith("refused")) for t in each.trials] for each in (first, alone)
    ]
    assert refused[0] == refused[1]
    for mine, whole in zip(first.trials, alone.trials, strict=True):
        assert (mine.error is None) == (whole.error is None)
        if mine.error is not None and whole.error is not None:
            assert mine.error.relative == pytest.approx(whole.error.relative, rel=1e-6, abs=1e-12)
            assert mine.error.cosine == pytest.approx(whole.error.cosine)
            if kind == "dense":
                assert mine.error.worst_layer == pytest.approx(whole.error.worst_layer, rel=1e-6)


@pytest.mark.parametrize("ranks", [3, 7])
def test_candidates_have_work_for_every_rank(ranks: int):
    results = virtual.run(ranks, tuned, Link(1e-6, 1e-9), "dense", {}).results
    (first, _), *others = results
    assert all(outcome(found) == outcome(first) for found, _ in others)
    lengths = [t.solver.coarsening for t in first.trials if isinstance(t.solver, lp.MGRIT)]
    assert all(16 // m >= ranks for m in lengths if isinstance(m, int))
    assert lengths


def test_on_ranks_the_time_is_that_of_the_first(pool: Any):
    ranks = pool.run(3, tuned, "dense", {"seconds": 1e-6})
    assert all(outcome(found) == outcome(ranks[0][0]) for found, _ in ranks)
    assert ranks[0][0].solver == lp.Serial()
    assert len(ranks[0][0].untried) > 0
    assert isinstance(ranks[0][0].table(), str)
