"""The field of a list of modules, one per step, and how their tensors get from rank to rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..group.base import Group
from .attention import plain_attention
from .fields import PLAINLY, At, Manner, Watched
from .repeatable import Repeatable, frozen_statistics
from .state import State


class Unlike:
    """A list of modules, one per step: a loop behind the same call.

    Args:
        modules: of all steps of the whole chain, in order.
        names: of the tensors in `shared`, by step: of every step whose tensors it has, in this order.
        attention: torch.nn's attention is inside.
    """

    indexed = unlike = True
    timed = False

    def __init__(
        self,
        modules: Sequence[nn.Module],
        names: Mapping[int, Sequence[str]],
        attention: bool = False,
        manner: Manner = PLAINLY,
    ):
        self.modules, self.names, self.manner = tuple(modules), names, manner
        self.places: dict[int, slice] = {}
        end = 0
        for n, each in names.items():
            self.places[n] = slice(end, end + len(each))
            end += len(each)
        self.watched = {n: Watched(modules[n], manner) for n in names} if manner.watched else None
        self.attention = attention

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
        names = {n: self._all_names(n) for n in dict.fromkeys(want[group.rank])}
        field = Unlike(self.modules, names, self.attention, self.manner)
        values = {}
        for n, at in self.places.items():
            buffers = dict(self.modules[n].named_buffers())
            extra = self._all_names(n)[len(self.names[n]) :]
            values[n] = [*shared[at], *(buffers[name] for name in extra)]
        got = step_tensors(group, values, self.shapes, have, want, like)
        return field, tuple(a for n in names for a in got[n])

    def _all_names(self, n: int) -> tuple[str, ...]:
        """Of the tensors that another rank needs: running statistics that normalise, too."""
        module = self.modules[n]
        return (*dict(module.named_parameters()), *frozen_statistics(module))

    def shapes(self, n: int) -> list[torch.Size]:
        """Of the tensors of step n that another rank needs."""
        module = self.modules[n]
        found = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        return [found[name].shape for name in self._all_names(n)]

    def __call__(self, u: State, own: Sequence[Tensor], shared: Sequence[Tensor], at: At) -> State:
        results = []
        with plain_attention(self.attention):
            for i, n in enumerate(at.layers):
                mine = shared[self.places[n]]
                parameters = dict(zip(self.names[n], mine, strict=True))
                v = self.manner.given(tuple(a[i] for a in u))
                if self.watched is None:
                    parameters = self.manner.parameters(parameters)
                    value = functional_call(self.modules[n], parameters, (v,))
                    results.append(self.manner.moving(value))
                    continue
                mode = Repeatable(at.key)
                value, found = self.watched[n].single(mode, n, parameters, (v,))
                results.append(self.manner.moving(value))
                if at.statistics is not None:
                    alone = [(mean[None], inverse[None]) for mean, inverse in found]
                    at.statistics.add((n,), mode.uses, alone)
        if len(results) == 1:  # which also stays as it lies in memory
            return tuple(a.unsqueeze(0) for a in results[0])
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
