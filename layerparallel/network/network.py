"""Network: opening, body, closing; an nn.Module whose body is propagated layer-parallel."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..group.norms import Norms
from ..solvers import MGRIT, Serial, Split
from ..solvers.solution import Solution
from ..solvers.variants import Solvers
from ..steps import draws
from ..steps.state import State, as_given, as_state, entering
from .bodies import Body
from .copying import copyable, settle
from .crossing import crossed, edge, everywhere, on_rank, told
from .driven import Driven
from .entering import finite
from .explaining import explained, fallback
from .parts import Chains, checked_chains
from .propagate import Direction, Guess, Solver, calling, propagate
from .sequence import refuse_uncalled
from .serial_twins import SerialChains, SerialNetwork
from .wrapping import parted

Output = Literal["all", "last"]
"""Which ranks of a layer group get a network's output."""


class Network(Norms):
    """A residual network ``closing(chain(opening(x)))``, trained by any PyTorch loop.

    Args:
        opening: module from the input to the first state; the identity if None. It may return a
            `Driven` for a chain with an input per step.
        body: what `layerparallel.chain` returned; or a sequence of such chains and of ordinary
            modules, the transitions between them, which are exact whatever the solver.
        closing: module from the last state to the output; the identity if None.
        solver: how chains are propagated while gradients are taken in training mode; a tuple has
            one for each chain.
        evaluate: how they are propagated otherwise (``eval()``, ``no_grad``, ``inference_mode``).

    Attributes:
        fallbacks: how often a solve misbehaved and was done serially instead.
        seconds: wall time of all solves so far, forward and adjoint, level by level; on a GPU that
            of launching them.
    """

    body: Any  # a Body, or Chains of them

    def __init__(
        self,
        opening: nn.Module | None,
        body: Body | Sequence[nn.Module],
        closing: nn.Module | None,
        solver: Solvers = Serial(),
        evaluate: Solvers = Serial(),
    ):
        super().__init__()
        self.opening = opening if opening is not None else nn.Identity()
        self.body = body if isinstance(body, Body) else checked_chains(body)
        self.closing = closing if closing is not None else nn.Identity()
        self.fallbacks = 0
        self.output: Output = "all"
        self.solver = solver
        self.evaluate_with = evaluate
        self._forget()

    @classmethod
    def from_modules(
        cls,
        modules: nn.Sequential | Sequence[nn.Module],
        example: Any,
        *,
        stacked: bool = False,
        solver: Solvers = Serial(),
        evaluate: Solvers = Serial(),
    ) -> Network:
        """An existing feed-forward model as a network; the model's own modules, unchanged.

        Two or more modules in a row, of one class, that keep the shape of the state become a chain
        (of blocks, ``integrator="block"``; of one module for all steps where it is the same object).
        What is between two chains becomes a transition, before the first the opening, behind the last
        the closing.

        Args:
            modules: in the order of their application; nn.Sequential and nn.ModuleList are taken apart.
            example: an input; one forward in evaluation mode finds the shapes.
            stacked: copy and stack the parameters of every chain, so that many of its steps are
                evaluated together (see `chain`); the model's own parameters are then left behind.
            solver: as of `Network`.
            evaluate: as of `Network`.

        Raises:
            ValueError: no chain is found, or one that cannot be stacked.
            TypeError: something in `modules` is not a module.
        """
        opening, body, closing = parted(modules, example, stacked)
        return cls(opening, body, closing, solver, evaluate)

    def _forget(self) -> None:
        self._solved: dict[str, dict[int, Solution]] = {"forward": {}, "adjoint": {}}
        self.seconds: dict[str, list[float]] = {"forward": [], "adjoint": []}
        self._guesses: dict[Hashable, list[Guess]] = {}

    @property
    def parts(self) -> list[nn.Module]:
        """Chains and transitions in order."""
        return list(self.body) if isinstance(self.body, Chains) else [self.body]

    @property
    def chains(self) -> list[Body]:
        """The chains in order."""
        return [part for part in self.parts if isinstance(part, Body)]

    @property
    def solutions(self) -> list[Solution]:
        """Of the last forward propagation, chain by chain."""
        return [solution for _, solution in sorted(self._solved["forward"].items())]

    @property
    def adjoint_solutions(self) -> list[Solution]:
        """Of the last backward pass, chain by chain; empty before the first."""
        return [solution for _, solution in sorted(self._solved["adjoint"].items())]

    @property
    def solution(self) -> Solution | None:
        """`Solution` of the last forward propagation; of several the one with the largest residual."""
        return _worst(self.solutions)

    @property
    def adjoint_solution(self) -> Solution | None:
        """Of the last backward pass; None before the first."""
        return _worst(self.adjoint_solutions)

    @property
    def solver(self) -> Solvers:
        """The solver of training; a frozen value that may be replaced at any time."""
        return self._solver

    @solver.setter
    def solver(self, value: Solvers) -> None:
        self._solver = self._checked(value)

    @property
    def evaluate_with(self) -> Solvers:
        """The solver of evaluation."""
        return self._evaluate_with

    @evaluate_with.setter
    def evaluate_with(self, value: Solvers) -> None:
        self._evaluate_with = self._checked(value)

    @property
    def solvers(self) -> tuple[Solver, ...]:
        """The solver of training, chain by chain."""
        return self._each(self._solver)

    def _checked(self, solver: Solvers) -> Solvers:
        chains = self.chains
        if isinstance(solver, tuple) and len(solver) != len(chains):
            raise ValueError(
                f"{len(solver)} solvers are given for {len(chains)} chains; give one for each, or "
                "one for all"
            )
        for k, (chain, each) in enumerate(zip(chains, self._each(solver), strict=True)):
            if not isinstance(each, Serial | MGRIT | Split):
                raise TypeError(f"{each!r} is not a solver; use Serial(), MGRIT(...) or Split(...)")
            try:
                each.check(chain.depth)
            except ValueError as error:
                if len(chains) == 1:
                    raise
                raise ValueError(
                    f"chain {k} of {len(chains)}: {error}; a tuple gives every chain its own solver"
                ) from error
        return solver

    def _each(self, solver: Solvers) -> tuple[Solver, ...]:
        return solver if isinstance(solver, tuple) else (solver,) * len(self.chains)

    @contextlib.contextmanager
    def solved_by(self, solver: Solvers) -> Iterator[Network]:
        """Within it the network is propagated by `solver`, in training and in evaluation."""
        before = self._solver, self._evaluate_with
        self._solver = self._evaluate_with = self._checked(solver)
        try:
            yield self
        finally:
            self._solver, self._evaluate_with = before

    def forward(self, x: Any, key: Hashable = None) -> Any:
        """The output for input x.

        Args:
            x: whatever the opening takes.
            key: names the batch for a solver with ``warm_start=True``: each key has its own stored
                states. Without one the states of the last call are used, if their shape fits.
        """
        training = self.training and torch.is_grad_enabled()
        solvers = self._each(self.solver if training else self.evaluate_with)
        guesses = self._guess(solvers, key)
        first, last, k = 0, self.group.size - 1, 0
        on = partial(on_rank, self.group, next(self.parameters(), torch.empty(0)).device)
        value, at = on(first, lambda: self.opening(x)), first
        for part in self.parts:
            if isinstance(part, Body):
                if at != first:
                    value = as_given(crossed(self.group, at, first, as_state(value, "a state")))
                given = part, k, value, solvers[k], guesses[k]
                value, at = calling()(self._propagated, *given), last
                k += 1
            else:
                enter = partial(finite, self.group, value) if k else partial(_same, value)
                value = on(at, partial(_passed, part, enter), thread=value)
        if self.group.alone:
            return self.closing(value)
        thread = as_state(value, "a state")
        if self.output == "all":
            return everywhere(self.group, lambda: self.closing(finite(self.group, value)), thread)
        value, _ = told(self.group, last, lambda: (self.closing(finite(self.group, value)), None))
        return value if self.group.last else edge(thread)

    def _propagated(
        self, body: Body, k: int, value: Any, solver: Solver, guess: Guess | None
    ) -> Tensor | State:
        """The last state of chain k, from what the module before it returned."""
        refuse_uncalled(self.body, body, *body.holders)
        given, inputs = (value.state, value.inputs) if isinstance(value, Driven) else (value, ())
        inputs = as_state(inputs, "inputs") if not isinstance(inputs, tuple) else inputs
        u0 = entering(given, "the opening's value")
        count = len(self.chains)

        def report(direction: Direction, solution: Solution) -> None:
            self._report(direction, k, count, solution)
            if solution.fallback is not None:
                self._fell_back(direction, solver, body, solution.fallback)

        return as_given(propagate(body, u0, inputs, solver, report, guess))

    def _guess(self, solvers: tuple[Solver, ...], key: Hashable) -> Sequence[Guess | None]:
        parts = [part for solver in solvers for part in (solver.forward, solver.adjoint)]
        if not any(getattr(part, "warm_start", False) for part in parts):
            return [None] * len(solvers)
        return self._guesses.setdefault(key, [Guess() for _ in solvers])

    def explain(self) -> str:
        """A line for every chain: its solver, and whether native loops, a closed form or PyTorch's
        operations evaluated its steps in the last propagation, and why."""
        return explained(self.chains, self._each(self.solver))

    def forget_guesses(self) -> None:
        """Drops the states kept for warm starts."""
        self._guesses.clear()

    def guesses(self) -> dict[Hashable, list[Guess]]:
        """The states kept for warm starts, by key, of every chain: later solves leave them alone."""
        return {key: [copy.copy(g) for g in kept] for key, kept in self._guesses.items()}

    def restore_guesses(self, kept: dict[Hashable, list[Guess]]) -> None:
        """Goes back to what `guesses` returned."""
        self._guesses = {key: [copy.copy(g) for g in each] for key, each in kept.items()}

    def _report(self, direction: Direction, k: int, count: int, solution: Solution) -> None:
        solved = self._solved[direction]
        if k == (0 if direction == "forward" else count - 1):  # a new propagation begins
            solved.clear()
        solved[k] = solution
        spent = self.seconds[direction]
        spent.extend([0.0] * (len(solution.seconds) - len(spent)))
        for level, seconds in enumerate(solution.seconds):
            spent[level] += seconds

    def _fell_back(self, direction: Direction, solver: Solver, body: Body, reason: str) -> None:
        """Counts a solve that was done serially instead, and warns of some."""
        self.fallbacks += 1
        if str(self.fallbacks).strip("0") == "1":  # the first, the tenth, the hundredth, ...
            said = fallback(direction, solver, body, reason, self.fallbacks)
            warnings.warn(said, RuntimeWarning, stacklevel=2)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry no solutions and no states."""
        settle(self)
        state = self.__dict__.copy()
        state.update(_guesses={}, _solved={"forward": {}, "adjoint": {}})
        state["seconds"] = {"forward": [], "adjoint": []}
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        """A copy, of modules with weight norm, too."""
        memo[id(self)] = twin = type(self).__new__(type(self))
        with copyable(self):
            twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[Network]:
        """Within it the network may be propagated at will: afterwards it is as it was before.

        That is: buffers (running statistics), states of warm starts, solutions, the counts of
        fallbacks and seconds, and the state of torch's random numbers. Gradients are not.
        """
        fallbacks, guesses = self.fallbacks, self.guesses()
        solved, seconds = self._solved, self.seconds
        buffers = [(b, b.clone()) for b in self.buffers()]
        self._solved = {direction: dict(found) for direction, found in solved.items()}
        self.seconds = {direction: list(spent) for direction, spent in seconds.items()}
        try:
            with draws.apart():
                yield self
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            self.fallbacks, self._solved, self.seconds = fallbacks, solved, seconds
            self.restore_guesses(guesses)

    def to_serial(self) -> SerialNetwork:
        """An ordinary module with the same parameters (copied) and the same state_dict names."""
        if not self.group.alone:
            raise RuntimeError(
                f"rank {self.group.rank} has only its own layers of the {self.group.size} ranks'; save "
                "a checkpoint and load it into a network of one process"
            )
        with copyable(self):
            opening, *parts, closing = (
                part.serial() if isinstance(part, Body) else copy.deepcopy(part)
                for part in (self.opening, *self.parts, self.closing)
            )
        body = SerialChains(parts) if isinstance(self.body, Chains) else parts[0]
        return SerialNetwork(opening, body, closing)

    def layer_name(self, name: str) -> tuple[str, int]:
        """A parameter's or buffer's name as layer by layer, and how many layers are stacked in it.

        ``"body.layer.weight"`` gives ``("body.{n}.weight", N)``; what is not stacked gives 0.
        """
        for k, part in enumerate(self.parts):
            prefix = f"body.{k}." if isinstance(self.body, Chains) else "body."
            if isinstance(part, Body) and name.startswith(prefix):
                pattern, stacked = part.layer_name(name.removeprefix(prefix))
                return prefix + pattern, part.depth if stacked else 0
        return name, 0

    def uncounted(self) -> list[nn.Parameter]:
        """Parameters that sums over the layer group leave out on this rank: the first counts them."""
        return [] if self.group.first else [p for body in self.chains for p in body.repeated()]

    def decay_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser: weights decay, biases and norms do not.

        A stacked bias (N, d) has two dimensions, so the usual rule "decay what has two or more" must
        count those of a single layer; this does.
        """
        decayed, kept = [], []
        for name, parameter in self.named_parameters():
            single = parameter.dim() - (1 if self.layer_name(name)[1] else 0)
            (decayed if single >= 2 else kept).append(parameter)
        return [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": kept, "weight_decay": 0.0},
        ]


def _same(value: Any) -> Any:
    return value


def _passed(part: nn.Module, enter: Callable[[], Any]) -> Any:
    """What a transition makes of the value that enters it."""
    return part(enter())


def _worst(solutions: list[Solution]) -> Solution | None:
    if len(solutions) < 2:
        return solutions[0] if solutions else None
    return max(solutions, key=lambda solution: solution.relative_error)
