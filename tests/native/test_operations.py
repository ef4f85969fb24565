"""Every operation of the list, compiled, against autograd."""

import pytest
import torch
from loops import Calls, Rows, largest_error
from torch import nn

torch.manual_seed(0)
ACTIVATIONS = [
    *(nn.ReLU(), nn.LeakyReLU(), nn.ELU(), nn.CELU(), nn.SELU(), nn.GELU(), nn.GELU(approximate="tanh")),
    *(nn.SiLU(), nn.Mish(), nn.Softplus(), nn.Softsign(), nn.Sigmoid(), nn.Tanh(), nn.Hardswish()),
    *(nn.Hardsigmoid(), nn.Hardtanh(), nn.ReLU6(), nn.LogSigmoid(), nn.Tanhshrink(), nn.Softshrink()),
    *(nn.Hardshrink(), nn.Threshold(0.1, 0.5), nn.PReLU(), nn.Softmax(-1), nn.LogSoftmax(-1)),
    *(nn.Softmin(-1), nn.LayerNorm(8), nn.RMSNorm(8), nn.GroupNorm(2, 8), nn.Identity()),
]


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=lambda layer: str(layer).replace(" ", ""))
def test_activations_and_norms(layer):
    assert largest_error(layer, batch=5) < 1e-12


FUNCTIONS = {
    "sums": lambda u: u.sum(-1, keepdim=True) + u.mean(-1, keepdim=True) * u,
    "largest": lambda u: u - u.amax(-1, keepdim=True) + u.amin(-1, keepdim=True),
    "norm": lambda u: u / (1 + u.norm(dim=-1, keepdim=True)),
    "variance": lambda u: u.var(-1, keepdim=True) - u.std(-1, keepdim=True, correction=0),
    "logsumexp": lambda u: torch.logsumexp(u, -1, keepdim=True) - u,
    "cat and split": lambda u: torch.cat([u[:, 5:], torch.sin(u[:, :5])], -1),
    "chunk and stack": lambda u: torch.stack(u.chunk(2, -1), -1).flatten(1),
    "gate": lambda u: torch.cat([nn.functional.glu(u), u[:, :4]], -1),
    "indices": lambda u: u[:, [3, 1, 1, 0, 7, 6, 2, 5]] * u,
    "roll and flip": lambda u: u.roll(1, -1) - u.flip(-1),
    "pad": lambda u: nn.functional.pad(u[:, 1:7], (1, 1)),
    "einsum": lambda u: (
        torch.einsum("bij,bkj->bik", u.view(-1, 2, 4), u.view(-1, 2, 4)).repeat(1, 1, 2).flatten(1)
    ),
    "in place": lambda u: torch.tanh(u).clone().mul_(2).add_(u),
    "written to": lambda u: _written(u),
    "where": lambda u: torch.where(u > 0.2, u, u.exp()),
    "powers": lambda u: u**3 - u.square() + (u.abs() + 0.1) ** 0.5 + (u.abs() + 1) ** -2,
    "clamp": lambda u: u.clamp(-0.5, 0.7) + u.clamp(min=0.1),
    "two of them": lambda u: torch.maximum(u, u.roll(1, -1)) * torch.minimum(u, 0.3 * u),
    "trigonometric": lambda u: u.sin() * u.cos() + u.atan(),
    "logarithms": lambda u: torch.log1p(u.abs()) + torch.log(1 + u * u) + torch.expm1(-u.abs()),
    "hyperbolic": lambda u: u.sinh() / u.cosh() + u.erf() + u.sigmoid(),
    "cumulative": lambda u: u.cumsum(-1) / 8,
    "lerp": lambda u: torch.lerp(u, u.roll(1, -1), 0.3),
}


def _written(u):
    out = torch.zeros_like(u)
    out[:, :3] = u[:, 2:5]
    out[:, 4] = u[:, 0] * 2
    return out


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_a_state(name):
    assert largest_error(Calls(FUNCTIONS[name]), batch=5) < 1e-11


def lstm(state, x, cell):
    h, c = cell(x, state)
    return h - state[0], c - state[1]


LAYERS = {
    "dense": (nn.Sequential(nn.Linear(8, 8), nn.Tanh()), {"stacked": True}),
    "dense tied": (nn.Sequential(nn.Linear(8, 8), nn.Tanh()), {}),
    "no bias": (nn.Linear(8, 8, bias=False), {"stacked": True}),
    "wide": (nn.Sequential(nn.Linear(8, 37), nn.SiLU(), nn.Linear(37, 8)), {"stacked": True}),
    "wide tied": (nn.Sequential(nn.Linear(8, 37), nn.SiLU(), nn.Linear(37, 8)), {}),
    "odd": (nn.Sequential(nn.Linear(5, 5), nn.ReLU()), {"stacked": True, "shape": (5,)}),
    "transformer's": (
        nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)),
        {"stacked": True},
    ),
    "bilinear": (Calls(lambda u, b: torch.tanh(b(u, u)), nn.Bilinear(8, 8, 8)), {"stacked": True}),
    "used twice": (Calls(lambda u, f: f(torch.tanh(f(u))), nn.Linear(8, 8)), {}),
    "weight norm": (nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), {"stacked": True}),
    "weight norm tied": (nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), {}),
    "gru": (Calls(lambda h, x, c: c(x, h) - h, nn.GRUCell(4, 8)), {"inputs": 4}),
    "rnn": (Calls(lambda h, x, c: c(x, h) - h, nn.RNNCell(4, 8)), {"inputs": 4}),
    "lstm": (Calls(lstm, nn.LSTMCell(4, 8)), {"inputs": 4, "parts": 2}),
    "rows": (Rows(), {"shape": (5, 4)}),
    "hamiltonian": (
        Calls(
            lambda u, a, b: (torch.tanh(a(u[1])), -torch.tanh(b(u[0]))), nn.Linear(8, 8), nn.Linear(8, 8)
        ),
        {"parts": 2, "stacked": True},
    ),
    "unused": (Calls(lambda u, a, b: a(u), nn.Linear(8, 8), nn.Linear(8, 8)), {"stacked": True}),
}


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "states"])
@pytest.mark.parametrize("batch", [1, 3, 21])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_stacked_and_tied(name, batch, keep):
    layer, how = LAYERS[name]
    assert largest_error(layer, batch=batch, keep=keep, **how) < 1e-11


@pytest.mark.parametrize("name", LAYERS)
def test_in_32_bits(name):
    layer, how = LAYERS[name]
    assert largest_error(layer, batch=21, dtype=torch.float32, **how) < 1e-4
