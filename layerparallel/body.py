"""Bodies: the modules that hold a chain's parameters and bind them into a `Chain`.

`chain` is the one way in: it makes the body that fits what it is given (a template module and a depth,
one module for all steps, a list of unlike modules, a plain step function).
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from .chain import Chain, State, state_map
from .checks import no_buffer_changes, refuse_random, same
from .errors import UnknownNameError
from .fields import At, Function, Stacked, Tied, Unlike, Watched, as_given, as_state, takes_time
from .generic import GenericChain
from .integrators import INTEGRATORS
from .repeatable import BatchNorm, Statistics, batch_norms, commit
from .serial_twins import SerialBody, SerialFunction, SerialTied
from .stacking import (
    INITIAL,
    Initial,
    from_layers,
    initial_stacks,
    is_alike,
    replace_parameters,
    stack_statistics,
    statistics_of,
    to_layers,
)
from .workspace import Workspace

KEPT_BYTES = 1 << 30
"""Most scratch memory that a body keeps from one training step to the next."""


@dataclass(frozen=True)
class Driven:
    """What an opening returns for a chain with an input per step: first state and inputs.

    Attributes:
        state: u[0].
        inputs: one tensor (N, B, ...) or several; step n is called with ``inputs[n]``.
    """

    state: Tensor | State
    inputs: Tensor | tuple[Tensor, ...]


def chain(
    layer: nn.Module | Sequence[nn.Module] | Callable[..., object],
    depth: int | None = None,
    *,
    T: float | None = None,
    h: float | None = None,
    integrator: Literal["euler", "rk4", "verlet", "block"] = "euler",
    tied: bool = False,
    stacked: bool = False,
    initial: Initial = "smooth",
) -> Body:
    """A chain of `depth` steps ``u[n+1] = u[n] + h F(u[n], theta_n)`` as a module.

    Args:
        layer: the residual function F: a template module (its parameters are stacked along depth,
            each layer has its own), with ``tied=True`` one module for all steps, a sequence of
            unlike modules, or a plain function ``step(u, t, dt)`` that returns the next state.
            A module whose forward has an argument ``t`` is given the time t = n h. For a compiled
            module, ``torch.compile(layer)``, it is the batched step that is compiled.
        depth: number of steps N; taken from a sequence of modules.
        T: final time, h = T / N; 1 if neither is given.
        h: step size, in place of T.
        integrator: "euler", "rk4", "verlet" (F returns a pair), or "block" for a module that returns
            the next state itself (then h is 1).
        tied: the same parameters at every step.
        stacked: a sequence of modules that are alike is not evaluated one by one: their parameters
            are copied and stacked along depth, as those of a template are.
        initial: stacked parameters are drawn "smooth" in depth (two draws blended over depth), the
            same for all layers ("tied"), or independently for every layer ("independent").

    Raises:
        ValueError: depth, T or h out of range, unknown integrator or initialisation, modules that
            cannot be stacked.
        TypeError: the layer is none of the four kinds.
    """
    if integrator not in INTEGRATORS:
        raise UnknownNameError("integrator", integrator, INTEGRATORS)
    if initial not in INITIAL:
        raise UnknownNameError("initialisation", initial, INITIAL)
    several: list[nn.Module] | None = None
    if isinstance(layer, Sequence | nn.ModuleList):
        several = list(layer)
        if depth is not None and depth != len(several):
            raise ValueError(f"depth {depth} is not the number of modules given, {len(several)}")
        depth = len(several)
    if not isinstance(depth, int) or depth < 1:
        raise ValueError(f"depth {depth} is out of range; use a whole number of steps, 1 or more")
    if T is not None and h is not None:
        raise ValueError(f"T={T} and h={h} are both given; give one, h = T / depth")
    if integrator == "block":
        if T is not None or h not in (None, 1):
            raise ValueError("a block returns the next state itself, so h is 1; leave T and h out")
        h = 1.0
    step_size = h if h is not None else (1.0 if T is None else T) / depth
    if not (math.isfinite(step_size) and step_size > 0):
        raise ValueError(f"step size {step_size} is out of range; use a positive T or h")
    if several is not None:
        make = StackedBody.of if stacked else UnlikeBody
        return make(several, step_size, integrator)
    if stacked:
        raise ValueError("stacked=True is for a sequence of modules; a single one is a template already")
    if isinstance(layer, type):
        raise TypeError(
            f"{layer.__name__} is a class; give chain a module made of it, {layer.__name__}(...)"
        )
    if isinstance(layer, nn.Module):
        if tied:
            return TiedBody(layer, depth, step_size, integrator)
        return StackedBody(layer, depth, step_size, integrator, initial)
    if callable(layer):
        return FunctionBody(layer, depth, step_size)
    raise TypeError(
        f"a chain is made of a module, a sequence of modules or a function, not {type(layer).__name__}"
    )


@dataclass(frozen=True)
class Habits:
    """What the steps of a chain do in the present mode: draw dropout masks, note batch statistics."""

    random: bool = False
    statistics: bool = False

    @classmethod
    def of(cls, *watched: Watched | None) -> Habits:
        """Those of fields that have evaluated every step."""
        met = [w for w in watched if w is not None]
        return cls(any(w.random for w in met), any(w.statistics for w in met))

    @property
    def any(self) -> bool:
        return self.random or self.statistics

    def key(self) -> int | None:
        """A key for the masks of a propagation, from torch's global generator."""
        return int(torch.randint(1 << 62, ())) if self.random else None


