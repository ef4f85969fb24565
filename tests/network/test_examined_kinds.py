"""Kinds of numbers, and of steps that are evaluated many at once."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from twins import BODIES, DEPTH, SOLVERS, WIDTH, Block, assert_twins, entering, gradients, made, refusal

import layerparallel as lp

# ---- kinds of numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_complex_parameters_and_states(body, solver):
    class Fourier(Block):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(0.1 * torch.randn(WIDTH // 2 + 1, dtype=torch.cdouble))

        def forward(self, u: Tensor) -> Tensor:
            v = torch.fft.irfft(torch.fft.rfft(u) * self.w, n=WIDTH)
            return u + 0.1 * torch.tanh(self.fc(u) + v)

    net, twin = made(Fourier, body, solver)
    assert_twins(net, twin, entering())

    def linear() -> nn.Module:
        return nn.Linear(WIDTH, WIDTH, dtype=torch.cdouble)

    net, twin = made(linear, body, solver)
    found = []
    for module in (net, twin):
        u = entering().to(torch.cdouble).requires_grad_()
        module(u).abs().sum().backward()
        found.append([u.grad, *gradients(module)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


class Masked(Block):
    """Gets a mask, a count and the state, in this order."""

    def forward(self, state: Any) -> Any:
        mask, u, count = state
        return mask, u + 0.1 * torch.tanh(self.fc(u.masked_fill(mask, 0)) + count), count


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_parts_without_a_derivative_are_passed_along(body, solver):
    net, twin = made(Masked, body, solver)
    found = []
    for module in (net, twin):
        u, mask = entering().requires_grad_(), entering() > 0.5
        out = module((mask, u, torch.tensor(2)))
        assert out[0] is mask
        assert int(out[2]) == 2
        out[1].square().sum().backward()
        found.append([out[1], u.grad, *gradients(module)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_part_without_a_derivative_that_a_step_changes_is_refused():
    class Counts(Block):
        def forward(self, state: Any) -> Any:
            u, count = state
            return super().forward(u), count + 1

    net, _ = made(Counts, "unlike")
    with pytest.raises(ValueError, match=r"changes part 1 of the state, which is torch\.int64"):
        net((entering(), torch.tensor(0)))
    with pytest.raises(ValueError, match="convert the input"):
        net(torch.ones(3, dtype=torch.long))


def test_a_block_of_several_dtypes_keeps_the_states():
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(WIDTH, WIDTH).bfloat16().requires_grad_(False)
            self.adapter = nn.Linear(WIDTH, WIDTH)

        def forward(self, u: Tensor) -> Tensor:
            return u + 1e-3 * torch.tanh(self.base(u.bfloat16()).float() + self.adapter(u).float())

    net, twin = made(Mixed, "unlike")
    u = entering().float()
    assert torch.equal(net(u), twin(u))
    with torch.autocast("cpu", torch.bfloat16):
        out, expected = net(u), twin(u)
    assert out.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("body", BODIES)
def test_states_whose_entries_stand_in_no_rectangle_are_refused(body):
    net, _ = made(Block, body)
    u = entering()
    for state in (
        torch.nested.nested_tensor([u[:3], u]),
        torch.nested.nested_tensor([u[:3], u], layout=torch.jagged),
    ):
        assert "the state is nested" in refusal(net, state)
    assert "the state is torch.sparse_coo" in refusal(net, u.to_sparse())
    assert "the state is torch.sparse_csr" in refusal(net, (u, u.to_sparse_csr()))


class Growing(nn.Module):
    """A step on numbers without a dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn((), dtype=torch.double))

    def forward(self, u: Tensor, *given: Tensor) -> Tensor:
        return u + 0.1 * torch.tanh(self.w * u + sum(given))


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_states_without_a_dimension(body, solver):
    net, twin = made(Growing, body, solver)
    assert_twins(net, twin, entering()[0, 0])


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_number_per_step(solver):
    c = torch.linspace(0, 1, DEPTH, dtype=torch.double)

    class Drive(nn.Module):
        def forward(self, u: Tensor) -> lp.Driven:
            return lp.Driven(u, (c,))

    torch.manual_seed(0)
    step = Growing()
    net = lp.Network(
        Drive(), lp.chain(step, DEPTH, integrator="block", tied=True), None, SOLVERS[solver]
    )
    found = []
    for solved in (True, False):
        step.zero_grad()
        u = v = entering().requires_grad_()
        for n in range(DEPTH):
            v = step(v, c[n])
        out = net(u) if solved else v
        out.square().sum().backward()
        found.append([out, u.grad, step.w.grad])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("first", [2, 1])
def test_states_of_one_dimension_less_are_examined_anew(first):
    """A sample's entries are not to be mixed with another's where the state has no samples."""

    class Centred(Block):
        def forward(self, u: Tensor) -> Tensor:
            return super().forward(u - u.mean(-1, keepdim=True))

    net, twin = made(Centred, "tied", "mgrit")
    for dims in (first, 3 - first):
        assert_twins(net, twin, entering() if dims == 2 else entering()[0])


