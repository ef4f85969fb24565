"""Choosing the solver by measurement: `lp.tune` on your own network, batch and machine.

It takes a gradient with every candidate, compares it with the exact one, times the fastest within the
bound, and returns the best of them. `Serial()` is always among them, and plain PyTorch is timed beside
them, so the answer may be not to use multigrid at all. Prints the table.
"""

import torch
from torch import nn

import layerparallel as lp
from layerparallel.network.tuning import Tuning


def main(depth: int = 512, batch: int = 32, error: float = 0.1) -> Tuning:
    torch.manual_seed(0)
    net = lp.Network(
        opening=nn.Linear(2, 8),
        body=lp.chain(lp.Dense(8), depth=depth, T=5.0),
        closing=nn.Linear(8, 5),
    )
    x, y = torch.randn(batch, 2), torch.randint(0, 5, (batch,))
    found = lp.tune(net, (x, y), nn.functional.cross_entropy, error=error)
    print(found.table())
    net.solver = found.solver  # it is chosen, not set: that is left to you
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
