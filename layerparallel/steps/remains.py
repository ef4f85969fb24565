"""What the evaluation of a step leaves behind besides its value: graphs, and attributes of modules."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .contents import INTERNAL, remade

Attribute = tuple[nn.Module, str]
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


def leaves_behind(which: str, left: Iterable[str]) -> str:
    """The sentence for a step that does, by what is known of where."""
    where = next(iter(left), None)
    place = "a container, a hook or a global" if where is None else f"its attribute {where}"
    return (
        f"{which} leaves a tensor with a graph in {place}, and a solve evaluates a step several times; "
        "return it as a part of the state"
    )


class Attributes:
    """Those of modules: numbers that count evaluations, and what one evaluation keeps for the next."""

    def __init__(self, module: nn.Module | None):
        self.module = module
        self.first = self.second = self._now()

    def _now(self) -> dict[Attribute, Any]:
        return _attributes([] if self.module is None else self.module.modules())

    def after_one(self) -> None:
        """After the first of two evaluations."""
        self.second = self._now()

    def counting(self) -> str | None:
        """The name of a number that both evaluations have changed."""
        now = self._now()
        self.counters = [
            key
            for key, value in self.second.items()
            if type(value) in (int, float)
            and self.first.get(key) != value
            and now.get(key, value) != value
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
            for key in self.counters:
                _put(key, self.first.get(key, MISSING))

    def kept(self) -> str | None:
        """The name of one that the first evaluation has changed and the second has not."""
        self.caches = tuple(
            key
            for key, value in self._now().items()
            if _other(self.first.get(key, MISSING), value)
            and not _other(self.second.get(key, MISSING), value)
        )
        return self.caches[0][1] if self.caches else None

    @contextlib.contextmanager
    def forgotten(self) -> Iterator[None]:
        """Without what was kept."""
        with undone(self.caches):
            self.forget()
            yield

    def forget(self) -> tuple[Attribute, ...]:
        """What was kept, which is as before the first evaluation then."""
        for key in self.caches:
            _put(key, self.first.get(key, MISSING))
        return self.caches


@contextlib.contextmanager
def undone(attributes: Iterable[Attribute]) -> Iterator[None]:
    """Attributes are afterwards as they were before."""
    before = [(key, _shallow(vars(key[0]).get(key[1], MISSING))) for key in attributes]
    try:
        yield
    finally:
        for key, value in before:
            _put(key, value)


@contextlib.contextmanager
def untouched(modules: Sequence[nn.Module]) -> Iterator[None]:
    """All attributes of modules are afterwards as they were before; tensors are told by identity."""
    before = _attributes(modules)
    try:
        yield
    finally:
        now = _attributes(modules)
        for key in before | now:
            if _other(before.get(key, MISSING), now.get(key, MISSING)):
                _put(key, before.get(key, MISSING))


def _attributes(modules: Iterable[nn.Module]) -> dict[Attribute, Any]:
    return {
        (part, name): _shallow(value)
        for part in modules
        for name, value in vars(part).items()
        if name not in INTERNAL or name == "_buffers"
    }


def _put(key: Attribute, value: Any) -> None:
    part, name = key
    old = vars(part).get(name)
    if value is MISSING:
        vars(part).pop(name, None)
    elif isinstance(old, dict) and isinstance(value, dict):
        old.clear()
        old.update(value)
    else:
        vars(part)[name] = _shallow(value)


MISSING = object()


def _shallow(value: Any) -> Any:
    return value.copy() if isinstance(value, dict | list | set) else value


def _other(a: Any, b: Any) -> bool:
    """Whether a value is no longer what it was; tensors and other objects are told by their identity."""
    if type(a) is not type(b):
        return True
    if isinstance(a, dict):
        return a.keys() != b.keys() or any(_other(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple):
        return len(a) != len(b) or any(map(_other, a, b))
    if isinstance(a, int | float | str | set):
        return a != b
    return a is not b
