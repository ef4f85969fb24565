"""What a user is told of the way that chains go."""

import pytest
import torch
from torch import nn

import layerparallel as lp
from layerparallel.cli.commands import main


def test_every_chain_has_a_line():
    layer = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    chains = [lp.chain(layer, 6, T=1.0), nn.Linear(4, 4), lp.chain(nn.BatchNorm1d(4), 3, tied=True)]
    net = lp.Network(None, chains, None, solver=(lp.MGRIT(coarsening=2), lp.Serial()))
    assert "not propagated yet" in net.explain()
    net(torch.randn(5, 4))
    first, second = net.explain().split("\n")
    assert first == "chain 0: 6 steps by euler, MGRIT; native loops"
    assert second.startswith(
        "chain 1: 3 steps by euler, Serial; PyTorch's operations: it has dropout, batch"
    )


def test_a_closed_form_is_named(monkeypatch):
    monkeypatch.setenv("LAYERPARALLEL_NATIVE", "0")
    net = lp.Network(None, lp.chain(lp.Dense(4), 6, T=1.0), None)
    net(torch.randn(5, 4))
    assert "closed form of Dense, without native loops: LAYERPARALLEL_NATIVE=1" in net.explain()


@pytest.mark.parametrize(("value", "told"), [("1", "native loops"), ("0", "LAYERPARALLEL_NATIVE=1")])
def test_the_doctor_tries_a_chain(capsys, monkeypatch, value, told):
    monkeypatch.setenv("LAYERPARALLEL_NATIVE", value)
    assert main(["doctor"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert any(row.startswith("compiler") for row in rows)
    assert told in rows[-1]
