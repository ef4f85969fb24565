"""Bodies: the modules that hold a chain's parameters and bind them into a `Chain`.

`chain` is the one way in: it makes the body that fits what it is given (a template module and a depth,
one module for all steps, a list of unlike modules, a plain step function).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .chain import Chain, State
from .fields import Function, Stacked, Tied, Unlike, as_given, as_state, takes_time
from .generic import GenericChain
from .integrators import INTEGRATORS
from .workspace import Workspace

KEPT_BYTES = 1 << 30
"""Most scratch memory that a body keeps from one training step to the next."""

Initial = Literal["smooth", "tied", "independent"]


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
        initial: stacked parameters are drawn "smooth" in depth (two draws blended over depth), the
            same for all layers ("tied"), or independently for every layer ("independent").

    Raises:
        ValueError: depth, T or h out of range, unknown integrator or initialisation.
        TypeError: the layer is none of the four kinds.
    """
    if integrator not in INTEGRATORS:
        raise ValueError(f"integrator {integrator!r} is unknown; use one of {', '.join(INTEGRATORS)}")
    if initial not in ("smooth", "tied", "independent"):
        raise ValueError(f"initial={initial!r} is unknown; use smooth, tied or independent")
    several = isinstance(layer, Sequence | nn.ModuleList)
    if several:
        if depth is not None and depth != len(layer):  # type: ignore[arg-type]
            raise ValueError(f"depth {depth} is not the number of modules given, {len(layer)}")  # type: ignore[arg-type]
        depth = len(layer)  # type: ignore[arg-type]
    if depth is None or depth < 1:
        raise ValueError(f"depth {depth} is out of range; a chain has 1 step or more")
    if T is not None and h is not None:
        raise ValueError(f"T={T} and h={h} are both given; give one, h = T / depth")
    if integrator == "block":
        if T is not None or h not in (None, 1):
            raise ValueError("a block returns the next state itself, so h is 1; leave T and h out")
        h = 1.0
    step_size = h if h is not None else (1.0 if T is None else T) / depth
    if not (math.isfinite(step_size) and step_size > 0):
        raise ValueError(f"step size {step_size} is out of range; use a positive T or h")
    if several:
        return UnlikeBody(list(layer), step_size, integrator)  # type: ignore[arg-type]
    if isinstance(layer, nn.Module):
        if tied:
            return TiedBody(layer, depth, step_size, integrator)
        return StackedBody(layer, depth, step_size, integrator, initial)
    if callable(layer):
        return FunctionBody(layer, depth, step_size)
    raise TypeError(
        f"a chain is made of a module, a sequence of modules or a function, not {type(layer).__name__}"
    )


class Body(nn.Module):
    """A chain's parameters. Attributes: `depth` (N), `h` (step size), `T` (h N), `integrator`."""

    def __init__(self, depth: int, h: float, integrator: str):
        super().__init__()
        self.depth, self.h, self.integrator = depth, h, integrator
        self.workspace = Workspace(KEPT_BYTES)
        self._field: Any = None  # made when first used, so that what it compiles is compiled once

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes its own field: that of the original evaluates the original's modules."""
        return {**self.__dict__, "_field": None}

    @property
    def T(self) -> float:
        """Final time h N."""
        return self.h * self.depth

    def tensors(self) -> list[Tensor]:
        """The parameters a propagation differentiates, in the order `bind` takes them."""
        return [p for p in self.parameters()]

    def bind(self, tensors: Sequence[Tensor]) -> Chain:
        """The chain of these parameter tensors, inputs per step in front of them."""
        raise NotImplementedError

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

    def __init__(self, template: nn.Module, depth: int, h: float, integrator: str, initial: Initial):
        super().__init__(depth, h, integrator)
        template, self.compiled = uncompiled(template)
        refuse_stateful(template)
        self.layer = copy.deepcopy(template)
        stacks = initial_stacks(template, depth, initial)
        for name, stack in stacks.items():
            owner, leaf = _owner(self.layer, name)
            old = owner._parameters[leaf]
            owner._parameters[leaf] = nn.Parameter(
                stack, requires_grad=old is None or old.requires_grad
            )
        self.names = tuple(stacks)
        self._register_state_dict_hook(_to_layers)
        self.register_load_state_dict_pre_hook(_from_layers)

    def tensors(self) -> list[Tensor]:
        found = dict(self.layer.named_parameters())
        return [found[name] for name in self.names]

    def bind(self, tensors: Sequence[Tensor]) -> Chain:
        closed = closed_chain(self.layer, dict(zip(self.names, tensors, strict=True)), self)
        if closed is not None:
            return closed
        if self._field is None:
            self._field = Stacked(self.layer, self.names, self.compiled)
        return GenericChain(
            self._field,
            INTEGRATORS[self.integrator],
            own=tuple(tensors),
            shared=(),
            steps=self.depth,
            step_size=self.h,
        )

    def template(self, n: int) -> nn.Module:
        """A copy of the template with the parameters of layer n."""
        single = copy.deepcopy(self.layer)
        for name, stack in self.layer.named_parameters():
            owner, leaf = _owner(single, name)
            owner._parameters[leaf] = nn.Parameter(
                stack[n].detach().clone(), requires_grad=stack.requires_grad
            )
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
        refuse_stateful(module)
        self.layer = module

    def bind(self, tensors: Sequence[Tensor]) -> Chain:
        names = [name for name, _ in self.layer.named_parameters()]
        if self._field is None:
            self._field = Tied(self.layer, names, self.compiled)
        inputs = tuple(tensors[: len(tensors) - len(names)])
        for x in inputs:
            if x.shape[0] != self.depth:
                raise ValueError(
                    f"the input per step has {x.shape[0]} steps and the chain {self.depth}; "
                    "give one (N, B, ...) with N the depth"
                )
        return GenericChain(
            self._field,
            INTEGRATORS[self.integrator],
            own=inputs,
            shared=tuple(tensors[len(inputs) :]),
            steps=self.depth,
            step_size=self.h,
        )

    def serial(self) -> nn.Module:
        return SerialTied(copy.deepcopy(self.layer), self.depth, self.h, self.integrator)