class Body(nn.Module):
    """A chain's parameters. Attributes: `depth` (N), `h` (step size), `T` (h N), `integrator`."""

    def __init__(self, depth: int, h: float, integrator: str):
        super().__init__()
        self.depth, self.h, self.integrator = depth, h, integrator
        self.workspace = Workspace(KEPT_BYTES)
        self._examined: dict[tuple[bool, ...], Habits] = {}
        self._fields: dict[Any, Any] = {}  # kept, so that what they compile is compiled once

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its own fields: those of the original evaluate the original's modules."""
        return {**self.__dict__, "_fields": {}, "_examined": {}}

    def _field(self, make: Callable[[], Any], *which: Any) -> Any:
        """The field of these settings."""
        if which not in self._fields:
            self._fields[which] = make()
        return self._fields[which]

    @property
    def T(self) -> float:
        """Final time h N."""
        return self.h * self.depth

    def tensors(self) -> list[Tensor]:
        """The parameters a propagation differentiates, in the order `bind` takes them."""
        return list(self.parameters())

    def bind(self, tensors: Sequence[Tensor]) -> Chain:
        """The chain of these parameter tensors, inputs per step in front of them."""
        raise NotImplementedError

    def examine(self, u: State, inputs: State) -> None:
        """Finds out which steps need care, and refuses those that would go wrong silently.

        Done when first used in training and in evaluation, and when a part changes between the two.

        Raises:
            ValueError: a step draws random numbers other than by dropout, or changes its buffers; a
                chain that takes none is given inputs; a compiled step has dropout or batch norm.
        """
        if inputs and not isinstance(self, TiedBody):
            raise ValueError(
                "the opening gives an input per step, which only a chain of one module for all "
                "steps takes; make it by chain(module, depth, tied=True)"
            )
        modes = self._modes()
        if modes not in self._examined:
            with torch.no_grad(), no_buffer_changes(self, "a step"):
                self._examined[modes] = self._examine(u, inputs)
            if self._examined[modes].any and getattr(self, "compiled", False):
                raise ValueError(
                    "a compiled step has dropout or batch norm in training, which are evaluated "
                    "repeatedly with care; leave torch.compile out"
                )

    @property
    def notes(self) -> bool:
        """Whether a training forward has running statistics to commit."""
        return any(isinstance(part, BatchNorm) and part.training for part in self.modules())

    def _modes(self) -> tuple[bool, ...]:
        return tuple(part.training for part in self.modules())

    @property
    def habits(self) -> Habits:
        """Of the present mode; none where it was not examined, which only evaluation goes without."""
        return self._examined.get(self._modes(), Habits())

    def _examine(self, u: State, inputs: State) -> Habits:
        raise NotImplementedError

    def commit(self, statistics: Statistics) -> None:
        """Takes batch statistics into the running ones, once for every step."""
        raise NotImplementedError

    def forward(self, *_: object) -> Tensor:
        """A body is propagated by its network's solver, not called.

        Raises:
            TypeError: always.
        """
        raise TypeError("a body has no solver of its own; call Network(None, body, None)(x)")

    def serial(self) -> nn.Module:
        """An ordinary module that propagates layer by layer, with the same parameters, copied."""
        raise NotImplementedError

    def layer_name(self, name: str) -> tuple[str, bool]:
        """A parameter's name as layer by layer, ``"{n}.weight"``; whether it is stacked."""
        return name, False

    def extra_repr(self) -> str:
        return f"depth={self.depth}, h={self.h:g}, integrator={self.integrator!r}"


