"""Chains as modules: kinds, first values, and layers that would spoil a solve."""

import copy
from typing import Any

import pytest
import torch
from problems import BY_NAME, Cell, Drive, Timed, compare, residual_block
from torch import Tensor, nn
from torch.nn import functional

import layerparallel as lp
from layerparallel.chains.closed import closed_form
from layerparallel.network.bodies import FunctionBody, StackedBody, TiedBody, UnlikeBody

EXACT = lp.MGRIT(coarsening=3, forward_cycles=5, adjoint_cycles=5)


def test_kinds():
    assert isinstance(lp.chain(lp.Dense(3), 4), StackedBody)
    assert isinstance(lp.chain(lp.Dense(3), 4, tied=True), TiedBody)
    assert isinstance(lp.chain([lp.Dense(3), lp.Dense(3)]), UnlikeBody)
    assert isinstance(lp.chain(nn.ModuleList([lp.Dense(3)])), UnlikeBody)
    assert isinstance(lp.chain(lambda u, t, dt: u, 4), FunctionBody)


def test_step_size_and_final_time():
    assert lp.chain(lp.Dense(3), 8, T=2.0).h == 0.25
    assert lp.chain(lp.Dense(3), 8, h=0.5).T == 4.0
    assert lp.chain(lp.Dense(3), 8).T == 1.0
    assert lp.chain(nn.Linear(3, 3), 8, integrator="block").h == 1.0
    assert lp.chain([lp.Dense(3)] * 5, 5, T=1.0).h == 0.2


def test_template_is_left_as_it_was():
    layer = lp.Dense(3)
    before = copy.deepcopy(layer.state_dict())
    lp.chain(layer, 5, initial="independent")
    assert layer.weight.shape == (3, 3)
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


def test_initialisations():
    torch.manual_seed(0)
    layer = lp.Dense(16)
    tied = lp.chain(layer, 200, initial="tied").get_parameter("layer.weight").detach()
    assert torch.equal(tied, layer.weight.detach().expand(200, 16, 16))
    smooth = lp.chain(layer, 200, initial="smooth").get_parameter("layer.weight").detach()
    independent = lp.chain(layer, 200, initial="independent").get_parameter("layer.weight").detach()
    jumps = [float((w[1:] - w[:-1]).abs().max()) for w in (smooth, independent)]
    assert jumps[0] < 0.01
    assert jumps[1] > 0.2
    assert float((smooth[-1] - smooth[0]).abs().max()) > 0.1
    one = 1 / 16**0.5 / 3**0.5  # standard deviation of a single layer, as torch.nn.Linear's
    for weight in (smooth, independent):
        assert weight.std(dim=(1, 2)).mean() == pytest.approx(one, rel=0.1)
    assert smooth.std(dim=(1, 2)).min() > 0.8 * one


def test_constants_of_a_template_stay_constant():
    """A LayerNorm starts at weight 1, bias 0 in every layer and every initialisation."""
    initials: list[Any] = ["smooth", "tied", "independent"]
    for initial in initials:
        body = lp.chain(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)), 9, initial=initial)
        assert torch.equal(body.get_parameter("layer.0.weight").detach(), torch.ones(9, 4))
        assert torch.equal(body.get_parameter("layer.0.bias").detach(), torch.zeros(9, 4))


def test_time_is_that_of_the_step():
    """u' = t, forward Euler: u[N] = h^2 N (N - 1) / 2, on every level by mean_residual."""

    class Clock(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(()))

        def forward(self, u: Tensor, t: Tensor) -> Tensor:
            return self.gain * t * torch.ones_like(u)

    n, h = 12, 0.5
    expected = h * h * n * (n - 1) / 2
    for tied in (False, True):
        net = lp.Network(None, lp.chain(Clock(), n, h=h, tied=tied), None).double()
        x = torch.zeros(2, 1, dtype=torch.float64)
        for solver in (lp.Serial(), lp.MGRIT(coarsening=4, coarse="mean_residual")):
            net.solver = solver
            assert net(x).flatten().tolist() == pytest.approx([expected] * 2)
        assert net.solution is not None
        # the mean over an interval is exact here: even the coarse start has no residual
        assert net.solution.residuals[0] == pytest.approx(0, abs=1e-12)


def test_recurrence_sees_its_own_input_at_every_step():
    """With F = x the chain sums its inputs; the inputs have gradients of their own."""

    class Sum(nn.Module):
        def forward(self, u: Tensor, x: Tensor) -> Tensor:
            return x + 0 * u

    class Give(nn.Module):
        def forward(self, x: Tensor) -> lp.Driven:
            return lp.Driven(torch.zeros_like(x[:, 0]), x.transpose(0, 1))

    net = lp.Network(Give(), lp.chain(Sum(), 11, h=1.0, tied=True), None, EXACT)
    x = torch.randn(3, 11, 2, dtype=torch.float64, requires_grad=True)
    y = net(x)
    torch.testing.assert_close(y, x.sum(1))
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))


