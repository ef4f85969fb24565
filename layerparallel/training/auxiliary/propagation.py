"""One ordinary propagation through all stages, from which auxiliary variables begin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...network.crossing import told
from ...steps import draws
from .filters import Shape

if TYPE_CHECKING:
    from ...staged import Staged

Forms = tuple[dict[int, Shape], torch.dtype]
"""Of the states at the interfaces: their shapes, of one sample, and the dtype of all."""


def forms_of(staged: Staged, example: Tensor) -> Forms:
    """Shapes and dtype of the states at all interfaces; every rank calls this.

    Args:
        example: an input `(b, ...)`; it is propagated in evaluation mode.

    Raises:
        InputError: a stage ends with something else than one floating-point tensor with the samples in
            front, or stages end in different dtypes.
    """
    group = staged.group
    u: Tensor = example
    shapes: dict[int, Shape] = {}
    dtypes = {}
    with undisturbed(staged), torch.no_grad():
        staged.eval()
        for k in range(staged.count - 1):
            source = 0 if group.alone else k
            end, (shape, dtype) = told(group, source, partial(_ended, staged, k, u))
            shapes[k + 1], dtypes[dtype] = shape, k
            if group.alone:
                u = end
            elif group.rank == k:
                group.exchange([(k + 1, end.contiguous())], []).wait()
            elif group.rank == k + 1:
                u = example.new_empty((len(example), *shape), dtype=dtype)
                group.exchange([], [(k, u)]).wait()
    if len(dtypes) > 1:
        raise InputError(
            f"The stages end with states in {' and '.join(map(str, dtypes))}: give all one dtype."
        )
    return shapes, next(iter(dtypes), example.dtype)


def propagate(
    staged: Staged,
    count: int,
    samples: Callable[[Tensor], Tensor],
    forms: Forms,
    batch: int,
    keep: Callable[[int, Tensor, Tensor, Tensor], None],
) -> None:
    """One ordinary propagation of the training set; every rank calls this.

    Samples come in a random order, in batches of about one size, so that batch norm meets statistics
    like those of training. The network's buffers and torch's random numbers stay as they are, and those
    of dropout are the same on ranks as on one process.

    Args:
        count: samples in the training set.
        samples: from places `(b,)` in it to the inputs there, not augmented.
        batch: samples at a time, at most.
        keep: called with the number k of each interface of this process, the places, the inputs and the
            states there.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    with undisturbed(staged), torch.no_grad():
        for index in order.tensor_split(-(-count // batch)):
            x, seed = samples(index), draws.seed()
            for k, state in _states(staged, x, forms, seed):
                keep(k, index, x, state)


def _states(staged: Staged, x: Tensor, forms: Forms, seed: int) -> Iterator[tuple[int, Tensor]]:
    """Of every interface k of this process, k and the state there."""
    group, mine, u = staged.group, staged.mine, x
    shapes, dtype = forms
    if mine.start > 0:
        u = x.new_empty((len(x), *shapes[mine.start]), dtype=dtype)
        group.exchange([], [(group.rank - 1, u)]).wait()
    for k in mine:
        if k > 0:
            yield k, u
        if k < staged.count - 1:
            with draws.apart(seed + k, x.device):
                u = staged.stage(k)(u)
    if mine.stop < staged.count:
        group.exchange([(group.rank + 1, u.contiguous())], [])


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Within it a module may be propagated at will; then it and torch's generator are as before."""
    modes = [(each, each.training) for each in module.modules()]
    buffers = [(each, each.clone()) for each in module.buffers()]
    try:
        with draws.apart():
            yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for each, training in modes:
            each.training = training


def _ended(staged: Staged, k: int, u: Tensor) -> tuple[Tensor, tuple[Shape, torch.dtype]]:
    """The state that stage k ends with, and its form."""
    end: Any = staged.stage(k)(u)
    if not isinstance(end, Tensor):
        raise InputError(
            f"Stage {k} ends with a {type(end).__name__}, and auxiliary variables stand for one tensor: "
            "cut the network where its state is one."
        )
    if not end.is_floating_point():
        raise InputError(
            f"Stage {k} ends with a state of {end.dtype}, which has no gradient: cut the network where "
            "its state is of floating-point numbers."
        )
    if end.ndim == 0 or len(end) != len(u):
        raise InputError(
            f"Stage {k} ends with a state of shape {tuple(end.shape)} for {len(u)} samples: cut the "
            "network where its state has them in front."
        )
    return end, (tuple(end.shape[1:]), end.dtype)
