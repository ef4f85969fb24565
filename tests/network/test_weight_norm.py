"""Modules whose hooks make their weights (torch.nn.utils.weight_norm): copied, stacked, saved."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import layerparallel as lp
from layerparallel.runs import checkpoint
from layerparallel.runs.checkpoint import Moment
from layerparallel.training import layerwise

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
]
EXACT = lp.MGRIT(coarsening=2, forward_cycles=4, adjoint_cycles=4)
X = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3)


class Normed(nn.Module):
    def __init__(self, norm=nn.utils.weight_norm):
        super().__init__()
        self.linear = norm(nn.Linear(3, 3))

    def forward(self, u: Tensor) -> Tensor:
        return torch.tanh(self.linear(u))


def network(kind: str) -> lp.Network:
    body = {
        "template": lambda: lp.chain(Normed(), 4),
        "unlike": lambda: lp.chain([Normed() for _ in range(4)]),
        "tied": lambda: lp.chain(Normed(), 4, tied=True),
        "two": lambda: [lp.chain(Normed(), 4), Normed(), lp.chain([Normed(), Normed()])],
    }[kind]()
    return lp.Network(Normed(), body, Normed(), EXACT).double()


def gradients(net: nn.Module) -> list[Tensor]:
    net.zero_grad()
    net(X).square().sum().backward()
    return [p.grad for p in net.parameters() if p.grad is not None]


KINDS = pytest.mark.parametrize("kind", ["template", "unlike", "tied", "two"])


@KINDS
@pytest.mark.parametrize("used", [False, True])
def test_a_network_is_copied_and_has_a_plain_twin(kind, used):
    """Plain PyTorch raises: the weight that the hook has made is no leaf."""
    net = network(kind)
    if used:
        net(X).sum().backward()
    opening: Any = net.opening
    made = opening.linear.weight
    plain, twin = net.to_serial(), copy.deepcopy(net)
    assert opening.linear.weight is made
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(0.1)
    assert not torch.allclose(twin(X), net(X))  # they share nothing
    plain.load_state_dict(twin.state_dict())
    torch.testing.assert_close(plain(X), twin(X))
    twin.load_state_dict(net.state_dict())
    for a, b in zip(gradients(twin), gradients(net), strict=True):
        torch.testing.assert_close(a, b)
    if kind == "unlike":
        plain.load_state_dict(net.state_dict())
        for a, b in zip(gradients(plain), gradients(net), strict=True):
            torch.testing.assert_close(a, b)


@KINDS
def test_it_is_saved_and_loaded(tmp_path, kind):
    net, other = network(kind), network(kind)
    net(X)
    layers = layerwise.chains(net)
    checkpoint.save(tmp_path, Moment(0, 0, 0), {"network": net.state_dict()}, layers=layers)
    found = checkpoint.latest(tmp_path)
    assert found is not None
    other.load_state_dict(found.of(other.state_dict())["network"])
    assert torch.equal(other(X), net(X))
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(X), net(X))


@pytest.mark.parametrize("kind", ["template", "tied"])
def test_a_used_one_is_refined(kind):
    net = network(kind)
    net(X)
    assert lp.refine(net, 2)(X).shape == (5, 3)


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, parametrizations.weight_norm])
@pytest.mark.parametrize("initial", ["smooth", "independent"])
def test_every_layer_of_a_template_has_weights_of_its_own(norm, initial):
    chain = lp.chain(Normed(norm), 4, initial=initial)
    for name, stack in chain.named_parameters():
        assert len(stack.flatten(1).unique(dim=0)) == 4, name


def test_several_with_hooks_are_not_stacked():
    modules, said = [Normed(nn.utils.weight_norm) for _ in range(3)], "the hook WeightNorm on linear"
    with pytest.raises(ValueError, match=f"module 0 of the chain has {said}, which cannot be stacked"):
        lp.chain(modules, stacked=True)
    blocks = nn.Sequential(*modules)
    with pytest.raises(ValueError, match=f"module 0 of the chain has {said}, which cannot be stacked"):
        lp.Network.from_modules(blocks, torch.zeros(2, 3), stacked=True)


def test_a_result_that_a_module_keeps_is_named():
    net = network("tied")
    net.opening.kept = net(X)
    for copied in (net.to_serial, lambda: copy.deepcopy(net)):
        with pytest.raises(
            RuntimeError, match=r"opening.kept of Network is the result of a computation"
        ):
            copied()
