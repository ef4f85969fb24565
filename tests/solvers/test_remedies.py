"""What is advised where a solve misbehaves: nothing that is set already, and nothing that is refused."""

from typing import Any

import pytest
import torch
from problems import BY_NAME, batch, small
from torch import nn

import layerparallel as lp
from layerparallel.solvers.remedies import remedy

SERIAL = "propagate serially: solver=lp.Serial()"


@pytest.mark.parametrize(
    ("options", "picard", "says"),
    [
        (
            {"coarsening": 8},
            True,
            "forward_cycles above 2, a coarsening below 8 or coarse='picard' may help",
        ),
        ({"coarsening": 8}, False, "forward_cycles above 2 or a coarsening below 8 may help"),
        (
            {"coarsening": 8, "coarse": "picard"},
            True,
            "forward_cycles above 2 or a coarsening below 8 may help",
        ),
        ({}, True, "forward_cycles above 2 or a coarsening below 8 may help"),
        ({"coarsening": 2, "coarse": "picard"}, True, "forward_cycles above 2 may help"),
        (
            {"coarsening": 8, "forward_cycles": 8},
            True,
            "a coarsening below 8 or coarse='picard' may help",
        ),
        ({"coarsening": (2, 4), "levels": 3, "forward_cycles": 32}, True, "coarse='picard' may help"),
        ({"coarsening": 2, "forward_cycles": 16, "relaxation": 1}, False, SERIAL),
        ({"coarsening": 2, "forward_cycles": 32, "coarse": "picard"}, True, SERIAL),
    ],
)
def test_only_what_is_left(options: dict[str, Any], picard: bool, says: str):
    assert remedy(lp.MGRIT(**options), "forward", 64, picard) == says


def told(net: lp.Network, x: Any) -> list[str]:
    """The advice of all warnings of one forward and backward pass."""
    with pytest.warns(RuntimeWarning, match="propagated serially") as caught:
        net(x).sum().backward()
    return [str(each.message).rpartition(" time (")[2].removesuffix(")") for each in caught]


def steep(solver: Any, depth: int = 32, integrator: Any = "euler") -> lp.Network:
    """Weights for which a coarse step says nothing about the fine ones."""
    net = small(solver, depth, h=1.0, T=None, initial="independent", integrator=integrator)
    with torch.no_grad():
        net.body.get_parameter("layer.weight").mul_(4)
    return net


def test_the_warning_knows_the_solver():
    assert told(steep(lp.MGRIT(coarsening=8)), batch()) == [
        "forward_cycles above 2, a coarsening below 8 or coarse='picard' may help"
    ]
    picard = lp.MGRIT(coarsening=4, coarse="picard", samples=1)
    assert told(steep(picard), batch()) == ["forward_cycles above 2 or a coarsening below 4 may help"]


def test_the_warning_knows_the_integrator():
    net = steep(lp.MGRIT(coarsening=8), integrator="rk4")
    assert told(net, batch()) == ["forward_cycles above 2 or a coarsening below 8 may help"]


def test_the_warning_of_the_adjoint_names_its_own_cycles():
    solver = lp.Split(lp.Serial(), lp.MGRIT(coarsening=8, forward_cycles=9, adjoint_cycles=1))
    net = lp.Network(None, lp.chain(lp.Dense(4, "relu"), 32, h=1.0, initial="independent"), None, solver)
    assert told(net, torch.randn(5, 4)) == [
        "adjoint_cycles above 1, a coarsening below 8 or coarse='picard' may help"
    ]


def test_where_nothing_is_left_the_warning_says_serially():
    torch.manual_seed(0)
    solver = lp.MGRIT(coarsening=2, coarse="picard", samples=1)
    body = lp.chain(lp.Dense(4, "relu"), 4, h=1.0, initial="independent")
    net = lp.Network(None, body, None, solver).double()
    with torch.no_grad():
        net.body.get_parameter("layer.weight").mul_(4)
    assert told(net, torch.randn(5, 4, dtype=torch.float64)) == [SERIAL]


# ---- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "steps", "says"),
    [
        (lp.MGRIT(coarsening=13), 12, "use a coarsening of at most 12 or the serial solver"),
        (
            lp.MGRIT(coarsening=6, smallest=4),
            12,
            "use smallest=2 or less, a coarsening of at most 3 or the serial solver",
        ),
        (lp.MGRIT(coarsening=4, smallest=8), 12, "use smallest=3 or less or the serial solver"),
        (lp.MGRIT(coarsening=8), 1, "fewer than 1; use the serial solver"),
        (lp.MGRIT(levels=4, coarsening=3), 12, "use levels=3 or less, or smallest=2 to stop where it"),
        (lp.MGRIT(levels=3, coarsening=3), 3, "by coarsening 3; use levels=2 or less"),
    ],
)
def test_a_solver_that_does_not_fit_is_told_what_would(solver: lp.MGRIT, steps: int, says: str):
    with pytest.raises(ValueError, match="use") as error:
        solver.check(steps)
    assert says in str(error.value)
    assert ("smallest=2" in str(error.value)) == ("smallest=2" in says)


@pytest.mark.parametrize(
    ("integrator", "says"),
    [("euler", "'inject', 'mean_residual' or 'picard'"), ("rk4", "'inject' or 'mean_residual'")],
)
def test_unlike_modules_are_advised_what_their_integrator_can_have(integrator: Any, says: str):
    solver = lp.MGRIT(coarsening=3, coarse="mean_parameters")
    body = lp.chain([nn.Linear(4, 4) for _ in range(12)], T=1.0, integrator=integrator)
    with pytest.raises(ValueError, match="mean_parameters") as error:
        lp.Network(None, body, None, solver)(torch.randn(2, 4))
    assert str(error.value).endswith(says)


def test_step_functions_are_never_advised_picard():
    assert not BY_NAME["step function"].body(8, "smooth").allows_picard
    assert not BY_NAME["verlet"].body(8, "smooth").allows_picard
    assert BY_NAME["block"].body(8, "smooth").allows_picard
