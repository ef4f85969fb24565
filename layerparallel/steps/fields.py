"""Residual functions of whole batches of steps, by the kind of chain.

A field evaluates F for I steps at once: ``field(u, own, shared, at)`` with u of shape (I, ...), `own`
the parameters (I, ...) of those steps, `shared` those that all steps have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from .attention import has_attention, plain_attention
from .contents import takes_time
from .remains import Attribute, undone
from .repeatable import Repeatable, Statistics, batch_norms, spared
from .state import NOTHING, Carried, State


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


@dataclass(frozen=True)
class Manner:
    """How the steps of a chain are called.

    Args:
        timed: modules whose forward has an argument t are given the time.
        watched: they have dropout, or batch norm in training.
        in_place: they change the state in place, and get a copy of it.
        writes: they write to their parameters, what is there already, and get copies of them.
        carried: parts of the state that they are given, too, and pass along.
    """

    timed: bool = True
    watched: bool = False
    in_place: bool = False
    writes: bool = False
    carried: Carried = NOTHING

    def given(self, u: State) -> Any:
        """One state as the user's code sees it."""
        return self.carried.given(tuple(a.clone() for a in u) if self.in_place else u)

    def parameters(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parameters of one step as the user's code sees them."""
        return {name: t.clone() for name, t in tensors.items()} if self.writes else tensors

    def moving(self, value: object) -> State:
        """What moves of what the user's code has returned."""
        return self.carried.moving(value, "a step's value")

    def takes_time(self, module: nn.Module) -> bool:
        """Whether the module is given the time."""
        return self.timed and takes_time(module)


PLAINLY = Manner()


def buffers(module: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """Buffers of real numbers, by name, that are not among `names`."""
    known = set(names)
    return {name: a for name, a in module.named_buffers() if name not in known and a.is_floating_point()}


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

    def __init__(self, module: nn.Module, manner: Manner = PLAINLY):
        self.module, self.manner, self.timed = module, manner, manner.takes_time(module)
        self.random = self.statistics = False

    def single(
        self,
        mode: Repeatable,
        step: int | Tensor,
        parameters: dict[str, Tensor],
        arguments: tuple,
        t: Tensor | None = None,
    ) -> tuple[Any, list[tuple[Tensor, Tensor]]]:
        """One step: what the module returns, and the batch statistics met."""
        norms = batch_norms(self.module)
        tensors = {**spared(norms), **self.manner.parameters(parameters)}
        extra = {"t": t} if self.timed else {}
        given = dict(tensors)
        with mode.begin(step, norms):
            value = functional_call(self.module, tensors, arguments, extra)
        for name in parameters:
            if tensors[name] is not given[name]:
                raise ValueError(
                    f"a step puts another tensor in place of {name}, which requires a gradient and is "
                    "given to it; return it as a part of the state"
                )
        self.random |= mode.random
        self.statistics |= bool(mode.uses)
        return value, mode.found

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
            value, found = self.single(mode, n, parameters, (self.manner.given(v), *inputs), t)
            return self.manner.moving(value), found

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
        held: what else the module holds, in the order of `shared`.
        compiled: the batched step goes through torch.compile.
        remade: attributes that an evaluation keeps of its steps' parameters.
    """

    def __init__(
        self,
        template: nn.Module,
        names: Sequence[str],
        held: Sequence[str] = (),
        compiled: bool = False,
        manner: Manner = PLAINLY,
        remade: Sequence[Attribute] = (),
    ):
        self.remade = remade
        self.template, self.names, self.held, self.manner = template, tuple(names), tuple(held), manner
        self.timed, self.indexed, self.unlike = manner.takes_time(template), manner.watched, False
        self.compiled = compiled
        self.watched = Watched(template, manner) if manner.watched else None
        self._attention = has_attention(template)

    @cached_property
    def _batched(self) -> Callable[..., State]:
        """Several steps."""
        several = vmap(self._single, in_dims=(0, 0, None, 0 if self.timed else None))
        return compiled_step(several) if self.compiled else several

    @cached_property
    def _alone(self) -> Callable[..., State]:
        """One step."""
        return compiled_step(self._single) if self.compiled else self._single

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """All modules inside."""
        return tuple(self.template.modules())

    @property
    def functions(self) -> tuple[Callable[..., object], ...]:
        """Where their code begins."""
        return tuple(module.forward for module in self.modules)

    @property
    def buffers(self) -> dict[str, Tensor]:
        """Numbers that the template holds, by name, besides those that are stacked."""
        return buffers(self.template, self.names)

    def holding(self) -> Stacked:
        """The same with its buffers behind what is held."""
        held = (*self.held, *self.buffers)
        return Stacked(self.template, self.names, held, self.compiled, self.manner)

    def _single(
        self, u: State, own: tuple[Tensor, ...], shared: tuple[Tensor, ...], t: Tensor | None
    ) -> State:
        tensors = dict(zip((*self.names, *self.held), (*own, *shared), strict=True))
        extra = {"t": t} if self.timed else {}
        tensors, given = self.manner.parameters(tensors), self.manner.given(u)
        value = functional_call(self.template, tensors, (given,), extra)
        return self.manner.moving(value)

    def __call__(self, u: State, own: Sequence[Tensor], shared: Sequence[Tensor], at: At) -> State:
        own, shared = tuple(own), tuple(shared)
        with plain_attention(self._attention), undone(self.remade):
            if self.watched is not None:
                others = dict(zip(self.held, shared, strict=True))
                return self.watched(
                    u, own, at, lambda p: ({**dict(zip(self.names, p, strict=True)), **others}, ())
                )
            if u[0].shape[0] == 1:  # one step: vmap would only cost time
                t = at.t[0] if at.t is not None else None
                single = self._alone(tuple(a[0] for a in u), tuple(p[0] for p in own), shared, t)
                return tuple(a.unsqueeze(0) for a in single)
            return self._batched(u, own, shared, at.t)


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
        manner: Manner = PLAINLY,
    ):
        self.module, self.names, self.folds, self.manner = module, tuple(names), folds, manner
        self.timed, self.indexed = manner.takes_time(module), manner.watched
        self.compiled = compiled
        self.watched = Watched(module, manner) if manner.watched else None
        self._attention = has_attention(module)
        self._folded = compiled_step(self._call) if compiled else self._call

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """All modules inside."""
        return tuple(self.module.modules())

    @property
    def functions(self) -> tuple[Callable[..., object], ...]:
        """Where their code begins."""
        return tuple(module.forward for module in self.modules)

    @property
    def buffers(self) -> dict[str, Tensor]:
        """Numbers that the module holds, by name."""
        return buffers(self.module, self.names)

    def holding(self) -> Tied:
        """The same with its buffers behind its parameters."""
        names = (*self.names, *self.buffers)
        return Tied(self.module, names, self.compiled, self.folds, self.manner)

    def _call(
        self, u: State, inputs: tuple[Tensor, ...], shared: Sequence[Tensor], t: Tensor | None
    ) -> State:
        extra = {"t": t} if self.timed else {}
        parameters = self.manner.parameters(dict(zip(self.names, shared, strict=True)))
        arguments = (self.manner.given(u), *inputs)
        return self.manner.moving(functional_call(self.module, parameters, arguments, extra))

    def __call__(self, u: State, own: Sequence[Tensor], shared: Sequence[Tensor], at: At) -> State:
        count = u[0].shape[0]
        with plain_attention(self._attention):
            if self.watched is not None:
                parameters = dict(zip(self.names, shared, strict=True))
                return self.watched(u, tuple(own), at, lambda inputs: (parameters, inputs))
            if count == 1:  # a state or an input may have no dimension to be folded into
                t = None if at.t is None else at.t[0]
                one = self._folded(tuple(a[0] for a in u), tuple(x[0] for x in own), shared, t)
                return tuple(a.unsqueeze(0) for a in one)
            if self.timed or not self.folds:
                dims = (0, 0, 0 if self.timed else None)
                batched = vmap(lambda v, x, s: self._call(v, x, shared, s), in_dims=dims)
                return batched(u, tuple(own), at.t)
            out = self._folded(
                tuple(a.flatten(0, 1) for a in u),
                tuple(x.flatten(0, 1) for x in own),
                shared,
                None,
            )
            return tuple(a.unflatten(0, (count, -1)) for a in out)


class Function:
    """A plain function ``step(u, t, dt)``, which is a whole step, not a residual."""

    indexed = unlike = compiled = False
    timed = True
    modules: tuple[nn.Module, ...] = ()
    buffers: Mapping[str, Tensor] = MappingProxyType({})

    def __init__(self, step: Callable[..., object], manner: Manner = PLAINLY):
        self.step, self.manner = step, manner

    def holding(self) -> Function:
        """Itself: it has no buffers."""
        return self

    @property
    def functions(self) -> tuple[Callable[..., object], ...]:
        """Where its code begins."""
        return (self.step,)

    def whole_step(self, u: State, t: Tensor, dt: Any) -> State:
        """I steps at once: u of shape (I, ...), t of shape (I,)."""

        def single(v: State, s: Tensor) -> State:
            return self.manner.moving(self.step(self.manner.given(v), s, dt))

        if u[0].shape[0] == 1:
            return tuple(a.unsqueeze(0) for a in single(tuple(a[0] for a in u), t[0]))
        return vmap(single)(u, t)
