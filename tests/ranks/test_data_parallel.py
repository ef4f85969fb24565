"""Data parallelism beside the layer group, by torch's own means: DDP and FSDP2 over the mesh."""

from __future__ import annotations

import pytest
import torch
from ranks.rank_cases import Case, by_layer, network
from torch import Tensor, nn

import layerparallel as lp
from layerparallel.group import ALONE, Group

SOLVER = lp.MGRIT(coarsening=2, relaxation=1, guard=False)


def target_of(x: Tensor) -> Tensor:
    return x[:, :2].sin()


def trained(net: nn.Module, inner: lp.Network, x: Tensor, steps: int = 3) -> dict[str, Tensor]:
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), target_of(x)).backward()
        optimizer.step()
    values = {}
    for name, p in inner.named_parameters():
        full = getattr(p, "full_tensor", None)  # of FSDP2's sharded parameters
        values[name] = (full() if full is not None else p).detach().clone()
    return by_layer(inner, values)


def batch_of(problem: str) -> tuple[lp.Network, Tensor]:
    net, _ = network(Case(problem, 7, SOLVER))
    generator = torch.Generator().manual_seed(2)
    return net, torch.randn(8, 3, dtype=torch.float64, generator=generator)


def on_mesh(mesh, problem: str, kind: str) -> dict[str, Tensor]:
    net, x = batch_of(problem)
    lp.distribute(net, mesh["layer"])
    mine = x.chunk(mesh["data"].size())[mesh["data"].get_local_rank()]
    if kind == "ddp":
        wrapped = nn.parallel.DistributedDataParallel(net, process_group=mesh["data"].get_group())
        return trained(wrapped, net, mine)
    from torch.distributed.fsdp import fully_shard

    fully_shard(net, mesh=mesh["data"])  # in place
    return trained(net, net, mine)


def alone(group: Group, problem: str) -> dict[str, Tensor]:
    net, x = batch_of(problem)
    lp.distribute(net, group)
    return trained(net, net, x)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("problem", ["dense tanh", "tied", "unlike"])
@pytest.mark.parametrize("shape", [(2, 2), (1, 3), (2, 1)])
def test_a_step_on_the_mesh_is_a_step_on_the_whole_batch(pool, problem, kind, shape):
    one = alone(ALONE, problem)
    met = set()
    for found in pool.run_mesh(shape, on_mesh, problem, kind):
        for name, value in found.items():
            torch.testing.assert_close(value, one[name], rtol=1e-10, atol=1e-10)
            met.add(name)
    assert met == set(one)


def more_ranks_than_layers(mesh) -> float:
    net, _ = network(Case("dense tanh", 1, lp.Serial()))
    lp.distribute(net, mesh["layer"])
    ddp = nn.parallel.DistributedDataParallel(net, process_group=mesh["data"].get_group())
    x = torch.ones(4, 3, dtype=torch.float64)
    loss = nn.functional.mse_loss(ddp(x), target_of(x))
    loss.backward()
    return loss.item()


def test_a_rank_without_layers_under_ddp(pool):
    assert len(set(pool.run_mesh((2, 2), more_ranks_than_layers))) == 1
