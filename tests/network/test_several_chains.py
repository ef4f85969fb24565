"""Several chains with transitions, and existing models taken apart."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Block, compare, pull_back
from torch import Tensor, nn

import layerparallel as lp
from layerparallel.network.bodies import StackedBody, TiedBody, UnlikeBody

CYCLES: dict[str, Any] = {"forward_cycles": 8, "adjoint_cycles": 8}
EXACT = lp.MGRIT(levels=2, coarsening=2, **CYCLES)


class Unit(nn.Module):
    """A residual block with batch norm, the next state itself."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, u: Tensor) -> Tensor:
        return u + 0.3 * torch.tanh(self.norm(self.conv(u)))


def stages(depths: tuple[int, ...], stacked: bool = True) -> lp.Network:
    """Chains of 2, 3, ... channels, each with half the resolution of the one before."""
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for k, depth in enumerate(depths):
        channels = 2 + k
        if k:
            parts.append(nn.Conv2d(channels - 1, channels, 3, stride=2, padding=1))
        units = [Unit(channels) for _ in range(depth)]
        parts.append(lp.chain(units, integrator="block", stacked=stacked))
    closing = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1 + len(depths), 3))
    return lp.Network(nn.Conv2d(1, 2, 3, padding=1), parts, closing).double()


def images(seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 1, 8, 8, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize(
    "solver",
    [lp.Serial(), lp.Serial("recompute"), EXACT, (EXACT, lp.Serial(), lp.Split(lp.Serial(), EXACT))],
    ids=["serial", "recompute", "mgrit", "each its own"],
)
def test_several_chains_are_the_serial_network(stacked: bool, solver: Any):
    net = stages((5, 4, 3), stacked)
    twin = net.to_serial()
    assert set(net.state_dict()) == set(twin.state_dict())
    assert "body.2.3.conv.weight" in net.state_dict()
    assert compare(net, images(), solver).worst < 1e-10
    twin(images())
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-10, atol=1e-12)
    assert len(net.solutions) == len(net.adjoint_solutions) == len(net.chains) == 3
    assert net.solution is max(net.solutions, key=lambda s: s.relative_error)


@given(
    depths=st.lists(st.integers(2, 9), min_size=1, max_size=3).map(tuple),
    coarsening=st.integers(2, 3),
    relaxation=st.integers(0, 1),
)
@settings(max_examples=20, deadline=None)
def test_finite_termination_of_every_chain(depths, coarsening, relaxation):
    solvers = tuple(
        lp.MGRIT(coarsening=coarsening, relaxation=relaxation, guard=False, **CYCLES)
        if depth >= coarsening
        else lp.Serial()
        for depth in depths
    )
    assert compare(stages(depths), images(), solvers).worst < 1e-9


def test_inexact_chains_have_residuals_of_their_own():
    net = stages((6, 4))
    with net.solved_by(lp.MGRIT(coarsening=2, forward_cycles=1, adjoint_cycles=1)):
        net(images()).sum().backward()
    assert all(solution.relative_residual > 0 for solution in net.solutions)
    errors = [solution.relative_error for solution in net.solutions]
    assert net.solution is not None
    assert net.solution.relative_error == max(errors)
    assert copy.deepcopy(net).solutions == []


def test_warm_starts_of_several_chains():
    """The second solve of the same batch begins where the first ended."""
    net = stages((8, 6))
    solver = lp.MGRIT(coarsening=2, forward_cycles=1, adjoint_cycles=1, warm_start=True, guard=False)
    errors = []
    with net.solved_by(solver):
        for _ in range(8):
            errors.append(compare(net, images(), solver).gradient)
    assert errors[-1] < 1e-9 < errors[0]


@pytest.mark.parametrize(
    ("body", "error", "match"),
    [
        ([], ValueError, "none of the 0 modules"),
        ([nn.Linear(2, 2)], ValueError, "none of the 1 modules"),
        ([lp.chain(lp.Dense(2), 2), 3], TypeError, "holds a int"),
        (nn.Linear(2, 2), TypeError, "body is a Linear"),
    ],
)
def test_bodies_that_are_none(body: Any, error: type[Exception], match: str):
    with pytest.raises(error, match=match):
        lp.Network(None, body, None)


def test_a_solver_that_fits_only_some_chains_is_named():
    with pytest.raises(ValueError, match="chain 1 of 2"):
        stages((8, 2)).solver = lp.MGRIT(coarsening=4)
    with pytest.raises(ValueError, match="2 solvers are given for 3 chains"):
        stages((8, 2, 2)).solver = (lp.Serial(), lp.Serial())


