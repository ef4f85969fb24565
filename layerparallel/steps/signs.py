"""Signs that steps do other things than a solve can bear: random numbers drawn, saved tensors packed."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils import parametrize

from .state import versions


def generators(device: torch.device) -> list[Tensor]:
    """The states of torch's generators that steps on a device may draw from."""
    found = [torch.get_rng_state()]
    if device.type == "cuda":
        found.append(torch.cuda.get_rng_state(device))
    return found


def moved(before: list[Tensor], device: torch.device) -> bool:
    """Whether random numbers were drawn since."""
    return not all(map(torch.equal, before, generators(device)))


def other_generators() -> list[Any]:
    """The states of Python's generator and of NumPy's, which a step may draw from, too."""
    found: list[Any] = [random.getstate()]
    if "numpy" in sys.modules:
        kind, keys, *rest = sys.modules["numpy"].random.get_state()
        found.append((kind, keys.tobytes(), *rest))
    return found


@contextlib.contextmanager
def uncached() -> Iterator[None]:
    """Without the values that ``parametrize.cached()`` keeps: they are not of the parameters given."""
    before = parametrize._cache_enabled
    parametrize._cache_enabled = 0
    try:
        yield
    finally:
        parametrize._cache_enabled = before


@contextlib.contextmanager
def unpacked() -> Iterator[None]:
    """Without the hooks of others on saved tensors: a checkpoint around counts what is saved."""
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is None:  # type: ignore[attr-defined]
        yield
        return
    with saved_tensors_hooks(_as_it_is, _as_it_is):
        yield


def _as_it_is(t: Tensor) -> Tensor:
    return t


class Packing:
    """Notices while it lasts that somebody packs saved tensors, as checkpointing does."""

    seen = False

    def __enter__(self) -> Packing:
        self._enter, noticed = saved_tensors_hooks.__enter__, self

        def enter(hooks: saved_tensors_hooks) -> None:
            noticed.seen = True
            return noticed._enter(hooks)

        saved_tensors_hooks.__enter__ = enter  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        saved_tensors_hooks.__enter__ = self._enter


class Signs:
    """What tells after a solve that steps no longer do what they did when they were examined.

    Args:
        buffers: of all steps, if they have any but those of batch norm.
        parameters: of all steps, that do not write to them.
    """

    def __init__(
        self,
        device: torch.device,
        buffers: Callable[[], Iterable[Tensor]],
        parameters: Sequence[Tensor],
    ):
        self.device, self.buffers, self.parameters = device, buffers, parameters
        self.packing = Packing()

    def __enter__(self) -> None:
        self.generators, self.versions = generators(self.device), self._versions()
        self.before = versions(self.parameters)
        self.others = other_generators()
        self.packing.__enter__()

    def __exit__(self, *_: object) -> None:
        self.packing.__exit__()

    def _versions(self) -> list[tuple[int, int]]:
        return [(id(b), 0 if b.is_inference() else b._version) for b in self.buffers()]

    def refuse_written(self) -> None:
        """Refuses steps that have written to their parameters.

        Raises:
            ValueError: they have.
        """
        if self.before != versions(self.parameters):
            raise ValueError(
                "a step has begun to write to its parameters, and a solve evaluates it several times; "
                "do it once per training step, outside of the network"
            )

    def drawn(self) -> bool:
        """Whether random numbers were drawn."""
        return moved(self.generators, self.device) or self.others != other_generators()

    def shown(self) -> bool:
        """Whether there is one."""
        return self.packing.seen or self.drawn() or self.versions != self._versions()
