"""Where the time of training goes, and what comparisons with the exact gradient leave alone."""

import time
from functools import partial
from typing import Any

import pytest
import small
import stage_images
import torch
from torch import nn

import layerparallel as lp
from layerparallel import data, runs, solvers
from layerparallel.network.propagate import Solver
from layerparallel.recipes.mnist_stages import MnistStages
from layerparallel.recipes.parareal import MnistParareal
from layerparallel.runs import record
from layerparallel.runs.evaluate import probe, residuals_per_cycle
from layerparallel.runs.stopwatch import PARTS, SOLVES, Stopwatch
from layerparallel.solvers.variants import cycles_of, multigrid_parts, with_cycles

MULTIGRID = lp.MGRIT(levels=3, coarsening=(4, 2), relaxation=1, forward_cycles=3, samples=2)


def network(solver: Solver = MULTIGRID):
    torch.manual_seed(0)
    return lp.Network(nn.Linear(2, 4), lp.chain(lp.Dense(4), 32, T=2.0), nn.Linear(4, 5), solver)


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(20, 2, generator=generator), torch.arange(20) % 5


@pytest.mark.parametrize("solver", [lp.Serial(), lp.Serial("recompute"), MULTIGRID])
def test_a_solution_books_all_of_its_time_on_its_levels(solver):
    net = network(solver)
    x, y = batch()
    for _ in range(2):
        began = time.perf_counter()
        nn.functional.cross_entropy(net(x), y).backward()
        elapsed = time.perf_counter() - began
    total = 0.0
    for solution in (net.solution, net.adjoint_solution):
        assert solution is not None
        assert len(solution.seconds) == len(solution.evaluations)
        assert all(seconds > 0 for seconds in solution.seconds)
        total += sum(solution.seconds)
    assert total < elapsed
    assert net.solution is not None
    assert net.seconds["forward"] > net.solution.seconds  # both forward solves, level by level


def test_a_solve_that_fell_back_has_taken_the_time_of_both():
    net = network(lp.MGRIT(coarsening=4, forward_cycles=1, adjoint_cycles=1))
    with torch.no_grad():
        net.body.layer.weight.mul_(40)
    output = net(batch()[0])
    with pytest.warns(RuntimeWarning, match="serially"):
        output.sum().backward()
    solution = net.adjoint_solution
    assert solution is not None
    assert solution.fallback is not None
    assert len(solution.seconds) == len(solution.evaluations) == 2


def split_of(method, steps=3):
    x, y = batch()
    began = time.perf_counter()
    with Stopwatch(method, {}) as watch:
        for _ in range(steps):
            time.sleep(0.002)
            watch.lap("data")
            method.step(x, y)
            watch.lap("rest")
    return watch.split(), time.perf_counter() - began


def backprop(net, criterion=nn.functional.cross_entropy):
    return lp.Backprop(net, torch.optim.Adam(net.parameters()), criterion)


def test_every_second_is_booked_once():
    net = network()
    split, elapsed = split_of(backprop(net))
    assert tuple(split) == PARTS
    assert split["data"] >= 3 * 0.002
    for direction in ("forward", "adjoint"):
        booked = split[f"{direction}_fine"] + split[f"{direction}_coarse"]
        assert booked == pytest.approx(sum(net.seconds[direction]))
    assert {part for part, seconds in split.items() if not seconds} == {
        *("comparison", "filling", "auxiliary", "messages")
    }
    assert min(split.values()) >= 0
    assert 0.9 * elapsed < sum(split.values()) <= elapsed


class Slow(nn.Identity):
    """A layer that takes thirty milliseconds."""

    def forward(self, x):
        time.sleep(0.03)
        return x