# ---- existing models ----------------------------------------------------------------------------


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.ReLU(),
        nn.Sequential(*[Unit(2) for _ in range(5)]),
        nn.Sequential(nn.Conv2d(2, 3, 3, 2, 1), nn.BatchNorm2d(3)),
        nn.ModuleList([Unit(3) for _ in range(4)]),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 2),
    ).double()


def apply(modules: nn.Sequential, x: Tensor) -> Tensor:
    for module in modules:
        for part in module if isinstance(module, nn.Sequential | nn.ModuleList) else [module]:
            x = part(x)
    return x


@pytest.mark.parametrize("stacked", [False, True])
def test_a_model_taken_apart_is_the_model(stacked: bool):
    plain = model().train()
    untouched = copy.deepcopy(plain.state_dict())
    net = lp.Network.from_modules(plain, images(), stacked=stacked, solver=EXACT)
    for name, value in plain.state_dict().items():  # finding the shapes has left it alone
        assert torch.equal(value, untouched[name])
    assert all(part.training for part in plain.modules())
    kind = StackedBody if stacked else UnlikeBody
    assert [(type(body), body.depth) for body in net.chains] == [(kind, 5), (kind, 4)]
    assert len(net.parts) == 3
    assert set(net.parameters()) == set(plain.parameters()) or stacked
    assert compare(net, images(), EXACT).worst < 1e-10
    reference = model()
    torch.testing.assert_close(net(images()), apply(reference, images()), rtol=1e-10, atol=1e-12)
    if not stacked:  # trained in place: the model's own statistics and gradients
        again = copy.deepcopy(plain)
        again.load_state_dict(untouched)
        for _ in range(2):
            apply(again, images())
        for name, value in again.named_buffers():
            torch.testing.assert_close(plain.get_buffer(name), value, rtol=1e-10, atol=1e-12)


def test_one_module_many_times_becomes_a_tied_chain():
    torch.manual_seed(0)
    block = Block()
    net = lp.Network.from_modules([nn.Linear(3, 4), *[block] * 6], torch.randn(2, 3)).double()
    (body,) = net.chains
    assert isinstance(body, TiedBody)
    assert body.depth == 6
    x = torch.randn(2, 3, dtype=torch.float64)
    expected = net.opening(x)
    for _ in range(6):
        expected = block(expected)
    with net.solved_by(EXACT):
        torch.testing.assert_close(net(x), expected, rtol=1e-11, atol=1e-12)


def test_models_that_cannot_be_taken_apart():
    with pytest.raises(ValueError, match="no chain"):
        lp.Network.from_modules(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.randn(2, 3))
    with pytest.raises(TypeError, match="Block has a forward of its own"):
        lp.Network.from_modules(Block(), torch.randn(2, 4))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="is not a module"):
        lp.Network.from_modules([Block(), torch.tanh], torch.randn(2, 4))  # type: ignore[list-item]


def test_modules_that_differ_or_share_cannot_be_stacked():
    with pytest.raises(ValueError, match="modules 0 and 2 of the chain are not alike"):
        lp.chain([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4, bias=False)], stacked=True)
    block = Block()
    with pytest.raises(ValueError, match="share parameters"):
        lp.chain([block, block], integrator="block", stacked=True)
    with pytest.raises(ValueError, match="for a sequence of modules"):
        lp.chain(Block(), 4, integrator="block", stacked=True)


def test_training_goes_on_between_model_and_network():
    """from_modules trains the model's own parameters: the model has learnt, too."""
    plain = model()
    net = lp.Network.from_modules(plain, images(), solver=EXACT)
    twin = copy.deepcopy(plain)
    for module, call in ((net, net), (twin, lambda x: apply(twin, x))):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for seed in range(3):
            optimizer.zero_grad()
            call(images(seed)).square().mean().backward()
            optimizer.step()
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(plain.state_dict()[name], value, rtol=1e-9, atol=1e-11)


def test_pull_back_through_several_chains_reaches_the_input():
    net = stages((3, 2))
    _, gradient = pull_back(net, images())
    assert float(gradient.abs().max()) > 0


# ---- what is done with networks of several chains -----------------------------------------------


