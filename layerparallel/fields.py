"""Residual functions of whole batches of steps, by the kind of chain.

A field evaluates F for I steps at once: ``field(u, own, shared, at)`` with u of shape (I, ...), `own`
the parameters (I, ...) of those steps, `shared` those that all steps have in common.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from .chain import State
from .group.base import Group
from .repeatable import Repeatable, Statistics, batch_norms, frozen_statistics, spared


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


@contextlib.contextmanager
def plain_attention(wanted: bool) -> Iterator[None]:
    """Attention by the same arithmetic in training and evaluation, and one that vmap knows."""
    if not wanted:
        yield
        return
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def has_attention(module: nn.Module) -> bool:
    """Whether torch.nn's attention is inside, which has a fast path of its own."""
    return any(isinstance(part, nn.MultiheadAttention) for part in module.modules())


class Watched:
    """A module with batch norm or dropout, called so that it can be evaluated repeatedly.

    Attributes:
        random, statistics: whether dropout, or batch norm in training, was met in any call.
    """

    def __init__(self, module: nn.Module):
        self.module, self.timed = module, takes_time(module)
        self.random = self.statistics = False
        norms = batch_norms(module)
        self.names = {id(norm.running_mean): name for name, norm in norms.items()}

    def mode(self, at: At) -> Repeatable:
        return Repeatable(self.names, at.key)

    def single(
        self,
        mode: Repeatable,
        step: int | Tensor,
        parameters: dict[str, Tensor],
        arguments: tuple,
        t: Tensor | None = None,
    ) -> tuple[State, list[tuple[Tensor, Tensor]]]:
        """One step: its value, and the batch statistics met."""
        tensors = {**spared(self.module), **parameters}
        extra = {"t": t} if self.timed else {}
        with mode.begin(step):
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
        mode = self.mode(at)

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


class Unlike:
    """A list of modules, one per step: a loop behind the same call.

    Args:
        modules: of all steps of the whole chain, in order.
        held: the steps whose parameters `shared` has, in this order; all of them if None.
        frozen: `shared` has the running statistics of batch norms that normalise by them, too.
    """

    indexed = unlike = True
    timed = False

    def __init__(
        self,
        modules: Sequence[nn.Module],
        watched: bool = False,
        held: Sequence[int] | None = None,
        frozen: bool = False,
    ):
        self.modules = tuple(modules)
        self.held = tuple(dict.fromkeys(range(len(self.modules)) if held is None else held))
        self.names = [
            (*dict(module.named_parameters()), *(frozen_statistics(module) if frozen else ()))
            for module in modules
        ]
        self.places: dict[int, slice] = {}
        end = 0
        for n in self.held:
            self.places[n] = slice(end, end + len(self.names[n]))
            end += len(self.names[n])
        self.watched = {n: Watched(modules[n]) for n in self.held} if watched else None
        self._attention = any(has_attention(module) for module in modules)

    @property
    def layer_bytes(self) -> int:
        """Bytes of the parameters of a step, on average."""
        sizes = [p.numel() * p.element_size() for m in self.modules for p in m.parameters()]
        return sum(sizes) // len(self.modules)

    def moved(
        self,
        shared: Sequence[Tensor],
        group: Group,
        have: Sequence[Sequence[int]],
        want: Sequence[Sequence[int]],
        like: Tensor,
    ) -> tuple[Unlike, tuple[Tensor, ...]]:
        """The field with the tensors of other steps, got from the ranks that have them.

        Args:
            have: the steps whose tensors every rank has, one rank each.
            want: the steps whose tensors every rank is to get.
            like: of the parameters' dtype and device.
        """
        field = Unlike(self.modules, self.watched is not None, want[group.rank], frozen=True)
        values = {}
        for n, at in self.places.items():
            buffers = dict(self.modules[n].named_buffers())
            extra = field.names[n][len(self.names[n]) :]
            values[n] = [*shared[at], *(buffers[name] for name in extra)]
        got = step_tensors(group, values, field.shapes, have, want, like)
        return field, tuple(a for n in field.held for a in got[n])

    def shapes(self, n: int) -> list[torch.Size]:
        """Of the tensors of step n."""
        module = self.modules[n]
        found = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        return [found[name].shape for name in self.names[n]]

    def __call__(self, u: State, own: Sequence[Tensor], shared: Sequence[Tensor], at: At) -> State:
        results = []
        with plain_attention(self._attention):
            for i, n in enumerate(at.layers):
                mine = shared[self.places[n]]
                parameters = dict(zip(self.names[n], mine, strict=True))
                v = as_given(tuple(a[i] for a in u))
                if self.watched is None:
                    value = functional_call(self.modules[n], parameters, (v,))
                    results.append(as_state(value, f"the value of step {n}"))
                    continue
                mode = self.watched[n].mode(at)
                value, found = self.watched[n].single(mode, n, parameters, (v,))
                results.append(value)
                if at.statistics is not None:
                    alone = [(mean[None], inverse[None]) for mean, inverse in found]
                    at.statistics.add((n,), mode.uses, alone)
        return tuple(torch.stack(parts) for parts in zip(*results, strict=True))


def step_tensors(
    group: Group,
    values: dict[int, list[Tensor]],
    shapes: Callable[[int], list[torch.Size]],
    have: Sequence[Sequence[int]],
    want: Sequence[Sequence[int]],
    like: Tensor,
) -> dict[int, list[Tensor]]:
    """The tensors of single steps, from the ranks that have them to those that want them.

    Args:
        values: of the steps that this rank has.
        shapes: of the tensors of any step.
        have, want: which steps every rank has, one rank each, and is to get.
        like: of the tensors' dtype and device.
    """
    rank, got = group.rank, dict(values)
    sends, receives = [], []
    for peer in range(group.size):
        if peer == rank:
            continue
        mine, theirs = set(have[rank]), set(have[peer])
        leaving = [n for n in dict.fromkeys(want[peer]) if n in mine]
        sends += [(peer, a.detach().contiguous()) for n in leaving for a in values[n]]
        for n in dict.fromkeys(want[rank]):
            if n in theirs:
                got[n] = [like.new_empty(shape) for shape in shapes(n)]
                receives += [(peer, a) for a in got[n]]
    group.exchange(sends, receives).wait()
    return got


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
