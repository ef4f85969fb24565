"""The coarse operator: how one step of a coarse level stands for the steps of an interval."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CoarseOperator:
    """How a coarse step stands for the steps of an interval.

    M steps of the finest level make one coarse step. Its layers are taken together in s groups of
    neighbours, each with the mean of its parameters:

    - ``inject``: ``u + M h F(u, theta_first)``, the first layer alone.
    - ``mean_parameters``: ``u + M h F(u, mean theta)``, one group.
    - ``mean_residual``: ``u + r sum_j F(u, theta_j)`` over the s groups, evaluated as one batch, with
      r = M h / s.
    - ``picard``: ``u + r sum_j F(u + r sum_i T_ji F(u, theta_i), theta_j)`` with T of `mixing`: the
      second Picard iterate of the interval where mean_residual is the first. It is accurate to second
      order in M h, also where neighbouring layers have little in common.

    Args:
        kind: one of the four.
        samples: most groups of the last two; s is the largest divisor of M up to it, M if None.
            Modules that are unlike have no mean: the middle one of a group stands for it.
    """

    kind: str = "inject"
    samples: int | None = None

    def groups(self, span: int) -> int:
        """s, for M = `span`."""
        if self.kind in ("inject", "mean_parameters"):
            return 1
        most = span if self.samples is None else min(self.samples, span)
        return next(s for s in range(most, 0, -1) if span % s == 0)

    def places(self, span: int) -> list[float]:
        """Where in the coarse step each group stands, in fine steps from its beginning."""
        if self.kind == "inject":
            return [0.0]
        size = span // self.groups(span)
        return [k * size + (size - 1) / 2 for k in range(self.groups(span))]

    def mixing(self, span: int, like: Tensor) -> Tensor:
        """T (s, s): which part of the steps of group i lies before a step of group j, on average.

        All of it for i < j; of its own M / s steps the half that came before, (1 - s / M) / 2.
        """
        count = self.groups(span)
        before = torch.ones(count, count, dtype=like.dtype, device=like.device).tril_(-1)
        return before.fill_diagonal_((1 - count / span) / 2)

    def select(self, stacked: Tensor, span: int, steps: int) -> Tensor:
        """From parameters (N, ...) of the finest level those of a coarse level, (steps, s, ...)."""
        grouped = stacked.narrow(0, 0, steps * span).unflatten(0, (steps, span))
        if self.kind == "inject":
            return grouped.narrow(1, 0, 1)
        count = self.groups(span)
        return grouped if count == span else grouped.unflatten(1, (count, -1)).mean(2)
