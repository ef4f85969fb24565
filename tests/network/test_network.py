"""Network: an ordinary nn.Module in everybody's training loop."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import BY_NAME, PROBLEMS, pull_back, residual_block, twin_gradients
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import layerparallel as lp
from layerparallel.network.propagate import Solver

EXACT = lp.MGRIT(coarsening=3, forward_cycles=5, adjoint_cycles=5)
FEW = lp.MGRIT(coarsening=3, forward_cycles=1, adjoint_cycles=1)


def dense(solver: Solver = EXACT, depth: int = 12) -> lp.Network:
    torch.manual_seed(0)
    body = lp.chain(lp.Dense(4), depth, T=2.0)
    return lp.Network(nn.Linear(3, 4), body, nn.Linear(4, 2), solver).double()


def batches(count: int, size: int = 6) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(size, 3, generator=generator, dtype=torch.float64),
            torch.randint(2, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def assert_same_parameters(net: lp.Network, twin: nn.Module, tolerance: float = 1e-9) -> None:
    state, other = net.state_dict(), twin.state_dict()
    assert state.keys() == other.keys()
    for name, value in state.items():
        torch.testing.assert_close(value, other[name], rtol=tolerance, atol=tolerance, msg=name)


# ---- training loops ------------------------------------------------------------------------------

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "NAdam, foreach": lambda p: torch.optim.NAdam(p, lr=0.01, foreach=True),
}


@pytest.mark.parametrize("optimiser", OPTIMISERS.values(), ids=OPTIMISERS.keys())
def test_optimisers_step_as_on_the_serial_twin(optimiser: Callable[..., torch.optim.Optimizer]):
    net = dense()
    twin = net.to_serial()
    before = copy.deepcopy(twin)
    steppers = [optimiser(module.parameters()) for module in (net, twin)]
    for x, y in batches(3):
        for module, stepper in zip((net, twin), steppers, strict=True):
            stepper.zero_grad()
            functional.cross_entropy(module(x), y).backward()
            stepper.step()
    assert_same_parameters(net, twin)
    old, new = (m.get_parameter("opening.weight") for m in (before, twin))
    assert not torch.allclose(old, new)


def test_lbfgs_steps_as_on_the_serial_twin():
    net = dense()
    twin = net.to_serial()
    x, y = batches(1)[0]
    losses = []
    for module in (net, twin):
        optimiser = torch.optim.LBFGS(module.parameters(), max_iter=4, line_search_fn="strong_wolfe")

        def closure(module: nn.Module = module, optimiser: Any = optimiser) -> Tensor:
            optimiser.zero_grad()
            loss = functional.cross_entropy(module(x), y)
            loss.backward()
            return loss

        first = float(optimiser.step(closure).detach())
        losses.append((first, float(closure().detach())))
    assert losses[0][1] < losses[0][0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert_same_parameters(net, twin, 1e-7)


def test_muon_takes_no_stacked_parameters():
    """It orthogonalises matrices; a stack of them has three dimensions."""
    net = dense()
    with pytest.raises(ValueError, match="2D"):
        torch.optim.Muon([net.body.get_parameter("layer.weight")], lr=0.1)
    torch.optim.Muon([net.to_serial().get_parameter("body.3.weight")], lr=0.1)


def test_gradient_accumulation_with_a_smaller_last_batch():
    net = dense()
    twin = net.to_serial()
    data = [*batches(2), *batches(1, size=1)]
    for module in (net, twin):
        optimiser = torch.optim.SGD(module.parameters(), lr=0.5)
        for x, y in data:
            (functional.cross_entropy(module(x), y, reduction="sum") / 13).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 0.1)
        optimiser.step()
    assert_same_parameters(net, twin)


def test_gradient_scaler():
    """Loss scaling on the CPU: unscaled gradients, and a step is skipped on overflow."""
    net = dense().float()
    plain = copy.deepcopy(net)
    x, y = batches(1)[0]
    x = x.float()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    scaler.scale(functional.cross_entropy(net(x), y)).backward()
    scaler.step(optimiser)
    scaler.update()
    functional.cross_entropy(plain(x), y).backward()
    torch.optim.SGD(plain.parameters(), lr=0.1).step()
    for a, b in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    optimiser.zero_grad()
    with pytest.warns(RuntimeWarning, match="not finite"):
        scaler.scale(functional.cross_entropy(net(x), y) * 3e38).backward()
    before = copy.deepcopy(net.state_dict())
    scaler.step(optimiser)
    scaler.update()
    assert scaler.get_scale() == 512.0
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_moving_average_copy():
    net = dense()
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    optimiser = torch.optim.SGD(net.parameters(), lr=1.0)
    name = "body.layer.weight"
    expected = net.get_parameter(name).detach().clone()
    for step, (x, y) in enumerate(batches(3)):
        optimiser.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        optimiser.step()
        average.update_parameters(net)
        now = net.get_parameter(name).detach()
        expected = now.clone() if step == 0 else (expected + now) / 2
    torch.testing.assert_close(average.module.get_parameter(name).detach(), expected)
    x = batches(1)[0][0]
    assert not torch.allclose(average(x), net(x))
    assert isinstance(average.module, lp.Network)
    torch.testing.assert_close(average(x), average.module.to_serial()(x))


def test_training_goes_down():
    """Few cycles, Adam, a problem that has a solution."""
    net = dense(lp.MGRIT(coarsening=4, forward_cycles=1, adjoint_cycles=1), depth=32)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, generator=generator, dtype=torch.float64)
    y = (x[:, 0] * x[:, 1] > 0).long()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    losses = []
    for _ in range(150):
        optimiser.zero_grad()
        loss = functional.cross_entropy(net(x), y)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 4
    net.eval()
    with torch.no_grad():
        assert float((net(x).argmax(1) == y).double().mean()) > 0.9


def test_decay_groups():
    """Weights of more than one dimension a layer decay; stacked biases and norms do not."""
    for name in ("dense tanh", "block", "unlike"):
        net = BY_NAME[name].network(12)
        groups = net.decay_groups(0.01)
        names = {id(p): n for n, p in net.named_parameters()}
        decayed, kept = ({names[id(p)] for p in group["params"]} for group in groups)
        assert [group["weight_decay"] for group in groups] == [0.01, 0.0]
        assert decayed | kept == set(names.values())
        assert not decayed & kept
        assert all("bias" in n or "norm" in n for n in kept)
        assert all("weight" in n and "norm" not in n for n in decayed)
        torch.optim.AdamW(groups)


# ---- copies and names ----------------------------------------------------------------------------


def saved_and_loaded(net: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net)), saved_and_loaded],
    ids=["deepcopy", "pickle", "torch.save"],
)
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_copies(problem: Any, copied: Callable[[nn.Module], Any]):
    """Equal, independent, without the states of the original."""
    net, x = problem.network(12), problem.input(12)
    net.solver = lp.MGRIT(coarsening=3, warm_start=True)
    expected = pull_back(net, x)
    other = copied(net)
    assert other.solver == net.solver
    assert other.solution is None
    assert other.adjoint_solution is None
    assert not other.guesses()
    other.zero_grad()
    found = pull_back(other, x)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    before = [p.detach().clone() for p in net.parameters()]
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.5).add_(0.01)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True))
    if before:
        assert not torch.equal(other(x), expected[0])


def test_copy_between_forward_and_backward():
    net = dense()
    loss = net(batches(1)[0][0]).sum()
    other = copy.deepcopy(net)
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())
    assert all(p.grad is None for p in other.parameters())


def test_initial_weights_do_not_depend_on_the_solver():
    states = [dense(solver).state_dict() for solver in (lp.Serial(), EXACT, FEW, lp.Parareal(4))]
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(value, states[0][name]) for name, value in state.items())


def test_parameter_names_are_stable():
    net = dense()
    expected = [
        "opening.weight",
        "opening.bias",
        "body.layer.weight",
        "body.layer.bias",
        "closing.weight",
        "closing.bias",
    ]
    assert [name for name, _ in net.named_parameters()] == expected
    net(batches(1)[0][0]).sum().backward()
    net.solver = lp.Serial()
    net.eval()
    net(batches(1)[0][0])
    assert [name for name, _ in net.named_parameters()] == expected
    assert net.get_parameter("body.layer.weight").shape == (12, 4, 4)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_state_dict_goes_to_the_serial_twin_and_back(problem: Any):
    net, x = problem.network(12), problem.input(12)
    twin = net.to_serial()
    torch.testing.assert_close(twin(x), net.eval()(x), rtol=1e-12, atol=1e-12)
    assert net.state_dict().keys() == twin.state_dict().keys()
    other = problem.network(12, seed=7)
    other_twin = other.to_serial()
    if list(net.parameters()):
        assert not torch.allclose(other_twin(x), twin(x))
    other.load_state_dict(twin.state_dict(), strict=True)
    other_twin.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(other.eval()(x), net(x))
    assert torch.equal(other_twin(x), twin(x))


def test_state_dict_is_named_layer_by_layer():
    net = dense(depth=3, solver=lp.Serial())
    assert set(net.state_dict()) == {
        *(f"{room}.{leaf}" for room in ("opening", "closing") for leaf in ("weight", "bias")),
        *(f"body.{n}.{leaf}" for n in range(3) for leaf in ("weight", "bias")),
    }
    stack = net.get_parameter("body.layer.weight")
    for n in range(3):
        assert torch.equal(net.state_dict()[f"body.{n}.weight"], stack[n])


def test_load_state_dict_is_strict():
    net = dense()
    state = net.state_dict()
    assert net.load_state_dict(state).missing_keys == []
    gone = dict(state)
    del gone["body.7.weight"]
    with pytest.raises(ValueError, match=r"body\.7\.weight"):
        net.load_state_dict(gone)
    with pytest.raises(RuntimeError, match=r"body\.12\.weight"):
        net.load_state_dict(dict(state) | {"body.12.weight": torch.zeros(4, 4)})
    without = {name: value for name, value in state.items() if not name.startswith("body.")}
    with pytest.raises(RuntimeError, match="Missing key"):
        net.load_state_dict(without)
    assert net.load_state_dict(without, strict=False).missing_keys == [
        "body.layer.weight",
        "body.layer.bias",
    ]


class Scaled(nn.Module):
    """A layer with buffers, one of which is not saved."""

    scale: Tensor
    offset: Tensor

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("scale", torch.tensor(0.5))
        self.register_buffer("offset", torch.zeros(4), persistent=False)

    def forward(self, u: Tensor) -> Tensor:
        return torch.tanh(self.linear(u)) * self.scale + self.offset


@pytest.mark.parametrize("kind", ["stacked", "tied", "unlike"])
def test_state_dict_with_buffers(kind: str):
    body = (
        lp.chain([Scaled() for _ in range(6)], T=1.0)
        if kind == "unlike"
        else lp.chain(Scaled(), 6, T=1.0, tied=kind == "tied")
    )
    net = lp.Network(None, body, None, EXACT)
    twin = net.to_serial()
    assert net.state_dict().keys() == twin.state_dict().keys()
    for part in body.modules():
        if isinstance(part, Scaled):
            part.scale.fill_(0.25)
    twin.load_state_dict(net.state_dict())
    x = torch.randn(2, 4)
    torch.testing.assert_close(twin(x), net(x))
    other = copy.deepcopy(net)
    other.load_state_dict(twin.state_dict())
    assert torch.equal(other(x), net(x))
    if kind == "stacked":
        state = net.state_dict()
        state["body.3.scale"] = torch.tensor(9.0)
        with pytest.raises(ValueError, match=r"different buffers .*scale"):
            other.load_state_dict(state)


def test_one_module_at_several_depths():
    """The gradient of a module is the sum over its places; the twin shares it, too."""
    torch.manual_seed(0)
    a, b = residual_block(4, 3), residual_block(4, 3)
    net = lp.Network(None, lp.chain([a, b, a, a, b, a], T=2.0), None).double()
    net.solver = lp.MGRIT(coarsening=2, forward_cycles=4, adjoint_cycles=4)
    assert len(list(net.parameters())) == 8
    twin = net.to_serial()
    assert len(list(twin.parameters())) == 8
    assert net.state_dict().keys() == twin.state_dict().keys()
    net.load_state_dict(twin.state_dict())
    x = torch.randn(3, 4, dtype=torch.float64)
    expected, expected_x = pull_back(twin, x)
    found, found_x = pull_back(net, x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found_x, expected_x, rtol=1e-12, atol=1e-12)
    for name, gradient in twin_gradients(net, twin).items():
        torch.testing.assert_close(
            net.get_parameter(name).grad, gradient, rtol=1e-11, atol=1e-12, msg=name
        )


# ---- solvers -------------------------------------------------------------------------------------


def test_evaluation_is_serial_unless_asked_otherwise():
    net, x = dense(FEW), batches(1)[0][0]
    trained = net(x)
    assert net.solution is not None
    assert len(net.solution.evaluations) == 2
    net.eval()
    evaluated = net(x)
    assert net.solution.evaluations == [12]
    assert float((trained - evaluated).abs().max().detach()) > 1e-6
    torch.testing.assert_close(evaluated, net.to_serial()(x), rtol=1e-12, atol=1e-12)
    net.evaluate_with = FEW
    assert torch.equal(net(x), trained)
    asked = lp.Network(net.opening, net.body, net.closing, FEW, evaluate=FEW).eval()
    assert torch.equal(asked(x), trained)


def test_gradients_in_evaluation_mode():
    """With respect to the input, as saliency maps take them: exact."""
    net, x = dense(FEW).eval(), batches(1)[0][0]
    twin = net.to_serial()
    for found, expected in zip(pull_back(net, x), pull_back(twin, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_solved_by():
    net, x = dense(FEW), batches(1)[0][0]
    with net.solved_by(lp.Serial()) as same:
        assert same is net
        net(x)
        assert net.solution is not None
        assert net.solution.evaluations == [12]
    assert net.solver == FEW
    with pytest.raises(ZeroDivisionError), net.solved_by(lp.Serial("recompute")):
        raise ZeroDivisionError
    assert net.solver == FEW
    assert net.evaluate_with == lp.Serial()
    with net.solved_by(FEW), torch.no_grad():
        net.eval()(x)
        assert len(net.solution.evaluations) == 2


def test_solver_may_be_replaced_between_steps():
    net, x = dense(FEW), batches(1)[0][0]
    outputs = []
    for solver in (lp.Serial(), EXACT, lp.Split(lp.Serial(), EXACT), lp.Serial()):
        net.solver = solver
        outputs.append(net(x))
        outputs[-1].sum().backward()
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0], rtol=1e-12, atol=1e-12)


def test_identity_opening_and_closing():
    net = lp.Network(None, lp.chain(lp.Dense(4), 6, T=1.0), None, FEW)
    x = torch.randn(2, 5, 4)
    assert net(x).shape == x.shape
    torch.testing.assert_close(net.eval()(x), net.to_serial()(x))


def test_inputs_that_are_not_contiguous_and_empty_batches():
    net = dense(EXACT).float()
    x = torch.randn(3, 7).t()
    torch.testing.assert_close(net(x), net.to_serial()(x))
    net.zero_grad()
    net(torch.empty(0, 3)).sum().backward()
    assert not net.get_parameter("body.layer.weight").grad.any()  # type: ignore[union-attr]
