"""A neural ODE: one module F(u, t) at every step, integrated by the classical Runge-Kutta method.

Learns u' = A(t) u, a rotation that swings to and fro and dies away, from pairs (u(0), u(T)). The
exact u(T) is known in closed form. A module whose forward has an argument `t` is given the time.
"""

import math

import torch
from torch import Tensor, nn

import layerparallel as lp

T = 2.0


class Field(nn.Module):
    """F(u, t): the state and the time go through two layers."""

    def __init__(self, hidden: int = 16):
        super().__init__()
        self.first, self.last = nn.Linear(3, hidden), nn.Linear(hidden, 2)

    def forward(self, u: Tensor, t: Tensor) -> Tensor:
        time = t.expand(*u.shape[:-1], 1)
        return self.last(torch.tanh(self.first(torch.cat([u, time], dim=-1))))


def arrived(u: Tensor) -> Tensor:
    """u(T) of u' = [[-a, -2 cos t], [2 cos t, -a]] u with a = 0.2, for u (B, 2)."""
    angle, size = 2 * math.sin(T), math.exp(-0.2 * T)
    c, s = size * math.cos(angle), size * math.sin(angle)
    return u @ torch.tensor([[c, s], [-s, c]])


def main(depth: int = 48, steps: int = 120) -> tuple[float, float]:
    torch.manual_seed(0)
    net = lp.Network(
        opening=None,
        body=lp.chain(Field(), depth=depth, T=T, tied=True, integrator="rk4"),
        closing=None,
        solver=lp.MGRIT(coarsening=6, forward_cycles=2, adjoint_cycles=2),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        u = torch.randn(64, 2)
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(u), arrived(u))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert net.solution is not None
    print(f"error {losses[0]:.3f} -> {losses[-1]:.5f}")
    print("forward residual after each sweep:", [f"{r:.1e}" for r in net.solution.residuals])
    return losses[0], losses[-1]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
