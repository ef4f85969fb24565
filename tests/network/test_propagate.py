"""One differentiable operation: what autograd's users may do with it, and what they may not."""

import gc
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import alone
from problems import (
    BY_NAME,
    PROBLEMS,
    Block,
    batch,
    compare,
    gradients,
    pull_back,
    small,
    twin_gradients,
)
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional

import layerparallel as lp
from layerparallel.chains.dense import DenseAdjoint
from layerparallel.network.propagate import Solver

EXACT = lp.MGRIT(coarsening=3, forward_cycles=5, adjoint_cycles=5)
FEW = lp.MGRIT(coarsening=4, forward_cycles=2, adjoint_cycles=2)
BOTH_MEMORIES: list[Any] = ["store", "recompute"]


def assert_multiple(found: list[Tensor], factor: float, single: list[Tensor]) -> None:
    assert len(found) == len(single) > 0
    for a, b in zip(found, single, strict=True):
        torch.testing.assert_close(a, factor * b, rtol=1e-13, atol=1e-15)


# ---- accumulation --------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", BOTH_MEMORIES)
@pytest.mark.parametrize("name", ["dense tanh", "convolution tanh", "block", "tied", "verlet"])
def test_two_backward_calls_accumulate(name: str, memory: Any):
    problem = BY_NAME[name]
    net, x = problem.network(12), problem.input(12)
    net.solver = lp.MGRIT(coarsening=3, memory=memory)
    pull_back(net, x)
    once = gradients(net)
    pull_back(net, x)
    assert_multiple(gradients(net), 2, once)


@pytest.mark.parametrize("memory", BOTH_MEMORIES)
@pytest.mark.parametrize("name", ["dense smoothrelu", "convolution tanh", "block", "unlike"])
def test_two_forward_calls_before_one_backward(name: str, memory: Any):
    """The second forward must not overwrite what the first one's backward needs."""
    problem = BY_NAME[name]
    net = problem.network(12)
    net.solver = lp.MGRIT(coarsening=3, memory=memory)
    first, second = problem.input(12), problem.input(12, seed=2)
    net(first).square().sum().backward()
    apart = gradients(net)
    net.zero_grad()
    net(second).sum().backward()
    apart = [a + b for a, b in zip(apart, gradients(net), strict=True)]
    net.zero_grad()
    (net(first).square().sum() + net(second).sum()).backward()
    assert_multiple(gradients(net), 1, apart)
    net.zero_grad()
    one, two = net(first), net(second)
    two.sum().backward()  # in the other order
    one.square().sum().backward()
    assert_multiple(gradients(net), 1, apart)


@pytest.mark.parametrize("memory", BOTH_MEMORIES)
@pytest.mark.parametrize("name", ["dense tanh", "convolution gelu", "block", "tied"])
def test_retain_graph(name: str, memory: Any):
    problem = BY_NAME[name]
    net = problem.network(12)
    net.solver = lp.MGRIT(coarsening=3, memory=memory)
    loss = net(problem.input(12)).square().sum()
    loss.backward(retain_graph=True)
    once = gradients(net)
    loss.backward(retain_graph=True)
    assert_multiple(gradients(net), 2, once)
    loss.backward()
    assert_multiple(gradients(net), 3, once)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("solver", [lp.Serial(), FEW], ids=["serial", "mgrit"])
def test_second_backward_without_retain_graph_is_autograds_own_error(solver: Solver):
    net = small(solver)
    loss = net(batch()).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()


def test_one_batch_six_times_gives_six_times_its_gradient():
    net, x = small(FEW), batch()
    net(x).square().sum().backward()
    once = gradients(net)
    residuals = net.solution.residuals if net.solution else []
    for _ in range(5):
        net(x).square().sum().backward()
        assert net.solution is not None
        assert net.solution.residuals == residuals
    assert_multiple(gradients(net), 6, once)


