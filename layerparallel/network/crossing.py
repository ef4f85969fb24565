"""Values that cross from one rank of a layer group to others, in both directions of autograd.

A network's opening is on the first rank and its closing on the last. In between every rank holds
something in the shape of the state: the state where it is, a placeholder without memory elsewhere, so
that every rank has a graph to go back through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import RankFailed
from ..group.base import Group
from ..steps.state import State, as_given, as_state, entering
from .driven import Driven


@dataclass(frozen=True)
class Form:
    """What a tensor looks like on a rank that has it.

    `order` are its dimensions as they lie in memory, outermost first: (0, 2, 3, 1) of images that are
    channels-last. A copy of another order is slower to compute with than the tensor itself.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    differentiable: bool
    order: tuple[int, ...]

    @classmethod
    def of(cls, a: Tensor) -> Form:
        natural = tuple(range(a.dim()))
        order = tuple(sorted(natural, key=lambda k: -a.stride(k)))
        dense = a.permute(order).is_contiguous()
        return cls(tuple(a.shape), a.dtype, a.requires_grad, order if dense else natural)

    def packed(self, a: Tensor) -> Tensor:
        """As a message: its entries as they lie in memory; a view of what has this form."""
        return a.permute(self.order).contiguous()

    def unpacked(self, message: Tensor) -> Tensor:
        """A view of a message in this form."""
        return message.permute([self.order.index(k) for k in range(len(self.order))])

    def empty(self, device: torch.device) -> Tensor:
        """Memory for a tensor of this form."""
        shape = [self.shape[k] for k in self.order]
        return self.unpacked(torch.empty(shape, dtype=self.dtype, device=device))

    def like(self, a: Tensor) -> Tensor:
        """A tensor of this form, whose gradient will lie in memory as it does."""
        if not a.requires_grad:
            return a
        same = a.view_as(a)
        same.register_hook(lambda g: self.unpacked(self.packed(g)))
        return same

    def placeholder(self, device: torch.device, rows: int | None = None) -> Tensor:
        """Zeros of this form, without memory of their own; with another number of rows if given."""
        shape = self.shape if rows is None else (rows, *self.shape[1:])
        floating = self.dtype.is_floating_point and torch.is_grad_enabled()
        return torch.zeros((), dtype=self.dtype, device=device, requires_grad=floating).expand(shape)


def told(group: Group, source: int, work: Callable[[], tuple[Any, Any]]) -> tuple[Any, Any]:
    """Does `work` on one rank, and tells all others about it.

    Args:
        work: returns a value, which stays on its rank, and what is to be told of it.

    Returns:
        The value, None on other ranks, and what is told.

    Raises:
        RankFailed: `work` has raised on its rank, where its own error is raised.
    """
    value, message, error = None, None, None
    if group.rank == source:
        try:
            value, message = work()
        except Exception as raised:
            error, message = (
                raised,
                RankFailed(f"rank {source} raised {type(raised).__name__}: {raised}"),
            )
    message = group.tell(message, source)
    if error is not None:
        raise error
    if isinstance(message, RankFailed):
        raise message
    return value, message


class _Crossing(torch.autograd.Function):
    """A state of rank `source`, on `target`; its gradient goes the other way."""

    @staticmethod
    def forward(ctx: Any, group: Group, source: int, target: int, *state: Tensor) -> State:
        ctx.group, ctx.source, ctx.target = group, source, target
        if group.rank != target:
            if group.rank == source:
                group.exchange([(target, a.contiguous()) for a in state], []).wait()
            return tuple(a.new_zeros(()).expand(a.shape) for a in state)
        received = tuple(torch.empty_like(a, memory_format=torch.contiguous_format) for a in state)
        group.exchange([], [(source, a) for a in received]).wait()
        return received

    @staticmethod
    def backward(ctx: Any, *outgoing: Tensor) -> tuple[Any, ...]:
        group, source, target = ctx.group, ctx.source, ctx.target
        if group.rank == target:
            group.exchange([(source, g.contiguous()) for g in outgoing], []).wait()
        if group.rank != source:
            return (None, None, None, *(g.new_zeros(()).expand(g.shape) for g in outgoing))
        received = tuple(torch.empty_like(g, memory_format=torch.contiguous_format) for g in outgoing)
        group.exchange([], [(target, g) for g in received]).wait()
        return (None, None, None, *received)


