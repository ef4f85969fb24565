"""The cycles of multigrid reduction in time, as `mgrit` describes them."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..chains.chain import Intervals
from ..group.base import Pending
from ..steps.state import State, copy_into, state_map
from .levels import Levels, over_points
from .solution import Solution


@functools.lru_cache(maxsize=64)
def _passed(
    points: range, intervals: int, backward: bool, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The 3/4th power of the share of the intervals that a solve has passed at its C-points."""
    passed = torch.arange(points.start, points.stop, device=device)
    passed = intervals - passed if backward else passed
    return passed.div(intervals).pow_(0.75).to(dtype)  # 1 at most: 16 bits hold it


class Solve(Levels):
    """One run of the algorithm, on this rank's blocks of all levels."""

    # ---- relaxation and correction ----------------------------------------------------------

    def sweep(self, level: int, last: bool = False, coming: Pending | None = None) -> State:
        """F-relaxation, and one step further: where every interval arrives.

        `coming` is the C-point that the first interval of this rank departs from, still under way.
        """
        over, chain = self.inside[level], self.chains[level]
        departures = chain.depart(self.points[level], over_points(over))
        if (
            coming is not None and over.count > 1 and chain.looped(departures)
        ):  # the others do not wait for it
            m, behind = over.length, over.count - 1
            edge, others = (behind, slice(0, behind)) if self.backward else (0, slice(1, None))
            inner = Intervals(others.start * m, behind, m)
            arrived = self.advance(level, tuple(d[others] for d in departures), inner)
            coming.wait()
            alone = tuple(d[edge : edge + 1] for d in departures)
            alone = self.advance(level, alone, Intervals(edge * m, 1, m))
            ordered = (arrived, alone) if self.backward else (alone, arrived)
            return state_map(lambda a, b: torch.cat([a, b]), *ordered)
        if coming is not None:
            coming.wait()
        if level or not last:
            return self.advance(level, departures, over)
        return self._finally(departures, over)

    def relax(self, level: int, arrived: State) -> State:
        for _ in range(self.solver.relaxations(level)):
            copy_into(self.arrivals(level), arrived)
            arrived = self.sweep(level, coming=self.hand_on(level, self.points[level]))
        return arrived

    def correct(self, level: int, arrived: State, kind: str) -> None:
        """Coarse correction of the C-points of `level` from where its intervals arrived."""
        coarse, points = level + 1, self.points[level]
        if self.linear:  # the correction alone: zero guess, the residual on the right
            reached = self.reached(level, arrived)
            residual = state_map(torch.sub, reached, points)
            self.rhs[coarse] = residual
            if self.states[coarse] is not points:
                right = self.arrived_down(level, self.arrivals(level, residual))
                self.rhs[coarse] = self.behind_steps(coarse, right)
            for s in self.states[coarse]:
                s.zero_()
        else:
            self.rhs[coarse] = self.behind_steps(coarse, self.arrived_down(level, arrived))
            if self.states[coarse] is not points:
                copy_into(self.states[coarse], self.down(level, points))
            self.less[coarse] = self.behind_steps(coarse, self.reference(coarse))
        self.solve_level(coarse, kind)
        self.rhs[coarse] = self.less[coarse] = None
        if self.states[coarse] is not points:
            copy_into(points, self.up(level))
        if self.linear:  # what differs from the residual is added to where the intervals arrived
            for p, r, z in zip(points, residual, reached, strict=True):
                p.sub_(r).add_(z)

    def solve_level(self, level: int, kind: str) -> None:
        """One cycle on a coarse level, or its exact solution on the coarsest."""
        if level == self.bottom:
            self.solve_coarsest()
            return
        again = {"V": [], "F": ["V"], "W": ["W"]}[kind]
        for visit in (kind, *again):
            for target, source in zip(self.points[level], self.states[level], strict=True):
                target.copy_(source[: self.inside[level].stop + 1 : self.inside[level].length])
            self.begin(level, self.first(self.states[level]))
            arrived = self.relax(level, self.sweep(level))
            self.correct(level, arrived, visit)
            self.end(level)

    def solve_coarsest(self) -> None:
        """Step by step, one rank after the other, from its beginning or from where it is exact.

        An adjoint is solved from its beginning: a shorter walk would have to be linearised anew.
        """
        level = self.bottom
        states, steps, rhs = self.states[level], self.chains[level].steps, self.rhs[level]
        exact = 0 if self.backward else self.exact // self.span - self.places[level].mine.start
        if not steps or exact > steps:
            return
        begin = max(exact, 0)
        departure = tuple(s[steps:] if self.backward else s[begin : begin + 1] for s in states)
        if exact > 0 and rhs is not None:
            copy_into(departure, tuple(r[begin : begin + 1] for r in rhs))

        def work(u: State) -> State:
            copy_into(departure, u)
            return self.advance(level, u, Intervals(begin, 1, steps - begin))

        before, behind = self.places[level].next_to(self.backward)
        self.group.relay(departure, behind, before if exact <= 0 else None, work)

    # ---- norms ------------------------------------------------------------------------------

    def size(self, states: State) -> Tensor:
        """The norm of this rank's part of an array of states."""
        return self.solver.norm(states) if len(states[0]) else states[0].new_zeros(())

    def own(self, points: State) -> State:
        """Of this rank's C-points those that no other rank counts."""
        if self.group.alone:
            return points
        count = len(self.natural[1].owned[self.group.rank])
        return tuple(p[:count] for p in points)

    def sizes(self, *local: Tensor) -> list[Tensor]:
        """The norms over all ranks."""
        if self.group.alone:
            return list(local)
        total = self.group.total(torch.stack(local).double().square()).sqrt()
        return list(total.to(local[0].dtype).unbind())

    def measure(
        self, solution: Solution, residuals: list[Tensor], corrections: list[Tensor], jump: Tensor | None
    ) -> None:
        """Residuals, corrections and the estimate of the error, over all ranks, into the solution.

        A residual is taken to grow into an error as it did when it was last corrected: from `jump` to
        the correction. Before the first one, with the 3/4th power of the intervals passed: between the
        square root, where residuals have nothing in common, and the number, where they add up.
        """
        points, blocks = self.own(self.points[0]), self.natural[1]
        if jump is None:
            begin = blocks.ranges[self.group.rank].start
            passed = range(begin, begin + len(points[0]))
            weights = _passed(
                passed, blocks.steps, self.backward, points[0].real.dtype, points[0].device
            )
            jump = self.size(tuple(p * weights.view(-1, *[1] * (p.dim() - 1)) for p in points))
        *found, scale, jump = self.sizes(*residuals, *corrections, self.size(points), jump)
        solution.residual_tensors = found[: len(residuals)]
        solution.correction_tensors = found[len(residuals) :]
        solution.scale_tensor, last = scale, found[len(residuals) - 1]
        error, of, power = (found[-1], jump, 1.0) if corrections else (jump, scale, blocks.steps**0.75)
        solution.error_tensor = torch.where(of > 0, last * (error / of * power), last)

    # ---- the whole solve --------------------------------------------------------------------

    def start(self, guess: State | None) -> None:
        if guess is not None:
            copy_into(self.points[0], guess)
        self.begin(0, self.u0)
        if guess is not None:
            return
        if self.solver.start == "constant":
            begin = tuple(p.clone() for p in self.first(self.points[0])) if self.begins(0) else self.u0
            for p, b in zip(self.points[0], begin, strict=True):
                b = b.contiguous()
                self.group.broadcast(b, self.places[0].ends(self.backward)[0])
                p.copy_(b.expand_as(p))
            return
        for level in range(self.bottom):
            if level:
                self.begin(level, self.first(self.states[level]))
            if self.states[level + 1] is not self.points[level]:
                copy_into(self.states[level + 1], self.down(level, self.points[level]))
        self.solve_coarsest()
        for level in range(self.bottom - 1, -1, -1):
            if self.states[level + 1] is not self.points[level]:
                copy_into(self.points[level], self.up(level))
            if level:
                self.end(level)
                if self.solver.start == "nested":
                    self.solve_level(level, "V")

    def run(self, guess: State | None) -> Solution:
        solver = self.solver
        self.start(guess)
        skip = guess is None and solver.start != "constant" and not solver.first_down
        done, limit = (1 if skip else 0), solver.forward_cycles
        always = solver.tolerance is not None
        solution = Solution(end=self.u0)
        residuals: list[Tensor] = []
        corrections: list[Tensor] = []
        jump: Tensor | None = None
        while True:
            # any sweep may prove to be the last: recording again is free, collecting again is not
            last = done == limit if not always else self.recorder is not None
            if last and self.recorder is not None:
                self.recorder.restart()
            arrived = self.sweep(0, last)
            residuals.append(self.size(state_map(torch.sub, arrived, self.arrivals(0))))
            if always or done == limit:
                self.measure(solution, residuals, corrections, jump)
            if solver.tolerance is not None:
                solution.converged = solution.relative_error <= solver.tolerance
            if done == limit or (always and solution.converged):
                break
            jump = residuals[-1]
            if solver.relaxations(0):
                arrived = self.relax(0, arrived)
                jump = self.size(state_map(torch.sub, arrived, self.arrivals(0)))
            old = tuple(p.clone() for p in self.points[0])
            self.exact += solver.relaxations(0) + 1
            self.correct(0, arrived, solver.cycle)
            corrections.append(self.size(self.own(state_map(torch.sub, self.points[0], old))))
            done += 1
        if always and self.collect:
            arrived = self.sweep(0, last=True)
        end = self.final(arrived) if len(arrived[0]) else self.u0
        if not self.backward and (rest := self.rest[0]) is not None:
            end = self._finally(end, rest)
        solution.end, solution.points = end, self.points[0]
        self.lap(0)
        solution.evaluations, solution.seconds = self.evaluations, self.seconds
        return solution
