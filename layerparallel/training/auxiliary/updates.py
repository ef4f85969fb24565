"""The equations of training with auxiliary variables: pure functions of tensors.

A network is cut into K stages. Stage k = 1..K-1 starts, for every training sample, from an auxiliary
variable λ_k = US(Λ_k) in place of what stage k-1 ends with, x = x^{k-1}; κ_k is a multiplier kept like
Λ_k and used as Jκ_k, J the derivative of US at Λ_k (US itself where it is linear). Training seeks a
stationary point of the augmented Lagrangian (Sun et al. 2021, of a sample)

    L = φ(x^{K-1}) + Σ_k c_k ( β ‖λ_k - x^{k-1}‖² - ⟨Jκ_k, λ_k - x^{k-1}⟩ )

with φ the task's loss and c_k = 1, or 1 over the entries of λ_k; of a mini batch its mean over the B
samples. Everything a step needs of an interface follows from the difference d = λ - x (numbers are the
paper's equations):

    gradient of the mean by x       (c/B) (Jκ - 2β d)          starts (26), back through stage k-1
    pulled difference               p = Jᵀ d                   goes from stage k-1 to stage k
    gradient of a sample by Λ       g = 2β c p + Jᵀ(a - c Jκ)  a = ∂L/∂λ through stage k, of this sample
    state step                      Λ⁺ = Λ - η_λ direction(g)              (29)
    multiplier step                 κ⁺ = κ - step ((JᵀJ)⁻¹p + Λ⁺ - Λ)      (30)

The last is κ - step DS(λ⁺ - x), since DS = (JᵀJ)⁻¹Jᵀ; no more than p is needed for it. At a stationary
point 2β c (λ - x) = c κ - a (19): with κ = 0 (the penalty method) the violation is -a/(2β c) (24); as
c κ goes to a, it goes to 0. The step that leaves κ there when λ has been found is step = 2β ("derived");
published is 1/(2β) ("printed").

Λ steps along g before κ has followed, so that λ - x is for a while -a/(2β c) of the sample itself: it
tells stage k the sample's class, which stage k learns to read there, and not in x. "Estimated"
multipliers have it the other way round. κ goes to where ∂L/∂Λ = 0 at λ = x (the least-squares estimate
of a multiplier), and Λ follows x alone:

    multiplier step                 κ⁺ = κ + η_κ (DS(a)/c - κ)
    state step                      Λ⁺ = Λ - η_λ direction(2β c p)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .filters import Filter


@dataclass(frozen=True)
class Interface:
    """The terms of one interface.

    Shapes below: states `(B, *state)`; kept ones, Λ, κ, p and g, `(B, *filter.shape(state))`.

    Args:
        filter: fitted to its states.
        beta: β.
        weight: c.
    """

    filter: Filter
    beta: float
    weight: float

    def output_gradient(self, difference: Tensor, multiplier: Tensor | None) -> Tensor:
        """∂/∂x of the mini batch's mean, from d = λ - x and Jκ, both states."""
        pull = difference * (-2 * self.beta)
        if multiplier is not None:
            pull += multiplier
        return pull.mul_(self.weight / len(difference))

    def state_gradient(
        self, state: Tensor, pulled: Tensor, adjoint: Tensor, multiplier: Tensor | None
    ) -> Tensor:
        """g = ∂L/∂Λ of every sample, from Λ, p, a and Jκ."""
        if multiplier is not None:
            adjoint = adjoint - self.weight * multiplier
        pulled_adjoint = self.filter.transpose(adjoint, state)
        return pulled_adjoint + (2 * self.beta * self.weight) * pulled

    def state_step(self, state: Tensor, gradient: Tensor, rate: float) -> Tensor:
        """Λ⁺, from Λ and g."""
        return state - rate * self.filter.direction(gradient, state)

    def multiplier_step(
        self, multiplier: Tensor, state: Tensor, after: Tensor, pulled: Tensor, step: float
    ) -> Tensor:
        """κ⁺, from κ, Λ, Λ⁺ and p."""
        return multiplier - step * (self.filter.solve(pulled, state) + (after - state))

    def restored(self, state: Tensor, pulled: Tensor, rate: float) -> Tensor:
        """Λ⁺ where it follows x alone, from Λ and p."""
        return self.state_step(state, (2 * self.beta * self.weight) * pulled, rate)

    def estimated(self, multiplier: Tensor, state: Tensor, adjoint: Tensor, rate: float) -> Tensor:
        """κ⁺ on its way to the estimate, from κ, Λ and a."""
        found = self.filter.solve(self.filter.transpose(adjoint, state), state) / self.weight
        return multiplier.lerp(found, rate)


def violation(difference: Tensor, x: Tensor) -> Tensor:
    """‖λ - x‖ / ‖x‖ over a mini batch, 0-d; 0 where both are 0."""
    size = x.norm()
    return difference.norm() / size.clamp(min=torch.finfo(size.dtype).tiny)
