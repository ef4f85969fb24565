"""A stock transformer encoder, made layer-parallel without touching it: `Network.from_modules`.

torch.nn.TransformerEncoderLayer with norm_first=True is a residual block in two parts. A stack of them
becomes one chain. Without dropout the gradient by every solver is compared with the plain stack's.
With dropout torch draws the masks of the plain stack and the library those of the chain, so the two
differ; the exact gradient is then `Serial()` from the same random state, which the multigrid solve meets
with the very same masks.
"""

import copy

import torch
from torch import nn
from torch.nn import functional as F

import layerparallel as lp
from layerparallel.solvers.measure import GradientError, compare, gradients


def stack(depth: int, width: int, dropout: float) -> nn.Sequential:
    """Embedding, `depth` encoder layers, a final norm and one output per position."""
    layers = [
        nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        for _ in range(depth)
    ]
    return nn.Sequential(nn.Embedding(16, width), *layers, nn.LayerNorm(width), nn.Linear(width, 16))


def main(depth: int = 16, width: int = 16) -> dict[str, tuple[float, GradientError]]:
    x = torch.randint(0, 16, (8, 12), generator=torch.Generator().manual_seed(1))
    y = x.flip(1)  # to be written backwards
    found = {}
    print("dropout  solver           output  gradient: error, cosine")
    for dropout in (0.0, 0.1):
        torch.manual_seed(0)
        model = stack(depth, width, dropout)
        plain = copy.deepcopy(model)
        net = lp.Network.from_modules(model, example=x)

        def gradient(
            module: nn.Module, plain: nn.Module = plain
        ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            torch.manual_seed(2)  # the key of the masks
            module.zero_grad()
            output = module(x)
            F.cross_entropy(output.flatten(0, 1), y.flatten()).backward()
            return output.detach(), gradients(plain)

        reference = gradient(plain) if dropout == 0 else gradient(net, model)
        solvers: dict[str, lp.Serial | lp.MGRIT] = {"serial": lp.Serial()} if dropout == 0 else {}
        for cycles in (1, 2, 4):
            solvers[f"{cycles} + {cycles} cycles"] = lp.MGRIT(
                coarsening=4, coarse="picard", forward_cycles=cycles, adjoint_cycles=cycles
            )
        for name, solver in solvers.items():
            net.solver = solver
            output, mine = gradient(net, model)
            difference = float((output - reference[0]).norm() / reference[0].norm())
            error = compare(mine, reference[1])
            found[f"dropout {dropout}, {name}"] = difference, error
            print(
                f"{dropout:7} {name:>13} {difference:10.1e} {error.relative:16.1e} {error.cosine:8.5f}"
            )
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
