"""Calls that torch.compile leaves as they are.

Importing this imports torch's compiler, which takes seconds; so it is done where that is there already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


@torch.compiler.disable(
    reason="a chain is propagated by a solver; compile its layer, torch.compile(layer)"
)
def called(work: Callable[..., Any], *given: Any) -> Any:
    """What `work` returns."""
    return work(*given)
