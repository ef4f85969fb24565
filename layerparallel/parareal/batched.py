"""Fine parts of one kind on one process: all in one batch, where that is faster.

It is where there are many of them and their layers are small. Parts of four residual units of two layers
each, forward and backward, on one thread of an AMD EPYC beside other work: CPU time in turn over that in
one batch, by torch.func.vmap over the parameters, which are stacked anew every time.

    ====================================  =====  =====  =====  =====
    number of parts                           2      4      8     16
    ====================================  =====  =====  =====  =====
    dense, width 8, batch 32               0.51   1.18   1.43   1.75
    dense, width 16, batch 32              0.81   0.96   1.23   1.70
    dense, width 32, batch 32              0.42   0.91   1.07   1.40
    dense, width 48, batch 64              0.70   0.81   1.10   1.07
    convolution, (4, 14, 14), batch 32     1.16   1.43   1.74   1.70
    convolution, (8, 28, 28), batch 32     1.68   1.83   1.03   1.07
    ====================================  =====  =====  =====  =====

With 12 parts, convolutions of 16 channels came to 0.68 and 0.83, of 64 channels to 1.06, dense layers of
width 128 to 0.88. So the subnetworks of networks for CIFAR are computed in turn. All this
was timed before parts were compared at every call, which takes some 4 microseconds a module.

In turn, too, are parts with batch norms, whose running statistics each has to keep, with random numbers,
with hooks, and those that differ in a setting.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ..staged.in_place import copied
from ..staged.pieces import Piece, Step, TiedStep
from ..steps.alike import matched, switches
from ..steps.attention import has_attention
from ..steps.remains import untouched
from ..steps.state import State, as_given, as_state
from .trace import evaluating, shape_of, through

Part = Sequence[Piece]
"""The pieces of g^j."""
MANY = 8
"""Fewest parts that are batched."""
SMALL = 1152
"""Most entries of a parameter in parts that are batched."""


class _Template(nn.Module):
    """The pieces of one part, as a function of all their parameters."""

    def __init__(self, part: Part):
        super().__init__()
        self.part = part
        for k, piece in enumerate(part):
            self.add_module(str(k), piece.module)

    def forward(self, *state: Tensor) -> State:
        return as_state(through(self.part, as_given(state)), "the value of a fine part")


def together(parts: Sequence[Part], rows: Sequence[list[Tensor]], states: Sequence[Any]) -> list[Any]:
    """The values of parts of one kind for states of one shape; `rows` are what `alike` found."""
    first = _Template(parts[0])
    names = [name for name, _ in first.named_parameters()]
    stacked = {
        name: torch.stack(each) for name, each in zip(names, zip(*rows, strict=True), strict=True)
    }
    begins = [torch.stack(a) for a in zip(*(as_state(s, "a state") for s in states), strict=True)]
    ends = vmap(lambda p, *u: functional_call(first, p, u))(stacked, *begins)
    return [as_given(state) for state in zip(*(a.unbind() for a in ends), strict=True)]


def runs_of(parts: Sequence[Part], states: Sequence[Any]) -> tuple[range, ...]:
    """Which consecutive parts are to be computed in one batch.

    Args:
        states: that the parts begin with, of an example; what they make of them, in one batch and in
            turn, is compared, as modules may differ in what nobody sees.
    """
    found, start = [], 0
    for n in range(1, len(parts) + 1):
        like = n < len(parts) and shape_of(states[n]) == shape_of(states[start])
        if like and alike([parts[start], parts[n]]):
            continue
        run = parts[start:n]
        if len(run) >= MANY and _batchable(parts[start]) and _same(run, states[start]):
            found.append(range(start, n))
        start = n
    return tuple(found)


def switched(parts: Sequence[Part], runs: Sequence[range]) -> list[Any]:
    """What tells whether the parts of runs, all alike, have been switched over since they were compared.

    The first of each run tells: the others are compared with it at every call.
    """
    first = [parts[run.start] for run in runs]
    modules = [module for part in first for piece in part for module in piece.module.modules()]
    return [(type(module), switches(module)) for module in modules]


def alike(parts: Sequence[Part]) -> list[list[Tensor]] | None:
    """The parameters of every part, in one order; None where parts differ in more than their values.

    As far as can be seen: in modules, their settings and modes, and in hooks, which are called in turn.
    """
    first, rows = parts[0], []
    for part in parts:
        row: list[Tensor] = []
        if len(part) != len(first):
            return None
        for a, b in zip(first, part, strict=True):
            of_chains = isinstance(a, Step | TiedStep)
            if type(a) is not type(b) or (of_chains and a.holder is not b.holder):
                return None
            pairs = matched(a.module, b.module)
            if pairs is None:
                return None
            row += pairs.values()
        rows.append(row)
    return rows


def _batchable(part: Part) -> bool:
    modules = [m for piece in part for m in piece.module.modules()]
    parameters = [p for m in modules for p in m.parameters(recurse=False)]
    if not parameters or len(set(parameters)) < len(parameters):
        return False
    attention = any(has_attention(piece.module) for piece in part)
    return not attention and max(p.numel() for p in parameters) <= SMALL


def _same(parts: Sequence[Part], state: Any) -> bool:
    """Whether all parts do in one batch what they do in turn, when training, too.

    Compared are values, gradients, and what they leave of themselves: a module that counts its calls
    is to be called.
    """
    modules = [m for part in parts for piece in part for m in piece.module.modules()]
    with evaluating(modules), torch.enable_grad(), untouched(modules):
        for mode in (False, True):
            for module in modules:
                module.training = mode
            rows = alike(parts)
            if rows is None:
                return False
            try:
                batched = _pulled(parts, state, partial(together, parts, rows))
                in_turn = _pulled(parts, state, partial(_in_turn, parts))
            except RuntimeError:  # vmap does not know an operation, or it is random
                return False
            for a, b in zip(batched, in_turn, strict=True):
                if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-4, atol=1e-5):
                    return False
        return alike(parts) is not None


def _in_turn(parts: Sequence[Part], states: Sequence[Any]) -> list[Any]:
    return [through(part, state) for part, state in zip(parts, states, strict=True)]


def _pulled(
    parts: Sequence[Part], state: Any, values: Callable[[Sequence[Any]], list[Any]]
) -> list[Tensor]:
    """All parts' values for the state, and the gradients of half their squares; none is zero."""
    begins = [tuple(a.detach().clone() for a in as_state(state, "a state")) for _ in parts]
    wanted = [a.requires_grad_() for begin in begins for a in begin]
    wanted += [
        p for part in parts for piece in part for p in piece.module.parameters() if p.requires_grad
    ]
    given = [copied(as_given(begin)) for begin in begins]
    ends = [a for end in values(given) for a in as_state(end, "a value")]
    half = torch.stack([a.square().sum() for a in ends]).sum() / 2
    found = torch.autograd.grad(half, wanted, allow_unused=True)
    return [
        *ends,
        *(torch.zeros_like(a) if g is None else g for a, g in zip(wanted, found, strict=True)),
    ]


def in_batches(
    parts: Sequence[Part],
    states: Sequence[Any],
    runs: Sequence[range],
    one: Callable[[int, Any], Any],
) -> list[Any]:
    """The values of all parts in order: of `runs` in one batch each, of the others in turn.

    In turn, too, are runs of which a part has been changed since, or whose states differ in shape.

    Args:
        one: the value of part n, counted from 0, for a state.
    """
    done: dict[int, Any] = {}
    for run in runs:
        these = slice(run.start, run.stop)
        same = len({shape_of(state) for state in states[these]}) == 1
        rows = alike(parts[these]) if same else None
        if rows is not None:
            with contextlib.suppress(RuntimeError):  # they do what vmap cannot since; in turn they can
                done |= dict(zip(run, together(parts[these], rows, states[these]), strict=True))
    return [done[n] if n in done else one(n, state) for n, state in enumerate(states)]
