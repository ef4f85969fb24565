"""Modules whose hooks make their weights (torch.nn.utils.weight_norm), over ranks."""

import warnings

import pytest
import torch
from torch import Tensor, nn

import layerparallel as lp

X = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3)


def network(kind: str) -> lp.Network:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old form is deprecated
        layers = [nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 3)), nn.Tanh()) for _ in range(4)]
        opening = nn.utils.weight_norm(nn.Linear(3, 3))
    body = lp.chain(layers) if kind == "unlike" else lp.chain(layers[0], 4, tied=kind == "tied")
    solver = lp.MGRIT(coarsening=2, forward_cycles=4, adjoint_cycles=4)
    return lp.Network(opening, body, nn.Linear(3, 2), solver).double()


def gradients(net: lp.Network) -> dict[str, Tensor]:
    net(X).square().sum().backward()
    kept = {p: net.layer_name(name) for name, p in net.named_parameters()}
    found = {}
    for p, (name, depth) in kept.items():
        if p.grad is not None and p.numel():
            rows = net.chains[0].block if depth else [0]
            parts = p.grad if depth else [p.grad]
            found |= {name.format(n=n): g for n, g in zip(rows, parts, strict=True)}
    return found


def on_ranks(group, kind: str) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of vmap's speed
        return gradients(lp.distribute(network(kind), group))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("kind", ["template", "unlike", "tied"])
def test_a_distributed_network_has_the_gradients_of_one_process(pool, kind):
    one, several = gradients(network(kind)), {}
    for part in pool.run(3, on_ranks, kind):
        several |= part
    assert one.keys() == several.keys()
    for name, value in one.items():
        torch.testing.assert_close(several[name], value)
