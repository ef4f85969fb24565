"""An input of another size than a parareal network was made for: computed rightly, or refused."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from layerparallel.errors import InputError
from layerparallel.parareal import PararealNetwork, parareal_network

REMEDY = (
    "; give inputs of the size that the network was made for, or make it with parts that fit all, by "
    "preprocessing= and coarse=."
)


class Convolved(nn.Module):
    """tanh(conv(u))."""

    def __init__(self, before: int, after: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, stride, 1)

    def forward(self, u: Tensor) -> Tensor:
        return torch.tanh(self.conv(u))


def pooled(strides: Sequence[int]) -> nn.Sequential:
    """Convolutions with these strides, and a mean over what is left."""
    torch.manual_seed(0)
    units = [Convolved(3, 3, stride) for stride in strides]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)]
    return nn.Sequential(nn.Conv2d(3, 3, 3, 1, 1), *units, *head).double()


@settings(max_examples=60)
@given(data=st.data())
def test_another_size_is_computed_rightly_or_refused(data):
    """Never by broadcasting: every sum is of states of one shape."""
    strides = data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))
    count = data.draw(st.integers(2, len(strides)))
    built, size = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 40))
    example = torch.randn(2, 3, built, built, dtype=torch.float64)
    closing = len(strides) + 1
    net = parareal_network(pooled(strides), count, example, opening=1, closing=closing).eval()
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    try:
        expected = written_out(net, x)
    except (RuntimeError, ValueError, AssertionError):
        assert size != built
        with pytest.raises(InputError) as raised:
            net(x)
        assert str(raised.value).endswith(REMEDY)
        assert "\n" not in str(raised.value)
    else:
        torch.testing.assert_close(net(x), expected, rtol=1e-12, atol=1e-12)


def written_out(net: PararealNetwork, x: Tensor) -> Tensor:
    """The formula, whose sums are of states of one shape."""
    states = [net.prepared(j, x) for j in range(1, net.count + 1)]
    ends = [net.fine(j, u) for j, u in enumerate(states, start=1)]
    state = ends[0]
    for j in range(1, net.count):
        assert states[j].shape == state.shape
        correction = net.coarse[str(j)](state - states[j])
        assert correction.shape == ends[j].shape
        state = ends[j] + correction
    return net.closed(state)


def test_what_does_not_fit_is_named():
    made = parareal_network(
        pooled([2, 2, 2, 2, 1]),
        2,
        torch.randn(2, 3, 32, 32, dtype=torch.float64),
        opening=1,
        closing=6,
        cuts=[3],
    )
    with pytest.raises(InputError) as raised:
        made(torch.randn(2, 3, 50, 50, dtype=torch.float64))
    assert str(raised.value) == (
        "The coarse network F^1 makes a state of shape (2, 3, 3, 3) of this input, where (2, 3, 4, 4) "
        f"is needed{REMEDY}"
    )


class Fewer(nn.Module):
    """One sample of four."""

    def forward(self, u: Tensor) -> Tensor:
        return u if len(u) < 4 else u[:1]


@pytest.mark.parametrize(("option", "part"), [("preprocessing", "C^2"), ("coarse", "network F^1")])
def test_samples_are_not_broadcast_either(option, part):
    flat = nn.Sequential(*[nn.Linear(3, 3) for _ in range(3)])
    given: Any = {option: lambda j, a, b: Fewer()}
    made = parareal_network(flat, 2, torch.randn(3, 3), opening=0, closing=3, **given)
    made(torch.randn(3, 3))
    with pytest.raises(InputError) as raised:
        made(torch.randn(4, 3))
    assert str(raised.value) == (
        f"The {option} {part} makes a state of shape (1, 3) of this input, where (4, 3) is needed"
        f"{REMEDY}"
    )


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (
            (2, 1),
            "The preprocessing C^1 cannot take what is of shape (1,), while it was made for (4,) (",
        ),
        (
            (2, 9),
            "The preprocessing C^1 cannot take what is of shape (9,), while it was made for (4,) (",
        ),
    ],
)
def test_what_a_part_cannot_take(shape, text):
    torch.manual_seed(0)
    made = parareal_network(
        [nn.Linear(4, 3), *[nn.Linear(3, 3) for _ in range(3)]], 2, torch.randn(2, 4)
    )
    with pytest.raises(InputError) as raised:
        made(torch.randn(shape))
    assert str(raised.value).startswith(text + "RuntimeError: mat1 and mat2 shapes cannot be multiplied")
    assert str(raised.value).endswith(")" + REMEDY)


def test_parts_that_take_all_but_the_closing():
    net = nn.Sequential(Convolved(3, 2), *[Convolved(2, 2) for _ in range(3)], nn.Flatten())
    net.append(nn.Linear(2 * 6 * 6, 3))
    made = parareal_network(net, 2, torch.randn(2, 3, 6, 6))
    with pytest.raises(
        InputError, match=r"^The postprocessing h cannot take what is of shape \(2, 7, 7\)"
    ):
        made(torch.randn(2, 3, 7, 7))


class Failing(nn.Linear):
    """Raises when it is trained."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("no numbers today")
        return super().forward(input)


def test_what_a_part_raises_at_the_right_size_comes_out_as_it_is():
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), Failing(3, 3), nn.Linear(3, 3))
    made = parareal_network(net, 2, torch.randn(2, 4), opening=1, closing=4)
    with pytest.raises(RuntimeError, match=r"^no numbers today$"):
        made.train()(torch.randn(5, 4))


def test_parts_of_one_batch_whose_states_differ_in_another_size_are_in_turn():
    torch.manual_seed(0)
    net = nn.Sequential(*[Convolved(2, 2) for _ in range(9)]).double()

    class Sized(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.adaptive_avg_pool2d(x, 6)

    made = parareal_network(
        net,
        9,
        torch.randn(2, 2, 6, 6, dtype=torch.float64),
        opening=0,
        closing=9,
        preprocessing=lambda j, a, b: Sized(),
    )
    assert made.alike == (range(9),)
    with pytest.raises(
        InputError, match=r"The preprocessing C\^2 makes a state of shape \(2, 2, 6, 6\)"
    ):
        made(torch.randn(2, 2, 8, 8, dtype=torch.float64))
