"""torch.compile of a training step over ranks: messages are left alone, too."""

from typing import Literal

import pytest
import torch
from rank_cases import Case, network
from torch import Tensor, nn

import layerparallel as lp

SOLVER = lp.MGRIT(coarsening=2, forward_cycles=4, adjoint_cycles=4)


def step(net: nn.Module, x: Tensor) -> Tensor:
    loss = net(x).square().sum()
    loss.backward()
    return loss.detach()


def on_ranks(group, case: Case, output: Literal["all", "last"]) -> list[list[Tensor]]:
    torch._dynamo.reset()
    found = []
    for train in (step, torch.compile(step, backend="aot_eager")):
        net, x = network(case)
        net = lp.distribute(net, group, output=output)
        loss = train(net, x)
        found.append([loss, *(p.grad for p in net.parameters() if p.grad is not None)])
    return found


@pytest.mark.parametrize("output", ["all", "last"])
@pytest.mark.parametrize("problem", ["block", "several chains"])
def test_a_compiled_step_is_the_plain_one(pool, problem, output):
    for plain, compiled in pool.run(2, on_ranks, Case(problem, 8, SOLVER), output):
        assert len(plain) == len(compiled) > 2
        for a, b in zip(plain, compiled, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
