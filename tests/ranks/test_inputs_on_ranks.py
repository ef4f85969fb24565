"""What networks on ranks do with their inputs: changes in place stay inside, other sizes are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ranks.rank_cases import sentence
from torch import Tensor, nn

from layerparallel.group import ALONE, Group
from layerparallel.parareal import parareal_network
from layerparallel.staged import Staged

HOLDERS = ["every", "last"]


class Unit(nn.Module):
    """ReLU, in place or not, and a linear map."""

    def __init__(self, before: int, inplace: bool):
        super().__init__()
        self.inplace, self.linear = inplace, nn.Linear(before, 5)

    def forward(self, u: Tensor) -> Tensor:
        return self.linear(u.relu_() if self.inplace else u.relu())


def made(kind: str, inplace: bool) -> tuple[Any, Tensor]:
    """A network of three parts and an input, that every process can make for itself."""
    torch.manual_seed(0)
    units = [Unit(4 if n == 0 and kind == "opening" else 5, inplace) for n in range(7)]
    head = [nn.ReLU(inplace=inplace), nn.Linear(5, 2)]
    net = nn.Sequential(*units, *head).double()
    x = torch.randn(6, 4 if kind == "opening" else 5, dtype=torch.float64)
    if kind == "staged":
        return Staged(net, 3, x.clone()), x
    return parareal_network(net, 3, x.clone(), opening=int(kind == "opening"), closing=7), x


def pulled(group: Group, kind: str, holders: Any, inplace: bool) -> dict[str, Any]:
    """Outputs in both modes, gradients, and the input afterwards."""
    net, x = made(kind, inplace)
    net.distribute(group) if kind == "staged" else net.distribute(group, holders)
    found: dict[str, Any] = {}
    for step in range(3):
        net.train(step < 2)
        net.zero_grad()
        given = x.clone()
        y = net(given)
        y.square().sum().backward()
        found[f"output {step}"] = y.detach()
        found[f"input {step}"] = given if kind != "staged" else x
        found |= {f"{name} {step}": p.grad for name, p in net.named_parameters()}
    if kind != "staged":
        found["corrections"] = torch.tensor([(c.jump, c.size) for c in net.corrections(x)])
    return found


@pytest.mark.parametrize(
    ("kind", "holders"), [("staged", ""), *((k, h) for k in ("opening", "none") for h in HOLDERS)]
)
def test_what_is_changed_in_place_is_seen_by_nobody_else(pool, kind, holders):
    one = pulled(ALONE, kind, holders, False)
    met = set()
    for found in pool.run(3, pulled, kind, holders, True):
        for name, value in found.items():
            torch.testing.assert_close(value, one[name], rtol=1e-10, atol=1e-10)
            met.add(name)
    assert met == set(one)


class Convolved(nn.Module):
    """tanh(conv(u))."""

    def __init__(self, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, stride, 1)

    def forward(self, u: Tensor) -> Tensor:
        return torch.tanh(self.conv(u))


def other_size(group: Group, holders: Any, size: int) -> tuple[str, bool]:
    """What the rank hears of an input of another size, and whether it computes the next one."""
    torch.manual_seed(0)
    layers = [Convolved(stride) for stride in (1, 2, 2, 2, 2, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)]
    example = torch.randn(2, 3, 32, 32)
    options: Any = {"opening": 1, "closing": 6, "cuts": [3, 5]}
    net = parareal_network([*layers, *head], 3, example, **options).distribute(group, holders)
    heard = sentence(lambda: net(torch.randn(2, 3, size, size)))
    return heard, net(example).shape == (2, 2)


@pytest.mark.parametrize("holders", HOLDERS)
@pytest.mark.parametrize(
    ("size", "text"),
    [
        (
            50,
            "The coarse network F^1 makes a state of shape (2, 3, 3, 3) of this input, where (2, 3, 4,",
        ),
        (4, "The preprocessing C^3 cannot take what is of shape (3, 4, 4), while it was made for (3, 3"),
    ],
)
def test_an_input_of_another_size_is_refused_on_all_ranks(pool, holders, size, text):
    """With the error itself where it is raised; and all go on with the next input."""
    raises = [0, 1, 2] if size == 50 and holders == "every" else [2]
    for rank, (heard, goes_on) in enumerate(pool.run(3, other_size, holders, size)):
        own = f"InputError: {text}"
        assert heard.startswith(own if rank in raises else f"RankFailed: rank 2 raised {own}")
        assert "; give inputs of the size that the network was made for" in heard
        assert goes_on
