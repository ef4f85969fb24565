"""A training whose depth is shared by several ranks, to be broken: one process of it.

After its first step every rank writes its process number to `ready-RANK` in the folder. SIGUSR1 makes
a rank raise. The last line of the first rank is the final loss, every digit of it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

import layerparallel as lp
from layerparallel.group.lookout import Patience
from layerparallel.group.start import start, stop
from layerparallel.runs import checkpoint
from layerparallel.training import layerwise
from layerparallel.training.backprop import Backprop

WIDTH, BATCH = 8, 16


def network(layers: int) -> lp.Network:
    torch.manual_seed(0)
    solver = lp.MGRIT(coarsening=2, forward_cycles=1, adjoint_cycles=1)
    chain = lp.chain(lp.Dense(WIDTH), layers, T=2.0)
    return lp.Network(torch.nn.Linear(4, WIDTH), chain, torch.nn.Linear(WIDTH, 3), solver).double()


def raises(*_: object) -> None:
    raise ValueError("this rank is out of sorts")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--save-every", type=int, default=0)
    parser.add_argument("--silence", type=float, default=Patience().silence)
    parser.add_argument("--grace", type=float, default=Patience().grace)
    args = parser.parse_args(argv)
    mesh = start(device="cpu", patience=Patience(silence=args.silence, grace=args.grace))
    net = lp.distribute(network(args.layers), mesh["layer"])
    method = Backprop(net, torch.optim.Adam(net.parameters(), lr=1e-3), cross_entropy)
    begin, found = 0, checkpoint.latest(args.folder, net.group)
    if found is not None:
        begin = found.moment.step
        method.load_state_dict(found.of(net.state_dict()))
        print(f"rank {net.group.rank} goes on from step {begin}", flush=True)
    signal.signal(signal.SIGUSR1, raises)
    loss = float("nan")
    for step in range(begin, args.steps):
        sampler = torch.Generator().manual_seed(step)
        x = torch.randn(BATCH, 4, dtype=torch.float64, generator=sampler)
        y = torch.randint(3, (BATCH,), generator=sampler)
        loss = float(method.step(x, y).loss)
        if args.save_every and (step + 1) % args.save_every == 0:
            moment = checkpoint.Moment(0, 0, step + 1)
            state = method.state_dict()
            checkpoint.save(args.folder, moment, state, layers=layerwise.chains(net), group=net.group)
        if step == begin:
            (args.folder / f"ready-{net.group.rank}").write_text(str(os.getpid()))
    if net.group.first:
        print(f"loss {loss.hex()}")
    stop()


def become(rank: int, environment: dict[str, str], arguments: list[str], folder: str) -> None:
    """A rank, forked from a process that has torch; ends as one that was started on its own."""
    said = os.open(f"{folder}/said-{rank}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    status = 0
    try:
        main(arguments)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