class UnlikeBody(Body):
    """A list of modules, one per step."""

    def __init__(self, modules: list[nn.Module], h: float, integrator: str):
        super().__init__(len(modules), h, integrator)
        for module in modules:
            refuse_stateful(module)
            if takes_time(module):
                raise ValueError("unlike modules are not given a time t; keep it in the module")
        self.layers = nn.ModuleList(modules)
        self._register_state_dict_hook(_to_layers)
        self.register_load_state_dict_pre_hook(_from_layers)

    def tensors(self) -> list[Tensor]:
        return [p for module in self.layers for p in module.parameters()]

    def bind(self, tensors: Sequence[Tensor]) -> Chain:
        return GenericChain(
            Unlike(list(self.layers)),
            INTEGRATORS[self.integrator],
            own=(),
            shared=tuple(tensors),
            steps=self.depth,
            step_size=self.h,
        )

    def serial(self) -> nn.Module:
        return SerialBody([copy.deepcopy(m) for m in self.layers], self.h, self.integrator)

    def layer_name(self, name: str) -> tuple[str, bool]:
        return name.removeprefix("layers."), False


class FunctionBody(Body):
    """A plain function ``step(u, t, dt)``, with t a 0-d tensor and dt a number; no parameters."""

    def __init__(self, step: Callable[..., object], depth: int, h: float):
        super().__init__(depth, h, "step function")
        self.step = step
        self._checked = False

    def bind(self, tensors: Sequence[Tensor]) -> Chain:
        return GenericChain(Function(self.step), None, (), (), self.depth, self.h)

    def check_capture(self, u: State) -> None:
        """Refuses a function that uses trainable tensors of its own: they would get no gradient."""
        if self._checked:
            return
        with torch.enable_grad():
            time = torch.zeros((), dtype=u[0].dtype, device=u[0].device)
            detached = tuple(a.detach() for a in u)
            value = as_state(self.step(as_given(detached), time, self.h), "a step's value")
        if any(a.requires_grad for a in value):
            raise ValueError(
                "the step function uses tensors that require a gradient, which a plain function "
                "cannot be given; make it a module and pass that to chain"
            )
        self._checked = True

    def serial(self) -> nn.Module:
        return SerialFunction(self.step, self.depth, self.h)


# ---- ordinary modules with the same parameters --------------------------------------------------


class SerialBody(nn.ModuleList):
    """Layer by layer, as anyone would write it; ``state_dict`` names ``{n}.weight``."""

    def __init__(self, layers: Iterable[nn.Module], h: float, integrator: str):
        super().__init__(layers)
        self.h, self.integrator = h, integrator

    def forward(self, u: Tensor | State) -> Tensor | State:
        for n, layer in enumerate(self):
            u = _serial_step(layer, u, n, self.h, self.integrator)
        return u


class SerialTied(nn.Module):
    """The same module `depth` times."""

    def __init__(self, layer: nn.Module, depth: int, h: float, integrator: str):
        super().__init__()
        self.layer, self.depth, self.h, self.integrator = layer, depth, h, integrator

    def forward(self, u: Tensor | State, *inputs: Tensor) -> Tensor | State:
        for n in range(self.depth):
            here = [x[n] for x in inputs]
            u = _serial_step(self.layer, u, n, self.h, self.integrator, *here)
        return u


class SerialFunction(nn.Module):
    """A step function applied `depth` times."""

    def __init__(self, step: Callable[..., object], depth: int, h: float):
        super().__init__()
        self.step, self.depth, self.h = step, depth, h

    def forward(self, u: Tensor | State) -> Tensor | State:
        part = u[0] if isinstance(u, tuple) else u
        for n in range(self.depth):
            time = torch.tensor(n * self.h, dtype=part.dtype, device=part.device)
            u = self.step(u, time, self.h)  # type: ignore[assignment]
        return u


