"""What modules keep beside their tensors (`get_extra_state`), over ranks."""

from pathlib import Path

import pytest
import torch
from extra_states import network

import layerparallel as lp
from layerparallel.runs import checkpoint
from layerparallel.runs.checkpoint import Moment
from layerparallel.training import layerwise

X = torch.linspace(-1, 1, 15).view(5, 3)


def distributed(group, kind: str, scale: float) -> lp.Network:
    torch.manual_seed(0)
    return lp.distribute(network(kind, scale), group)


def saved(group, folder: str, kind: str) -> torch.Tensor:
    net = distributed(group, kind, 2.0)
    state, layers = {"network": net.state_dict()}, layerwise.chains(net)
    checkpoint.save(Path(folder), Moment(0, 0, 0), state, layers=layers, group=group)
    return net.eval()(X).detach()


def read(group, folder: str, kind: str) -> torch.Tensor:
    net = distributed(group, kind, 1.0)
    found = checkpoint.latest(Path(folder), group)
    assert found is not None
    net.load_state_dict(found.of(net.state_dict())["network"])
    return net.eval()(X).detach()


def taken_from_a_whole_one(group, kind: str) -> torch.Tensor:
    net = distributed(group, kind, 1.0)
    torch.manual_seed(0)
    net.load_state_dict(network(kind, 2.0).state_dict())
    return net.eval()(X).detach()


@pytest.mark.parametrize("kind", ["template", "unlike", "tied", "two"])
def test_it_goes_over_ranks_by_checkpoints_and_by_whole_states(pool, tmp_path, kind):
    first = pool.run(2, saved, str(tmp_path), kind)[0]
    torch.manual_seed(0)
    torch.testing.assert_close(network(kind, 2.0).eval()(X), first)
    for ranks in (3, 5):
        for found in pool.run(ranks, read, str(tmp_path), kind):
            torch.testing.assert_close(found, first)
        for found in pool.run(ranks, taken_from_a_whole_one, kind):
            torch.testing.assert_close(found, first)


def disagreeing(group) -> str:
    with pytest.raises(ValueError, match="disagree") as caught:
        distributed(group, "template", 1.0 + group.rank)
    return str(caught.value)


def test_ranks_that_keep_different_things_are_told(pool):
    assert "initial weights" in pool.run(2, disagreeing)[0]
