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
width 128 to 0.88. So the subnetworks of networks for CIFAR are computed in turn. So are those with batch
norms, whose running statistics each part has to keep, with random numbers, with hooks, and those that
differ in a setting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ..chain import State
from ..fields import as_given, as_state, has_attention
from ..staged.pieces import Piece, Step, TiedStep
from .trace import evaluating, shape_of, through

Part = Sequence[Piece]
"""The pieces of g^j."""
MANY = 8
"""Fewest parts that are batched."""
SMALL = 1152
"""Most entries of a parameter in parts that are batched."""
WITHIN = ("_modules", "_parameters", "_buffers")
"""What a module holds, not how it is set."""
PLAIN = bool | int | float | complex | str | bytes | set | frozenset | torch.dtype | torch.device
"""Settings that are compared by value."""


class _Template(nn.Module):
    """The pieces of one part, as a function of all their parameters."""

    def __init__(self, part: Part):
        super().__init__()
        self.part = part
        for k, piece in enumerate(part):
            self.add_module(str(k), piece.module)

    def forward(self, *state: Tensor) -> State:
        return as_state(through(self.part, as_given(state)), "the value of a fine part")


def together(parts: Sequence[Part], states: Sequence[Any]) -> list[Any]:
    """The values of parts of one kind for states of one shape."""
    templates = [_Template(part) for part in parts]
    first, named = templates[0], [dict(each.named_parameters()) for each in templates]
    stacked = {name: torch.stack([each[name] for each in named]) for name in named[0]}
    begins = [torch.stack(a) for a in zip(*(as_state(s, "a state") for s in states), strict=True)]
    ends = vmap(lambda p, *u: functional_call(first, p, u))(stacked, *begins)
    return [as_given(state) for state in zip(*(a.unbind() for a in ends), strict=True)]


def alike(parts: Sequence[Part], states: Sequence[Any]) -> tuple[range, ...]:
    """Which consecutive parts are to be computed in one batch.

    Args:
        states: that the parts begin with, of an example; what they make of them, in one batch and in
            turn, is compared, as modules may differ in what nobody sees.
    """
    found, start = [], 0
    for n in range(1, len(parts) + 1):
        like = n < len(parts) and shape_of(states[n]) == shape_of(states[start])
        if like and matching(parts[start], parts[n]):
            continue
        run = parts[start:n]
        if len(run) >= MANY and _batchable(parts[start]) and _same(run, states[start]):
            found.append(range(start, n))
        start = n
    return tuple(found)


def matching(one: Part, other: Part) -> bool:
    """Whether two parts differ in the values of their parameters only, as far as can be seen."""
    return len(one) == len(other) and all(
        type(a) is type(b)
        and (not isinstance(a, Step | TiedStep) or a.holder is b.holder)  # of one chain
        and _matching(a.module, b.module)
        for a, b in zip(one, other, strict=True)
    )


def _matching(a: nn.Module, b: nn.Module) -> bool:
    """The same for modules: type, settings, mode, and those inside; hooks are called in turn only."""
    mine, theirs = a.__dict__, b.__dict__
    if type(a) is not type(b) or mine.keys() != theirs.keys():
        return False
    for name, value in mine.items():
        if name.endswith("_hooks"):
            if value or theirs[name]:
                return False
        elif name not in WITHIN and not _equal(value, theirs[name]):
            return False
    for name in WITHIN:
        if mine[name].keys() != theirs[name].keys():
            return False
    for p, q in zip(a._parameters.values(), b._parameters.values(), strict=True):
        if (p is None) != (q is None) or (p is not None and q is not None and p.shape != q.shape):
            return False
    inside = zip(a._modules.values(), b._modules.values(), strict=True)
    return all(u is v or (u is not None and v is not None and _matching(u, v)) for u, v in inside)


def _equal(a: Any, b: Any) -> bool:
    """Of settings: plain values by value, anything else only if it is the same object."""
    if a is b or type(a) is not type(b):
        return a is b
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(value, b[key]) for key, value in a.items())
    return isinstance(a, PLAIN) and a == b


def _batchable(part: Part) -> bool:
    modules = [m for piece in part for m in piece.module.modules()]
    parameters = [p for piece in part for p in piece.module.parameters()]
    if not parameters or len(set(parameters)) < len(parameters):
        return False
    buffers = any(True for m in modules for _ in m.buffers(recurse=False))
    attention = any(has_attention(piece.module) for piece in part)
    return not (buffers or attention) and max(p.numel() for p in parameters) <= SMALL


def _same(parts: Sequence[Part], state: Any) -> bool:
    """Whether all parts do in one batch what they do in turn, when training, too.

    Compared are values, gradients, and what they leave of themselves: a module that counts its calls
    is to be called.
    """
    modules = [m for part in parts for piece in part for m in piece.module.modules()]
    with evaluating(modules), torch.enable_grad():
        for mode in (False, True):
            for module in modules:
                module.training = mode
            try:
                batched = _pulled(parts, state, lambda begins: together(parts, begins))
                in_turn = _pulled(parts, state, lambda begins: [*map(through, parts, begins)])
            except RuntimeError:  # vmap does not know an operation, or it is random
                return False
            for a, b in zip(batched, in_turn, strict=True):
                if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-4, atol=1e-5):
                    return False
        return all(matching(parts[0], part) for part in parts[1:])


def _pulled(
    parts: Sequence[Part], state: Any, values: Callable[[Sequence[Any]], list[Any]]
) -> list[Tensor]:
    """All parts' values for the state, and the gradients of half their squares; none is zero."""
    begins = [tuple(a.detach().clone() for a in as_state(state, "a state")) for _ in parts]
    wanted = [a.requires_grad_() for begin in begins for a in begin]
    wanted += [
        p for part in parts for piece in part for p in piece.module.parameters() if p.requires_grad
    ]
    ends = [a for end in values([*map(as_given, begins)]) for a in as_state(end, "a value")]
    half = torch.stack([a.square().sum() for a in ends]).sum() / 2
    found = torch.autograd.grad(half, wanted, allow_unused=True)
    return [
        *ends,
        *(torch.zeros_like(a) if g is None else g for a, g in zip(wanted, found, strict=True)),
    ]


def in_batches(parts: Sequence[Part], states: Sequence[Any], runs: Sequence[range]) -> list[Any]:
    """The values of all parts in order: of `runs` in one batch each, of the others in turn.

    In turn, too, are runs of which a part has been changed since.
    """
    done: dict[int, Any] = {}
    for run in runs:
        first, *others = parts[run.start : run.stop]
        if all(matching(first, other) for other in others):
            ends = together([first, *others], states[run.start : run.stop])
            done |= dict(zip(run, ends, strict=True))
    return [
        done[n] if n in done else through(part, state)
        for n, (part, state) in enumerate(zip(parts, states, strict=True))
    ]
