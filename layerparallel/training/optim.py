"""Limited-memory BFGS with a backtracking line search, for inexact objectives and gradients.

A layer-parallel solve that stops after a few cycles returns loss and gradient with an error. Three
things follow for the optimiser: the test for sufficient decrease allows for that error, a pair
``(s, y)`` without clear positive curvature is left out, and a direction that does not descend is
replaced by the negative gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from .two_loop import two_loop

HESSIANS = ("lbfgs", "identity")


@dataclass(frozen=True)
class Search:
    """What the last line search did.

    loss: objective before the step. value: objective at the accepted iterate, or ``loss``.
    error: absolute error that the sufficient-decrease test allowed for. slope: directional
    derivative at the start. step: accepted step length, 0 where none was. trials: objectives
    evaluated. steepest: the direction was the negative gradient. pairs: curvature pairs in memory.
    skipped: whether the newest curvature pair was left out.
    """

    loss: float
    value: float
    error: float
    slope: float
    step: float
    trials: int
    steepest: bool
    pairs: int
    skipped: bool

    @property
    def accepted(self) -> bool:
        """Whether the step was taken."""
        return self.step > 0.0


def _identity(value: Tensor) -> Tensor:
    return value


class LBFGS(torch.optim.Optimizer):
    """Limited-memory BFGS with Armijo backtracking on an inexact objective.

    A trial ``x + t d`` is accepted when ``f(x + t d) <= f(x) + armijo t g·d + e(x) + e(x + t d)``,
    with e the absolute error of the objective: the stated one and one unit of rounding. The step
    starts at ``lr`` (the first, with no curvature known, at ``lr min(1, 1 / |g|)``) and is
    multiplied by ``factor`` after each refusal. When ``max_trials`` fail, the parameters stay where
    they were and the memory is cleared, so that the next step is one of steepest descent.

    Use it as ``torch.optim.LBFGS``: ``step(closure)``, where ``closure()`` zeroes the gradients,
    computes the loss, calls ``backward`` and returns the loss. A trial needs the loss alone, so
    ``step(closure, objective)`` takes ``objective()``, which returns it without ``backward``.

    Args:
        params: real floating-point parameters of one dtype and device; or parameter groups, which
            may differ in `metric` alone.
        lr: initial step length.
        memory: curvature pairs kept.
        hessian: "lbfgs", or "identity" for steepest descent.
        metric: weight M of a group in the inner product ``<a, b> = sum_groups M a·b`` of two
            parameter vectors. The gradient is ``M^-1 df/dtheta`` then, and the Hessian's first
            guess a multiple of M. `depth_groups` takes M = h for a network's body, which is the
            inner product of L2(0, T): progress then hardly depends on depth.
        armijo: constant of the test of sufficient decrease.
        factor: by which a refused step is shortened.
        max_trials: objectives that a line search may evaluate.
        curvature: pairs with ``<s, y> <= curvature |s| |y|`` are left out.
        objective_error: absolute error of one evaluation, or a callable that returns the latest
            one's.
        reuse_gradient: the closure is the same function at every step (one full batch), so that the
            gradient at the accepted trial is the next step's. ``objective()`` is then run with
            autograd on and ``backward`` is called on its result once it is accepted: nothing is
            evaluated twice. Call ``forget()`` before a step with another function; with batches,
            ``y`` is then still a difference of two gradients of one batch.
        total: sums a tensor of partial inner products over a layer group, ``net.group.total``; the
            identity in one process.
        uncounted: parameters that another rank counts in them, ``net.uncounted()``.
        on_trial: called before the evaluation of each trial and after a failed search. A
            warm-started solver goes back to the states of the accepted iterate here.
        on_accept: called after a trial is accepted and its gradient, if wanted, is known. A
            warm-started solver keeps its states here.

    Raises:
        ValueError: settings out of range, groups that differ in more than `metric`, or parameters
            of several dtypes or devices.
    """

    objective_error: float | Callable[[], float] = 0.0
    on_trial: Callable[[], object] | None = None
    on_accept: Callable[[], object] | None = None
    search: Search | None = None
    """What the last step did; None before the first."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1.0,
        *,
        memory: int = 10,
        hessian: str = "lbfgs",
        metric: float = 1.0,
        armijo: float = 1e-4,
        factor: float = 0.5,
        max_trials: int = 15,
        curvature: float = 1e-8,
        objective_error: float | Callable[[], float] = 0.0,
        reuse_gradient: bool = False,
        total: Callable[[Tensor], Tensor] = _identity,
        uncounted: Iterable[Tensor] = (),
        on_trial: Callable[[], object] | None = None,
        on_accept: Callable[[], object] | None = None,
    ) -> None:
        for name, value, good in (
            ("lr", lr, lr > 0),
            ("memory", memory, memory >= 1),
            ("armijo", armijo, 0 < armijo < 1),
            ("factor", factor, 0 < factor < 1),
            ("max_trials", max_trials, max_trials >= 1),
            ("curvature", curvature, curvature >= 0),
        ):
            if not good:
                raise ValueError(
                    f"{name} = {value} is out of range: lr > 0, memory >= 1, 0 < armijo < 1, "
                    "0 < factor < 1, max_trials >= 1 and curvature >= 0 are needed."
                )
        if hessian not in HESSIANS:
            raise ValueError(f'hessian = {hessian!r} is unknown; choose "lbfgs" or "identity".')
        if not callable(objective_error) and not objective_error >= 0:
            raise ValueError(
                f"objective_error = {objective_error} is not an absolute error; hand over a number "
                "of at least 0 or a callable that returns one."
            )
        defaults: dict[str, Any] = {
            "lr": lr,
            "memory": memory,
            "hessian": hessian,
            "metric": metric,
            "armijo": armijo,
            "factor": factor,
            "max_trials": max_trials,
            "curvature": curvature,
            "reuse_gradient": reuse_gradient,
        }
        super().__init__(params, defaults)
        self.objective_error = objective_error
        self.total = total
        self.uncounted = tuple(uncounted)
        self.on_trial = on_trial
        self.on_accept = on_accept
        for group in self.param_groups:
            if any(group[name] != value for name, value in defaults.items() if name != "metric"):
                raise ValueError(
                    "LBFGS has one direction and one step length for all parameters, so its groups "
                    'may differ in "metric" alone; take the other settings out of them.'
                )
            if not group["metric"] > 0:
                raise ValueError(
                    f"metric = {group['metric']} is not the weight of an inner product; give a "
                    "positive number."
                )
        kinds = {(p.dtype, p.device) for p in self._params()}
        dtype = next(iter(kinds))[0]
        if len(kinds) != 1 or not dtype.is_floating_point:
            raise ValueError(
                f"LBFGS needs real parameters of one dtype on one device and got {len(kinds)} "
                f"kinds, {dtype} among them; convert the network first."
            )

    def __getstate__(self) -> dict[str, Any]:
        """A copy has no callables but `total`: they belong to the training of the original."""
        error = 0.0 if callable(self.objective_error) else self.objective_error
        mine = {"total": self.total, "uncounted": self.uncounted, "objective_error": error}
        return {**super().__getstate__(), **mine}

    # -- the flat view of the parameters ---------------------------------------------------------

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _metric(self) -> Tensor | None:
        """Weight (n,) of every entry in the inner product; None where all are 1."""
        groups = self.param_groups
        if all(group["metric"] == 1.0 for group in groups):
            return None
        parts = [p.new_full((p.numel(),), group["metric"]) for group in groups for p in group["params"]]
        return torch.cat(parts)

    def _iterate(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self._params()])

    def _gradient(self) -> Tensor:
        """The derivative as one vector (n,); parameters without one count as zero."""
        params = self._params()
        return torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in params]
        )

    def _write(self, flat: Tensor) -> None:
        params = self._params()
        for p, piece in zip(params, flat.split([p.numel() for p in params]), strict=True):
            p.detach().copy_(piece.view(p.shape))
        torch.clear_autocast_cache()  # the casts of the weights as they were, in an autocast region

    def _state(self) -> dict[str, Any]:
        """State of the method; it lives under the first parameter, as in torch.optim.LBFGS.

        basis: (2 memory + 1, n), the pairs' vectors and the gradient. gram: its inner products.
        order: pairs in use, oldest first. point: (n,), where that gradient was taken. known:
        whether it is also the gradient of the present function, with loss and error.
        """
        params = self._params()
        state = self.state[params[0]]
        if not state:
            rows = 2 * self.param_groups[0]["memory"] + 1
            state["basis"] = params[0].new_zeros(rows, sum(p.numel() for p in params))
            state["gram"] = [[0.0] * rows for _ in range(rows)]
            state["order"] = []
            state["point"] = None
            state["known"] = False
            state["loss"] = state["error"] = 0.0
        return state

    def forget(self) -> None:
        """Drop the gradient kept for the next step, because the objective is another function now.

        The curvature pairs stay. Needed with ``reuse_gradient=True`` alone.
        """
        self._state()["known"] = False

    # -- the method ------------------------------------------------------------------------------

    def _evaluated(self, value: Tensor | float) -> tuple[float, float]:
        """Objective and its absolute error, one unit of rounding included."""
        loss = float(value)
        error = self.objective_error
        stated = float(error() if callable(error) else error)
        return loss, abs(stated) + torch.finfo(self._params()[0].dtype).eps * abs(loss)

    def _products(self, left: Tensor, right: Tensor, metric: Tensor | None) -> list[list[float]]:
        """Inner products of the rows of ``left`` and ``right``, over all ranks."""
        weights = metric
        if self.uncounted:
            skipped = {id(p) for p in self.uncounted}
            once = [p.new_full((p.numel(),), float(id(p) not in skipped)) for p in self._params()]
            weights = torch.cat(once) if metric is None else torch.cat(once) * metric
        with self._precise():
            return self.total(left @ (right if weights is None else right * weights).T).tolist()

    def _precise(self) -> torch.autocast:
        """Products of the method itself are taken in the parameters' precision, under autocast too."""
        return torch.autocast(self._params()[0].device.type, enabled=False)

    def _moved_since(self, iterate: Tensor, point: Tensor) -> bool:
        """Whether the parameters are others than at ``point``, on any rank."""
        return bool(self.total(iterate.new_tensor(float(not torch.equal(iterate, point)))))

    def _remember(self, iterate: Tensor, loss: float, error: float) -> bool:
        """Take in the gradient at ``iterate``, and the pair of the step that led there.

        Returns whether that pair was left out for want of curvature.
        """
        group, state = self.param_groups[0], self._state()
        basis, gram, order = state["basis"], state["gram"], state["order"]
        gradient, metric = self._gradient(), self._metric()
        if metric is not None:
            gradient /= metric
        last, skipped = len(basis) - 1, False
        rows = [last]
        if state["point"] is not None and group["hessian"] == "lbfgs":
            pair = torch.stack([iterate - state["point"], gradient - basis[last]])
            (ss, sy), (_, yy) = self._products(pair, pair, metric)
            skipped = not sy > group["curvature"] * math.sqrt(ss * yy)
            if not skipped:
                slot = len(order) if len(order) < group["memory"] else order.pop(0)
                order.append(slot)
                rows = [2 * slot, 2 * slot + 1, last]
                basis[rows[:2]] = pair
        basis[last] = gradient
        for i, line in enumerate(self._products(basis, basis[rows], metric)):
            for j, product in zip(rows, line, strict=True):
                gram[i][j] = gram[j][i] = product
        state.update(point=iterate, loss=loss, error=error, known=True)
        return skipped

    def _direction(self) -> tuple[Tensor, float, bool]:
        """Direction (n,), its slope, and whether it is the negative gradient."""
        state = self._state()
        basis, gram, last = state["basis"], state["gram"], len(state["basis"]) - 1
        coefficients = two_loop(gram, state["order"], last)
        slope = sum(c * g for c, g in zip(coefficients, gram[last], strict=True))
        if state["order"] and not slope < 0:
            state["order"].clear()
            return -basis[last], -gram[last][last], True
        with self._precise():
            return basis.new_tensor(coefficients) @ basis, slope, not state["order"]

    @torch.no_grad()
    def step(
        self,
        closure: Callable[[], Tensor | float],
        objective: Callable[[], Tensor | float] | None = None,
    ) -> float:
        """One step; returns the objective before it. ``search`` then holds the particulars.

        Raises RuntimeError where the objective or its gradient is not finite before the step.
        """
        closure = torch.enable_grad()(closure)
        group, state = self.param_groups[0], self._state()
        reuse = group["reuse_gradient"]
        iterate, skipped = self._iterate(), False
        if not state["known"] or self._moved_since(iterate, state["point"]):
            skipped = self._remember(iterate, *self._evaluated(closure()))
        loss, error, squared = state["loss"], state["error"], state["gram"][-1][-1]
        if not (math.isfinite(loss) and math.isfinite(squared)):
            raise RuntimeError(
                f"the objective is {loss} and its squared gradient {squared} where finite values "
                "are needed; start from smaller weights."
            )
        direction, slope, steepest = self._direction()
        length = group["lr"]
        if steepest and group["hessian"] == "lbfgs":
            length *= min(1.0, 1.0 / math.sqrt(squared)) if squared else 1.0
        value, allowed, taken, trials = loss, error, 0.0, 0
        while squared and trials < group["max_trials"]:
            trials += 1
            point = torch.add(iterate, direction, alpha=length)
            self._write(point)
            if self.on_trial is not None:
                self.on_trial()
            with torch.set_grad_enabled(reuse):
                result = closure() if objective is None else objective()
            trial, uncertain = self._evaluated(result)
            allowed = error + uncertain
            if trial <= loss + group["armijo"] * length * slope + allowed:
                value, taken = trial, length
                break
            length *= group["factor"]
        if not taken:
            self._write(iterate)
            state["order"].clear()
            if self.on_trial is not None:
                self.on_trial()
        else:
            state["known"] = False
            if reuse:
                if objective is not None:
                    self.zero_grad()
                    cast(Tensor, result).backward()
                skipped = self._remember(point, value, uncertain)
            if self.on_accept is not None:
                self.on_accept()
        self.search = Search(
            loss, value, allowed, slope, taken, trials, steepest, len(state["order"]), skipped
        )
        return loss
