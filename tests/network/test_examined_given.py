"""What steps ask of what they are given, and what they keep of it."""

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


# ---- what is kept from one evaluation to the next ---------------------------------------------------


class Prepares(Block):
    """Prepares its weight once for evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.ready: Any = None
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Any:
        self.ready = None
        self.cache = {}
        return super().train(mode)

    def forward(self, u: Tensor) -> Tensor:
        if self.training:
            return super().forward(u)
        if self.ready is None:
            self.ready = 2 * self.fc.weight.detach()
            self.cache["bias"] = 3 * self.fc.bias.detach()
        return u + 0.1 * torch.tanh(u @ self.ready.T + self.cache["bias"])


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("solver", ["serial", "mgrit"])
def test_weights_that_are_prepared_for_evaluation_are_each_steps_own(body, solver):
    net, twin = made(Prepares, body)
    net.evaluate_with = SOLVERS[solver]
    for k in range(2):
        assert_twins(net.train(), twin.train(), entering() + k)
        for module in (net, twin):
            module.eval()
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                out, expected = net(entering() + k), twin(entering() + k)
            torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
        with torch.no_grad():
            for module in (net, twin):
                for p in module.parameters():
                    p.mul_(0.9)


def once(block: Any, v: Tensor, made: Any) -> Any:
    if not hasattr(block, "kept"):
        block.kept = made(block, v)
    return block.kept


def test_what_is_kept_of_a_state_or_of_stacked_parameters_is_refused():
    def of_state(block: Any, v: Tensor) -> Tensor:
        return v * once(block, v, lambda b, v: float(v.detach().mean()))

    def of_weight(block: Any, v: Tensor) -> Tensor:
        return v * once(block, v, lambda b, v: [b.fc.weight.detach().mean()])[0]

    def of_shape(block: Any, v: Tensor) -> Tensor:
        return v * once(block, v, lambda b, v: torch.arange(v.shape[-1]))

    for body in BODIES:
        net, _ = made(lambda: Block(of_state), body)
        assert "keeps kept from its first evaluation" in refusal(net, entering())
        net, twin = made(lambda: Block(of_shape), body, "mgrit")
        assert_twins(net, twin, entering())
    net, _ = made(lambda: Block(of_weight), "stacked")
    assert "later ones, which are of other parameters" in refusal(net, entering())
    net, twin = made(lambda: Block(of_weight), "unlike", "mgrit")
    assert_twins(net, twin, entering())
