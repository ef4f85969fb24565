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
width 128 to 0.88. So the subnetworks of networks for CIFAR are computed in turn; so are those with batch
norms, whose running statistics each part has to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ..chain import State
from ..fields import as_given, as_state, has_attention
from ..staged.pieces import Piece
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
    found = []
    kinds = [_kind(part, state) for part, state in zip(parts, states, strict=True)]
    for kind, numbers in groupby(range(len(parts)), key=kinds.__getitem__):
        run = [*numbers]
        if kind is not None and len(run) >= MANY and _same([parts[n] for n in run], states[run[0]]):
            found.append(range(run[0], run[-1] + 1))
    return tuple(found)


def _kind(part: Part, state: Any) -> Any:
    """Equal for parts of equal structure; None of those that are not to be batched."""
    modules = [m for piece in part for m in piece.module.modules()]
    parameters = [p for piece in part for p in piece.module.parameters()]
    buffers = [b for m in modules for b in m.buffers(recurse=False)]
    random = any(isinstance(m, nn.modules.dropout._DropoutNd) for m in modules)
    attention = any(has_attention(piece.module) for piece in part)
    if buffers or random or attention or not parameters:
        return None
    if max(p.numel() for p in parameters) > SMALL or len(set(parameters)) < len(parameters):
        return None
    structure = [(type(piece).__name__, repr(piece.module)) for piece in part]
    return repr((structure, [(p.shape, p.dtype) for p in parameters], shape_of(state)))


def _same(parts: Sequence[Part], state: Any) -> bool:
    """Whether all parts map a state, in one batch, to what they map it to in turn."""
    with evaluating(piece.module for part in parts for piece in part):
        try:
            values = together(parts, [state] * len(parts))
        except RuntimeError:  # vmap does not know an operation
            return False
        for part, value in zip(parts, values, strict=True):
            single = _Template(part)(*as_state(state, "a state"))
            for a, b in zip(as_state(value, "a value"), single, strict=True):
                if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-4, atol=1e-5):
                    return False
    return True


def in_batches(parts: Sequence[Part], states: Sequence[Any], runs: Sequence[range]) -> list[Any]:
    """The values of all parts in order: of `runs` in one batch each, of the others in turn."""
    done: dict[int, Any] = {}
    for run in runs:
        part = slice(run.start, run.stop)
        done |= dict(zip(run, together(parts[part], states[part]), strict=True))
    return [
        done[n] if n in done else through(part, state)
        for n, (part, state) in enumerate(zip(parts, states, strict=True))
    ]
