"""A step, called for one sample, as a `Program`: PyTorch's tracer writes down what it and its VJP do."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import map_aggregate

from .decompositions import decompositions
from .lowering import UnsupportedError, lowered
from .program import Builder, Input, Program, Role, Value, View

MOST = 4096
"""Numbers of a constant tensor."""
Step = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor], Tensor, Tensor], Sequence[Tensor]]
"""``step(u, own, shared, t, h)``: the next state of one sample, with a dimension 1 for it in front."""


@dataclass(frozen=True)
class Example:
    """What a step is called with, for shapes and dtypes alone.

    Args:
        u: parts of the state, each (1, ...).
        own: what every step has of its own: parameters, or inputs (1, ...) for one sample.
        shared: what all steps have in common.
        per_sample: whether `own` are inputs, which samples have of their own.
        times: the shape of the time argument.
        wanted: which of `own` and `shared` get a gradient; all if None.
    """

    u: tuple[Tensor, ...]
    own: tuple[Tensor, ...]
    shared: tuple[Tensor, ...]
    per_sample: bool = False
    times: tuple[int, ...] = (1,)
    wanted: tuple[bool, ...] | None = None


def trace(step: Step, example: Example) -> Program:
    """The operations of a step and its vector-Jacobian product.

    Raises:
        UnsupportedError: it does something that native loops do not have.
    """
    dtype = example.u[0].dtype
    every = (*example.u, *example.own, *example.shared)
    if dtype not in (torch.float32, torch.float64) or any(a.dtype != dtype for a in every):
        kinds = ", ".join(sorted({str(a.dtype) for a in every}))
        raise UnsupportedError(f"it has tensors of {kinds}, and all must be float32, or all float64")
    graph = _graph(step, example)
    try:
        return _program(graph, example)
    except UnsupportedError:
        raise
    except Exception as error:
        raise UnsupportedError(f"it has an operation out of bounds ({error})") from error


@contextmanager
def _quietly() -> Iterator[None]:
    """The tracer logs what it refuses."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _graph(step: Step, example: Example) -> torch.fx.GraphModule:
    from torch.fx.experimental.proxy_tensor import make_fx

    counts = len(example.u), len(example.own), len(example.shared)
    given = len(example.own) + len(example.shared)
    wanted = (*(True for _ in example.u), *(example.wanted or [True] * given))

    def joint(*given: Tensor) -> list[Tensor | None]:
        every = [a.detach().requires_grad_(w) for a, w in zip(given, wanted, strict=False)]
        (h, t), adjoint = given[sum(counts) : sum(counts) + 2], given[sum(counts) + 2 :]
        u, own = every[: counts[0]], every[counts[0] : sum(counts[:2])]
        with torch.enable_grad():
            end = step(u, own, every[sum(counts[:2]) :], t, h)
            if [a.shape for a in end] != [a.shape for a in u]:
                raise UnsupportedError("its value for one sample has another shape than the state")
            moving = [(a, w) for a, w in zip(end, adjoint, strict=True) if a.requires_grad]
            leaves = [a for a in every if a.requires_grad]
            found: Iterator[Tensor | None] = iter([None] * len(leaves))
            if moving:
                ends, weights = zip(*moving, strict=True)
                found = iter(torch.autograd.grad(ends, leaves, weights, allow_unused=True))
        gradients = [next(found) if w else None for w in wanted]
        return [*(a.detach() for a in end), *gradients]

    like = example.u[0]
    given = [a.detach() for a in (*example.u, *example.own, *example.shared)]
    given += [like.new_ones(()), like.new_zeros(example.times), *(torch.ones_like(a) for a in example.u)]
    with _quietly(), torch.inference_mode(False):
        try:
            traced = make_fx(joint, tracing_mode="fake")(*given)
            functional = torch.func.functionalize(traced)
            with torch.no_grad():
                return make_fx(
                    functional, decompositions(), tracing_mode="fake", _allow_non_fake_inputs=True
                )(*given)
        except UnsupportedError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise UnsupportedError(f"PyTorch cannot trace it for one sample ({reason[:200]})") from error


