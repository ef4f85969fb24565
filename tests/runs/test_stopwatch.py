"""Where the time of training goes, and what comparisons with the exact gradient leave alone."""

import time

import pytest
import small
import torch
from torch import nn

import layerparallel as lp
from layerparallel import runs, solvers
from layerparallel.network.propagate import Solver
from layerparallel.runs import record
from layerparallel.runs.evaluate import probe, residuals_per_cycle
from layerparallel.runs.stopwatch import PARTS, Stopwatch
from layerparallel.solvers.cycles import cycles_of, multigrid_parts, with_cycles

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
            with watch.data():
                time.sleep(0.002)
            method.step(x, y)
    return watch.split(), time.perf_counter() - began


def test_every_second_is_booked_once():
    net = network()
    method = lp.Backprop(net, torch.optim.Adam(net.parameters()), nn.functional.cross_entropy)
    split, elapsed = split_of(method)
    assert tuple(split) == PARTS
    assert split["data"] >= 3 * 0.002
    assert split["optimizer"] > 0
    assert split["comparison"] == 0
    for direction in ("forward", "adjoint"):
        booked = split[direction] + split[f"{direction}_coarse"]
        assert booked == pytest.approx(sum(net.seconds[direction]))
    assert 0 < sum(split.values()) < elapsed


def test_propagating_in_a_line_search_is_not_the_optimisers_time():
    net = network()
    method = lp.OneShot(net, lp.LBFGS(net.parameters()), nn.functional.cross_entropy)
    split, elapsed = split_of(method)
    solves = sum(sum(seconds) for seconds in net.seconds.values())
    assert sum(split[part] for part in PARTS[:4]) == pytest.approx(solves)
    assert sum(split.values()) < elapsed


def test_an_ordinary_module_has_an_optimiser_and_no_solves():
    net = network().to_serial()
    method = lp.Backprop(net, torch.optim.SGD(net.parameters(), 0.1), nn.functional.cross_entropy)
    split, _ = split_of(method)
    assert {part for part, seconds in split.items() if seconds} == {"optimizer", "data"}


def test_comparisons_are_booked_apart_and_the_optimiser_inside_is_found():
    net = network()
    plain = lp.Backprop(net, torch.optim.Adam(net.parameters()), nn.functional.cross_entropy)
    method = lp.Adaptive(plain, nn.functional.cross_entropy, every=2)
    split, elapsed = split_of(method)
    assert split["comparison"] == method.seconds > 0
    assert split["optimizer"] > 0
    assert sum(split.values()) < elapsed


def test_the_record_has_a_split_that_adds_up(tmp_path):
    runs.train(small.recipe(levels=3, coarsening=(4, 2)).build(), tmp_path)
    lines = record.read(tmp_path)
    for line in record.history(lines, "epoch") + record.history(lines, "serial"):
        assert sum(line["split"].values()) == pytest.approx(line["epoch_seconds"])
        assert min(line["split"].values()) >= 0
    assert all(line["split"]["adjoint_coarse"] > 0 for line in record.history(lines, "epoch"))
    assert all(line["split"]["adjoint"] == 0 for line in record.history(lines, "serial"))


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
