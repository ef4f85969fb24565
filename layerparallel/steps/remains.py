"""What the evaluation of a step leaves behind besides its value: graphs, and attributes of modules."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .contents import remade

FAR = 1000
"""Evaluations."""


class _Token:
    """Lives as long as the graph that it is in."""


class _Marked(torch.autograd.Function):
    """The identity, whose node holds a token."""

    @staticmethod
    def forward(ctx: Any, token: _Token, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.token = token
        return tuple(t.clone() for t in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, *gradients)


class Trace:
    """Tells whether a graph that begins at some tensors is still held by anybody."""

    def __init__(self, tensors: Sequence[Tensor]):
        token = _Token()
        self._token = weakref.ref(token)
        self.tensors = list(tensors)
        places = [k for k, t in enumerate(tensors) if t.requires_grad]
        if places:
            with torch.enable_grad():
                marked = _Marked.apply(token, *(tensors[k] for k in places))
            for k, t in zip(places, marked, strict=True):
                self.tensors[k] = t

    def held(self) -> bool:
        """Whether it is, once all that is known of it was dropped."""
        self.tensors.clear()
        if self._token() is None:
            return False
        gc.collect()  # modules may hold each other in circles
        return self._token() is not None


def made_by_hooks(module: nn.Module | None) -> bool:
    """Whether hooks keep tensors with a graph as attributes, as old weight norm and pruning do."""
    return module is not None and any(remade(part) for part in module.modules())


class Numbers:
    """Numbers among the attributes of modules that count evaluations."""

    def __init__(self, module: nn.Module | None):
        self.module = module
        self.first = self.second = self._now()

    def _now(self) -> dict[tuple[nn.Module, str], Any]:
        parts = [] if self.module is None else self.module.modules()
        return {
            (part, name): value
            for part in parts
            for name, value in vars(part).items()
            if type(value) in (int, float)
        }

    def after_one(self) -> None:
        """After the first of two evaluations."""
        self.second = self._now()

    def counting(self) -> str | None:
        """The name of one that both evaluations have changed."""
        now = self._now()
        self.counters = [
            key
            for key, value in self.second.items()
            if self.first.get(key) != value and now.get(key, value) != value
        ]
        return self.counters[0][1] if self.counters else None

    @contextlib.contextmanager
    def far_ahead(self) -> Iterator[None]:
        """As after many evaluations; then as before the first."""
        for part, name in self.counters:
            vars(part)[name] += FAR
        try:
            yield
        finally:
            for part, name in self.counters:
                if (part, name) in self.first:
                    vars(part)[name] = self.first[part, name]
                else:
                    del vars(part)[name]