class StackedBody(Body):
    """Like steps with their own parameters: `layer` is the template, its parameters (N, ...)."""

    def __init__(
        self,
        template: nn.Module,
        depth: int,
        h: float,
        integrator: str,
        initial: Initial = "smooth",
        stacks: dict[str, Tensor] | None = None,
    ):
        super().__init__(depth, h, integrator)
        template, self.compiled = uncompiled(template)
        self.layer = copy.deepcopy(template)
        values = initial_stacks(template, depth, initial) if stacks is None else stacks
        places = {p: values[name] for name, p in self.layer.named_parameters()}
        replace_parameters(self.layer, places.__getitem__)
        stack_statistics(self.layer, depth)
        self.names = tuple(name for name, _ in template.named_parameters())
        self._register_state_dict_hook(to_layers)
        self.register_load_state_dict_pre_hook(from_layers)

    @classmethod
    def of(cls, modules: list[nn.Module], h: float, integrator: str) -> StackedBody:
        """The stack of modules that are alike.

        Raises:
            ValueError: they are not, or share parameters.
        """
        for n, module in enumerate(modules):
            if not is_alike(modules[0], module):
                raise ValueError(
                    f"modules 0 and {n} of the chain are not alike, so their parameters cannot be "
                    "stacked; leave stacked=True out"
                )
        if len({p for m in modules for p in m.parameters()}) < sum(
            len(list(m.parameters())) for m in modules
        ):
            raise ValueError(
                "modules of the chain share parameters, which a stack would part; "
                "leave stacked=True out, or use tied=True where all are one"
            )
        layers = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in modules]
        stacks = {
            name: torch.stack([layer[name].detach() for layer in layers])
            for name, _ in modules[0].named_parameters()
        }
        body = cls(modules[0], len(modules), h, integrator, stacks=stacks)
        for name, buffer in body.layer.named_buffers():
            if name in statistics_of(body.layer):
                buffer.copy_(torch.stack([layer[name] for layer in layers]))
        return body.train(modules[0].training)

    def tensors(self) -> list[Tensor]:
        found = dict(self.layer.named_parameters())
        return [found[name] for name in self.names]

    def running_statistics(self) -> list[Tensor]:
        """Running statistics and counts of batch norms, each (N, ...)."""
        found = dict(self.layer.named_buffers())
        return [found[name] for name in sorted(statistics_of(self.layer))]

    def _frozen(self) -> dict[str, Tensor]:
        """Running statistics (N, C) of the batch norms that normalise by them."""
        return {
            f"{name}.{leaf}".lstrip("."): getattr(norm, leaf)
            for name, norm in batch_norms(self.layer).items()
            if not norm.training
            for leaf in ("running_mean", "running_var")
        }

    def bind(self, tensors: Sequence[Tensor]) -> Chain:
        closed = closed_chain(self.layer, dict(zip(self.names, tensors, strict=True)), self)
        if closed is not None:
            return closed
        frozen, habits = self._frozen(), self.habits
        names, watched = (*self.names, *frozen), habits.any
        return GenericChain(
            self._field(lambda: Stacked(self.layer, names, self.compiled, watched), names, watched),
            INTEGRATORS[self.integrator],
            own=(*tensors, *frozen.values()),
            shared=(),
            steps=self.depth,
            step_size=self.h,
            key=habits.key(),
            statistics=Statistics() if habits.statistics else None,
        )

    def _examine(self, u: State, inputs: State) -> Habits:
        if hasattr(self.layer, "closed_chain"):
            return Habits()  # the layer's author vouches for it
        frozen = self._frozen()
        field = Stacked(self.layer, (*self.names, *frozen), watched=True)
        own = [p[:1] for p in (*self.tensors(), *frozen.values())]
        one, at = tuple(a[None] for a in u), At((0,), u[0].new_zeros(1), key=0)
        refuse_random(lambda: field(one, own, (), at), type(self.layer).__name__)
        return Habits.of(field.watched)

    def commit(self, statistics: Statistics) -> None:
        norms = batch_norms(self.layer)
        for (name, _), (mean, variance) in statistics.gathered(self.depth).items():
            commit(norms[name], mean, variance)

    def template(self, n: int) -> nn.Module:
        """A copy of the template with the parameters and running statistics of layer n."""
        single = copy.deepcopy(self.layer)
        replace_parameters(single, lambda stack: stack[n].detach().clone())
        for norm in batch_norms(single).values():
            for name, buffer in norm._buffers.items():
                norm._buffers[name] = None if buffer is None else buffer[n].clone()
        return single

    def serial(self) -> nn.Module:
        return SerialBody([self.template(n) for n in range(self.depth)], self.h, self.integrator)

    def layer_name(self, name: str) -> tuple[str, bool]:
        return "{n}." + name.removeprefix("layer."), True


