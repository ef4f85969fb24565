"""The names of PyTorch's operations that the list of operations can express."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Lower = Callable[..., Any]
LOWERED: dict[str, Lower] = {}
"""By the operation's name, with its overload: ``f(builder, *arguments, **keywords)``."""


class UnsupportedError(Exception):
    """A step has something that no native loop has; the message says what."""


def lowers(*names: str) -> Callable[[Lower], Lower]:
    """Says which operations of PyTorch a function lowers."""

    def register(function: Lower) -> Lower:
        LOWERED.update(dict.fromkeys(names, function))
        return function

    return register