def _serial_step(
    layer: nn.Module, u: Tensor | State, n: int, h: float, integrator: str, *inputs: Tensor
) -> Tensor | State:
    timed = takes_time(layer) if n == 0 or integrator != "euler" else None
    if integrator == "euler" and isinstance(u, Tensor) and not timed and not hasattr(layer, "t"):
        if timed is False or not takes_time(layer):
            return torch.add(u, layer(u, *inputs), alpha=h)
    state = as_state(u, "the state")
    t = torch.tensor(n * h, dtype=state[0].dtype, device=state[0].device)

    def residual(v: State, s: Tensor | None) -> State:
        extra = {"t": s} if takes_time(layer) else {}
        return as_state(layer(as_given(v), *inputs, **extra), "a step's value")

    return as_given(INTEGRATORS[integrator](residual, state, t, h))


# ---- stacking -----------------------------------------------------------------------------------


def uncompiled(module: nn.Module) -> tuple[nn.Module, bool]:
    """The module inside ``torch.compile(module)``, and whether it was compiled."""
    if isinstance(module, torch._dynamo.OptimizedModule):
        return module._orig_mod, True
    return module, False


def refuse_stateful(module: nn.Module) -> None:
    """Refuses layers whose repeated evaluation would change the result or their own statistics."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats:
            raise ValueError(
                f"{type(part).__name__} keeps running statistics, which repeated evaluation in a "
                "solve would spoil; use LayerNorm or GroupNorm, or track_running_stats=False"
            )
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0:
            raise ValueError(
                f"{type(part).__name__}(p={part.p}) draws another mask at every evaluation of a "
                "step; use p=0"
            )


def initial_stacks(template: nn.Module, depth: int, initial: Initial) -> dict[str, Tensor]:
    """Initial values (N, ...) of every parameter; each layer has the spread of a single one.

    "smooth" blends two draws by cos and sin of pi n / 2N, which keeps the variance.
    """
    if initial == "tied" or depth == 1:
        draws = [template]
    elif initial == "smooth":
        draws = [template, _redrawn(template)]
    else:
        draws = [template, *(_redrawn(template) for _ in range(depth - 1))]
    stacks = {}
    for name, first in template.named_parameters():
        values = [dict(draw.named_parameters())[name].detach() for draw in draws]
        if all(torch.equal(first, value) for value in values[1:]):
            stack = first.detach().expand(depth, *first.shape)  # the same in every draw: 1 or 0
        elif initial == "independent":
            stack = torch.stack(values)
        else:
            angle = torch.linspace(0, math.pi / 2, depth, dtype=first.dtype, device=first.device)
            angle = angle.view(depth, *[1] * first.dim())
            stack = values[0] * angle.cos() + values[1] * angle.sin()
        stacks[name] = stack.clone()
    return stacks


def _redrawn(template: nn.Module) -> nn.Module:
    fresh = copy.deepcopy(template)
    for part in fresh.modules():
        if callable(reset := getattr(part, "reset_parameters", None)):
            reset()
    return fresh


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


def closed_chain(layer: nn.Module, parameters: dict[str, Tensor], body: Body) -> Chain | None:
    """The closed-form chain of a layer that knows one, by its method ``closed_chain``.

    A layer's own method gets its parameters, each (N, ...), the depth, the step size and a `Workspace`
    to take large scratch tensors from, and returns a `Chain` or None where it has no closed form. Only for forward Euler; not under autocast.
    """
    make = getattr(layer, "closed_chain", None)
    if make is None or body.integrator != "euler" or not parameters:
        return None
    if torch.is_autocast_enabled(next(iter(parameters.values())).device.type):
        return None
    return make(parameters, body.depth, body.h, body.workspace)


def _to_layers(body: Body, state: dict, prefix: str, metadata: dict) -> None:
    """state_dict in plain layer-by-layer names."""
    for name, parameter in body.named_parameters():
        pattern, stacked = body.layer_name(name)
        value = state.pop(prefix + name)
        if stacked:
            for n in range(body.depth):
                state[prefix + pattern.format(n=n)] = value[n]
        else:
            state[prefix + pattern] = value


def _from_layers(
    body: Body, state: dict, prefix: str, metadata: dict, strict: bool, missing: list, *_: object
) -> None:
    for name, parameter in body.named_parameters():
        pattern, stacked = body.layer_name(name)
        if not stacked:
            if prefix + pattern in state:
                state[prefix + name] = state.pop(prefix + pattern)
            continue
        keys = [prefix + pattern.format(n=n) for n in range(body.depth)]
        found = [key for key in keys if key in state]
        if len(found) == len(keys):
            state[prefix + name] = torch.stack([state.pop(key) for key in keys])
        elif found:
            gone = next(key for key in keys if key not in state)
            raise ValueError(
                f"the state dict has {len(found)} of the {body.depth} layers' {name} ({gone} is not "
                "there); load it into a network of its own depth"
            )