def test_parameters_changed_between_forward_and_backward_are_noticed():
    net = small(EXACT)
    loss = net(batch()).sum()
    with torch.no_grad():
        net.body.get_parameter("layer.weight").mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_gradient_of_a_part_alone():
    net, x = small(EXACT), batch()
    pull_back(net, x)
    weight = net.body.get_parameter("layer.weight")
    expected = weight.grad
    weights = torch.linspace(-1.0, 2.0, 10, dtype=torch.float64).view(5, 2)
    y = net(x)
    (found,) = torch.autograd.grad((weights * y + y.square() / 2).sum(), weight)
    torch.testing.assert_close(found, expected)


def test_frozen_body_passes_gradients_through():
    for net in (small(EXACT), BY_NAME["block"].network(12), BY_NAME["tied"].network(12)):
        net.solver = EXACT
        net.body.requires_grad_(False)
        net(batch()).sum().backward()
        assert all(p.grad is None for p in net.body.parameters())
        grad = net.opening.get_parameter("weight").grad
        assert grad is not None
        assert grad.any()


def test_frozen_part_of_a_template():
    net = lp.Network(None, lp.chain(Block(), 12, integrator="block"), None, EXACT).double()
    norm = net.body.get_submodule("layer.norm")
    norm.requires_grad_(False)
    net(torch.randn(2, 4, dtype=torch.float64)).sum().backward()
    for name, p in net.named_parameters():
        assert (p.grad is None) == (".norm." in name), name


# ---- what is refused -----------------------------------------------------------------------------


def test_second_derivatives_are_refused():
    net, x = small(EXACT), batch().requires_grad_()
    with pytest.raises(RuntimeError, match="create_graph=True"):
        torch.autograd.grad(net(x).sum(), x, create_graph=True)


@pytest.mark.parametrize(
    "transform",
    [
        lambda net: torch.func.grad(lambda x: net(x).sum()),
        lambda net: torch.func.vmap(net),
        lambda net: torch.func.jacrev(net),
    ],
    ids=["grad", "vmap", "jacrev"],
)
def test_torch_func_is_refused(transform: Callable[[nn.Module], Callable[[Tensor], Any]]):
    with pytest.raises(RuntimeError, match="to_serial"):
        transform(small(EXACT))(batch())


def test_second_derivatives_of_the_serial_twin():
    """The remedy that the error names."""
    twin, x = small(EXACT).to_serial(), batch().requires_grad_()
    (g,) = torch.autograd.grad(twin(x).square().sum(), x, create_graph=True)
    g.square().sum().backward()
    assert x.grad is not None


# ---- exceptions of the user's code ---------------------------------------------------------------


class OwnError(Exception):
    """Of nobody but the user."""


class Fuse(nn.Module):
    """A step that breaks when it is told to."""

    def __init__(self):
        super().__init__()
        self.linear, self.blown = nn.Linear(4, 4), False

    def forward(self, u: Tensor) -> Tensor:
        if self.blown:
            raise OwnError("blown")
        return torch.tanh(self.linear(u))


def fused(kind: str, solver: Solver) -> tuple[lp.Network, list[Fuse]]:
    body = (
        lp.chain([Fuse() for _ in range(12)], T=1.0)
        if kind == "unlike"
        else lp.chain(Fuse(), 12, T=1.0, tied=kind == "tied")
    )
    net = lp.Network(nn.Linear(3, 4), body, None, solver)
    return net, [part for part in body.modules() if isinstance(part, Fuse)]


@pytest.mark.parametrize("solver", [lp.Serial(), FEW], ids=["serial", "mgrit"])
@pytest.mark.parametrize("kind", ["stacked", "tied", "unlike"])
def test_exception_in_a_step(kind: str, solver: Solver):
    net, fuses = fused(kind, solver)
    x = torch.randn(2, 3)
    net(x)
    for fuse in fuses:
        fuse.blown = True
    with pytest.raises(OwnError, match="blown"):
        net(x)