def test_several_inputs_per_step():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = Cell()

        def forward(self, u: Tensor, x: Tensor, gate: Tensor) -> Tensor:
            return gate * self.cell(u, x)

    class Give(nn.Module):
        def forward(self, x: Tensor) -> lp.Driven:
            inputs = x.transpose(0, 1)
            return lp.Driven(x.new_zeros(x.shape[0], 4), (inputs, torch.sigmoid(inputs[..., :1])))

    torch.manual_seed(0)
    net = lp.Network(Give(), lp.chain(Two(), 13, T=2.0, tied=True), None).double()
    x = torch.randn(3, 13, 2, dtype=torch.float64)
    assert compare(net, x, EXACT).worst < 1e-12


# ---- layers that are evaluated several times, and many at once -----------------------------------


class Normed(nn.Module):
    """Statistics over the batch, kept nowhere."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, u: Tensor) -> Tensor:
        return torch.tanh(self.linear(self.norm(u)))


class Centred(nn.Module):
    """The same, hidden in a forward."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, u: Tensor) -> Tensor:
        return torch.tanh(self.linear(u - u.mean(0)))


@pytest.mark.parametrize("layer", [Normed, Centred])
@pytest.mark.parametrize("tied", [False, True])
def test_statistics_over_the_batch_are_those_of_the_batch(layer: type[nn.Module], tied: bool):
    """Intervals that are folded into the batch must not be taken for samples."""
    torch.manual_seed(0)
    net = lp.Network(nn.Linear(3, 4), lp.chain(layer(), 12, T=1.0, tied=tied), None).double()
    assert compare(net, torch.randn(6, 3, dtype=torch.float64), EXACT).worst < 1e-12
    assert net.fallbacks == 0
    if tied:
        assert isinstance(net.body, TiedBody)
        assert not net.body.folds


def test_a_state_without_a_dimension_of_samples():
    """(C, H, W) to a convolution that takes it: folding would mix samples and channels."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Tanh())
    net = lp.Network(None, lp.chain(module, 12, T=1.0, tied=True), None).double()
    assert compare(net, torch.randn(2, 4, 4, dtype=torch.float64), EXACT).worst < 1e-12


def test_state_of_one_dimension():
    """No dimension of samples, in a chain of one module for all steps: folded nowhere."""
    torch.manual_seed(0)
    body = lp.chain(residual_block(4, 3), 12, T=1.0, tied=True)
    net = lp.Network(nn.Linear(3, 4), body, nn.Linear(4, 2)).double()
    assert compare(net, torch.randn(3, dtype=torch.float64), EXACT).worst < 1e-12


class Noisy(nn.Module):
    """Noise hidden in a forward."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, u: Tensor) -> Tensor:
        noise = torch.rand_like(u) if self.training else 0.0
        return self.linear(u) + noise


@pytest.mark.parametrize("solver", [lp.Serial(), lp.Serial("recompute"), EXACT])
@pytest.mark.parametrize("kind", ["stacked", "tied", "unlike", "function"])
def test_hidden_randomness_is_refused(kind: str, solver: Any):
    body = {
        "stacked": lambda: lp.chain(Noisy(), 6),
        "tied": lambda: lp.chain(Noisy(), 6, tied=True),
        "unlike": lambda: lp.chain([lp.Dense(8), *(Noisy() for _ in range(5))]),
        "function": lambda: lp.chain(lambda u, t, dt: u + dt * torch.randn_like(u), 6),
    }[kind]()
    net = lp.Network(None, body, None, solver)
    with pytest.raises(ValueError, match="random"):
        net(torch.randn(4, 8))


def test_noise_that_is_off_is_no_obstacle_in_evaluation():
    net = lp.Network(None, lp.chain(Noisy(), 6), None, EXACT)
    x = torch.randn(4, 8, requires_grad=True)
    net.eval()
    net(x).sum().backward()
    assert x.grad is not None
    with pytest.raises(ValueError, match="random"):  # and is noticed when it is on again
        net.train()(x)


def test_step_function_with_trainable_tensors_is_refused():
    w = torch.ones(3, requires_grad=True)
    for train in (True, False):
        net = lp.Network(None, lp.chain(lambda u, t, dt: u + dt * w * u, 6), None, EXACT)
        with pytest.raises(ValueError, match="make it a module"):
            net.train(train)(torch.randn(2, 3))


# ---- closed forms --------------------------------------------------------------------------------