class TiedBody(Body):
    """One module at every step (a neural ODE, a recurrence)."""

    def __init__(self, module: nn.Module, depth: int, h: float, integrator: str):
        super().__init__(depth, h, integrator)
        module, self.compiled = uncompiled(module)
        self.layer, self.folds = module, True

    def bind(self, tensors: Sequence[Tensor]) -> Chain:
        names = [name for name, _ in self.layer.named_parameters()]
        inputs = tuple(tensors[: len(tensors) - len(names)])
        for x in inputs:
            if x.shape[0] != self.depth:
                raise ValueError(
                    f"the input per step has {x.shape[0]} steps and the chain {self.depth}; "
                    "give one (N, B, ...) with N the depth"
                )
        habits, folds = self.habits, self.folds
        watched = habits.any
        return GenericChain(
            self._field(lambda: Tied(self.layer, names, self.compiled, folds, watched), folds, watched),
            INTEGRATORS[self.integrator],
            own=inputs,
            shared=tuple(tensors[len(inputs) :]),
            steps=self.depth,
            step_size=self.h,
            key=habits.key(),
            statistics=Statistics() if habits.statistics else None,
        )

    def _examine(self, u: State, inputs: State) -> Habits:
        names = [name for name, _ in self.layer.named_parameters()]
        shared = list(self.layer.parameters())
        t = u[0].new_zeros(2)
        watching = Tied(self.layer, names, watched=True)

        def value(states: State, first: int, field: Tied) -> State:
            count = states[0].shape[0]
            own = [x[first : first + count] for x in inputs]
            return field(states, own, shared, At(range(first, first + count), t[:count], key=0))

        one = tuple(a[None] for a in u)
        alone = refuse_random(lambda: value(one, 0, watching), type(self.layer).__name__)
        habits = Habits.of(watching.watched)
        if habits.any or self.depth == 1 or any(x.shape[0] != self.depth for x in inputs):
            return habits
        plain = Tied(self.layer, names)
        other = tuple(1 - 2 * a for a in one)
        apart = state_map(_join, alone, value(other, 1, plain))
        try:
            both = value(state_map(_join, one, other), 0, plain)
            self.folds = self.folds and same(apart, both)
        except RuntimeError:  # the state's first dimension is not that of samples
            self.folds = False
        return habits

    def commit(self, statistics: Statistics) -> None:
        norms, gathered = batch_norms(self.layer), statistics.gathered(self.depth)
        for n in range(self.depth):
            for (name, _), (mean, variance) in gathered.items():
                commit(norms[name], mean[n], variance[n])

    def serial(self) -> nn.Module:
        return SerialTied(copy.deepcopy(self.layer), self.depth, self.h, self.integrator)


