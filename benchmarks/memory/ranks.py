"""Memory of every rank of a layer group: torchrun runs it, rank 0 prints MiB as JSON.

What a training step leaves: the parameters of the rank's layers, their gradients, Adam's state and
the states kept for the backward pass.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch

import layerparallel as lp
from layerparallel.group.start import start, stop


def resident() -> float:
    """MiB that this process has in memory now."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def trained(depth: int, width: int, batch: int, mesh: Any) -> tuple[lp.Network, Any, float]:
    """Network and optimiser after two steps, and the memory in use when the third goes back."""
    torch.manual_seed(0)
    net = lp.Network(None, lp.chain(lp.Dense(width), depth, T=5.0), None, lp.MGRIT(coarsening=16))
    if mesh is not None:
        lp.distribute(net, mesh["layer"])
    optimizer = torch.optim.Adam(net.parameters())
    for _ in range(2):
        net(torch.randn(batch, width)).square().mean().backward()
        optimizer.step()
    y = net(torch.randn(batch, width))  # with what is kept for the backward pass
    after = resident()
    y.square().mean().backward()
    return net, optimizer, after


def main() -> None:
    depth, width, batch, ranks = map(int, sys.argv[1:5])
    mesh = start(layer_ranks=ranks) if ranks > 1 else None
    torch.set_num_threads(1)
    trained(ranks * 16, 8, 4, mesh)  # code is there before the first reading
    before = resident()
    net, optimizer, after = trained(depth, width, batch, mesh)
    owned = [*net.parameters(), *(p.grad for p in net.parameters() if p.grad is not None)]
    owned += [t for state in optimizer.state.values() for t in state.values()]
    counted = sum(t.numel() * t.element_size() for t in owned) / 2**20
    every = net.group.gather((after - before, counted))
    if net.group.first:
        print(json.dumps(every))
    if mesh is not None:
        stop()


if __name__ == "__main__":
    main()
