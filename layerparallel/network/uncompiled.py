"""Calls that torch.compile and compiled autograd leave as they are.

Importing this imports torch's compiler, which takes seconds; so it is done where that is there already.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo import compiled_autograd


@torch.compiler.disable(
    reason="a chain is propagated by a solver; compile its layer, torch.compile(layer)"
)
def called(work: Callable[..., Any], *given: Any) -> Any:
    """What `work` returns."""
    active = compiled_autograd.compiled_autograd_enabled
    with compiled_autograd._disable() if active else contextlib.nullcontext():
        return work(*given)
