"""What a step reads beside its arguments may change: the loop is made anew, and never of old values."""

import pytest
import torch
from torch import nn

import layerparallel as lp

FACTOR = 0.5


class Settings:
    def __init__(self):
        self.gain = 1.0


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.alpha, self.settings = nn.Linear(4, 4), 0.3, Settings()
        self.options = {"beta": 1.0}
        self.register_buffer("mask", torch.ones(4))

    def forward(self, u):
        scale = FACTOR * self.alpha * self.settings.gain * self.options["beta"]
        return torch.tanh(self.linear(u * self.mask)) * scale


def changes(net):
    module = net.body.layer
    yield "at first", lambda: None
    yield "attribute", lambda: setattr(module, "alpha", 0.9)
    yield "object's attribute", lambda: setattr(module.settings, "gain", 1.7)
    yield "dictionary", lambda: module.options.update(beta=0.4)
    yield "global", lambda: globals().update(FACTOR=0.8)
    yield "buffer", lambda: module.mask[1:3].zero_()
    yield "another buffer", lambda: setattr(module, "mask", torch.rand(4, dtype=torch.float64))
    yield "frozen", lambda: module.linear.weight.requires_grad_(False)
    yield "weights", lambda: module.linear.bias.data.mul_(0.5)


def gradients(net, x):
    x = x.clone().requires_grad_()
    net.zero_grad()
    net(x).cos().sum().backward()
    return [x.grad, *(p.grad for p in net.parameters())]


@pytest.mark.parametrize("tied", [True, False])
def test_changes_between_two_walks_are_seen(tied, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setitem(globals(), "FACTOR", 0.5)
    net = lp.Network(None, lp.chain(Scaled(), 7, T=1.0, tied=tied), None, solver=lp.Serial()).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    for what, change in changes(net):
        change()
        ours = gradients(net, x)
        assert net.body.loops.why is None, net.body.loops.why
        monkeypatch.setenv("LAYERPARALLEL_NATIVE", "0")
        theirs = gradients(net, x)
        monkeypatch.setenv("LAYERPARALLEL_NATIVE", "1")
        for a, b in zip(ours, theirs, strict=True):
            assert (a is None) == (b is None), what
            if b is not None:
                torch.testing.assert_close(
                    a, b, rtol=1e-11, atol=1e-11, msg=lambda m, w=what: f"{w}: {m}"
                )


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, u):
        return self.linear(u) if u.sum() > 0 else -self.linear(u)


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, u):
        return self.linear(u) - u.mean(0, keepdim=True)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.calls = nn.Linear(4, 4), 0

    def forward(self, u):
        self.calls += 1
        return self.linear(u)


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), "dropout"),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), "batch norm"),
        (Branching(), "cannot trace|data"),
        (Mixing(), "may mix samples"),
        (Counting(), "changes attributes"),
    ],
    ids=lambda a: type(a).__name__,
)
def test_what_native_loops_do_not_have_goes_the_other_way(module, why):
    import re

    net = lp.Network(None, lp.chain(module, 5, T=1.0, tied=True), None, solver=lp.Serial()).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    theirs = net.to_serial()
    ours = net(x)
    assert net.body.loops.why is not None
    assert re.search(why, net.body.loops.why), net.body.loops.why
    if "Dropout" not in str(module):
        torch.testing.assert_close(ours, theirs(x), rtol=1e-10, atol=1e-10)


def test_modules_with_hooks_are_called():
    net = lp.Network(None, lp.chain(nn.Linear(4, 4), 5, T=1.0, tied=True), None, solver=lp.Serial())
    net(torch.randn(3, 4))
    assert net.body.loops.why is None
    calls = []
    handle = net.body.layer.register_forward_hook(lambda *_: calls.append(1))
    net(torch.randn(3, 4))
    assert calls
    assert net.body.loops.why == "its modules have hooks"
    handle.remove()
    net(torch.randn(3, 4))
    assert net.body.loops.why is None
