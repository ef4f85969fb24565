"""A closed form for a layer of your own: the method `closed_chain`.

Any module gets batched sweeps by vmap. A layer that knows its derivatives can do better: it returns a
`Chain` of its stacked parameters, and that is used for forward Euler outside autocast.

1. `Sine`, a dense layer with an activation that the library does not have: a `DenseChain` with an
   `Activation` of its own.
2. `Antisymmetric`, whose weight is a function of its parameter: a chain of its own, which carries the
   gradient over from the weight to the parameter.

Prints how far the gradients are from those of the same layers without the method.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import layerparallel as lp
from layerparallel.chains.dense import DenseAdjoint, DenseChain
from layerparallel.chains.workspace import Workspace
from layerparallel.steps.activations import Tanh

# ---- 1. another activation ------------------------------------------------------------------------


class SineForm:
    """F = gain value(scale z) + shift, dF/dz = slope times what `pull` multiplies by."""

    scale, gain, shift, slope = 1.0, 1.0, 0.0, 1.0

    def value(self, z: Tensor, saved: Tensor) -> Tensor:
        """sin z; the derivative is kept in `saved`, which may be z itself."""
        value = torch.sin(z)
        torch.cos(z, out=saved)
        return value

    def pull(self, adjoint: Tensor, saved: Tensor, out: Tensor) -> Tensor:
        return torch.mul(adjoint, saved, out=out)


class PlainSine(nn.Module):
    """F(u) = sin(W u + b)."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, width))
        self.bias = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Called for every draw of initial weights."""
        nn.init.normal_(self.weight, std=1 / self.weight.shape[0])
        nn.init.zeros_(self.bias)

    def forward(self, u: Tensor) -> Tensor:
        return torch.sin(nn.functional.linear(u, self.weight, self.bias))


class Sine(PlainSine):
    """The same with a closed form. The parameters are in the chain's order: weight, then bias."""

    def closed_chain(
        self, parameters: dict[str, Tensor], depth: int, step_size: float, workspace: Workspace
    ) -> DenseChain:
        weight, bias = parameters["weight"], parameters["bias"]  # (N, width, width), (N, width)
        return DenseChain(weight, bias, SineForm(), depth, step_size, workspace=workspace)


# ---- 2. a weight that is a function of the parameter ----------------------------------------------


class PlainAntisymmetric(nn.Module):
    """F(u) = tanh((K - K^T) u + b): eigenvalues on the imaginary axis, so that no state explodes."""

    def __init__(self, width: int):
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(width, width))
        self.bias = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Called for every draw of initial weights."""
        nn.init.normal_(self.kernel, std=1 / self.kernel.shape[0])
        nn.init.zeros_(self.bias)

    def forward(self, u: Tensor) -> Tensor:
        return torch.tanh(nn.functional.linear(u, self.kernel - self.kernel.T, self.bias))


class AntisymmetricAdjoint(DenseAdjoint):
    """With G the gradient for the weight K - K^T, that for K is G - G^T."""

    def gradients(self) -> dict[int, Tensor]:
        found = super().gradients()  # by the parameter's place: 0 is the kernel, 1 the bias
        if 0 in found:
            found[0] = found[0] - found[0].transpose(1, 2)
        return found


@dataclass(frozen=True)
class AntisymmetricChain(DenseChain):
    """A dense chain with the adjoint above; its coarse levels are of this type, too."""

    def linearise(self, groups: int = 1) -> AntisymmetricAdjoint:
        return AntisymmetricAdjoint(self, groups=groups)


class Antisymmetric(PlainAntisymmetric):
    """The same with a closed form."""

    def closed_chain(
        self, parameters: dict[str, Tensor], depth: int, step_size: float, workspace: Workspace
    ) -> AntisymmetricChain:
        kernel, bias = parameters["kernel"], parameters["bias"]
        weight = kernel - kernel.transpose(1, 2)
        return AntisymmetricChain(weight, bias, Tanh(), depth, step_size, workspace=workspace)


# ---- comparison -----------------------------------------------------------------------------------


def gradients_of(kind: Callable[[int], nn.Module], depth: int) -> tuple[type, list[Tensor]]:
    """The kind of chain that a layer's body is bound to, and all gradients of one backward pass."""
    torch.manual_seed(0)
    body = lp.chain(kind(8), depth=depth, T=3.0)
    net = lp.Network(None, body, None, solver=lp.MGRIT(coarsening=8)).double()
    x = torch.randn(16, 8, dtype=torch.float64, requires_grad=True)
    net(x).square().sum().backward()
    chain = type(body.bind(body.tensors()))
    return chain, [g for g in (x.grad, *(p.grad for p in net.parameters())) if g is not None]


def main(depth: int = 64) -> dict[str, float]:
    differences = {}
    for plain, closed in ((PlainSine, Sine), (PlainAntisymmetric, Antisymmetric)):
        by_vmap, reference = gradients_of(plain, depth)
        by_hand, found = gradients_of(closed, depth)
        largest = max(float(g.abs().max()) for g in reference)
        apart = max(float((a - b).abs().max()) for a, b in zip(found, reference, strict=True))
        differences[closed.__name__] = apart / largest
        kinds = f"{by_hand.__name__} and {by_vmap.__name__}"
        print(f"{closed.__name__}: {kinds} differ by {apart / largest:.1e}")
    return differences


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