@pytest.mark.parametrize("solver", [lp.Serial("recompute"), lp.MGRIT(4, 2, memory="recompute")])
@pytest.mark.parametrize("kind", ["stacked", "tied", "unlike"])
def test_exception_in_a_recomputed_step(kind: str, solver: Solver):
    """The same exception out of backward, and a later step is none the worse."""
    net, fuses = fused(kind, solver)
    x = torch.randn(2, 3)
    loss = net(x).sum()
    for fuse in fuses:
        fuse.blown = True
    with pytest.raises(OwnError, match="blown"):
        loss.backward()
    for fuse in fuses:
        fuse.blown = False
    net.zero_grad()
    assert compare(net.double(), x.double(), net.solver).gradient < 1  # it runs again


def test_exception_in_a_step_function():
    def step(u: Tensor, t: Tensor, dt: float) -> Tensor:
        raise OwnError("blown")

    with pytest.raises(OwnError, match="blown"):
        lp.Network(None, lp.chain(step, 12), None, FEW)(torch.randn(2, 3))


# ---- precisions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_single_precision(problem: Any):
    net, x = problem.network(24).float(), problem.input(24).float()
    with problem.layout():
        errors = compare(net, x, lp.MGRIT(coarsening=4, forward_cycles=7, adjoint_cycles=7))
    assert errors.worst < 2e-5
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_bf16_autocast(problem: Any):
    """As close to exact as the serial twin under the same autocast, within its own rounding."""
    net, x = problem.network(24).float(), problem.input(24).float()
    twin = net.to_serial()
    exact = twin(x)
    exact.square().mean().backward()
    exact = exact.detach()
    reference = twin_gradients(net, twin)
    net.solver = lp.MGRIT(coarsening=4, forward_cycles=7, adjoint_cycles=7)
    with torch.autocast("cpu", dtype=torch.bfloat16), problem.layout():
        y = net(x)
        rounded = twin(x)
    y.float().square().mean().backward()
    assert net.solution is not None
    assert all(part.dtype == torch.float32 for part in net.solution.end)
    scale = float(exact.abs().max())
    theirs, ours = (float((z - exact).abs().max()) for z in (rounded.detach(), y.detach()))
    assert theirs > 0  # bf16 was at work
    assert ours < max(1.5 * theirs, 0.02 * scale)
    largest = max(float(g.abs().max()) for g in reference.values())
    for name, p in net.named_parameters():
        assert p.grad is not None
        assert p.grad.dtype == torch.float32
        assert float((p.grad - reference[name]).abs().max()) < 0.05 * largest, name


def test_small_steps_are_not_lost_under_autocast():
    """1024 steps of u + 1/1024: in bf16 the state would stay at 1."""
    body = lp.chain(lp.Dense(1, "identity"), 1024, T=1.0)
    with torch.no_grad():
        body.get_parameter("layer.weight").zero_()
        body.get_parameter("layer.bias").fill_(1)
    for solver in (lp.Serial(), lp.MGRIT(coarsening=32)):
        net = lp.Network(None, body, None, solver)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            end = net(torch.ones(1, 1))
        assert float(end.detach()) == pytest.approx(2.0, rel=1e-3)


def test_step_function_that_returns_bf16_under_autocast():
    """The state keeps its dtype whatever the step computes in."""
    net = lp.Network(None, lp.chain(lambda u, t, dt: functional.linear(u, torch.eye(3)), 9), None)
    x = torch.full((2, 3), 1 + 2**-9)  # bf16 has no such number
    for solver in (lp.Serial(), FEW):
        with net.solved_by(solver), torch.autocast("cpu", dtype=torch.bfloat16):
            end = net(x)
        assert end.dtype == torch.float32
        assert torch.equal(end, torch.ones(2, 3))


