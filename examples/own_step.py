"""A residual block of your own as the step: `integrator="block"`.

Any module that returns the next state, in the shape of the last one, will do; here a pre-norm MLP
block. Its parameters are stacked along depth and all intervals go through it at once, by vmap.
Prints how far outputs and gradients are from those of the ordinary network of the same weights.
"""

import torch
from torch import Tensor, nn

import layerparallel as lp
from layerparallel.solvers.measure import compare, gradients


class Block(nn.Module):
    """u + s MLP(LayerNorm(u)), the next state itself; s keeps a deep stack of blocks tame."""

    def __init__(self, width: int, hidden: int, scale: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.scale = scale

    def forward(self, u: Tensor) -> Tensor:
        return u + self.scale * self.down(nn.functional.gelu(self.up(self.norm(u))))


def main(depth: int = 64, width: int = 16) -> tuple[float, float]:
    torch.manual_seed(0)
    net = lp.Network(
        opening=nn.Linear(4, width),
        body=lp.chain(Block(width, 2 * width, scale=3 / depth), depth=depth, integrator="block"),
        closing=nn.Linear(width, 3),
        solver=lp.MGRIT(coarsening=8, forward_cycles=3, adjoint_cycles=3),
    )
    serial = net.to_serial()  # opening, a ModuleList of 64 blocks, closing: a copy of the weights
    x, y = torch.randn(32, 4), torch.randint(0, 3, (32,))

    nn.functional.cross_entropy(net(x), y).backward()
    found = gradients(net)
    net.zero_grad()
    with net.solved_by(lp.Serial()):
        nn.functional.cross_entropy(net(x), y).backward()
    error = compare(found, gradients(net), depth)

    with torch.no_grad():  # outside training the network is propagated serially
        difference = (net(x) - serial(x)).abs().max().item()
    print(f"output: at most {difference:.1e} from the serial twin's")
    print(f"gradient after 3 cycles: relative error {error.relative:.1e}, cosine {error.cosine:.6f}")
    return difference, error.relative


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