class Doubled(lp.Dense):
    """A Dense layer with another forward."""

    def forward(self, u: Tensor) -> Tensor:
        return super().forward(u) * 2


def double(module: nn.Module, given: Any, value: Tensor) -> Tensor:
    return 2 * value


def altered(kind: str) -> nn.Module:
    layer = lp.Dense(4)
    if kind == "subclass":
        layer = Doubled(4)
    elif kind == "hook":
        layer.register_forward_hook(double)
    elif kind == "parametrised":
        nn.utils.parametrizations.weight_norm(layer)
    return layer


@pytest.mark.parametrize("kind", ["subclass", "hook", "parametrised"])
def test_closed_form_is_left_where_it_is_not_true(kind: str):
    torch.manual_seed(0)
    net = lp.Network(nn.Linear(3, 4), lp.chain(altered(kind), 12, T=1.0), None).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    assert compare(net, x, EXACT).worst < 1e-12
    layer = lp.Network(net.opening, lp.chain(lp.Dense(4), 12, T=1.0), None).double()
    if kind != "parametrised":
        layer.body.load_state_dict(net.body.state_dict())
        assert not torch.allclose(layer(x), net(x))


def test_own_closed_form_is_used():
    """The hook for a user's own layer: here it answers with the chain of another activation."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.eye(4)), nn.Parameter(torch.zeros(4))
            self.asked: list[tuple[Any, ...]] = []

        def forward(self, u: Tensor) -> Tensor:
            return torch.tanh(functional.linear(u, self.weight, self.bias))

        def closed_chain(self, parameters: Any, depth: int, step_size: float, workspace: Any) -> Any:
            self.asked.append((tuple(parameters["weight"].shape), depth, step_size))
            make = closed_form(lp.Dense(4, "tanh"))
            assert make is not None
            return make(parameters, depth, step_size, workspace)

    net = lp.Network(None, lp.chain(Own(), 6, T=3.0), None).double()
    assert compare(net, torch.randn(5, 4, dtype=torch.float64), EXACT).worst < 1e-12
    layer = net.body.get_submodule("layer")
    assert isinstance(layer, Own)
    assert layer.asked[0] == ((6, 4, 4), 6, 0.5)


class Shared(nn.Module):
    """A template that uses one weight twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, u: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(u)))


def test_template_that_shares_a_weight_within_itself():
    torch.manual_seed(0)
    net = lp.Network(None, lp.chain(Shared(), 12, T=1.0), None).double()
    assert {name: tuple(p.shape) for name, p in net.body.named_parameters()} == {
        "layer.a.weight": (12, 4, 4),
        "layer.a.bias": (12, 4),
        "layer.b.bias": (12, 4),
    }
    assert compare(net, torch.randn(5, 4, dtype=torch.float64), EXACT).worst < 1e-12
    twin = net.to_serial()
    assert net.state_dict().keys() == twin.state_dict().keys()
    net.load_state_dict(twin.state_dict())


def test_compiled_template_is_the_template():
    """`torch.compile(layer)` is unwrapped; a layer with a closed form needs no compiler."""
    torch.manual_seed(0)
    net = lp.Network(None, lp.chain(torch.compile(lp.Dense(4)), 12, T=1.0), None).double()
    assert [name for name, _ in net.named_parameters()] == ["body.layer.weight", "body.layer.bias"]
    assert compare(net, torch.randn(5, 4, dtype=torch.float64), EXACT).worst < 1e-12


def test_driven_stack_is_refused():
    """Only a chain of one module for all steps takes an input per step."""
    for body in (lp.chain(lp.Dense(4), 6), lp.chain(lambda u, t, dt: u, 6)):
        with pytest.raises(ValueError, match="tied=True"):
            lp.Network(Drive(), body, None, EXACT)(torch.randn(2, 6, 2))


def test_unlike_modules_with_time_are_refused():
    with pytest.raises(ValueError, match="time t"):
        lp.chain([Timed(), Timed()])


def test_parameters_of_one_problem_reach_every_step():
    """A changed layer changes the output: no layer is left out on any level."""
    problem = BY_NAME["dense tanh"]
    net, x = problem.network(13), problem.input(13)
    before = net(x).detach()
    for n in range(13):
        other = copy.deepcopy(net)
        other.solver = lp.MGRIT(coarsening=3, forward_cycles=6)
        with torch.no_grad():
            other.body.get_parameter("layer.bias")[n] += 0.1
        assert float((other(x).detach() - before).abs().max()) > 1e-4, n


def test_any_module_has_a_serial_twin_of_its_own():
    net = lp.Network(None, lp.chain(residual_block(4, 3), 5, T=1.0), None)
    twin = net.to_serial()
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert all(bool(p.any()) for p in net.parameters())