class UnlikeBody(Body):
    """A list of modules, one per step."""

    def __init__(self, modules: list[nn.Module], h: float, integrator: str):
        super().__init__(len(modules), h, integrator)
        for module in modules:
            if takes_time(module):
                raise ValueError("unlike modules are not given a time t; keep it in the module")
        self.layers = nn.ModuleList(modules)
        self._register_state_dict_hook(to_layers)
        self.register_load_state_dict_pre_hook(from_layers)

    def tensors(self) -> list[Tensor]:
        return [p for module in self.layers for p in module.parameters()]

    def bind(self, tensors: Sequence[Tensor]) -> Chain:
        habits = self.habits
        watched = habits.any
        return GenericChain(
            self._field(lambda: Unlike(list(self.layers), watched), watched),
            INTEGRATORS[self.integrator],
            own=(),
            shared=tuple(tensors),
            steps=self.depth,
            step_size=self.h,
            key=habits.key(),
            statistics=Statistics() if habits.statistics else None,
        )

    def _examine(self, u: State, inputs: State) -> Habits:
        field = Unlike(list(self.layers), watched=True)
        assert field.watched is not None
        one, tensors = tuple(a[None] for a in u), self.tensors()
        for n in range(self.depth):
            refuse_random(lambda n=n: field(one, (), tensors, At((n,), key=0)), f"step {n}")
        return Habits.of(*field.watched.values())

    def commit(self, statistics: Statistics) -> None:
        norms = [batch_norms(module) for module in self.layers]
        for (name, _), noted in statistics.ordered():
            for (n,), mean, variance in noted:
                commit(norms[n][name], mean[0], variance[0])

    def serial(self) -> nn.Module:
        return SerialBody(copy.deepcopy(list(self.layers)), self.h, self.integrator)

    def layer_name(self, name: str) -> tuple[str, bool]:
        return name.removeprefix("layers."), False


class FunctionBody(Body):
    """A plain function ``step(u, t, dt)``, with t a 0-d tensor and dt a number; no parameters."""

    def __init__(self, step: Callable[..., object], depth: int, h: float):
        super().__init__(depth, h, "step function")
        self.step = step

    def bind(self, tensors: Sequence[Tensor]) -> Chain:
        return GenericChain(Function(self.step), None, (), (), self.depth, self.h)

    def _examine(self, u: State, inputs: State) -> Habits:
        time = u[0].new_zeros(())
        detached = tuple(a.detach() for a in u)

        def value() -> State:
            return as_state(self.step(as_given(detached), time, self.h), "a step's value")

        with torch.enable_grad():
            found = refuse_random(value, "the step function")
        if any(a.requires_grad for a in found):
            raise ValueError(
                "the step function uses tensors that require a gradient, which a plain function "
                "cannot be given; make it a module and pass that to chain"
            )
        return Habits()

    def serial(self) -> nn.Module:
        return SerialFunction(self.step, self.depth, self.h)


# ---- steps --------------------------------------------------------------------------------------


def uncompiled(module: nn.Module) -> tuple[nn.Module, bool]:
    """The module inside ``torch.compile(module)``, and whether it was compiled."""
    dynamo = sys.modules.get("torch._dynamo")  # slow to import, and there if it has compiled
    if dynamo is not None and isinstance(module, dynamo.OptimizedModule):
        return cast(nn.Module, module._orig_mod), True
    return module, False


def _join(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a, b])


def closed_chain(layer: nn.Module, parameters: dict[str, Tensor], body: Body) -> Chain | None:
    """The closed-form chain of a layer that knows one, by its method ``closed_chain``.

    A layer's own method gets its parameters, each (N, ...), the depth, the step size and a `Workspace`
    to take large scratch tensors from, and returns a `Chain` or None where it has no closed form.
    Only for forward Euler; not under autocast; not for a subclass with another forward.
    """
    make = getattr(layer, "closed_chain", None)
    if make is None or body.integrator != "euler" or not parameters or _altered(layer):
        return None
    if torch.is_autocast_enabled(next(iter(parameters.values())).device.type):
        return None
    return make(parameters, body.depth, body.h, body.workspace)


def _altered(layer: nn.Module) -> bool:
    """Whether a forward of its own, hooks or parametrisations make the closed form untrue."""
    owner = next(kind for kind in type(layer).__mro__ if "closed_chain" in vars(kind))
    hooks = layer._forward_hooks or layer._forward_pre_hooks
    return type(layer).forward is not owner.forward or bool(hooks) or is_parametrized(layer)