def _program(graph: torch.fx.GraphModule, example: Example) -> Program:
    b = Builder()
    given: list[tuple[Role, Sequence[Tensor]]] = [
        *(("state", example.u), ("own", example.own), ("shared", example.shared)),
        *(("h", [torch.empty(())]), ("t", [torch.empty(example.times)]), ("adjoint", example.u)),
    ]
    inputs, views = [], []
    for role, tensors in given:
        for place, like in enumerate(tensors):
            per_sample = role in ("state", "adjoint") or (role == "own" and example.per_sample)
            view = b.value(Input(role, place, per_sample), like.numel())
            inputs.append(view.value)
            views.append(View(view.value, view.index.reshape(like.shape)))
    ready = iter(views)
    known: dict[torch.fx.Node, Any] = {}
    outputs: Sequence[Any] = ()
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            known[node] = next(ready)
        elif node.op == "get_attr":
            known[node] = _held(b, operator.attrgetter(node.target)(graph))
        elif node.op == "output":
            outputs = torch.fx.map_arg(node.args[0], known.__getitem__)
        elif node.target is operator.getitem:
            known[node] = known[node.args[0]][node.args[1]]
        else:
            args, kw = torch.fx.map_arg((node.args, dict(node.kwargs)), known.__getitem__)
            known[node] = _one(b, node, args, kw)
    return _written(tuple(outputs), inputs, example)


INDEXED = (
    "aten.index.",
    "aten.gather.",
    "aten.index_put.",
    "aten._unsafe_index_put.",
    "aten.index_select.",
)
"""Operations whose index is a tensor."""


def _one(b: Builder, node: torch.fx.Node, args: Any, kw: dict[str, Any]) -> Any:
    if not any(isinstance(a, View) for a in _leaves((args, kw))):  # the same in every step
        assert callable(node.target)
        found = node.target(*args, **kw)
        return b.numbers(found) if isinstance(found, Tensor) and found.is_floating_point() else found
    if not str(node.target).startswith(INDEXED):

        def constant(a: Any) -> Any:
            return b.numbers(a) if isinstance(a, Tensor) else a

        args, kw = map_aggregate((args, kw), constant)
    return lowered(b, node.target, args, kw)


def _leaves(a: Any) -> Iterator[Any]:
    if isinstance(a, dict):
        a = tuple(a.values())
    if isinstance(a, list | tuple):
        for each in a:
            yield from _leaves(each)
    else:
        yield a


def _held(b: Builder, tensor: Tensor) -> View | Tensor:
    """A tensor that the step makes of numbers alone: indices as they are, numbers as constants."""
    if tensor.numel() > MOST:
        raise UnsupportedError(f"it makes a tensor of {tensor.numel()} numbers in every step")
    return b.numbers(tensor) if tensor.is_floating_point() else tensor


def _written(outputs: tuple[Any, ...], inputs: list[Value], example: Example) -> Program:
    parts = len(example.u)
    ends, adjoint, rest = outputs[:parts], outputs[parts : 2 * parts], outputs[2 * parts :]
    if not all(isinstance(a, View) for a in ends):
        raise UnsupportedError("its value does not depend on the state")
    own: list[tuple[Role, int]] = [("own", k) for k in range(len(example.own))]
    shared: list[tuple[Role, int]] = [("shared", k) for k in range(len(example.shared))]
    gradients = {name: g for name, g in zip([*own, *shared], rest, strict=True) if g is not None}
    zero = Builder().constant(0.0)
    pulled = tuple(
        a if a is not None else View(zero.value, zero.index.expand(u.shape))
        for a, u in zip(adjoint, example.u, strict=True)
    )
    shapes = tuple(tuple(a.shape[1:]) for a in example.u)
    return Program(example.u[0].dtype, shapes, ends, pulled, gradients, tuple(inputs))
