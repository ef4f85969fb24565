"""Simultaneous training: the optimiser steps before the solves have converged.

One cycle a step, started from the states that the step before left for the same batch. States,
adjoints and parameters converge together. The objective adds the regularisation of an optimal control
problem. Prints the loss and the residual of the forward solve as both fall.
"""

import torch
from torch import nn

import layerparallel as lp
from layerparallel.data.level_sets import level_sets
from layerparallel.runs.evaluate import accuracy


def main(depth: int = 128, steps: int = 210, batches: int = 2) -> dict[str, float]:
    torch.manual_seed(0)
    data = level_sets(training=1000, validation=500)
    net = lp.Network(
        opening=nn.Linear(2, 8),
        body=lp.chain(lp.Dense(8), depth=depth, T=5.0),
        closing=nn.Linear(8, 5),
        solver=lp.MGRIT(coarsening=8, forward_cycles=1, adjoint_cycles=1, warm_start=True),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    objective = lp.Objective(nn.functional.cross_entropy, tikhonov=1e-7, smoothness=1e-6, closing=1e-6)
    training = lp.OneShot(
        net,
        optimizer,
        objective,
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
    )

    pieces = list(zip(data.train_x.chunk(batches), data.train_y.chunk(batches), strict=True))
    first = last = None
    for step in range(steps):
        which = step % batches
        # the key names the batch: each has states of its own to start from
        last = training.step(*pieces[which], key=which)
        first = first or last
        if step % (steps // 6) == 0 or step == steps - 1:
            print(f"step {step:4}: loss {last.loss:.3f}, error {last.forward_error:.1e}")
    assert first is not None
    assert last is not None
    found = {
        "first_loss": float(first.loss),
        "last_loss": float(last.loss),
        "first_error": first.forward_error or 0.0,
        "last_error": last.forward_error or 0.0,
        "accuracy": accuracy(net, data.validation_x, data.validation_y),
    }
    print(f"validation accuracy, propagated serially: {found['accuracy']:.1%}")
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
