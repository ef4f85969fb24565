"""Defaults of layer-parallel recipes: as published at their own depth, and fit for every other."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

import layerparallel as lp
from layerparallel import recipes, report, runs
from layerparallel.group.team import Team
from layerparallel.network.network import Network
from layerparallel.recipes.indian_pines import IndianPines
from layerparallel.recipes.level_sets import LevelSets
from layerparallel.recipes.mnist import Mnist
from layerparallel.runs import record
from layerparallel.training.comparison import error_of


def one_cycle(coarsening: int, samples: int) -> lp.MGRIT:
    return lp.MGRIT(
        coarsening=coarsening, coarse="picard", samples=samples, forward_cycles=1, adjoint_cycles=1
    )


@pytest.mark.parametrize(
    ("recipe", "published"),
    [
        (LevelSets(), one_cycle(32, samples=8)),
        (IndianPines(), lp.MGRIT(coarsening=16, coarse="picard", samples=2)),
        (Mnist(), one_cycle(4, samples=1)),
    ],
    ids=["level-sets", "indian-pines", "mnist"],
)
def test_at_its_own_depth_a_recipe_is_solved_as_published(recipe, published):
    solver = recipe._solver(recipe.depth)
    assert solver.fitted(recipe.depth) == published
    assert solver.fitted(2 * recipe.depth).forward_cycles == published.forward_cycles


def test_fewer_layers_get_a_smaller_coarsening_and_two_cycles():
    for recipe in (LevelSets(), IndianPines(), Mnist()):
        for depth, m in ((4, 2), (16, 4)):
            solver = recipe._solver(depth)
            assert isinstance(solver, lp.MGRIT)
            assert solver.factors(depth) == [m]
            assert (solver.forward_cycles, solver.adjoint_cycles) == (2, 2)
    chosen = LevelSets(depth=64, coarsening=16, forward_cycles=1, adjoint_cycles=3)._solver(64)
    assert chosen == replace(one_cycle(16, samples=8), adjoint_cycles=3)


def small(**options) -> LevelSets:
    return LevelSets(
        **{"training": 500, "validation": 40, "batch": 64, "epochs": 20, "serial_epochs": 0, **options}
    )


@pytest.mark.parametrize("depth", [64, 256])
def test_the_gradient_is_near_the_exact_one_before_and_after_training(depth: int):
    recipe = small(depth=depth)
    data = recipe.load()
    method = recipe.phases(data, Team())[0].build(None)
    net, x, y = method.network, data.train_x, data.train_y
    assert isinstance(net, Network)

    def error(solver) -> float:
        return error_of(net, solver, lambda: functional.cross_entropy(net(x), y))[0]

    assert error(net.solver) < 1e-3
    order = torch.Generator().manual_seed(0)
    for _ in range(recipe.epochs):
        for chosen in torch.randperm(len(y), generator=order).split(recipe.batch):
            method.step(x[chosen], y[chosen])
    assert error(net.solver) < 0.01
    assert error(lp.MGRIT()) < 0.01
    assert net.fallbacks == 0
    deep = one_cycle(32, samples=8)  # what suits 1,024 layers
    assert error(deep) > 10 * error(net.solver)


def test_the_record_and_the_report_say_what_was_chosen(tmp_path):
    recipe = small(depth=16, refine=(4,), refine_epochs=1, epochs=1, width=4, training=64)
    folder = record.new_folder(tmp_path / "run")
    runs.train(recipe.build(), folder)
    lines = record.history(record.read(folder), "network")
    solvers = [line["chains"][0]["solver"] for line in lines]
    assert [solver["coarsening"] for solver in solvers] == [2, 4]
    page = report.write([folder], tmp_path / "page.html").read_text()
    assert "16 layers, MGRIT, 2 levels, m = 4, cycles 2 + 2" in page
    start = record.read(folder)[0]
    assert recipes.rebuild(start["recipe"], start["options"]) == recipe
