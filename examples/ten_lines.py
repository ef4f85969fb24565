"""Ten lines: a network of 256 layers in a training loop that does not know it is layer-parallel.

The classes are five level sets of a smooth surface over a square. Prints the accuracy on points that
were not trained on, propagated serially, as `eval()` does unless asked otherwise.
"""

import torch
from torch import nn

import layerparallel as lp
from layerparallel.data.level_sets import level_sets


def main(depth: int = 256, epochs: int = 30, batch: int = 100) -> float:
    torch.manual_seed(0)
    data = level_sets(training=2000, validation=500)

    net = lp.Network(
        opening=nn.Linear(2, 8),
        body=lp.chain(lp.Dense(8), depth=depth, T=5.0),
        closing=nn.Linear(8, 5),
        solver=lp.MGRIT(levels=2, coarsening=16, forward_cycles=1, adjoint_cycles=1),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(epochs):
        order = torch.randperm(len(data.train_x)).split(batch)
        for x, y in ((data.train_x[part], data.train_y[part]) for part in order):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()

    net.eval()
    with torch.no_grad():
        right = net(data.validation_x).argmax(dim=1) == data.validation_y
    accuracy = right.double().mean().item()
    print(f"{depth} layers, {epochs} epochs: accuracy {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
