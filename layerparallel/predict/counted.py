"""Dense layers whose evaluations advance the clock by one: what an algorithm costs on any machine.

On a layer group in virtual time with ``measured=False`` the unit of time is then the evaluation of a
layer on the whole batch, and runs repeat to the last digit. A coarse step counts as many as it
evaluates: one with "inject" or "mean_parameters", s with "mean_residual", 2 s with "picard". Gradients
are those of `Dense`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..chains.chain import Intervals
from ..chains.dense import DenseAdjoint, DenseChain, DenseTape
from ..chains.workspace import Workspace
from ..group.member import Member
from ..steps.activations import CLOSED_FORM
from ..steps.layers import Dense
from ..steps.state import State


def charge(chain: DenseChain, steps: int) -> None:
    """Advances the clock of the rank that evaluates so many steps."""
    group = chain.placement.group if chain.placement is not None else None
    if isinstance(group, Member):
        group.charge(steps * chain.layers * (1 if chain.picard is None else 2))


class CountedDense(Dense):
    """`Dense`, its evaluations charged to the rank's clock."""

    def closed_chain(
        self, parameters: dict[str, Tensor], depth: int, step_size: float, workspace: Workspace
    ) -> CountedChain:
        weight, bias = parameters["weight"], parameters["bias"]
        activation = CLOSED_FORM[self.activation]
        return CountedChain(weight, bias, activation, depth, step_size, workspace=workspace)


@dataclass(frozen=True)
class CountedChain(DenseChain):
    """The chain of `CountedDense` layers."""

    def advance(
        self,
        u: State,
        over: Intervals,
        rhs: State | None = None,
        into: State | None = None,
        less: State | None = None,
    ) -> State:
        charge(self, over.evaluations)
        return super().advance(u, over, rhs, into, less)

    def reference(self, u: State, over: Intervals) -> State:
        charge(self, over.evaluations)
        return super().reference(u, over)

    def linearise(self, groups: int = 1) -> CountedAdjoint:
        return CountedAdjoint(self, groups=groups)


class CountedAdjoint(DenseAdjoint):
    """Its adjoint: a recorded walk counts, and so does one back.

    A linearisation about known states does not: it has all of them side by side.
    """

    def _tape(self, u: State, over: Intervals, onto: State | None = None) -> DenseTape:
        if onto is None:
            charge(self.chain, over.evaluations)
        return super()._tape(u, over, onto)

    def _pull(
        self,
        tape: DenseTape,
        u: State,
        over: Intervals,
        collect: bool,
        rhs: State | None,
        into: State | None,
    ) -> State:
        charge(self.chain, over.evaluations)
        return super()._pull(tape, u, over, collect, rhs, into)
