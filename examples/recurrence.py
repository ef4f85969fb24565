"""A long recurrence: one cell at 512 steps, each with an input of its own.

The opening turns a sequence (B, N, features) into a `Driven`: the first state and one input per step.
The task is to say which of two noisy channels was larger on average. The inputs jump from step to
step, so a coarse step that sees the first input of its interval alone is a poor guide.
`coarse="mean_parameters"` gives it the mean of the inputs, "mean_residual" takes the mean of F over
them. Prints the residual that each leaves after one cycle.
"""

import torch
from torch import Tensor, nn

import layerparallel as lp


class Cell(nn.Module):
    """F(u, x) = tanh(W u + V x + b) - u: a leaky recurrent cell in continuous time."""

    def __init__(self, features: int, width: int):
        super().__init__()
        self.state, self.input = nn.Linear(width, width), nn.Linear(features, width)

    def forward(self, u: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.state(u) + self.input(x)) - u


class Sequence(nn.Module):
    """From sequences (B, N, features) to u[0] = 0 and inputs (N, B, features)."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> lp.Driven:
        return lp.Driven(x.new_zeros(len(x), self.width), x.transpose(0, 1))


def draw(batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Sequences (batch, length, 2) of unit noise about a mean of their own, and the larger channel."""
    mean = 0.3 * torch.randn(batch, 1, 2)
    return mean + torch.randn(batch, length, 2), mean[:, 0].argmax(dim=1)


def main(length: int = 512, width: int = 8, steps: int = 60) -> tuple[float, dict[str, float]]:
    torch.manual_seed(0)
    net = lp.Network(
        opening=Sequence(width),
        body=lp.chain(Cell(2, width), depth=length, T=5.0, tied=True),
        closing=nn.Linear(width, 2),
        solver=lp.MGRIT(coarsening=16, coarse="mean_residual"),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-2)
    for _ in range(steps):
        x, y = draw(64, length)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    x, y = draw(500, length)
    errors = {}
    with torch.no_grad():
        for coarse in ("inject", "mean_parameters", "mean_residual"):
            with net.solved_by(lp.MGRIT(coarsening=16, forward_cycles=1, coarse=coarse, guard=False)):
                net(x)
            assert net.solution is not None
            errors[coarse] = net.solution.relative_error
        net.eval()
        accuracy = (net(x).argmax(dim=1) == y).double().mean().item()
    print(f"accuracy {accuracy:.1%} on sequences of {length}")
    print("estimated error after one cycle:", {k: f"{e:.1e}" for k, e in errors.items()})
    return accuracy, errors


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