def crossed(group: Group, source: int, target: int, state: State) -> State:
    """A state of rank `source`, on `target`; placeholders elsewhere. All ranks must call."""
    if source == target:
        return state
    return _Crossing.apply(group, source, target, *state)


class _Everywhere(torch.autograd.Function):
    """Tensors of the last rank, on all; the gradients of the last rank's alone count."""

    @staticmethod
    def forward(ctx: Any, group: Group, forms: list[Form], count: int, *tensors: Tensor) -> State:
        ctx.last, ctx.count = group.last, count
        ctx.kept = [(a.shape, a.dtype) for a in tensors[count:]]
        device = tensors[0].device
        found = []
        for k, form in enumerate(forms):
            if group.last:
                a = tensors[k].detach().clone(memory_format=torch.contiguous_format)
            else:
                a = torch.empty(form.shape, dtype=form.dtype, device=device)
            group.broadcast(a, group.size - 1)
            found.append(a)
        fixed = [a for a, form in zip(found, forms, strict=True) if not form.differentiable]
        ctx.mark_non_differentiable(*fixed)
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *outgoing: Tensor) -> tuple[Any, ...]:
        if ctx.last:
            return (None, None, None, *outgoing)
        zeros = outgoing[0].new_zeros(())
        return (None, None, None, *(zeros.to(dtype).expand(shape) for shape, dtype in ctx.kept))


def everywhere(group: Group, work: Callable[[], Any], thread: State) -> Any:
    """The value of `work` on the last rank, on all ranks.

    Args:
        work: returns tensors, in tuples, lists or dictionaries if they are several.
        thread: placeholders of the other ranks, from which their graph goes back.
    """

    def done() -> tuple[Any, Any]:
        value = work()
        if isinstance(value, Tensor):
            return [value], ([Form.of(value)], None, None)
        leaves, tree = pytree.tree_flatten(value)
        tensors = [a for a in leaves if isinstance(a, Tensor)]
        others = [None if isinstance(a, Tensor) else a for a in leaves]
        return tensors, ([Form.of(a) for a in tensors], others, tree)

    tensors, (forms, others, tree) = told(group, group.size - 1, done)
    inputs, count = ((*tensors,), len(tensors)) if group.last else (thread, 0)
    found = iter(_Everywhere.apply(group, forms, count, *inputs)) if forms else iter(())
    if tree is None:
        return next(found)
    return pytree.tree_unflatten([next(found) if a is None else a for a in others], tree)


def on_rank(
    group: Group,
    device: torch.device,
    rank: int,
    work: Callable[[], Any],
    thread: Any = None,
) -> Any:
    """A module's value on its rank; placeholders on the others of the layer group.

    Args:
        device: of the placeholders.
        work: what is done on that rank; returns a state or a `Driven`.
        thread: what this rank has so far, from which the graph of its placeholders goes back.
    """
    if group.alone:
        return work()

    def done() -> tuple[Any, Any]:
        value = work()
        given, inputs = (value.state, value.inputs) if isinstance(value, Driven) else (value, ())
        state = entering(given, "a module's value")
        states = [state, as_state(inputs, "inputs") if inputs != () else ()]
        return value, [[Form.of(a) for a in state] for state in states]

    value, forms = told(group, rank, done)
    if group.rank == rank:
        return value
    state = tuple(form.placeholder(device) for form in forms[0])
    if thread is not None and torch.is_grad_enabled():  # goes on with the graph of this rank
        tie = edge(as_state(thread, "a state"))
        state = tuple(a + 0 * tie.to(a.dtype) for a in state)
    inputs = tuple(form.placeholder(device, rows=0) for form in forms[1])
    return Driven(as_given(state), inputs) if inputs else as_given(state)


def edge(state: State) -> Tensor:
    """A number, 0-d, from which the graph goes back to a state."""
    return torch.stack([a.flatten()[:1].sum() for a in state]).sum()
