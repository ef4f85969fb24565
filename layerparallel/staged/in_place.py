"""Values that several parts share: a part that changes its input in place gets a copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import InputError


def copied(value: Any) -> Any:
    """The value with all its tensors copied, within tuples, lists and dictionaries; in its graph."""
    return _mapped(Tensor.clone, value)


class InPlace:
    """Calls parts with values that others need unchanged.

    PyTorch counts the changes of every tensor in place. The first call of a part, in training and in
    evaluation, with gradients and without, gets a copy; if the part changes that, all later calls get
    one, too. Otherwise they get the value itself, and a later change is noticed. Where nothing is
    counted (tensors of inference mode, torch.func, torch.compile) every call gets a copy.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, bool, bool], bool] = {}

    def changes(self, part: str, training: bool) -> bool:
        """Whether a part was seen to change its input in place, in this mode."""
        return self._seen.get((part, training, torch.is_grad_enabled()), False)

    def call(self, part: str, training: bool, work: Callable[[Any], Any], value: Any) -> Any:
        """What a part makes of a value, which is left as it is.

        Args:
            part: its name, as it begins a sentence.
            training: whether it is in training mode.
            work: the part.

        Raises:
            InputError: it has changed the value in place, and did not do so before.
        """
        if torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is not None:  # type: ignore[attr-defined]
            return work(copied(value))
        key = part, training, torch.is_grad_enabled()
        itself = self._seen.get(key) is False and not any(a.is_inference() for a in _tensors(value))
        value = _viewed(value) if itself else _counted(value)
        given = _tensors(value)
        before = [a._version for a in given]
        found = work(value)
        if before == [a._version for a in given]:
            self._seen.setdefault(key, False)
            return found
        self._seen[key] = True
        if itself:
            raise InputError(
                f"{part} changed its input in place, which it did not do at first and others still "
                "need; call again with the input as it was: from now on it gets a copy."
            )
        return found


def _viewed(value: Any) -> Any:
    """Views where there is a gradient, which is then summed as that of copies is, to the bit."""
    return _mapped(lambda a: a.view_as(a) if a.requires_grad else a, value)


def _counted(value: Any) -> Any:
    """Copies whose changes are counted, in inference mode, too."""
    if not torch.is_inference_mode_enabled():
        return copied(value)
    with torch.inference_mode(False), torch.no_grad():
        return copied(value)


def _mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    return function(value) if isinstance(value, Tensor) else tree_map_only(Tensor, function, value)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [a for a in tree_leaves(value) if isinstance(a, Tensor)]
