"""The propagation of a chain where torch.compile is at work: it is left as it is.

Importing this imports torch's compiler, which takes seconds; so it is done where that is there already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .network import Network


@torch.compiler.disable(
    reason="a chain is propagated by a solver; compile its layer, torch.compile(layer)"
)
def propagated(network: Network, *given: Any) -> Any:
    """See `Network._propagated`."""
    return network._propagated(*given)
