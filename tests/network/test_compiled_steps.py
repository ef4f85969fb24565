"""torch.compile of a function that calls a network and `backward`: both solves are left alone."""

import copy
import shutil

import pytest
import torch
from problems import BY_NAME, pull_back, twin_gradients
from torch import Tensor, nn
from torch._dynamo import compiled_autograd

import layerparallel as lp
from layerparallel.parareal import parareal_network
from layerparallel.staged import Staged

DEPTH = 16
SOLVERS = {
    "Serial": lp.Serial(),
    "recomputed": lp.Serial(memory="recompute"),
    "MGRIT": lp.MGRIT(coarsening=4, forward_cycles=5, adjoint_cycles=5),
}
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="inductor needs a C++ compiler on a CPU"
)


@pytest.fixture(autouse=True)
def _nothing_compiled():
    """Code that was compiled for too many networks is left alone by torch.compile."""
    torch._dynamo.reset()


def compiled_gradients_are_those_of(twin: nn.Module, model: nn.Module, x: Tensor, backend: str) -> None:
    train = torch.compile(pull_back, backend=backend)
    for k in (1, 2):
        model.zero_grad()
        twin.zero_grad()
        for a, b in zip(train(model, k * x), pull_back(twin, k * x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    expected = {name: p.grad for name, p in twin.named_parameters()}
    if isinstance(model, lp.Network) and not isinstance(twin, lp.Network):
        expected = twin_gradients(model, twin)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-10, atol=1e-10)


def of_a_problem(name: str, solver: str, backend: str) -> None:
    net, x = BY_NAME[name].network(DEPTH), BY_NAME[name].input(DEPTH)
    net.solver = SOLVERS[solver]
    compiled_gradients_are_those_of(net.to_serial(), net, x, backend)


@pytest.mark.parametrize("solver", ["Serial", "MGRIT"])
@pytest.mark.parametrize("name", ["dense tanh", "block", "tied", "unlike"])
def test_gradients_of_a_compiled_function_are_plain_pytorchs(name, solver):
    of_a_problem(name, solver, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ["block", "tied", "unlike", "timed rk4", "step function", "recurrence"])
def test_so_are_they_of_other_chains(name, solver, backend):
    of_a_problem(name, solver, backend)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("name", ["block", "tied"])
def test_so_are_they_by_inductor(name):
    of_a_problem(name, "MGRIT", "inductor")


@pytest.mark.parametrize("name", ["tied", "recurrence"])
def test_an_inexact_solve_stays_what_it_is(name):
    net, x = BY_NAME[name].network(DEPTH), BY_NAME[name].input(DEPTH)
    net.solver = lp.MGRIT(forward_cycles=1, adjoint_cycles=1, guard=False)
    compiled_gradients_are_those_of(copy.deepcopy(net), net, x, "aot_eager")


@pytest.mark.parametrize("name", ["block", "tied"])
@pytest.mark.parametrize("how", ["setting", "context"])
def test_compiled_autograd_leaves_solves_alone(how, name):
    net, x = BY_NAME[name].network(DEPTH), BY_NAME[name].input(DEPTH)
    net.solver = SOLVERS["MGRIT"]
    twin = net.to_serial()
    contexts = {
        "setting": lambda: torch._dynamo.config.patch(compiled_autograd=True),
        "context": lambda: compiled_autograd._enable(torch.compile(backend="eager")),
    }
    expected = pull_back(twin, x)
    train = torch.compile(pull_back, backend="eager") if how == "setting" else pull_back
    with contexts[how]():
        found = train(net, x)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    reference = twin_gradients(net, twin)
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, reference[name], rtol=1e-10, atol=1e-10)


def test_a_graph_may_be_kept():
    """Tapes of the adjoint solve are used twice, which compiled ones refuse."""
    net, x = BY_NAME["block"].network(DEPTH), BY_NAME["block"].input(DEPTH)
    net.solver = SOLVERS["MGRIT"]
    twin = net.to_serial()

    def train(model: nn.Module) -> None:
        loss = model(x).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()

    torch.compile(train, backend="aot_eager")(net)
    train(twin)
    reference = twin_gradients(net, twin)
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, reference[name], rtol=1e-10, atol=1e-10)


# ---- networks without a solver ------------------------------------------------------------------


class Unit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.relu = nn.Linear(4, 4), nn.ReLU(inplace=True)

    def forward(self, u: Tensor) -> Tensor:
        return u + 0.3 * self.relu(self.linear(u))


@pytest.mark.parametrize("kind", ["parareal", "staged"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_parareal_and_staged_networks(kind, backend):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(3, 4), *(Unit() for _ in range(6)), nn.Linear(4, 2)).double()
    x = BY_NAME["block"].input(DEPTH)
    net = parareal_network(plain, 3, x) if kind == "parareal" else Staged(plain, 3, x)
    compiled_gradients_are_those_of(copy.deepcopy(net), net, x, backend)
