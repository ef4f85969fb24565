"""Where results are promised to the bit, with what gives other last bits elsewhere.

Sigmoid, SiLU and others round differently by where an element stands in a vector, products of small
batches and widths by how they are batched.
"""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import layerparallel as lp
from layerparallel.group import ALONE, Group, Link, virtual
from layerparallel.runs import checkpoint
from layerparallel.runs.checkpoint import Moment
from layerparallel.staged import Staged
from layerparallel.training import layerwise

ACTIVATIONS = [nn.Sigmoid, nn.SiLU, nn.Softplus, nn.ELU, nn.Mish, nn.GELU, nn.Tanh]
SIZES = [(1, 3), (3, 3), (7, 5)]
"""Of batch and width."""


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---- a run that goes on -------------------------------------------------------------------------


class Training:
    """A network and its optimiser."""

    def __init__(self, kind: str, activation: Any, width: int, optimizer: str) -> None:
        torch.manual_seed(0)
        layers = [nn.Sequential(nn.Linear(width, width), activation()) for _ in range(8)]
        body = lp.chain(layers) if kind == "unlike" else lp.chain(layers[0], 8, tied=kind == "tied")
        solver = lp.MGRIT(coarsening=2, forward_cycles=1, adjoint_cycles=1)
        self.net = lp.Network(nn.Linear(2, width), body, nn.Linear(width, 2), solver).double()
        make = {"adam": lambda p: torch.optim.Adam(p, lr=0.01), "lbfgs": lp.LBFGS}[optimizer]
        self.optimizer: Any = make(self.net.parameters())

    def train(self, steps: range, batch: int) -> dict[str, Tensor]:
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            x, y = torch.randn(2, batch, 2, dtype=torch.float64, generator=generator)

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                self.optimizer.zero_grad()
                loss = (self.net(x) - y).square().mean()
                loss.backward()
                return loss

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of solves that are done serially
                self.optimizer.step(closure)
        return self.net.state_dict()

    def save(self, folder: Path) -> None:
        optimizer = layerwise.optimizer_state_dict(self.net, self.optimizer)
        state = {"network": self.net.state_dict(), "optimizer": optimizer}
        checkpoint.save(folder, Moment(0, 0, 0), state, layers=layerwise.chains(self.net))

    def load(self, folder: Path) -> None:
        found = checkpoint.latest(folder)
        assert found is not None
        state = found.of(self.net.state_dict())
        self.net.load_state_dict(state["network"])
        layerwise.load_optimizer_state_dict(self.net, self.optimizer, state["optimizer"])


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
@pytest.mark.parametrize("kind", ["template", "unlike", "tied"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_training_goes_on_from_a_checkpoint_to_the_bit(tmp_path, activation, kind, optimizer):
    for batch, width in SIZES:
        folder = tmp_path / f"{batch}-{width}"
        whole = Training(kind, activation, width, optimizer)
        whole.train(range(2), batch)
        whole.save(folder)
        expected = whole.train(range(2, 4), batch)
        rest = Training(kind, activation, width, optimizer)
        rest.load(folder)
        for name, value in rest.train(range(2, 4), batch).items():
            assert torch.equal(value, expected[name]), (name, batch, width)


# ---- stages -------------------------------------------------------------------------------------


class Every(nn.Module):
    """Every other feature, as a view: contiguous no more."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., ::2]


def network(activation: Any, width: int, views: bool) -> nn.Sequential:
    torch.manual_seed(0)
    wide = [nn.Linear(width, 2 * width), Every() if views else nn.Linear(2 * width, width)]
    return nn.Sequential(*wide, activation(), nn.Linear(width, width), activation()).double()


def found(module: nn.Module, width: int, batch: int) -> dict[str, Tensor]:
    x = torch.linspace(-1, 2, batch * width, dtype=torch.float64).view(batch, width)
    value = module(x)
    value.square().sum().backward()
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {**gradients, "value": value.detach()}


def of_stages(group: Group, activation: Any, width: int, batch: int, views: bool) -> dict[str, Tensor]:
    staged = Staged(network(activation, width, views), [2])
    if not group.alone:
        staged.distribute(group)
    return found(staged, width, batch)


@pytest.mark.parametrize("views", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_stages_are_the_network_to_the_bit_and_on_ranks_where_states_are_contiguous(activation, views):
    for batch, width in SIZES:
        given = activation, width, batch, views
        one, plain = of_stages(ALONE, *given), found(network(activation, width, views), width, batch)
        assert one.keys() == plain.keys()
        ranks: dict[str, Tensor] = {}
        for each in virtual.run(2, of_stages, Link(1e-3, 1e-6), *given, measured=False).results:
            ranks |= each
        assert ranks.keys() == one.keys()
        for name, value in one.items():
            assert torch.equal(value, plain[name]), (name, batch, width)
            if views:  # a message is contiguous, and last bits may be others
                torch.testing.assert_close(ranks[name], value, rtol=1e-12, atol=1e-12)
            else:
                assert torch.equal(ranks[name], value), (name, batch, width)
