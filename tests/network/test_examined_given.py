"""What steps ask of what they are given: a parameter's class and attributes, the state's place in memory."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from twins import BODIES, DEPTH, SOLVERS, Block, assert_twins, entering, made, refusal

import layerparallel as lp

DEFAULT = 0.1


def is_parameter(w: Tensor) -> float:
    return 1.0 if isinstance(w, nn.Parameter) else DEFAULT


def is_exactly_one(w: Tensor) -> float:
    return 1.0 if type(w) is nn.Parameter else DEFAULT


def scale(w: Any) -> float:
    return getattr(w, "scale", DEFAULT)


def scale_or_nothing(w: Any) -> float:
    return w.scale


class Asks(Block):
    """Has another value where its weight is not what it was."""

    def __init__(self, asked: Any) -> None:
        super().__init__()
        self.asked = asked
        vars(self.fc.weight)["scale"] = 0.5

    def forward(self, u: Tensor) -> Tensor:
        return u + self.asked(self.fc.weight) * torch.tanh(self.fc(u))


@pytest.mark.parametrize("asked", [is_parameter, is_exactly_one, scale, scale_or_nothing])
@pytest.mark.parametrize("body", BODIES)
def test_a_step_that_asks_what_a_parameter_is_is_refused(asked, body):
    torch.manual_seed(0)
    blocks = [Asks(asked) for _ in range(DEPTH)]
    if body == "stacked":
        chain = lp.chain(blocks, integrator="block", stacked=True)
    elif body == "tied":
        chain = lp.chain(blocks[0], DEPTH, integrator="block", tied=True)
    else:
        chain = lp.chain(blocks, integrator="block")
    net = lp.Network(None, chain, None)
    assert "asks for the class or an attribute of a parameter" in refusal(net, entering())
    with torch.no_grad():  # serial evaluation has the parameters themselves
        if body == "stacked":
            with pytest.raises(ValueError, match="class or an attribute of a parameter"):
                net.eval()(entering())
        else:
            expected = nn.Sequential(*(blocks if body == "unlike" else DEPTH * blocks[:1]))(entering())
            torch.testing.assert_close(net.eval()(entering()), expected)


def test_attributes_that_no_step_asks_for():
    net, twin = made(lambda: Asks(lambda w: 1.0), "unlike", "mgrit")
    assert_twins(net, twin, entering())


class Viewing(Block):
    """Needs that batch and time stand in this order in memory."""

    def forward(self, u: Tensor) -> Tensor:
        n, b, c = u.shape
        v = super().forward(u.transpose(0, 1).view(b * n, c))
        return v.view(b, n, c).transpose(0, 1)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_step_that_depends_on_the_place_in_memory(body, solver):
    net, twin = made(Viewing, body, solver)
    u = torch.randn(4, 3, 4, dtype=torch.double).transpose(0, 1)
    assert "asks for the state's place in memory, of strides (4, 12, 1)" in refusal(net, u)
    if body != "stacked":
        with torch.no_grad():
            torch.testing.assert_close(net.eval()(u), twin(u), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_state_that_lies_in_memory_in_another_order(body, solver):
    net, twin = made(Block, body, solver)
    assert_twins(net, twin, entering()[:4].T)
