"""Residual functions of whole batches of steps, by the kind of chain.

A field evaluates F for I steps at once: ``field(u, own, shared, at)`` with u of shape (I, ...), `own`
the parameters (I, ...) of those steps, `shared` those that all steps have in common.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from .attention import has_attention, plain_attention
from .repeatable import Repeatable, Statistics, batch_norms, spared
from .state import State, as_given, as_state


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


@dataclass(frozen=True)
class At:
    """Which steps are evaluated.

    Args:
        layers: n of each, if the field asks for it.
        t: their times (I,), if the field is timed.
        key: of dropout's masks; None for its expectation.
        statistics: where batch statistics are noted, if they are.
    """

    layers: Sequence[int] = ()
    t: Tensor | None = None
    key: int | None = None
    statistics: Statistics | None = None


class Watched:
    """A module with batch norm or dropout, called so that it can be evaluated repeatedly.

    Attributes:
        random, statistics: whether dropout, or batch norm in training, was met in any call.
    """

    def __init__(self, module: nn.Module):
        self.module, self.timed = module, takes_time(module)
        self.random = self.statistics = False

    def single(
        self,
        mode: Repeatable,
        step: int | Tensor,
        parameters: dict[str, Tensor],
        arguments: tuple,
        t: Tensor | None = None,
    ) -> tuple[State, list[tuple[Tensor, Tensor]]]:
        """One step: its value, and the batch statistics met."""
        norms = batch_norms(self.module)
        tensors = {**spared(norms), **parameters}
        extra = {"t": t} if self.timed else {}
        with mode.begin(step, norms):
            value = functional_call(self.module, tensors, arguments, extra)
        self.random |= mode.random
        self.statistics |= bool(mode.uses)
        return as_state(value, "a step's value"), mode.found

    def __call__(
        self,
        u: State,
        own: tuple[Tensor, ...],
        at: At,
        parted: Callable[[tuple[Tensor, ...]], tuple[dict[str, Tensor], tuple]],
    ) -> State:
        """I steps at once; `parted` makes of one step's `own` its parameters and further arguments."""
        mode = Repeatable(at.key)

        def single(v: State, p: tuple[Tensor, ...], n: Tensor, t: Tensor | None) -> Any:
            parameters, inputs = parted(p)
            return self.single(mode, n, parameters, (as_given(v), *inputs), t)

        n = torch.as_tensor(list(at.layers), device=u[0].device)
        t = at.t if self.timed else None
        if u[0].shape[0] > 1:
            times = None if t is None else 0
            value, found = vmap(single, in_dims=(0, 0, 0, times))(u, own, n, t)
        else:
            one, mine = tuple(a[0] for a in u), tuple(p[0] for p in own)
            alone, met = single(one, mine, n[0], None if t is None else t[0])
            value = tuple(a.unsqueeze(0) for a in alone)
            found = [(mean[None], inverse[None]) for mean, inverse in met]
        if at.statistics is not None:
            at.statistics.add(at.layers, mode.uses, found)
        return value


class Stacked:
    """One template module, its parameters stacked along depth: all steps by vmap.

    Args:
        names: the parameters, and buffers that are stacked too, in the order of `own`.
        compiled: the batched step goes through torch.compile.
        watched: the module has dropout or batch norm in training.
    """

    def __init__(
        self,
        template: nn.Module,
        names: Sequence[str],
        compiled: bool = False,
        watched: bool = False,
    ):
        self.template, self.names = template, tuple(names)
        self.timed, self.indexed, self.unlike = takes_time(template), watched, False
        self.watched = Watched(template) if watched else None
        self._attention = has_attention(template)
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

    def __call__(self, u: State, own: Sequence[Tensor], shared: Sequence[Tensor], at: At) -> State:
        with plain_attention(self._attention):
            if self.watched is not None:
                return self.watched(
                    u, tuple(own), at, lambda p: (dict(zip(self.names, p, strict=True)), ())
                )
            if u[0].shape[0] == 1:  # one step: vmap would only cost time
                t = at.t[0] if at.t is not None else None
                single = self._alone(tuple(a[0] for a in u), tuple(p[0] for p in own), t)
                return tuple(a.unsqueeze(0) for a in single)
            return self._batched(u, tuple(own), at.t)


class Tied:
    """One module at every step: the intervals are folded into the batch.

    With ``driven`` inputs (a recurrence) the module is called as ``module(u, *inputs_of_the_step)``.
    A module that takes the time t is batched by vmap instead, since each interval has its own t,
    and so is one that cannot be folded: it mixes samples, or draws masks, or the state has no
    dimension of them.
    """

    unlike = False

    def __init__(
        self,
        module: nn.Module,
        names: Sequence[str],
        compiled: bool = False,
        folds: bool = True,
        watched: bool = False,
    ):
        self.module, self.names, self.folds = module, tuple(names), folds
        self.timed, self.indexed = takes_time(module), watched
        self.watched = Watched(module) if watched else None
        self._attention = has_attention(module)
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

    def __call__(self, u: State, own: Sequence[Tensor], shared: Sequence[Tensor], at: At) -> State:
        count = u[0].shape[0]
        with plain_attention(self._attention):
            if self.watched is not None:
                parameters = dict(zip(self.names, shared, strict=True))
                return self.watched(u, tuple(own), at, lambda inputs: (parameters, inputs))
            if count > 1 and (self.timed or not self.folds):
                dims = (0, 0, 0 if self.timed else None)
                batched = vmap(lambda v, x, s: self._call(v, x, shared, s), in_dims=dims)
                return batched(u, tuple(own), at.t)
            out = self._folded(
                tuple(a.flatten(0, 1) for a in u),
                tuple(x.flatten(0, 1) for x in own),
                shared,
                None if at.t is None else at.t[0],
            )
            return tuple(a.unflatten(0, (count, -1)) for a in out)


class Function:
    """A plain function ``step(u, t, dt)``, which is a whole step, not a residual."""

    indexed = unlike = False
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