def dense_chains(*solvers: Any) -> lp.Network:
    torch.manual_seed(0)
    parts = [lp.chain(lp.Dense(4), 8, T=1.0), nn.Linear(4, 3), lp.chain(lp.Dense(3), 6, T=1.0)]
    net = lp.Network(nn.Linear(3, 4), parts, nn.Linear(3, 2)).double()
    net.solver = solvers or net.solver
    return net


def pairs(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(12, 3, generator=generator, dtype=torch.float64),
        torch.randint(2, (12,), generator=generator),
    )


def test_tuning_leaves_a_network_with_batch_norm_as_it_was():
    net = stages((6, 4))
    before = copy.deepcopy(net.state_dict())
    random = torch.get_rng_state()
    target = torch.randint(3, (4,), generator=torch.Generator().manual_seed(0))
    tuned = lp.tune(
        net,
        (images(), target),
        nn.functional.cross_entropy,
        error=1e-6,
        solvers=[lp.MGRIT(coarsening=2, **CYCLES)],
        repeats=1,
    )
    errors = [trial.error for trial in tuned.trials]
    assert [error is not None and error.relative < 1e-6 for error in errors] == [True, True]
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(torch.get_rng_state(), random)


def test_one_shot_and_adaptive_training_of_several_chains():
    few = lp.MGRIT(coarsening=2, forward_cycles=1, adjoint_cycles=1, warm_start=True)
    net, (x, y) = dense_chains(few, few), pairs()
    optimizer = lp.LBFGS(lp.depth_groups(net), reuse_gradient=True)
    assert [group["metric"] for group in optimizer.param_groups] == [1 / 8, 1 / 6, 1.0]
    one_shot = lp.OneShot(net, optimizer, nn.functional.cross_entropy)
    method = lp.Adaptive(one_shot, nn.functional.cross_entropy, every=2, target=1e-11, maximum=3)
    losses = [float(method.step(x, y).loss) for _ in range(10)]
    assert losses[-1] < 0.9 * losses[0]
    actions = [decision.action for decision in method.decisions]
    assert actions[:2] == ["raise", "raise"]  # to the most cycles there may be
    assert net.solvers[0] != few
    again = dense_chains(few, few)
    restored = lp.Adaptive(
        lp.OneShot(
            again, lp.LBFGS(lp.depth_groups(again), reuse_gradient=True), nn.functional.cross_entropy
        ),
        nn.functional.cross_entropy,
        every=2,
        target=1e-11,
        maximum=3,
    )
    restored.load_state_dict(method.state_dict())
    assert again.solver == net.solver
    assert torch.equal(again(x), net(x))


def test_refining_several_chains():
    net = dense_chains()
    fine = lp.refine(net, 3)
    assert [body.depth for body in fine.chains] == [24, 18]
    assert [body.T for body in fine.chains] == [1.0, 1.0]
    x, _ = pairs()
    assert float((fine(x) - net(x)).detach().abs().max()) < 0.1
    assert net.chains[0].depth == 8


def test_objective_sums_over_chains():
    net = dense_chains()
    weights: dict[str, Any] = {"tikhonov": 0.3, "smoothness": 0.2, "closing": 0.1}
    found = lp.Objective(nn.functional.cross_entropy, **weights).penalty(net)
    expected = torch.zeros(())
    for body in net.chains:
        for p in body.parameters():
            expected = expected + 0.15 * p.square().sum()
            expected = expected + 0.1 * body.h * (p.diff(dim=0) / body.h).square().sum()
    for p in net.closing.parameters():
        expected = expected + 0.05 * p.square().sum()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_optimiser_state_of_several_chains_goes_to_the_serial_network_and_back():
    net, (x, y) = dense_chains(), pairs()
    twin = net.to_serial()
    optimizers = {module: torch.optim.Adam(module.parameters()) for module in (net, twin)}
    for module, optimizer in optimizers.items():
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    ours = lp.optimizer_state(net, optimizers[net])
    theirs = lp.optimizer_state(twin, optimizers[twin])
    assert ours.keys() == theirs.keys()
    assert "body.2.5.weight" in ours
    for name, state in theirs.items():
        for key, value in state.items():
            torch.testing.assert_close(ours[name][key], value, rtol=1e-9, atol=1e-12)


def test_decay_groups_count_the_dimensions_of_single_layers():
    net = dense_chains()
    decayed, kept = net.decay_groups(0.1)
    assert {p.dim() for p in kept["params"]} == {1, 2}  # biases, single and stacked
    assert len(decayed["params"]) == len(kept["params"]) == 5