class SlowBack(torch.autograd.Function):
    """The identity, whose gradient takes thirty milliseconds."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        time.sleep(0.03)
        return gradient


@pytest.mark.parametrize("part", ["forward", "loss", "backward", "optimizer"])
@pytest.mark.parametrize("serial", [False, True])
def test_what_takes_long_is_booked_as_what_it_is(part, serial):
    net = network()
    net.closing = nn.Sequential(Slow() if part == "forward" else nn.Identity(), net.closing)
    net = net.to_serial() if serial else net

    def criterion(output, y):
        if part == "loss":
            time.sleep(0.03)
        output = SlowBack.apply(output) if part == "backward" else output
        return nn.functional.cross_entropy(output, y)

    method = backprop(net, criterion)
    if part == "optimizer":
        method.optimizer.register_step_pre_hook(lambda *_: time.sleep(0.03))
    split, _ = split_of(method)
    assert split[part] >= 3 * 0.03
    assert max(split, key=lambda each: split[each]) == part


@pytest.mark.parametrize(
    ("optimizer", "passes"),
    [
        (lp.LBFGS, 2),  # the closure's and a trial's
        (partial(lp.LBFGS, reuse_gradient=True), 1),
        (partial(torch.optim.Adam, lr=1e-3), 1),
    ],
)
def test_propagating_in_a_line_search_is_not_the_optimisers_time(optimizer, passes):
    net = network()
    net.closing = nn.Sequential(Slow(), net.closing)
    method = lp.OneShot(net, optimizer(net.parameters()), nn.functional.cross_entropy)
    split, elapsed = split_of(method)
    solves = sum(sum(seconds) for seconds in net.seconds.values())
    assert sum(split[part] for part in SOLVES) == pytest.approx(solves)
    assert split["forward"] >= passes * 3 * 0.03
    assert 0 < split["optimizer"] < split["forward"]
    assert 0 < split["loss"] < split["forward"]
    assert min(split.values()) >= 0
    assert sum(split.values()) <= elapsed


def test_an_ordinary_module_has_no_solves():
    split, _ = split_of(backprop(network().to_serial()))
    spent = {part for part, seconds in split.items() if seconds}
    assert spent == {"data", "forward", "loss", "backward", "optimizer", "rest"}


def test_comparisons_are_booked_apart_from_the_method_inside():
    net = network()
    net.closing = nn.Sequential(Slow(), net.closing)
    method = lp.Adaptive(backprop(net), nn.functional.cross_entropy, every=2)
    split, elapsed = split_of(method)
    assert split["comparison"] >= 2 * 2 * 0.03  # of steps 0 and 2, each with both solvers
    assert 3 * 0.03 <= split["forward"] < split["comparison"]
    assert sum(split.values()) <= elapsed


class Foreign:
    """A method that says nothing of its parts."""

    def __init__(self):
        self.network = network()

    def step(self, x, y):
        time.sleep(0.03)


def test_a_method_without_laps_is_booked_as_a_whole():
    split, _ = split_of(Foreign())
    assert split["rest"] >= 3 * 0.03
    assert set(vars(Foreign())) == {"network"}


def test_watching_ends_with_the_stopwatch():
    method = backprop(network())
    with Stopwatch(method, {"loss": 2.0}) as watch:
        method.step(*batch())
    booked = watch.split()
    method.step(*batch())
    assert watch.split()["loss"] == booked["loss"] > 2.0


# ---- every way of training ----------------------------------------------------------------------

IMAGES: dict[str, Any] = {"depth": 14, "width": 4, "batch": 20, "epochs": 3, "learning_rate": 0.02}
STAGES: dict[str, Any] = {**IMAGES, "stages": 2, "hybrid": "2:1", "serial_epochs": 0}
WAYS = {
    "multigrid": small.recipe(epochs=2),
    "adaptive": small.recipe(epochs=2, adaptive=True, adaptive_every=3),
    "serial": small.recipe(epochs=2, solver="serial"),
    "augmented": MnistStages(**STAGES),
    "penalty": MnistStages(**STAGES, method="penalty"),
    "regenerated": MnistStages(**STAGES, method="penalty", regenerate=True, beta=3.0),
    "parareal": MnistParareal(**IMAGES, subnetworks=3, serial_epochs=1),
    "warp": MnistParareal(**IMAGES, method="warp"),
}
EXPECTED = {
    "multigrid": {*SOLVES},
    "adaptive": {*SOLVES, "comparison"},
    "serial": {"forward_fine", "adjoint_fine"},
    **{way: {"filling", "auxiliary"} for way in ("augmented", "penalty", "regenerated")},
}
"""Besides what every way has."""


def spent_on(lines):
    return {part for line in lines for part, seconds in line["split"].items() if seconds}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_training_names_where_its_time_goes(way, tmp_path, monkeypatch):
    digits = stage_images.digits()
    monkeypatch.setattr(data, "load", lambda name: digits)
    runs.train(WAYS[way].build(), tmp_path)
    lines = record.read(tmp_path)
    ours, theirs = record.history(lines, "epoch"), record.history(lines, "serial")
    for line in ours + theirs:
        assert sum(line["split"].values()) == pytest.approx(line["epoch_seconds"], rel=1e-12)
        assert min(line["split"].values()) >= 0
    always = {"data", "forward", "loss", "backward", "optimizer", "rest"}
    assert spent_on(ours) == always | EXPECTED.get(way, set())
    assert spent_on(theirs) == (always if theirs else set())
    # The least of all epochs: another process may have had the processor in one of them.
    assert min(line["split"]["rest"] / line["epoch_seconds"] for line in ours) < 0.15
    saved = record.history(lines, "checkpoint")
    assert [line["epoch"] for line in saved] == [len(ours)]
    assert all(line["seconds"] > 0 for line in saved)


def adaptive(**options):
    """A run in the adaptive mode, with a target that forces decisions."""
    return small.recipe(adaptive=True, adaptive_every=5, adaptive_target=1e-6, **options).build()


def test_decisions_of_the_adaptive_mode_are_on_record_once(tmp_path):
    run = adaptive()
    runs.train(run, record.new_folder(tmp_path / "whole"))
    found = record.history(record.read(tmp_path / "whole"), "decision")
    assert [line["step"] for line in found] == list(range(0, 4 * 7, 5))
    assert [line["epoch"] for line in found] == [1 + step // 7 for step in range(0, 28, 5)]
    assert {"relative_error", "cosine", "action", "forward_cycles"} <= found[0].keys()

    class Killed(BaseException):
        pass

    def kill(self, x, y):
        if self._steps == 16:  # in the third epoch, after its first decision, at step 15
            raise Killed
        return step(self, x, y)

    step = lp.Adaptive.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lp.Adaptive, "step", kill)
        folder = record.new_folder(tmp_path / "broken")
        with pytest.raises(Killed):
            runs.train(adaptive(checkpoint_seconds=0.0), folder)
    runs.resume(run, tmp_path / "broken")
    again = record.history(record.read(tmp_path / "broken"), "decision")
    assert [line["step"] for line in again] == [line["step"] for line in found]


@pytest.mark.parametrize("solver", [MULTIGRID, lp.Split(forward=lp.Serial(), adjoint=MULTIGRID)])
def test_probing_leaves_the_network_as_it_was(solver):
    net = network(solver)
    net.closing = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4), net.closing)
    x, y = batch()
    nn.functional.cross_entropy(net(x), y).backward()
    net.eval()
    before = net.solution, net.adjoint_solution, net.fallbacks, torch.get_rng_state()
    seconds = {direction: list(spent) for direction, spent in net.seconds.items()}
    state = {name: value.clone() for name, value in net.state_dict().items()}
    found = probe(net, x, lambda output: nn.functional.cross_entropy(output, y))
    assert found["gradient_error"] is not None
    assert 0 < found["gradient_error"] < 0.1
    assert (found["forward_factor"] is None) == isinstance(solver, lp.Split)
    assert found["adjoint_factor"] is not None
    assert 0 < found["adjoint_factor"] < 1
    assert (net.solution, net.adjoint_solution, net.fallbacks) == before[:3]
    assert torch.equal(torch.get_rng_state(), before[3])
    assert net.seconds == seconds
    assert not net.training
    assert small.same(dict(net.state_dict()), state)


def test_probing_what_diverges_says_so_without_a_warning(recwarn):
    net = network(lp.MGRIT(coarsening=4, forward_cycles=1, adjoint_cycles=1))
    with torch.no_grad():
        net.body.layer.weight.mul_(40)
    x, y = batch()
    found = probe(net, x, lambda output: nn.functional.cross_entropy(output, y))
    assert found["gradient_error"] == float("inf")
    assert net.fallbacks == 0
    assert not [each for each in recwarn if issubclass(each.category, RuntimeWarning)]


def test_serial_networks_and_plain_modules_have_nothing_to_probe():
    x, y = batch()
    for net in (network(lp.Serial()), network().to_serial()):
        assert probe(net, x, lambda output: nn.functional.cross_entropy(output, y)) == {}
        assert residuals_per_cycle(net, x, torch.sum, 3) == ([], [])


def test_undisturbed_restores_after_an_error_too():
    net = network()

    def disturb():
        with net.undisturbed():
            net.fallbacks = 3
            net(batch()[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        disturb()
    assert (net.fallbacks, net.solution, net.seconds) == (0, None, {"forward": [], "adjoint": []})


# ---- solvers as values -------------------------------------------------------------------------

SOLVERS = [
    lp.Serial("recompute"),
    MULTIGRID,
    lp.MGRIT(levels=2, coarsening=32, coarse="picard", samples=4, tolerance=1e-3, warm_start=True),
    lp.Split(forward=lp.Serial(), adjoint=lp.MGRIT(cycle="F", levels=4, coarsening=2)),
]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_a_solver_comes_back_from_its_description_by_way_of_json(solver):
    import json

    text = json.dumps(solvers.describe(solver))
    assert solvers.rebuild(json.loads(text)) == solver


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ({"kind": "MGRITT"}, "did you mean 'MGRIT'"),
        ({}, "no solver 'None'"),
        ({"kind": "MGRIT", "level": 2}, "no option of MGRIT 'level'"),
        ({"kind": "MGRIT", "levels": 1}, "levels=1 is out of range"),
    ],
)
def test_a_description_that_fits_no_solver_is_refused(description, said):
    with pytest.raises(ValueError, match=said):
        solvers.rebuild(description)


def test_cycles_of_both_parts_are_changed():
    for solver in SOLVERS:
        changed = with_cycles(solver, lambda cycles: cycles + 2)
        for part, before in zip(multigrid_parts(changed), multigrid_parts(solver), strict=True):
            assert part.forward_cycles == before.forward_cycles + 2
            assert part.adjoint_cycles == before.adjoint_cycles + 2
    assert cycles_of(SOLVERS[0]) == (None, None)
    assert cycles_of(SOLVERS[3]) == (None, 2)
