"""Residual functions of whole batches of steps, by the kind of chain.

A field evaluates F for I steps at once: ``field(u, own, shared, layers, t)`` with u of shape (I, ...),
`own` the parameters (I, ...) of those steps, `shared` those that all steps have in common.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from .chain import State


def as_state(value: object, what: str) -> State:
    """A tensor or a tuple of tensors as a state.

    Raises:
        TypeError: it is neither.
    """
    parts = value if isinstance(value, tuple) else (value,)
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(
            f"{what} must be a tensor or a tuple of tensors, not {type(value).__name__}; "
            "return the state alone, a list as a tuple"
        )
    return parts  # type: ignore[return-value]


def as_given(state: State) -> Tensor | State:
    """A state as the user's code sees it: a bare tensor if it has one part."""
    return state[0] if len(state) == 1 else state


def compiled_step(step: Callable[..., State]) -> Callable[..., State]:
    """torch.compile for a step whose graph several adjoint sweeps go over.

    Compiled backward passes may otherwise reuse ("donate") the memory of saved tensors, and then
    refuse a second sweep.
    """
    import torch._functorch.config

    compiled = torch.compile(step, dynamic=False)

    def call(*arguments: object) -> State:
        with torch._functorch.config.patch(donated_buffer=False):
            return compiled(*arguments)

    return call


def takes_time(module: nn.Module) -> bool:
    """Whether the module's forward has an argument named ``t``."""
    return "t" in inspect.signature(module.forward).parameters


class Stacked:
    """One template module, its parameters stacked along depth: all steps by vmap."""

    indexed = False

    def __init__(self, template: nn.Module, names: Sequence[str], compiled: bool = False):
        self.template, self.names = template, tuple(names)
        self.timed = takes_time(template)
        self._batched = vmap(self._single, in_dims=(0, 0, 0 if self.timed else None))
        self._alone = self._single
        if compiled:
            self._batched, self._alone = compiled_step(self._batched), compiled_step(self._single)

    def _single(self, u: State, own: tuple[Tensor, ...], t: Tensor | None) -> State:
        parameters = dict(zip(self.names, own, strict=True))
        extra = {"t": t} if self.timed else {}
        return as_state(
            functional_call(self.template, parameters, (as_given(u),), extra), "a step's value"
        )

    def __call__(
        self,
        u: State,
        own: Sequence[Tensor],
        shared: Sequence[Tensor],
        layers: None,
        t: Tensor | None,
    ) -> State:
        if u[0].shape[0] == 1:  # one step: vmap would only cost time
            single = self._alone(
                tuple(a[0] for a in u), tuple(p[0] for p in own), t[0] if t is not None else None
            )
            return tuple(a.unsqueeze(0) for a in single)
        return self._batched(u, tuple(own), t)


class Tied:
    """One module at every step: the intervals are folded into the batch.

    With ``driven`` inputs (a recurrence) the module is called as ``module(u, *inputs_of_the_step)``.
    A module that takes the time t is batched by vmap instead, since each interval has its own t,
    and so is one that cannot be folded: it mixes samples, or the state has no dimension of them.
    """

    indexed = False

    def __init__(
        self, module: nn.Module, names: Sequence[str], compiled: bool = False, folds: bool = True
    ):
        self.module, self.names, self.folds = module, tuple(names), folds
        self.timed = takes_time(module)
        self._folded = compiled_step(self._call) if compiled else self._call

    def _call(
        self, u: State, inputs: tuple[Tensor, ...], shared: Sequence[Tensor], t: Tensor | None
    ) -> State:
        extra = {"t": t} if self.timed else {}
        parameters = dict(zip(self.names, shared, strict=True))
        return as_state(
            functional_call(self.module, parameters, (as_given(u), *inputs), extra),
            "a step's value",
        )

    def __call__(
        self,
        u: State,
        own: Sequence[Tensor],
        shared: Sequence[Tensor],
        layers: None,
        t: Tensor | None,
    ) -> State:
        count = u[0].shape[0]
        if count > 1 and (self.timed or not self.folds):
            dims = (0, 0, 0 if self.timed else None)
            batched = vmap(lambda v, x, s: self._call(v, x, shared, s), in_dims=dims)
            return batched(u, tuple(own), t)
        out = self._folded(
            tuple(a.flatten(0, 1) for a in u),
            tuple(x.flatten(0, 1) for x in own),
            shared,
            None if t is None else t[0],
        )
        return tuple(a.unflatten(0, (count, -1)) for a in out)


class Unlike:
    """A list of modules, one per step: a loop behind the same call."""

    indexed = True
    timed = False

    def __init__(self, modules: Sequence[nn.Module]):
        self.modules = tuple(modules)
        self.names = [tuple(dict(module.named_parameters())) for module in modules]
        ends = [0]
        for names in self.names:
            ends.append(ends[-1] + len(names))
        self.ends = ends

    def __call__(
        self,
        u: State,
        own: Sequence[Tensor],
        shared: Sequence[Tensor],
        layers: Sequence[int],
        t: Tensor | None,
    ) -> State:
        results = []
        for i, n in enumerate(layers):
            mine = shared[self.ends[n] : self.ends[n + 1]]
            parameters = dict(zip(self.names[n], mine, strict=True))
            value = functional_call(self.modules[n], parameters, (as_given(tuple(a[i] for a in u)),))
            results.append(as_state(value, f"the value of step {n}"))
        return tuple(torch.stack(parts) for parts in zip(*results, strict=True))


class Function:
    """A plain function ``step(u, t, dt)``, which is a whole step, not a residual."""

    indexed = False
    timed = True

    def __init__(self, step: Callable[..., object]):
        self.step = step

    def whole_step(self, u: State, t: Tensor, dt: float) -> State:
        """I steps at once: u of shape (I, ...), t of shape (I,)."""

        def single(v: State, s: Tensor) -> State:
            return as_state(self.step(as_given(v), s, dt), "a step's value")

        if u[0].shape[0] == 1:
            return tuple(a.unsqueeze(0) for a in single(tuple(a[0] for a in u), t[0]))
        return vmap(single)(u, t)
