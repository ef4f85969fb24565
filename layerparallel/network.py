"""Network: opening, body, closing; an nn.Module whose body is propagated layer-parallel."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .body import Body, Driven
from .fields import as_given, as_state
from .propagate import Guess, Solver, propagate
from .solution import Solution
from .solvers import MGRIT, Serial, Split


class Network(nn.Module):
    """A residual network ``closing(chain(opening(x)))``, trained by any PyTorch loop.

    Args:
        opening: module from the input to the first state; the identity if None. It may return a
            `Driven` for a chain with an input per step.
        body: what `layerparallel.chain` returned.
        closing: module from the last state to the output; the identity if None.
        solver: how the body is propagated while gradients are taken in training mode.
        evaluate: how it is propagated otherwise (``eval()``, ``no_grad``, ``inference_mode``).

    Attributes:
        solution: `Solution` of the last forward propagation.
        adjoint_solution: of the last backward pass; None before the first.
        fallbacks: how often a solve misbehaved and was done serially instead.
        seconds: wall time of all solves so far, forward and adjoint, level by level; on a GPU that
            of launching them.
    """

    solution: Solution | None
    adjoint_solution: Solution | None
    seconds: dict[str, list[float]]

    def __init__(
        self,
        opening: nn.Module | None,
        body: Body,
        closing: nn.Module | None,
        solver: Solver = Serial(),
        evaluate: Solver = Serial(),
    ):
        super().__init__()
        if not isinstance(body, Body):
            raise TypeError(
                f"body is a {type(body).__name__}; make one by layerparallel.chain(layer, depth)"
            )
        self.opening = opening if opening is not None else nn.Identity()
        self.body = body
        self.closing = closing if closing is not None else nn.Identity()
        self.fallbacks = 0
        self.solver = solver
        self.evaluate_with = evaluate
        self._forget()

    def _forget(self) -> None:
        self.solution = None
        self.adjoint_solution = None
        self.seconds = {"forward": [], "adjoint": []}
        self._guesses: dict[Hashable, Guess] = {}

    @property
    def solver(self) -> Solver:
        """The solver of training; a frozen value that may be replaced at any time."""
        return self._solver

    @solver.setter
    def solver(self, value: Solver) -> None:
        self._solver = self._checked(value)

    @property
    def evaluate_with(self) -> Solver:
        """The solver of evaluation."""
        return self._evaluate_with

    @evaluate_with.setter
    def evaluate_with(self, value: Solver) -> None:
        self._evaluate_with = self._checked(value)

    def _checked(self, solver: Solver) -> Solver:
        if not isinstance(solver, Serial | MGRIT | Split):
            raise TypeError(f"{solver!r} is not a solver; use Serial(), MGRIT(...) or Split(...)")
        solver.check(self.body.depth)
        return solver

    @contextlib.contextmanager
    def solved_by(self, solver: Solver) -> Iterator[Network]:
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
        opened = self.opening(x)
        given, inputs = (opened.state, opened.inputs) if isinstance(opened, Driven) else (opened, ())
        inputs = as_state(inputs, "inputs") if not isinstance(inputs, tuple) else inputs
        u0 = self._fitting(as_state(given, "the opening's value"))
        training = self.training and torch.is_grad_enabled()
        solver = self.solver if training else self.evaluate_with
        end = propagate(self.body, u0, inputs, solver, self._report, self._guess(solver, key))
        return self.closing(as_given(end))

    def _fitting(self, u0: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The first state in the parameters' dtype and on their device, or an error."""
        parameter = next(self.body.parameters(), None)
        if parameter is None:  # under autocast the opening's value may be too short for a chain
            autocast = torch.is_autocast_enabled(u0[0].device.type)
            return tuple(a.float() if autocast and a.itemsize < 4 else a for a in u0)
        places = {p.device for p in self.body.parameters()}
        for a in u0:
            if {a.device} != places:
                raise ValueError(
                    f"the state is on {a.device} and the body's parameters on "
                    f"{', '.join(sorted(map(str, places)))}; "
                    "move the network and its input to one device"
                )
            if a.dtype != parameter.dtype and not torch.is_autocast_enabled(a.device.type):
                raise ValueError(
                    f"the state is {a.dtype} and the body's parameters are {parameter.dtype}; "
                    "convert the input or the network"
                )
        return tuple(a.to(parameter.dtype) for a in u0)

    def _guess(self, solver: Solver, key: Hashable) -> Guess | None:
        warm = getattr(solver.forward, "warm_start", False)
        warm = warm or getattr(solver.adjoint, "warm_start", False)
        if not warm:
            return None
        return self._guesses.setdefault(key, Guess())

    def forget_guesses(self) -> None:
        """Drops the states kept for warm starts."""
        self._guesses.clear()

    def guesses(self) -> dict[Hashable, Guess]:
        """The states kept for warm starts, by key, as they are now: later solves leave it alone."""
        return {key: Guess(guess.forward, guess.adjoint) for key, guess in self._guesses.items()}

    def restore_guesses(self, kept: dict[Hashable, Guess]) -> None:
        """Goes back to what `guesses` returned."""
        self._guesses = {key: Guess(guess.forward, guess.adjoint) for key, guess in kept.items()}

    def _report(self, direction: str, solution: Solution) -> None:
        if direction == "forward":
            self.solution = solution
        else:
            self.adjoint_solution = solution
        spent = self.seconds[direction]
        spent.extend([0.0] * (len(solution.seconds) - len(spent)))
        for level, seconds in enumerate(solution.seconds):
            spent[level] += seconds
        if solution.fallback is None:
            return
        self.fallbacks += 1
        if str(self.fallbacks).strip("0") == "1":  # the first, the tenth, the hundredth, ...
            warnings.warn(
                f"layer-parallel {direction} solve: {solution.fallback}; this batch is propagated "
                f"serially, for the {self.fallbacks}. time (more cycles, a smaller coarsening or the "
                "coarse operator 'picard' may help)",
                RuntimeWarning,
                stacklevel=2,
            )

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry no solutions and no states."""
        state = self.__dict__.copy()
        state.update(solution=None, adjoint_solution=None, _guesses={})
        state["seconds"] = {"forward": [], "adjoint": []}
        return state

    def to_serial(self) -> SerialNetwork:
        """An ordinary module with the same parameters (copied) and the same state_dict names."""
        import copy

        return SerialNetwork(
            copy.deepcopy(self.opening), self.body.serial(), copy.deepcopy(self.closing)
        )

    def decay_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser: weights decay, biases and norms do not.

        A stacked bias (N, d) has two dimensions, so the usual rule "decay what has two or more" must
        count those of a single layer; this does.
        """
        decayed, kept = [], []
        for name, parameter in self.named_parameters():
            in_body = name.startswith("body.")
            stacked = in_body and self.body.layer_name(name.removeprefix("body."))[1]
            single = parameter.dim() - (1 if stacked else 0)
            (decayed if single >= 2 else kept).append(parameter)
        return [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": kept, "weight_decay": 0.0},
        ]


class SerialNetwork(nn.Module):
    """The plain twin of a `Network`: opening, layers one after the other, closing."""

    def __init__(self, opening: nn.Module, body: nn.Module, closing: nn.Module):
        super().__init__()
        self.opening, self.body, self.closing = opening, body, closing

    def forward(self, x: Any) -> Any:
        opened = self.opening(x)
        if isinstance(opened, Driven):
            inputs = opened.inputs if isinstance(opened.inputs, tuple) else (opened.inputs,)
            return self.closing(self.body(opened.state, *inputs))
        return self.closing(self.body(opened))
