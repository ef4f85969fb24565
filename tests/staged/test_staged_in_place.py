"""Pieces that change their input in place: stages leave alone what others have given them."""

from typing import Any

import auxiliary_problem as problem
import pytest
import torch
from torch import Tensor, nn

from layerparallel.staged import Staged


class Rectified(nn.Module):
    """ReLU, in place or not, and a convolution."""

    def __init__(self, before: int, after: int, inplace: bool):
        super().__init__()
        self.inplace, self.conv = inplace, nn.Conv2d(before, after, 3, padding=1)

    def forward(self, u: Tensor) -> Tensor:
        return self.conv(u.relu_() if self.inplace else u.relu())


class Normalised(nn.Module):
    """Scaled, in place or not."""

    def __init__(self, inplace: bool):
        super().__init__()
        self.inplace = inplace

    def forward(self, u: Tensor) -> Tensor:
        return (u if self.inplace else u.clone()).sub_(0.5).div_(0.25)


def network(inplace: bool) -> nn.Sequential:
    """Seven pieces from (B, 2, 8, 6) to 3 classes, in float64."""
    torch.manual_seed(0)
    units = [Rectified(2, 3, inplace), *(Rectified(3, 3, inplace) for _ in range(3))]
    return nn.Sequential(Normalised(inplace), *units, nn.Flatten(), nn.Linear(144, 3)).double()


CUTS = [2, 4]


def test_the_network_is_itself_and_its_example_is_left():
    x, _ = problem.images()
    before = x.clone()
    staged, plain = Staged(network(True), 3, x), network(True)
    assert torch.equal(x, before)
    assert staged.stages == Staged(network(False), 3, x).stages
    assert torch.equal(staged(x.clone()), plain(x.clone()))
    staged(x.clone()).square().sum().backward()
    plain(x.clone()).square().sum().backward()
    for p, q in zip(staged.parameters(), plain.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert torch.equal(p.grad, q.grad)


@pytest.mark.parametrize("mode", [True, False])
def test_a_stage_leaves_what_it_is_given(mode):
    """Leaves that require a gradient, and views of them, too."""
    staged, twin = Staged(network(True), CUTS), Staged(network(False), CUTS)
    state, _ = problem.images()
    for k in range(3):
        for _ in range(3):
            found = []
            for each in (staged.train(mode), twin.train(mode)):
                given = state.clone().requires_grad_()
                end = each.stage(k)(given)
                assert torch.equal(given, state)
                wanted = [given, *each.parameters_of(k)]
                found.append([end, *torch.autograd.grad(end.square().sum(), wanted)])
                with torch.no_grad():
                    each.stage(k)(given[1:])
                assert torch.equal(given, state)
            for mine, expected in zip(*found, strict=True):
                assert torch.equal(mine, expected)
        state = twin.stage(k)(state).detach()


@pytest.mark.parametrize(
    "options",
    [
        {"method": "penalty"},
        {"method": "augmented"},
        {"method": "penalty", "regenerate": True},
        {"method": "penalty", "filter": "pool:2"},
    ],
    ids=str,
)
def test_auxiliary_variables_are_changed_by_their_method_alone(options):
    """Two epochs are to the bit those of a network that changes nothing in place."""
    x, y = problem.images()
    before, found = x.clone(), []
    for inplace in (True, False):
        torch.manual_seed(1)
        staged = Staged(network(inplace), CUTS)
        method = problem.made(staged, x, **options)
        losses = problem.train(method, x, y, range(2))
        given = problem.batch(x, y, problem.INDEX)
        samples = given.x.clone()
        problem.step(method, given)
        assert torch.equal(given.x, samples)
        assert torch.equal(x, before)
        kept: list[Any] = [*staged.state_dict().values()]
        if "regenerate" not in options:
            places = torch.arange(len(x))
            kept += [a for k in (1, 2) for a in method.store.take(k, places) if a is not None]
        found.append([torch.tensor(losses), *kept])
    for mine, expected in zip(*found, strict=True):
        assert torch.equal(mine, expected)
