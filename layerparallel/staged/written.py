"""Counts the entries that operations write."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Written(TorchDispatchMode):
    """While it is active, counts entries of floating-point tensors that are written; views are not.

    Attributes:
        entries: so many until now.
    """

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        views = [each.alias_info for each in func._schema.returns]
        if not any(view is not None and not view.is_write for view in views):
            leaves = [each for each in tree_leaves(found) if isinstance(each, Tensor)]
            self.entries += sum(each.numel() for each in leaves if each.is_floating_point())
        return found
