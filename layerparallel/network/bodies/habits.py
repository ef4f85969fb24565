"""What the steps of a chain do in the present mode, as their examination has found."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor, nn

from ...group.base import Group
from ...steps.alike import switches
from ...steps.comparing import same
from ...steps.examination import Found, pulled
from ...steps.fields import Manner, Watched
from ...steps.repeatable import BatchNorm
from ...steps.state import Carried, State


@dataclass(frozen=True)
class Habits:
    """What the steps of a chain do in the present mode.

    Attributes:
        random: they draw dropout's masks.
        statistics: they note batch statistics.
        in_place: they change the state in place.
        buffered: they have buffers, besides those of batch norm.
        writes: they write to their parameters, which has to leave them as they are every time.
    """

    random: bool = False
    statistics: bool = False
    in_place: bool = False
    buffered: bool = False
    writes: bool = False

    @classmethod
    def of(cls, watched: Watched, found: Found) -> Habits:
        """Those of a module that has been called."""
        parts = watched.module.modules()
        buffered = any(part._buffers and not isinstance(part, BatchNorm) for part in parts)
        return cls(watched.random, watched.statistics, found.in_place, buffered, found.writes)

    def __or__(self, other: Habits) -> Habits:
        return Habits(*(a or b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def watched(self) -> bool:
        """Whether steps have to be watched when they are evaluated."""
        return self.random or self.statistics

    def manner(self, timed: bool, carried: Carried) -> Manner:
        """How steps with these habits are called."""
        return Manner(timed, self.watched, self.in_place, self.writes, carried)

    def key(self, group: Group) -> int | None:
        """A key for the masks of a propagation, from torch's global generator; one for all ranks."""
        return group.tell(int(torch.randint(1 << 62, ())), 0) if self.random else None


def mode_of(part: nn.Module) -> Hashable:
    """What tells that a module was replaced or switched over, or that others have begun to change it."""
    return type(part), part.training, len(part._buffers), len(part._forward_pre_hooks)


def settings_of(part: nn.Module) -> Hashable:
    """What switches a user's module over."""
    return switches(part) if _of_a_user(type(part)) else None


@functools.cache
def _of_a_user(kind: type[nn.Module]) -> bool:
    return not kind.__module__.startswith(("torch.nn.", "layerparallel.network."))


class Modes:
    """The modules of a chain, and the modes in which they are now.

    Args:
        settings: look at their settings, too, which may differ from rank to rank.
    """

    def __init__(self, modules: Iterable[nn.Module], settings: bool = False):
        self.parts = tuple(modules)
        self.key: Hashable = tuple(map(mode_of, self.parts))
        if settings:
            self.key = self.key, tuple(map(settings_of, self.parts))
        self.training = [part.training for part in self.parts]

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """In the modes of then: a gradient may come after eval()."""
        changed = [
            p for p, then in zip(self.parts, self.training, strict=True) if p.training is not then
        ]
        for part in changed:
            part.training = not part.training
        try:
            yield
        finally:
            for part in changed:
                part.training = not part.training


def refuse_unbatched(
    steps: Callable[[State, list[Tensor]], State],
    both: State,
    found: Found,
    which: str,
    rows: Sequence[Tensor] = (),
) -> None:
    """Refuses steps that cannot be evaluated many at once.

    Args:
        steps: evaluates several of states and rows, with gradients.
        both: where they depart, the first of them where the step that was examined did.
        found: what was found of that step.
        rows: parameters of the single steps, stacked.

    Raises:
        ValueError: they cannot, or their values or gradients are others.
    """
    remedy = "give chain a list of modules, which are evaluated one after the other, or solver=Serial()"
    many = "for several steps at once by torch.vmap"
    if both[0].shape[0] == 1:
        many, remedy = "with stacked parameters", "give chain a list of modules, without stacked=True"
    departures = [a.detach().clone().requires_grad_() for a in both]
    leaves = [p.detach().requires_grad_(p.requires_grad) for p in rows]
    try:
        with torch.inference_mode(False), torch.enable_grad():
            values = steps(tuple(a.clone() for a in departures), leaves)
            wanted = [*departures, *(p for p in leaves if p.requires_grad)]
            gradients = pulled(tuple(a[:1] for a in values), wanted)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{which} cannot be evaluated {many} ({reason}); {remedy}") from error
    pairs = [(a[0].detach(), b) for a, b in zip(values, found.value, strict=True)]
    for a, b, like in zip(gradients, found.gradient, both, strict=False):  # those of rows come behind
        nothing = torch.zeros_like(like[0])
        pairs.append((nothing if a is None else a[0], nothing if b is None else b))
    if not all(same((a.to(b.dtype),), (b,)) for a, b in pairs):  # autocast may change the dtype
        raise ValueError(
            f"{which} gives other values or gradients where it is evaluated {many}; {remedy}"
        )