class Marked(Tensor):
    """A class of its own."""


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_tensors_of_a_class_of_their_own_are_refused(body, solver):
    class Asks(Block):
        def forward(self, u: Tensor) -> Tensor:
            return super().forward(u) * (1.0 if isinstance(u, Marked) else 0.5)

    net, _ = made(Asks, body, solver)
    assert "the state is of the class Marked" in refusal(net, entering().as_subclass(Marked))
    with torch.no_grad(), pytest.raises(ValueError, match="the state is of the class Marked"):
        net(entering().as_subclass(Marked))
    net, twin = made(Asks, body, solver)
    start = nn.Parameter(entering())  # one that is learned
    net(start).sum().backward()
    found, start.grad = start.grad, None
    twin(start).sum().backward()
    torch.testing.assert_close(found, start.grad, rtol=1e-10, atol=1e-12)
    if body != "stacked":
        for part in net.modules():
            if isinstance(part, Block):
                part.fc.weight = nn.Parameter(part.fc.weight.detach().as_subclass(Marked))
        assert "a parameter of the chain is of the class Marked" in refusal(net, entering())


# ---- many steps at once --------------------------------------------------------------------------


def reading(block: nn.Module, v: Tensor) -> Tensor:
    return v if float(v.detach().sum()) > 0 else 0.5 * v


@pytest.mark.parametrize("body", ["stacked", "tied"])
def test_what_cannot_be_batched_is_refused_where_it_has_to_be(body):
    net, twin = made(lambda: Block(reading), body)
    assert_twins(net, twin, entering())
    net.solver = SOLVERS["mgrit"]
    assert "torch.vmap" in refusal(net, entering())


def test_a_cell_without_a_batching_rule():
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(WIDTH, WIDTH).double()

        def forward(self, state: Any) -> Any:
            h, c = state
            return self.cell(h, (h, c))

    torch.manual_seed(0)
    net = lp.Network(None, lp.chain(Cell(), DEPTH, integrator="block"), None)
    pair = entering(), entering()
    net(pair)[0].sum().backward()
    net.solver = SOLVERS["mgrit"]
    with pytest.raises(ValueError, match=r"torch\.vmap"):
        net(pair)


def test_gradients_that_are_sparse():
    class Embeds(Block):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, WIDTH, sparse=True, dtype=torch.double)

        def forward(self, state: Any) -> Any:
            u, words = state
            return super().forward(u) + self.table(words), words

    for body in BODIES:
        for solver in ("serial", "mgrit"):
            net, twin = made(Embeds, body, solver)
            state = entering(), torch.tensor([1, 2, 2, 3, 8])
            if body == "stacked":
                with pytest.raises(ValueError, match=r"Embeds cannot be evaluated .*a list of modules"):
                    net(state)
                continue
            found = []
            for module in (net, twin):
                module(state)[0].square().sum().backward()
                found.append([None if g is None else g.to_dense() for g in gradients(module)])
            for a, b in zip(*found, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_t_is_the_time_only_where_the_chain_is_made_for_it():
    class Tempered(Block):
        def forward(self, u: Tensor, t: Tensor | None = None) -> Tensor:
            return super().forward(u) if t is None else u / (1 + t)

    torch.manual_seed(0)
    blocks = [Tempered() for _ in range(DEPTH)]
    whole = nn.Sequential(nn.Linear(3, WIDTH).double(), *blocks)
    x = torch.randn(5, 3, dtype=torch.double)
    for stacked in (False, True):
        net = lp.Network.from_modules(whole, x, stacked=stacked)
        torch.testing.assert_close(net(x), whole(x))
        torch.testing.assert_close(net.to_serial()(x), whole(x))
    timed = lp.Network(None, lp.chain(Tempered(), 2, T=1.0, integrator="euler"), None)
    u = entering()
    torch.testing.assert_close(timed(u), u * 1.5 * (1 + 0.5 / 1.5))


@pytest.mark.parametrize("hook", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_backward_hooks_of_a_layer_with_a_closed_form_are_called(hook):
    layer, seen = lp.Dense(WIDTH).double(), []
    getattr(layer, hook)(lambda *given: seen.append(given))
    net = lp.Network(None, lp.chain(layer, DEPTH, T=1.0), None)
    net(entering().requires_grad_()).sum().backward()
    assert seen


def test_rows_without_a_key_get_torchs_answer():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.MultiheadAttention(WIDTH, 2, dropout=0.1, batch_first=True)
            self.register_buffer("pad", torch.arange(18).view(3, 6) < 6)

        def forward(self, u: Tensor) -> Tensor:
            return u + 0.1 * self.a(u, u, u, key_padding_mask=self.pad, need_weights=False)[0]

    torch.manual_seed(0)
    net = lp.Network(None, lp.chain([Attention() for _ in range(3)], integrator="block"), None)
    u = torch.randn(3, 6, WIDTH)
    out = net(u)
    assert torch.isfinite(out).all()
    torch.testing.assert_close(out[0] - u[0], (net.eval()(u) - u)[0], rtol=1e-5, atol=1e-6)


def test_a_first_forward_with_nan_gets_the_documented_sentence():
    net, _ = made(Block, "unlike")
    u = entering()
    u[0, 0] = torch.nan
    assert "the state that enters the chain holds NaN" in refusal(net, u)


class Counted(Block):
    """Counts its calls."""

    calls = 0

    def forward(self, u: Tensor) -> Tensor:
        Counted.calls += 1
        return super().forward(u)


@pytest.mark.parametrize(("body", "most"), [("unlike", 2 * DEPTH), ("stacked", 3), ("tied", 9)])
def test_an_examination_costs_two_forwards_at_most_and_comes_once(body, most):
    net, _ = made(Counted, body, "mgrit")
    found = []
    for _ in range(3):
        Counted.calls = 0
        net(entering()).sum().backward()
        found.append(Counted.calls)
    assert found[1] == found[2]
    assert found[0] - found[1] <= most
    net.eval()
    Counted.calls = 0
    net(entering())
    again = Counted.calls
    net(entering())
    assert again - (Counted.calls - again) <= most