def test_autocast_is_restored_in_backward():
    """Backward is called outside the autocast region, and recomputes inside it."""
    seen: list[bool] = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, u: Tensor) -> Tensor:
            seen.append(torch.is_autocast_enabled("cpu"))
            return torch.tanh(self.linear(u))

    net = lp.Network(None, lp.chain(Spy(), 12), None, lp.MGRIT(coarsening=3, memory="recompute"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = net(torch.randn(2, 4)).float().sum()
    seen.clear()
    loss.backward()
    assert seen
    assert all(seen)


# ---- cost ----------------------------------------------------------------------------------------


class Counting(nn.Module):
    """A step that counts its calls and watches which of its values are still there."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.calls, self.most = 0, 0
        self.values: list[StorageWeakRef] = []

    def forward(self, u: Tensor) -> Tensor:
        value = torch.tanh(self.linear(u))
        self.calls += 1
        self.values.append(StorageWeakRef(value.untyped_storage()))
        self.most = max(self.most, self.alive)
        return value

    @property
    def alive(self) -> int:
        self.values = [ref for ref in self.values if not ref.expired()]
        return len(self.values)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("training", [True, False])
def test_evaluation_costs_one_serial_pass(mode: Callable[[], Any], training: bool):
    module = Counting()
    net = lp.Network(nn.Linear(3, 4), lp.chain(module, 50, T=1.0, tied=True), None, FEW)
    net.train(training)
    x = torch.randn(2, 3)
    with mode():
        y = net(x)
    assert module.calls == 50
    assert module.most <= 3  # no states are kept
    assert module.alive == 0
    assert net.solution is not None
    assert net.solution.evaluations == [50]
    assert net.solution.points is None
    torch.testing.assert_close(y, net.to_serial()(x))


def test_serial_training_keeps_what_backward_needs_and_frees_it():
    """The watch above does see states that are kept."""
    module = Counting()
    body = lp.chain(module, 50, T=1.0, tied=True)
    net = lp.Network(nn.Linear(3, 4), body, None, lp.Serial("recompute"))
    net(torch.randn(2, 3)).sum().backward()  # the steps are also examined once
    assert module.alive == 0
    module.calls = module.most = 0
    net.solver = lp.Serial()
    loss = net(torch.randn(2, 3)).sum()
    assert module.calls == module.most == 50
    loss.backward()
    assert module.calls == 50
    assert module.alive == 0


@pytest.mark.parametrize("memory", BOTH_MEMORIES)
def test_a_loss_that_is_kept_keeps_no_states(memory: Any):
    net = small(lp.MGRIT(coarsening=3, memory=memory))
    losses = [net(batch()).sum() for _ in range(3)]
    held = [o for o in gc.get_objects() if type(o) is DenseAdjoint and o._departures]
    assert len(held) == 3
    for loss in losses:
        loss.backward()
    assert not any(o._departures or o._tapes or o.states is not None for o in held)


def peak(solver: Any) -> float:
    """Peak memory of a training step, in states of the network (64 KiB each)."""

    def high() -> int:
        status = Path("/proc/self/status").read_text()
        return int(re.findall(r"VmHWM:\s*(\d+)", status)[0])

    torch.manual_seed(0)
    net = lp.Network(None, lp.chain(lp.Dense(32), 768, T=1.0), None, solver)
    x = torch.randn(512, 32)
    net(torch.randn(2, 32)).sum().backward()
    before = high()
    net(x).square().sum().backward()
    return (high() - before) / 64


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_recompute_takes_far_less_memory(tmp_path: Path):
    def alone_with(solver: Any) -> float:
        return alone(tmp_path, peak, solver).returned()

    serial = alone_with(lp.Serial())
    assert serial > 768  # every state, at least
    assert alone_with(lp.Serial("recompute")) < serial / 4
    store = alone_with(lp.MGRIT(coarsening=32))
    assert store > 768
    assert alone_with(lp.MGRIT(coarsening=32, memory="recompute")) < store / 2


@pytest.mark.parametrize("name", ["dense tanh", "convolution tanh", "block", "verlet"])
def test_memory_policies_agree(name: str):
    """After few cycles, too: both linearise about the same states."""
    problem = BY_NAME[name]
    found = []
    for memory in BOTH_MEMORIES:
        net = problem.network(29)
        net.solver = lp.MGRIT(levels=3, coarsening=3, memory=memory)
        y, x = pull_back(net, problem.input(29))
        found.append([y, x, *gradients(net)])
    assert_multiple(found[1], 1, found[0])
