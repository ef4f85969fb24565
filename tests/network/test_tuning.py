"""Choosing a solver by measurement: any chain, within a time, and the network stays as it was."""

import copy
import math
import os
import sys
import time
import warnings
from typing import Any

import pytest
import torch
from problems import PROBLEMS, Cell, Drive, Join, Pair, Problem, residual_block, small
from torch import Tensor, nn

import layerparallel as lp
from layerparallel.network.candidates import candidates, with_one_more
from layerparallel.network.tuning import Trial, Tuning, describe
from layerparallel.solvers.measure import GradientError

LONG = 600.0
EXACT = lp.MGRIT(coarsening=2, forward_cycles=8, adjoint_cycles=8)


def loss(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def batch(net: lp.Network, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad(), net.undisturbed():
        return x, torch.ones_like(net(x))


def everything(net: lp.Network) -> dict[str, Any]:
    """What a network and torch have that `tune` might change."""
    return {
        "state": copy.deepcopy(net.state_dict()),
        "gradients": {name: copy.deepcopy(p.grad) for name, p in net.named_parameters()},
        "modes": {name: part.training for name, part in net.named_modules()},
        "solvers": (net.solver, net.evaluate_with),
        "counts": (net.fallbacks, copy.deepcopy(net.seconds)),
        "solutions": [id(s) for s in (*net.solutions, *net.adjoint_solutions)],
        "guesses": {key: [vars(g) for g in kept] for key, kept in net.guesses().items()},
        "random": torch.get_rng_state(),
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def tuned(net: lp.Network, x: Tensor, **options: Any) -> Tuning:
    """Tuned, with everything the same behind it, and what holds of every outcome."""
    before = everything(net)
    found = lp.tune(net, batch(net, x), loss, **{"seconds": LONG, "repeats": 1} | options)
    after = everything(net)
    for what in before:
        assert same(before[what], after[what]), what
    assert found.plain.milliseconds is not None
    assert found.best.milliseconds is not None
    assert found.speedup == found.plain.milliseconds / found.best.milliseconds
    assert found.best.error is not None
    assert found.best.error.relative <= found.bound
    assert found.trials[0].solver == lp.Serial()
    assert found.trials[0].milliseconds is not None
    assert found.best.milliseconds == min(t.milliseconds for t in found.trials if t.milliseconds)
    for trial in found.trials:  # a figure, or the reason why there is none
        assert (trial.milliseconds is None) == (trial.note is not None)
        assert trial.fallback is None or (trial.error is None and trial.milliseconds is None)
    assert found.table().splitlines()[1].startswith("plain PyTorch, net.to_serial()")
    assert found.table().count("<-") == 1
    net.solver = found.solver  # it fits
    return found


def refusals(found: Tuning) -> list[str]:
    return [t.note for t in found.trials if t.note and t.note.startswith("refused")]


# ---- any chain ----------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_every_kind_of_chain_is_tuned_by_solvers_it_can_take(problem: Problem):
    for depth in (1, 2, 3, 16):
        net, x = problem.network(depth), problem.input(depth)
        with problem.layout():
            found = tuned(net, x, error=1e9)
        assert not refusals(found), found.table()
        assert not found.untried
        assert (len(found.trials) > 1) == (depth == 16), found.table()


@pytest.mark.parametrize("integrator", ["euler", "rk4", "verlet", "block"])
@pytest.mark.parametrize("kind", ["stacked", "tied", "unlike"])
def test_every_integrator_on_every_kind_of_parameters(integrator: Any, kind: str):
    pair = integrator == "verlet"

    def module() -> nn.Module:
        return lp.Hamiltonian(4) if pair else residual_block(4, 3)

    torch.manual_seed(0)
    h = None if integrator == "block" else 0.1
    if kind == "unlike":
        body = lp.chain([module() for _ in range(12)], h=h, integrator=integrator)
    else:
        body = lp.chain(module(), 12, h=h, integrator=integrator, tied=kind == "tied")
    ends = (Pair(), Join()) if pair else (nn.Linear(3, 4), nn.Linear(4, 2))
    found = tuned(lp.Network(ends[0], body, ends[1]).double(), torch.randn(5, 3).double(), error=1e9)
    assert not refusals(found), found.table()
    assert any(isinstance(t.solver, lp.MGRIT) for t in found.trials)


def test_an_input_per_step_brings_an_operator_that_takes_all_of_them():
    def network(cell: nn.Module, opening: nn.Module) -> lp.Network:
        return lp.Network(opening, lp.chain(cell, 16, T=1.0, tied=True), nn.Linear(4, 2))

    torch.manual_seed(0)
    driven = tuned(network(Cell(), Drive()), torch.randn(3, 16, 2))
    free = tuned(network(residual_block(4, 3), nn.Linear(3, 4)), torch.randn(5, 3))
    operators = [{getattr(t.solver, "coarse", None) for t in f.trials} for f in (driven, free)]
    assert operators == [{None, "inject", "picard", "mean_residual"}, {None, "inject", "picard"}]


class Noisy(nn.Module):
    """A residual function with batch norm and dropout."""

    def __init__(self, width: int):
        super().__init__()
        self.linear, self.norm, self.drop = (
            nn.Linear(width, width),
            nn.BatchNorm1d(width),
            nn.Dropout(0.3),
        )

    def forward(self, u: Tensor) -> Tensor:
        return torch.tanh(self.drop(self.norm(self.linear(u))))


def several(depths: tuple[int, int, int] = (40, 3, 17)) -> lp.Network:
    """Chains of unlike depths and kinds, with transitions."""
    torch.manual_seed(0)
    parts = [
        lp.chain(Noisy(4), depths[0], T=1.0),
        nn.Linear(4, 3),
        lp.chain([residual_block(3, 2 + n % 2) for n in range(depths[1])], T=1.0),
        nn.Sequential(nn.Linear(3, 5), nn.Tanh()),
        lp.chain(residual_block(5, 3), depths[2], T=1.0, tied=True, integrator="rk4"),
    ]
    return lp.Network(nn.Linear(3, 4), parts, nn.Linear(5, 2)).double()


def test_every_chain_of_several_gets_what_it_can_take():
    net = several()
    found = tuned(net, torch.randn(8, 3).double(), error=1e9)
    assert not refusals(found), found.table()
    assert not found.untried
    tried = [t.solver for t in found.trials if isinstance(t.solver, tuple)]
    assert len(tried) == len(found.trials) - 1 > 1
    for first, second, third in tried:
        assert isinstance(first, lp.MGRIT)
        assert second == lp.Serial()
        assert not isinstance(third, lp.MGRIT) or third.coarse != "picard"


def test_masks_are_the_same_for_every_solver():
    torch.manual_seed(0)
    body = lp.chain(Noisy(4), 12, T=1.0)
    net = lp.Network(nn.Linear(3, 4), body, nn.Linear(4, 2)).double()
    found = tuned(net, torch.randn(8, 3).double(), solvers=[EXACT], error=1e-6)
    assert [t.error is not None and t.error.relative < 1e-8 for t in found.trials] == [True, True]


def test_cycles_are_added_while_there_is_speed_to_spare():
    net = small(lp.Serial(), 256, initial="independent").float()
    found = tuned(net, torch.randn(5, 3), error=1e-7)
    cycles = {
        (s.forward_cycles, s.adjoint_cycles) for t in found.trials if isinstance(s := t.solver, lp.MGRIT)
    }
    assert {(1, 1), (2, 1), (2, 2)} <= cycles


def test_one_more_cycle_goes_forward_first_and_ends():
    solver: Any = lp.MGRIT(coarsening=4, forward_cycles=1, adjoint_cycles=1)
    seen = []
    while solver is not None:
        seen.append((solver.forward_cycles, solver.adjoint_cycles))
        solver = with_one_more(solver)
    assert seen == [(1, 1), (2, 1), (2, 2), (3, 2), (3, 3)]
    two = (lp.MGRIT(coarsening=4, forward_cycles=1, adjoint_cycles=1), lp.Serial())
    assert with_one_more(two) == (
        lp.MGRIT(coarsening=4, forward_cycles=2, adjoint_cycles=1),
        lp.Serial(),
    )


def test_candidates_keep_the_memory_policy():
    net = small(lp.Serial("recompute"), 64)
    assert {solver.memory for solver in candidates(net)} == {"recompute"}  # type: ignore[union-attr]
    found = lp.tune(net, batch(net, torch.randn(5, 3).double()), loss, seconds=1e-6)
    assert found.solver == lp.Serial("recompute")


# ---- what a solver is refused for ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "reason"),
    [
        (lp.MGRIT(coarsening=64), "coarsening 64 leaves 0 coarse steps of a chain of 12"),
        (lp.MGRIT(levels=4, coarsening=4), "levels=4 cannot be built on a chain of 12"),
        (lp.MGRIT(coarsening=3, coarse="picard"), "coarse='picard' is for forward Euler"),
        (lp.MGRIT(coarsening=3, coarse="mean_parameters"), "coarse='mean_parameters' needs like layers"),
        ((lp.Serial(), lp.Serial()), "2 solvers are given for 1 chains"),
    ],
)
def test_a_solver_that_a_chain_cannot_take_is_a_row_that_says_why(solver: Any, reason: str):
    torch.manual_seed(0)
    body = lp.chain([residual_block(4, 3) for _ in range(12)], T=1.0, integrator="rk4")
    net = lp.Network(nn.Linear(3, 4), body, nn.Linear(4, 2)).double()
    found = tuned(net, torch.randn(5, 3).double(), solvers=[solver, EXACT])
    assert [t.solver for t in found.trials] == [lp.Serial(), solver, EXACT]
    refused = found.trials[1]
    assert refused.note is not None
    assert refused.note.startswith(f"refused: {reason}")
    assert refused.error is refused.milliseconds is None
    assert refused.note in found.table()


class Branching(nn.Module):
    """A residual function that many steps at once cannot be evaluated by."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, u: Tensor) -> Tensor:
        return self.linear(u) if u.sum() > 0 else -self.linear(u)


def test_a_module_that_only_serial_solvers_can_evaluate():
    torch.manual_seed(0)
    net = lp.Network(nn.Linear(3, 4), lp.chain(Branching(), 16, T=1.0), nn.Linear(4, 2))
    found = tuned(net, torch.randn(5, 3))
    assert found.solver == lp.Serial()
    assert len(refusals(found)) == len(found.trials) - 1 > 0


def test_a_solve_that_fell_back_is_shown_as_such():
    torch.manual_seed(0)
    body = lp.chain(lp.Dense(4), 64, T=200.0, initial="independent")
    net = lp.Network(nn.Linear(3, 4), body, nn.Linear(4, 2)).double()
    solver = lp.MGRIT(coarsening=16, forward_cycles=1, adjoint_cycles=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # the table says it
        found = tuned(net, torch.randn(5, 3).double(), solvers=[solver])
    trial = found.trials[1]
    assert trial.fallback is not None
    assert trial.note == f"fell back to Serial(): {trial.fallback}"
    row = next(line for line in found.table().splitlines() if line.startswith("MGRIT"))
    assert row.split("  ")[0] == describe(solver)
    assert row.removeprefix(describe(solver)).strip() == trial.note
    assert net.fallbacks == 0


def test_wrong_arguments_raise_before_any_work():
    net = small(lp.Serial())
    pair = batch(net, torch.randn(5, 3).double())

    def never(*_: object) -> Tensor:
        raise AssertionError("work was done")

    for options, kind, text in (
        ({"error": 0.0}, ValueError, "error=0.0 is out of range"),
        ({"error": math.nan}, ValueError, "error=nan is out of range"),
        ({"seconds": 0}, ValueError, "seconds=0 is out of range"),
        ({"repeats": 0}, ValueError, "repeats=0 is out of range"),
        ({"solvers": ["MGRIT"]}, TypeError, "'MGRIT' is not a solver"),
    ):
        with pytest.raises(kind, match=text):
            lp.tune(net, pair, never, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="give the pair"):
        lp.tune(net, pair[0], never)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Linear is no layerparallel\.Network"):
        lp.tune(nn.Linear(2, 2), pair, never)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no parameter of the network requires a gradient"):
        lp.tune(copy.deepcopy(net).requires_grad_(False), pair, never)


def test_a_gradient_that_cannot_be_compared_is_refused():
    net, other = small(lp.Serial()), torch.zeros((), requires_grad=True)
    pair = batch(net, torch.randn(5, 3).double())
    with pytest.raises(ValueError, match="depends on none of the network's parameters"):
        lp.tune(net, pair, lambda output, target: other * 2)
    with pytest.raises(ValueError, match="is not finite on this batch"):
        lp.tune(net, pair, lambda output, target: (output * math.inf).sum())


# ---- the time -----------------------------------------------------------------------------------


def test_with_next_to_no_time_there_is_an_answer():
    net = small(lp.Serial(), 64)
    found = tuned(net, torch.randn(5, 3).double(), seconds=1e-6)
    assert found.solver == lp.Serial()
    assert [t.solver for t in found.trials] == [lp.Serial()]
    assert list(found.untried) == candidates(net)
    assert f"\n{len(found.untried)} more would not have fitted into seconds=1e-06" in found.table()


class Slow(nn.Module):
    """A closing that takes its time, whatever the solver."""

    def forward(self, u: Tensor) -> Tensor:
        time.sleep(0.05)
        return u


def test_nothing_new_is_begun_when_the_time_is_spent():
    net = small(lp.Serial(), 256)
    net.closing = nn.Sequential(net.closing, Slow())
    began = time.perf_counter()
    found = tuned(net, torch.randn(5, 3).double(), seconds=2, error=1e9)
    assert time.perf_counter() - began < 30  # all of them in turns take more
    wanted = candidates(net)
    tried = [t.solver for t in found.trials[1:]]
    assert 0 < len(tried) < len(wanted)
    assert [*tried, *found.untried] == wanted


def test_a_solver_that_is_far_slower_is_given_up():
    many = lp.MGRIT(coarsening=2, forward_cycles=40, adjoint_cycles=40)
    found = tuned(small(lp.Serial(), 256), torch.randn(5, 3).double(), solvers=[many])
    assert found.trials[1].note is not None
    assert found.trials[1].note.startswith("given up: ")
    assert found.solver == lp.Serial()


def test_no_more_than_a_few_are_timed_in_turns():
    found = tuned(small(lp.Serial(), 1024), torch.randn(5, 3).double(), error=1e9)
    timed = [t for t in found.trials if t.milliseconds is not None]
    assert 2 <= len(timed) <= 5 < len(found.trials)
    assert any(t.note and t.note.startswith(("not timed: ", "given up: ")) for t in found.trials)


def test_progress_goes_to_stderr_if_wanted(capsys: pytest.CaptureFixture[str]):
    net = small(lp.Serial(), 16)
    pair = batch(net, torch.randn(5, 3).double())
    lp.tune(net, pair, loss, seconds=LONG, repeats=1)
    assert capsys.readouterr() == ("", "")  # no terminal
    found = lp.tune(net, pair, loss, seconds=LONG, repeats=1, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    for trial in found.trials[1:]:
        assert trial.name in err


def test_on_a_terminal_progress_is_one_line_that_goes_away(monkeypatch: pytest.MonkeyPatch):
    net = small(lp.Serial(), 16)
    pair = batch(net, torch.randn(5, 3).double())
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        lp.tune(net, pair, loss, seconds=1e-6)
        shown = os.read(master, 1 << 16).decode()
    os.close(master)
    lines = shown.split("\r")
    assert lines[1] == f"{'tune: the gradient by Serial()':79}"
    assert lines[-2:] == [" " * 79, ""]
    assert "\n" not in shown


# ---- as it was ----------------------------------------------------------------------------------


def worn() -> tuple[lp.Network, Tensor]:
    """A network in the middle of things: gradients, guesses, a frozen batch norm, a fallback."""
    net = several()
    net.solver = (
        lp.MGRIT(coarsening=8, warm_start=True),
        lp.Serial(),
        lp.MGRIT(coarsening=4, warm_start=True),
    )
    x = torch.randn(8, 3).double()
    net(x).square().mean().backward()
    net.body[0].layer.norm.eval()
    net.fallbacks = 3
    return net, x


def test_the_network_is_left_as_it_was():
    net, x = worn()
    hooked: list[Tensor] = []
    for p in net.parameters():
        p.register_post_accumulate_grad_hook(hooked.append)  # an optimiser may sit there
    tuned(net, x)
    assert not hooked
    assert not net.body[0].layer.norm.training


def test_a_network_in_evaluation_is_tuned_in_training_and_left_in_evaluation():
    net = several()
    net.eval()
    modes = set()

    def watching(output: Tensor, target: Tensor) -> Tensor:
        modes.add(net.training)
        return loss(output, target)

    pair = batch(net, torch.randn(8, 3).double())
    with torch.no_grad():
        lp.tune(net, pair, watching, seconds=1e-6)
    assert modes == {True}
    assert not any(part.training for part in net.modules())


@pytest.mark.parametrize("calls", [1, 3, 5, 9])
def test_ctrl_c_is_raised_and_leaves_the_network_as_it_was(calls: int):
    net, x = worn()
    pair, count = batch(net, x), iter(range(calls - 1))

    def interrupted(output: Tensor, target: Tensor) -> Tensor:
        if next(count, None) is None:
            raise KeyboardInterrupt
        return loss(output, target)

    before = everything(net)
    with pytest.raises(KeyboardInterrupt):
        lp.tune(net, pair, interrupted, seconds=LONG)
    assert same(before, everything(net))


def test_a_criterion_with_parameters_keeps_its_gradients():
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()).double())

        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            return self.weight * loss(output, target)

    net, criterion = small(lp.Serial(), 8), Weighted()
    criterion.weight.grad = kept = torch.full_like(criterion.weight, 7.0)
    x = torch.randn(5, 3).double().requires_grad_()
    lp.tune(net, batch(net, x), criterion, seconds=1e-6)
    assert criterion.weight.grad is kept
    assert float(kept) == 7.0
    assert x.grad is None


# ---- what is shown ------------------------------------------------------------------------------


def outcome(plain: float | None, *milliseconds: float) -> Tuning:
    solvers = (lp.Serial(), lp.MGRIT(coarsening=4))
    trials = [
        Trial(s, GradientError(0.01, 1.0, None), ms) for s, ms in zip(solvers, milliseconds, strict=True)
    ]
    best = min(trials, key=lambda t: t.milliseconds or 0.0)
    return Tuning(best.solver, Trial(None, milliseconds=plain), tuple(trials), 0.1, 10.0)  # type: ignore[arg-type]


def test_it_is_said_when_plain_pytorch_wins():
    won, lost, unknown = outcome(2.0, 4.0, 8.0), outcome(12.0, 4.0, 3.0), outcome(None, 4.0, 3.0)
    assert [each.plain_won for each in (won, lost, unknown)] == [True, False, False]
    assert [each.speedup for each in (won, lost, unknown)] == [0.5, 4.0, None]
    says = [
        each.table().splitlines()[-1].startswith("Plain PyTorch is the fastest") for each in (won, lost)
    ]
    assert says == [True, False]


def test_the_table_leaves_blank_what_was_not_measured():
    lines = outcome(12.0, 4.0, 3.0).table().splitlines()
    plain, mgrit, serial = lines[1:]
    assert lines[0].split() == ["solver", "ms", "vs", "plain", "error", "cosine", "worst", "layer"]
    assert plain.split()[-2:] == ["12.00", "1.00x"]
    assert mgrit.split()[-5:] == ["3.00", "4.00x", "1.0e-02", "1.0000", "<-"]
    assert serial.split()[-3:] == ["4.00", "3.00x", "exact"]


def test_every_setting_that_is_not_the_default_is_in_a_name():
    assert describe(lp.MGRIT(coarsening=(4, 2), coarse="picard", samples=4)) == (
        "MGRIT L=2 m=(4, 2) (2,2) picard:4"
    )
    named = describe(lp.MGRIT(relaxation=1, cycle="F", memory="recompute", guard=False))
    assert named == "MGRIT L=2 m=8 (2,2) inject relaxation=1 cycle=F memory=recompute guard=False"
    assert describe(lp.MGRIT(norm=loss)).endswith("inject norm=loss")  # type: ignore[arg-type]
    split = lp.Split(lp.Serial(), lp.MGRIT())
    assert describe((split, lp.Serial("recompute"))) == (
        "forward Serial(), adjoint MGRIT L=2 m=8 (2,2) inject | Serial('recompute')"
    )


def test_the_worst_layer_is_that_of_all_stacked_chains_or_none():
    """Layers of unlike depths are not mixed up, and tied ones have no error of their own."""
    torch.manual_seed(0)
    parts = [lp.chain(lp.Dense(4), 8, T=2.0), nn.Linear(4, 4), lp.chain(lp.Dense(4), 6, T=2.0)]
    net = lp.Network(nn.Linear(3, 4), parts, nn.Linear(4, 2)).double()
    x, y = batch(net, torch.randn(5, 3).double())
    solver = lp.MGRIT(coarsening=2, forward_cycles=1, adjoint_cycles=1)
    found = lp.tune(net, (x, y), loss, solvers=[solver], error=1e9, seconds=LONG, repeats=1)
    error = found.trials[1].error
    assert error is not None

    def layers(each: Any) -> list[Tensor]:
        net.zero_grad()
        with net.solved_by(each):
            loss(net(x), y).backward()
        rows = []
        for body in net.chains:
            grads = [p.grad.flatten(1) for p in body.parameters() if p.grad is not None]
            rows += list(torch.cat(grads, 1))
        return rows

    wanted = [
        float((a - b).norm() / b.norm())
        for a, b in zip(layers(solver), layers(lp.Serial()), strict=True)
    ]
    assert error.worst_layer == pytest.approx(max(wanted))
    tied = lp.Network(None, lp.chain(residual_block(3, 3), 8, T=1.0, tied=True), None).double()
    found = tuned(tied, x, solvers=[lp.MGRIT(coarsening=4)], error=1e9)
    assert [t.error.worst_layer for t in found.trials if t.error] == [None, None]
