"""torch.nn's attention, evaluated so that training, evaluation and vmap agree."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextlib.contextmanager
def plain_attention(wanted: bool) -> Iterator[None]:
    """Attention by the same arithmetic in training and evaluation, and one that vmap knows."""
    if not wanted:
        yield
        return
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def has_attention(module: nn.Module) -> bool:
    """Whether torch.nn's attention is inside, which has a fast path of its own."""
    return any(isinstance(part, nn.MultiheadAttention) for part in module.modules())
