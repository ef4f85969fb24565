"""What a solve returns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from ..steps.state import State


@dataclass
class Solution:
    """Result of one solve of a chain, forward or adjoint.

    Attributes:
        end: the state at the far end (u[N], or lambda[0]); each part of shape (1, ...).
        points: array of the C-point states of level 0, as the last coarse correction left them: what
            a warm start begins from. None after a serial solve.
        evaluations: step evaluations spent on every level.
        seconds: wall time spent on every level; together the whole solve. On a GPU, whose work is
            asynchronous, the time it took to launch it.
        converged: whether the tolerance was met; None where none was given.
        fallback: why the serial solver had to step in, or None.
    """

    end: State
    points: State | None = None
    evaluations: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    converged: bool | None = None
    fallback: str | None = None
    residual_tensors: list[Tensor] = field(default_factory=list)
    correction_tensors: list[Tensor] = field(default_factory=list)
    scale_tensor: Tensor | None = None
    error_tensor: Tensor | None = None

    @property
    def residuals(self) -> list[float]:
        """Norm of the residual at the C-points, after every cycle."""
        return [float(r) for r in self.residual_tensors]

    @property
    def corrections(self) -> list[float]:
        """Norm of the last coarse correction of each cycle."""
        return [float(c) for c in self.correction_tensors]

    @property
    def relative_residual(self) -> float:
        """The last residual over the norm of the C-point states; 0 after a serial solve."""
        if not self.residual_tensors or self.scale_tensor is None:
            return 0.0
        scale, last = float(self.scale_tensor), float(self.residual_tensors[-1])
        return last / scale if scale > 0 else last

    @property
    def relative_error(self) -> float:
        """An estimate of the error of the C-point states, over their norm; 0 after a serial solve.

        Residuals add up along the chain where errors do not decay, so that the error is many times as
        large there. From 1 on nothing of the states is right. A solver that estimates nothing has the
        relative residual here.
        """
        if self.error_tensor is None or self.scale_tensor is None:
            return self.relative_residual
        scale, error = float(self.scale_tensor), float(self.error_tensor)
        return error / scale if scale > 0 else error

    @property
    def convergence_factor(self) -> float | None:
        """Mean reduction of the residual per cycle; None before the second cycle."""
        r = self.residuals
        if len(r) < 2 or r[0] == 0:
            return None
        return (r[-1] / r[0]) ** (1 / (len(r) - 1))

    @property
    def step_evaluations(self) -> int:
        """Step evaluations of all levels together."""
        return sum(self.evaluations)

    def __repr__(self) -> str:
        said = [f"evaluations={self.evaluations}"]
        if self.converged is not None:
            said.append(f"converged={self.converged}")
        if self.residuals:
            said.append(f"relative_residual={self.relative_residual:.2e}")
            said.append(f"relative_error={self.relative_error:.2e}")
        if self.fallback:
            said.append(f"fallback={self.fallback!r}")
        return f"Solution({', '.join(said)})"

    @property
    def finite(self) -> bool:
        """Whether all residuals are."""
        return all(math.isfinite(r) for r in self.residuals)
